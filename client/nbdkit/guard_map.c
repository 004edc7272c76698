/* SPDX-License-Identifier: Apache-2.0 */
/* Bits in anonymous memory that the kernel fills in page by page, when one is first set: so a
 * volume of an exabyte costs address space, and a chunk one step.
 */
#include "client/nbdkit/guard_map.h"

#include <errno.h>
#include <sys/mman.h>

enum { WORD_BITS = 64, PAGE_BYTES = 4096 };

int guard_map_init(struct guard_map *m, uint64_t chunks, struct err *reterr)
{
    *m = (struct guard_map){.chunks = chunks};
    if (chunks == 0)
        return 0;
    uint64_t words = chunks / WORD_BITS + 1;
    size_t bytes = (size_t)((words * sizeof(uint64_t) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        return err_set_errno(reterr, SNAP_ENOMEM, errno, "a map of %llu chunks",
                             (unsigned long long)chunks);
    m->words = p;
    m->bytes = bytes;
    return 0;
}

void guard_map_done(struct guard_map *m)
{
    if (m->words)
        (void)munmap(m->words, m->bytes);
    *m = (struct guard_map){0};
}

void guard_map_clear(struct guard_map *m)
{
    if (m->words)
        (void)madvise(m->words, m->bytes, MADV_DONTNEED); /* private memory: zeros again */
}

void guard_map_set(struct guard_map *m, uint64_t chunk, uint64_t count, bool value)
{
    while (count > 0) {
        uint64_t bit = chunk % WORD_BITS, n = WORD_BITS - bit < count ? WORD_BITS - bit : count;
        uint64_t mask = (n == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << n) - 1) << bit;
        if (value)
            m->words[chunk / WORD_BITS] |= mask;
        else
            m->words[chunk / WORD_BITS] &= ~mask;
        chunk += n;
        count -= n;
    }
}

bool guard_map_pends(const struct guard_map *kept, const struct guard_map *claimed, uint64_t first,
                     uint64_t last)
{
    bool any = false;
    if (last >= kept->chunks)
        return false;
    for (uint64_t i = first / WORD_BITS; i <= last / WORD_BITS; i++) {
        uint64_t mask = UINT64_MAX;
        if (i == first / WORD_BITS)
            mask <<= first % WORD_BITS;
        if (i == last / WORD_BITS)
            mask &= UINT64_MAX >> (WORD_BITS - 1 - last % WORD_BITS);
        const uint64_t missing = mask & ~kept->words[i];
        if (missing & ~claimed->words[i])
            return false;
        any = any || missing != 0;
    }
    return any;
}
