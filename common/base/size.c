/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes as people write them, and back.
 *
 *     size := digits [ "." digits ] [ unit [ "B" | "iB" ] ] | digits "B"
 *     unit := K M G T P E, either case: powers of 1024
 *
 * A fraction needs a unit; what is left below a byte is dropped. No sign, no
 * blanks, no locale: the same text means the same everywhere. Pure; any thread.
 */
#include "common/base/size.h"

#include "common/base/check.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { SIZE_FRACTION_DIGITS_MAX = 18, SIZE_TEXT_SHOWN_BYTES = 40 };

static const char size_units[] = "KMGTPE";

static int size_refuse(const char *text, const char *why, struct err *reterr)
{
    char shown[SIZE_TEXT_SHOWN_BYTES + 1];
    size_t n = 0;

    for (; n < SIZE_TEXT_SHOWN_BYTES && text[n] != '\0'; n++)
        shown[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
    shown[n] = '\0';
    return err_set(reterr, SNAP_EINVAL,
                   "size '%s' %s; write a number with an optional unit K, M, G, T, P or E "
                   "(powers of 1024), such as 512, 16K or 1.5T",
                   shown, why);
}

/* Reads digits from *pos on and moves it behind them. False: more than 64 bits hold. */
static bool size_read_digits(const char **pos, uint64_t *ret, unsigned *ret_digits)
{
    uint64_t v = 0;
    unsigned digits = 0;

    for (; **pos >= '0' && **pos <= '9'; (*pos)++, digits++) {
        unsigned d = (unsigned)(**pos - '0');
        if (v > (UINT64_MAX - d) / 10)
            return false;
        v = v * 10 + d;
    }
    *ret = v;
    *ret_digits = digits;
    return true;
}

/* fraction / 10^digits of 2^shift, rounded down: one binary digit a doubling. */
static uint64_t size_scale_fraction(uint64_t fraction, unsigned digits, unsigned shift)
{
    uint64_t one = 1, scaled = 0;

    for (unsigned i = 0; i < digits; i++)
        one *= 10;
    for (unsigned i = 0; i < shift; i++) {
        fraction *= 2;
        scaled *= 2;
        if (fraction >= one) {
            fraction -= one;
            scaled += 1;
        }
    }
    return scaled;
}

/* The unit's power of two at *pos, moving it behind the unit; 0: there is none. */
static unsigned size_read_unit(const char **pos)
{
    for (unsigned i = 0; size_units[i] != '\0'; i++) {
        if (**pos == size_units[i] || **pos == size_units[i] - 'A' + 'a') {
            (*pos)++;
            if ((*pos)[0] == 'B')
                *pos += 1;
            else if ((*pos)[0] == 'i' && (*pos)[1] == 'B')
                *pos += 2;
            return (i + 1) * 10;
        }
    }
    if (**pos == 'B')
        (*pos)++;
    return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes, struct err *reterr)
{
    uint64_t whole = 0, fraction = 0;
    unsigned digits, fraction_digits = 0;
    const char *pos = text;

    if (!size_read_digits(&pos, &whole, &digits))
        return size_refuse(text, "is too large", reterr);
    if (digits == 0)
        return size_refuse(text, "does not begin with a digit", reterr);
    if (*pos == '.') {
        pos++;
        if (!size_read_digits(&pos, &fraction, &fraction_digits) ||
            fraction_digits > SIZE_FRACTION_DIGITS_MAX)
            return size_refuse(text, "has too many digits behind the point", reterr);
        if (fraction_digits == 0)
            return size_refuse(text, "has no digit behind the point", reterr);
    }
    unsigned shift = size_read_unit(&pos);
    if (*pos != '\0')
        return size_refuse(text, "is not understood", reterr);
    if (fraction_digits > 0 && shift == 0)
        return size_refuse(text, "is a fraction of a byte", reterr);
    if (whole > UINT64_MAX >> shift)
        return size_refuse(text, "is too large", reterr);
    /* the fraction is below 1 << shift and the low bits of the whole part are free */
    *ret_bytes = (whole << shift) + size_scale_fraction(fraction, fraction_digits, shift);
    return 0;
}

char *size_format(uint64_t bytes, char *buf, size_t buf_bytes)
{
    unsigned unit = 0;

    CHECK(buf_bytes > 0);
    while (unit < sizeof size_units - 1 && bytes >> (unit + 1) * 10 != 0)
        unit++;
    uint64_t whole = bytes >> unit * 10;
    uint64_t rest = bytes - (whole << unit * 10);
    if (unit == 0)
        (void)snprintf(buf, buf_bytes, "%" PRIu64, bytes);
    else if (rest == 0)
        (void)snprintf(buf, buf_bytes, "%" PRIu64 "%c", whole, size_units[unit - 1]);
    else
        (void)snprintf(buf, buf_bytes, "%" PRIu64 ".%" PRIu64 "%c", whole, rest * 10 >> unit * 10,
                       size_units[unit - 1]);
    return buf;
}
