/* SPDX-License-Identifier: Apache-2.0 */
/* A list for each power of two, the newest first; the link stands in the memory itself.
 * Thread: one at a time.
 */
#include "client/nbdkit/guard_spare.h"

#include "common/base/bytes.h"

#include <stdlib.h>

enum { PAGE_BYTES = 4096 };

/* Its class; GUARD_SPARE_CLASSES: it has none. Nothing is rounded up by more than a page: what is
 * in use is bounded by what was asked for. */
static unsigned class_of(uint64_t bytes)
{
    const uint64_t pages = u64_div_round_up(bytes, PAGE_BYTES);
    unsigned i = 0;
    while (i < GUARD_SPARE_CLASSES && UINT64_C(1) << i != pages)
        i++;
    return i;
}

void *guard_spare_take(struct guard_spares *s, uint64_t bytes)
{
    const unsigned i = class_of(bytes);
    if (i == GUARD_SPARE_CLASSES)
        return aligned_alloc(PAGE_BYTES, u64_align_up(bytes, PAGE_BYTES));
    void **m = s->first[i];
    if (!m)
        return aligned_alloc(PAGE_BYTES, (size_t)PAGE_BYTES << i);
    s->first[i] = *m;
    s->bytes -= (uint64_t)PAGE_BYTES << i;
    return m;
}

void guard_spare_give(struct guard_spares *s, void *memory, uint64_t bytes)
{
    const unsigned i = class_of(bytes);
    const uint64_t whole = (uint64_t)PAGE_BYTES << i;
    void **m = memory;
    if (!m || i == GUARD_SPARE_CLASSES || s->bytes + whole > GUARD_SPARE_BYTES_MAX) {
        free(m);
        return;
    }
    *m = s->first[i];
    s->first[i] = m;
    s->bytes += whole;
}

void guard_spare_free_all(struct guard_spares *s)
{
    for (unsigned i = 0; i < GUARD_SPARE_CLASSES; i++)
        for (void **m = s->first[i], *next; m; m = next) {
            next = *m;
            free(m);
        }
    *s = (struct guard_spares){0};
}
