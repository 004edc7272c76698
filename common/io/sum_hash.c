/* SPDX-License-Identifier: Apache-2.0 */
/* The checksum of a block: the one file that knows which library makes it. */
#include "common/io/sum.h"

#include "common/base/bytes.h"

#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* the same sums, with what this processor has */
#endif

uint64_t sum_seed(uint64_t block_no, uint64_t tag)
{
    uint8_t both[16];
    le64_store(both, block_no);
    le64_store(both + 8, tag);
    return XXH3_64bits(both, sizeof both);
}

uint64_t sum_of(uint64_t seed, const struct iovec *iov, unsigned iov_count, uint64_t offset_bytes,
                uint64_t len_bytes)
{
    unsigned i = 0;
    while (i < iov_count && offset_bytes >= iov[i].iov_len)
        offset_bytes -= iov[i++].iov_len;
    const uint8_t *data = i < iov_count ? (const uint8_t *)iov[i].iov_base + offset_bytes : NULL;
    uint64_t sum;
    if (i < iov_count && iov[i].iov_len - offset_bytes >= len_bytes) {
        sum = XXH3_64bits_withSeed(data, len_bytes, seed);
    } else {
        XXH3_state_t state;
        XXH3_INITSTATE(&state);
        (void)XXH3_64bits_reset_withSeed(&state, seed);
        for (; i < iov_count && len_bytes > 0; i++, offset_bytes = 0) {
            uint64_t n = u64_min(len_bytes, iov[i].iov_len - offset_bytes);
            (void)XXH3_64bits_update(&state, (const uint8_t *)iov[i].iov_base + offset_bytes, n);
            len_bytes -= n;
        }
        sum = XXH3_64bits_digest(&state);
    }
    return sum == 0 ? 1 : sum;
}
