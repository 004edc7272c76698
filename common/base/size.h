/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes as people write them: 512, 16K, 2G, 1.5T (powers of 1024; a B or iB may follow). */
#ifndef SNAP_BASE_SIZE_H
#define SNAP_BASE_SIZE_H

#include "common/base/err.h"

#include <stddef.h>
#include <stdint.h>

/* Errors: SNAP_EINVAL naming the text and what is accepted. */
int size_parse(const char *text, uint64_t *ret_bytes, struct err *reterr) SNAP_WUR;
/* "16K", "1.5G"; exact when it divides, else one decimal. buf of 16 bytes is enough. Returns buf.
 */
char *size_format(uint64_t bytes, char *buf, size_t buf_bytes);

#endif
