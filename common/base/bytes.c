/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that are too long to be an inline function. Pure; any thread. */
#include "common/base/bytes.h"

/* A run is zero when its first bytes are and it equals itself moved by as many:
 * libc's memcmp then does the work at the speed of memory, and stops at the
 * first difference. */
bool bytes_are_zero(const void *p, uint64_t len_bytes)
{
    static const uint8_t zeroes[16];
    const uint8_t *bytes = p;

    if (len_bytes <= sizeof zeroes)
        return len_bytes == 0 || memcmp(bytes, zeroes, len_bytes) == 0;
    return memcmp(bytes, zeroes, sizeof zeroes) == 0 &&
           memcmp(bytes, bytes + sizeof zeroes, len_bytes - sizeof zeroes) == 0;
}
