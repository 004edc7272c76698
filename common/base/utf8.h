/* SPDX-License-Identifier: Apache-2.0 */
/* Text of others, before it goes to a terminal or into JSON. */
#ifndef SNAP_BASE_UTF8_H
#define SNAP_BASE_UTF8_H

#include <stddef.h>

/* How long the UTF-8 character is that text begins with, 1 to 4; 0: it begins with none. */
size_t utf8_char_bytes(const char *text);
/* Put text behind what stands in buf, as much as has room, characters whole. A '?' stands for each
 * control character, which might move a terminal's cursor, and for each byte that is no UTF-8;
 * so it never grows. */
void utf8_append_clean(char *buf, size_t buf_bytes, const char *text);

#endif
