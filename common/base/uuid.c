/* SPDX-License-Identifier: Apache-2.0 */
/* Identities, made and read by libuuid. The only file that includes its header.
 * Pure but for uuid_make(); any thread.
 */
#include "common/base/uuid.h"

#include "common/base/bytes.h"

#include <uuid/uuid.h>

struct uuid uuid_make(void)
{
    struct uuid u;
    uuid_generate_random(u.b);
    return u;
}

bool uuid_is_zero(const struct uuid *u)
{
    return bytes_are_zero(u->b, sizeof u->b);
}

bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}

/* A product carries bits upward only, so each half is folded down before and after:
 * made-up ids that differ in one byte spread as well as random ones. */
static uint64_t uuid_mix(uint64_t h, uint64_t factor)
{
    h = (h ^ h >> 32) * factor;
    return h ^ h >> 32;
}

uint64_t uuid_hash(const struct uuid *u)
{
    uint64_t h = uuid_mix(le64_load(u->b), UINT64_C(0x9e3779b97f4a7c15));
    return uuid_mix(h ^ le64_load(u->b + 8), UINT64_C(0xd6e8feb86659fd93));
}

char *uuid_format(const struct uuid *u, char *buf)
{
    uuid_unparse_lower(u->b, buf);
    return buf;
}

int uuid_parse_text(const char *text, struct uuid *ret, struct err *reterr)
{
    uuid_t parsed;

    if (uuid_parse(text, parsed) != 0)
        return err_set(reterr, SNAP_EINVAL,
                       "not a uuid: 32 hexadecimal digits as 8-4-4-4-12 are expected");
    memcpy(ret->b, parsed, sizeof ret->b);
    return 0;
}
