/* SPDX-License-Identifier: Apache-2.0 */
/* The seeded generator (xoshiro256**, seeded through splitmix64) and the
 * kernel's random bytes. The same seed gives the same run on every machine: a
 * failed random test is run again from its seed, so the sequence may never
 * change. A struct rng belongs to one thread; rng_secret() is for any.
 */
#include "common/base/rng.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <errno.h>
#include <sys/random.h>

static uint64_t rng_rotl(uint64_t v, unsigned by)
{
    return v << by | v >> (64 - by);
}

/* splitmix64 spreads a small seed over the state; it never yields four zeroes in a row. */
void rng_init(struct rng *r, uint64_t seed)
{
    for (size_t i = 0; i < ARRAY_LEN(r->s); i++) {
        seed += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t z = seed;
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        r->s[i] = z ^ z >> 31;
    }
}

uint64_t rng_u64(struct rng *r)
{
    uint64_t *s = r->s;
    uint64_t result = rng_rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rng_rotl(s[3], 45);
    return result;
}

/* Draws below 2^64 mod bound are thrown away, so that each remainder is as likely. */
uint64_t rng_below(struct rng *r, uint64_t bound)
{
    CHECK(bound > 0);
    uint64_t reject_below = (UINT64_MAX - bound + 1) % bound;
    uint64_t v;

    do {
        v = rng_u64(r);
    } while (v < reject_below);
    return v % bound;
}

int rng_chance(struct rng *r, unsigned percent)
{
    return rng_below(r, 100) < percent;
}

void rng_fill(struct rng *r, void *buf, size_t len_bytes)
{
    uint8_t *p = buf;
    uint8_t word[8];

    while (len_bytes > 0) {
        size_t take = len_bytes < sizeof word ? len_bytes : sizeof word;
        le64_store(word, rng_u64(r));
        memcpy(p, word, take);
        p += take;
        len_bytes -= take;
    }
}

void rng_secret(void *buf, size_t len_bytes)
{
    uint8_t *p = buf;

    while (len_bytes > 0) {
        ssize_t n = getrandom(p, len_bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        CHECK(n > 0);
        p += n;
        len_bytes -= (size_t)n;
    }
}
