/* SPDX-License-Identifier: Apache-2.0 */
/* Sorting entries by (old, seq), in place.
 *
 * A radix sort from the top ("American flag"): count, then swap every entry into
 * its bucket, then each bucket likewise by its next digits. Only bits that differ
 * within a bucket are looked at, so the cost goes by what the keys use of their 96
 * bits. It takes no second array, which ten million entries would feel; a sort
 * from the bottom would need one as large as the entries.
 *
 * Thread: any; works on the caller's array.
 */
#include "common/cow/cow_map_sort.h"

#include "common/base/bytes.h"

enum {
    DIGIT_BITS_MIN = 4,
    DIGIT_BITS_MAX = 10,
    DIGIT_ENTRIES_LOG2 = 3, /* buckets of about 8 entries are aimed at */
    INSERTION_MAX = 16,
};

static bool entry_below(const struct cow_entry *a, const struct cow_entry *b)
{
    return a->old_chunk < b->old_chunk || (a->old_chunk == b->old_chunk && a->seq < b->seq);
}

static void sort_by_insertion(struct cow_entry *x, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        struct cow_entry taken = x[i];
        size_t at = i;

        for (; at > 0 && entry_below(&taken, &x[at - 1]); at--)
            x[at] = x[at - 1];
        x[at] = taken;
    }
}

/* A digit of the key: of old_chunk, or of seq where all old_chunk are equal. */
struct digit {
    bool of_seq;
    unsigned shift;
    unsigned bits;
};

static inline size_t digit_of(const struct cow_entry *x, struct digit d)
{
    uint64_t v = d.of_seq ? x->seq : x->old_chunk;

    return (size_t)(v >> d.shift) & (((size_t)1 << d.bits) - 1);
}

/* The highest digit in which the entries differ. False: all keys are equal, or the entries
 * are in order already. */
static bool choose_digit(const struct cow_entry *x, size_t count, struct digit *ret)
{
    uint64_t old_diff = 0, diff;
    uint32_t seq_diff = 0;
    unsigned top, bits = 0;
    bool sorted = true;

    for (size_t i = 1; i < count; i++) {
        old_diff |= x[i].old_chunk ^ x[0].old_chunk;
        seq_diff |= x[i].seq ^ x[0].seq;
        sorted = sorted && !entry_below(&x[i], &x[i - 1]);
    }
    if (sorted)
        return false;
    ret->of_seq = old_diff == 0;
    diff = ret->of_seq ? seq_diff : old_diff;
    top = 64 - (unsigned)__builtin_clzll(diff);
    while ((count >> (bits + DIGIT_ENTRIES_LOG2)) > 1 && bits < DIGIT_BITS_MAX)
        bits++;
    bits = bits > DIGIT_BITS_MIN ? bits : DIGIT_BITS_MIN;
    ret->bits = bits < top ? bits : top;
    ret->shift = top - ret->bits;
    return true;
}

/* Swap every entry into its bucket. ret_ends[b]: index behind bucket b. Kept out of its
 * caller, whose frames stand in memory by the depth of the recursion. */
static __attribute__((noinline)) void permute(struct cow_entry *x, size_t count, struct digit d,
                                              size_t *ret_ends)
{
    size_t heads[1 << DIGIT_BITS_MAX], sum = 0;
    size_t buckets = (size_t)1 << d.bits;

    memset(ret_ends, 0, buckets * sizeof ret_ends[0]);
    for (size_t i = 0; i < count; i++)
        ret_ends[digit_of(&x[i], d)]++;
    for (size_t b = 0; b < buckets; b++) {
        heads[b] = sum;
        sum += ret_ends[b];
        ret_ends[b] = sum;
    }
    for (bool done = false; !done;) {
        done = true;
        for (size_t b = 0; b < buckets; b++) {
            size_t end = ret_ends[b];

            for (size_t i = heads[b]; i < end; i++) {
                size_t to = heads[digit_of(&x[i], d)]++;
                struct cow_entry carried = x[i];

                x[i] = x[to];
                x[to] = carried;
            }
            done = done && heads[b] == end;
        }
    }
}

/* Depth is bounded: every level consumes at least DIGIT_BITS_MIN of 96 key bits, or the
 * last bits of old_chunk or of seq. */
void cow_entries_sort(struct cow_entry *x, size_t count)
{
    size_t ends[1 << DIGIT_BITS_MAX], from = 0;
    struct digit d;

    if (count <= INSERTION_MAX) {
        sort_by_insertion(x, count);
        return;
    }
    if (!choose_digit(x, count, &d))
        return;
    permute(x, count, d, ends);
    for (size_t b = 0; b < (size_t)1 << d.bits; b++) {
        if (ends[b] - from > 1)
            cow_entries_sort(x + from, ends[b] - from);
        from = ends[b];
    }
}
