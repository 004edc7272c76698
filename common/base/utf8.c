/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing behind U+10FFFF. What a
 * first byte leaves open is decided by the second one's range:
 *
 *     C2..DF  80..BF                    E0  A0..BF  +1      F0  90..BF  +2
 *                                       ED  80..9F  +1      F4  80..8F  +2
 *                                 E1..EF  80..BF  +1    F1..F3  80..BF  +2
 *
 * Pure, no locale; any thread.
 */
#include "common/base/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static bool is_between(uint8_t byte, unsigned least, unsigned most)
{
    return byte >= least && byte <= most;
}

size_t utf8_char_bytes(const char *text)
{
    const uint8_t *p = (const uint8_t *)text;
    const unsigned least = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    const unsigned most = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    const size_t len = p[0] < 0x80                    ? 1
                       : is_between(p[0], 0xc2, 0xdf) ? 2
                       : is_between(p[0], 0xe0, 0xef) ? 3
                       : is_between(p[0], 0xf0, 0xf4) ? 4
                                                      : 0;

    if (len > 1 && !is_between(p[1], least, most))
        return 0;
    for (size_t i = 2; i < len; i++)
        if (!is_between(p[i], 0x80, 0xbf))
            return 0;
    return len;
}

/* ASCII's, DEL, and U+0080 to U+009F, with which some terminals begin a sequence, too. */
static bool is_control(const char *c, size_t len)
{
    const uint8_t *p = (const uint8_t *)c;

    return len == 1 ? p[0] < 0x20 || p[0] == 0x7f : len == 2 && p[0] == 0xc2 && p[1] < 0xa0;
}

void utf8_append_clean(char *buf, size_t buf_bytes, const char *text)
{
    size_t used = strlen(buf);

    while (*text != '\0') {
        const size_t len = utf8_char_bytes(text);
        const bool shown = len > 0 && !is_control(text, len);
        if (used + (shown ? len : 1) >= buf_bytes)
            break;
        if (shown)
            memcpy(buf + used, text, len);
        else
            buf[used] = '?';
        used += shown ? len : 1;
        text += len > 0 ? len : 1;
    }
    buf[used] = '\0';
}
