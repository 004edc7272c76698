/* SPDX-License-Identifier: Apache-2.0 */
/* For tests that replace malloc() and its kin, to let them fail: the C library's own, and whether
 * they can be replaced at all. A sanitizer has replaced them itself, then
 * ALLOCATOR_IS_TAKEN is defined. */
#ifndef SNAP_TESTS_LIB_ALLOCATOR_H
#define SNAP_TESTS_LIB_ALLOCATOR_H

#include "tests/lib/cm.h"

#include <stddef.h>
#include <stdio.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ALLOCATOR_IS_TAKEN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define ALLOCATOR_IS_TAKEN 1
#endif
#endif

void *__libc_malloc(size_t len);
void *__libc_calloc(size_t count, size_t len);
void *__libc_realloc(void *p, size_t len);
void *__libc_memalign(size_t align, size_t len);

static inline void skip_without_allocator(void)
{
#ifdef ALLOCATOR_IS_TAKEN
    printf("SKIPPED: the sanitizer has the allocator\n");
    skip();
#endif
}

#endif
