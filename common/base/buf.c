/* SPDX-License-Identifier: Apache-2.0 */
/* The pool of aligned buffers.
 *
 *     class    0     1     2   …   12      13
 *     bytes  4 KiB 8 KiB 16 KiB  16 MiB  32 MiB
 *
 * Each class has a list of freed buffers, the last one given back first, while
 * it is warm in the caches. What is handed out and what is kept never go over
 * the cap together: a take that would go over it first lets kept buffers of
 * other classes go; so does one for which the machine has no memory. From 2 MiB on buffers are
 * aligned to huge pages and ask for them, which saves the page faults and TLB misses of a 16 MiB
 * payload.
 *
 * The header is a malloc of its own, so that the data's last page is not
 * shared with it. Under AddressSanitizer a buffer that was given back is
 * poisoned, so that its use is found although the memory is still ours.
 *
 * Must not know what the buffers are for. Thread: the pool's own.
 */
#include "common/base/buf.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/limits.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define BUF_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BUF_POISONS 1
#endif
#endif

#ifdef BUF_POISONS
#include <sanitizer/asan_interface.h>
#define BUF_POISON(data, len) __asan_poison_memory_region((data), (len))
#define BUF_UNPOISON(data, len) __asan_unpoison_memory_region((data), (len))
#else
#define BUF_POISON(data, len) ((void)(data), (void)(len))
#define BUF_UNPOISON(data, len) ((void)(data), (void)(len))
#endif

enum {
    BUF_CLASSES = 14,
    BUF_HUGE_BYTES = 2 * 1024 * 1024,
};

_Static_assert(BUF_BYTES_MAX == BUF_ALIGN_BYTES << (BUF_CLASSES - 1), "the last class is the most");

/* What a pool without a cap keeps for reuse. */
#define BUF_KEPT_BYTES_MAX (64 * MIB)

struct buf_pool {
    size_t cap_bytes; /* 0: none */
    size_t used_bytes;
    size_t kept_bytes;
    struct buf *kept[BUF_CLASSES];
};

static size_t buf_class_bytes(unsigned class_no)
{
    return (size_t)BUF_ALIGN_BYTES << class_no;
}

/* The smallest class that holds size_bytes; BUF_CLASSES: none does. */
static unsigned buf_class_of(size_t size_bytes)
{
    unsigned class_no = 0;
    while (class_no < BUF_CLASSES && buf_class_bytes(class_no) < size_bytes)
        class_no++;
    return class_no;
}

static void buf_destroy(struct buf *b)
{
    BUF_UNPOISON(b->data, b->cap_bytes);
    free(b->data);
    free(b);
}

static struct buf *buf_create(struct buf_pool *pool, size_t cap_bytes)
{
    bool huge = cap_bytes >= BUF_HUGE_BYTES;
    struct buf *b = malloc(sizeof *b);

    if (b == NULL)
        return NULL;
    b->data = aligned_alloc(huge ? BUF_HUGE_BYTES : BUF_ALIGN_BYTES, cap_bytes);
    if (b->data == NULL) {
        free(b);
        return NULL;
    }
    if (huge)
        (void)madvise(b->data, cap_bytes, MADV_HUGEPAGE); /* a wish: small pages work too */
    b->cap_bytes = cap_bytes;
    b->pool = pool;
    return b;
}

static struct buf *buf_pop_kept(struct buf_pool *pool, unsigned class_no)
{
    struct buf *b = pool->kept[class_no];

    if (b != NULL) {
        pool->kept[class_no] = b->next_free;
        pool->kept_bytes -= b->cap_bytes;
    }
    return b;
}

/* Lets kept buffers go, the largest first, until at most target_bytes are kept. */
static void buf_trim_kept(struct buf_pool *pool, size_t target_bytes)
{
    for (unsigned class_no = BUF_CLASSES; class_no-- > 0;) {
        while (pool->kept_bytes > target_bytes && pool->kept[class_no] != NULL)
            buf_destroy(buf_pop_kept(pool, class_no));
    }
}

struct buf_pool *buf_pool_new(size_t cap_bytes)
{
    struct buf_pool *pool = calloc(1, sizeof *pool);

    if (pool != NULL)
        pool->cap_bytes = cap_bytes;
    return pool;
}

void buf_pool_free(struct buf_pool *pool)
{
    if (pool == NULL)
        return;
    CHECK(pool->used_bytes == 0);
    buf_trim_kept(pool, 0);
    free(pool);
}

struct buf *buf_take(struct buf_pool *pool, size_t size_bytes)
{
    unsigned class_no = buf_class_of(size_bytes);

    if (class_no == BUF_CLASSES)
        return NULL;
    size_t bytes = buf_class_bytes(class_no);
    if (pool->cap_bytes != 0 && pool->used_bytes > 0 &&
        (pool->used_bytes > pool->cap_bytes || bytes > pool->cap_bytes - pool->used_bytes))
        return NULL;

    struct buf *b = buf_pop_kept(pool, class_no);
    if (b == NULL) {
        if (pool->cap_bytes != 0)
            buf_trim_kept(pool, bytes < pool->cap_bytes - pool->used_bytes
                                    ? pool->cap_bytes - pool->used_bytes - bytes
                                    : 0);
        b = buf_create(pool, bytes);
        if (b == NULL && pool->kept_bytes > 0) {
            buf_trim_kept(pool, 0);
            b = buf_create(pool, bytes);
        }
        if (b == NULL)
            return NULL;
    }
    BUF_UNPOISON(b->data, b->cap_bytes);
    b->len_bytes = size_bytes;
    b->refs = 1;
    b->next_free = NULL;
    pool->used_bytes += bytes;
    return b;
}

struct buf *buf_ref(struct buf *b)
{
    CHECK(b->refs > 0);
    b->refs++;
    return b;
}

void buf_give(struct buf *b)
{
    if (b == NULL)
        return;
    CHECK(b->refs > 0);
    if (--b->refs > 0)
        return;

    struct buf_pool *pool = b->pool;
    unsigned class_no = buf_class_of(b->cap_bytes);
    pool->used_bytes -= b->cap_bytes;
    bool keeps = pool->cap_bytes == 0 ? b->cap_bytes <= BUF_KEPT_BYTES_MAX - pool->kept_bytes
                                      : b->cap_bytes <= pool->cap_bytes;
    if (!keeps) {
        buf_destroy(b);
        return;
    }
    BUF_POISON(b->data, b->cap_bytes);
    b->next_free = pool->kept[class_no];
    pool->kept[class_no] = b;
    pool->kept_bytes += b->cap_bytes;
}

size_t buf_pool_used_bytes(const struct buf_pool *pool)
{
    return pool->used_bytes;
}

size_t buf_pool_kept_bytes(const struct buf_pool *pool)
{
    return pool->kept_bytes;
}
