/* SPDX-License-Identifier: Apache-2.0 */
/* What may be a name. Every name from a user, a peer or a record comes through
 * here before it is used as a path component, an SQL value or a label; so no
 * other file thinks about slashes, "..", control characters or encodings.
 * Pure, no locale; any thread.
 */
#include "common/base/name.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool name_may_begin(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool name_may_hold(char c)
{
    return name_may_begin(c) || (c != '\0' && strchr("._-+:", c) != NULL);
}

/* A character for an error's text: 'x', or 0x1b where a terminal would obey it. */
static const char *name_show_char(char c, char buf[8])
{
    if (c >= ' ' && c <= '~')
        (void)snprintf(buf, 8, "'%c'", c);
    else
        (void)snprintf(buf, 8, "0x%02x", (unsigned)(unsigned char)c);
    return buf;
}

static int name_check_len(const char *name, size_t len, const char *what, struct err *reterr)
{
    char shown[8];

    if (len == 0)
        return err_set(reterr, SNAP_EINVAL, "%s name is empty", what);
    if (len > LIMIT_NAME_BYTES)
        return err_set(reterr, SNAP_EINVAL, "%s name is longer than %d characters", what,
                       (int)LIMIT_NAME_BYTES);
    if (!name_may_begin(name[0]))
        return err_set(reterr, SNAP_EINVAL,
                       "%s name begins with %s; it must begin with a letter or a digit", what,
                       name_show_char(name[0], shown));
    for (size_t i = 1; i < len; i++) {
        if (!name_may_hold(name[i]))
            return err_set(reterr, SNAP_EINVAL,
                           "%s name has %s as character %zu; letters, digits and . _ - + : are "
                           "accepted",
                           what, name_show_char(name[i], shown), i + 1);
    }
    return 0;
}

int name_check(const char *name, const char *what, struct err *reterr)
{
    return name_check_len(name, strnlen(name, LIMIT_NAME_BYTES + 1), what, reterr);
}

int target_parse(const char *text, struct target *ret, struct err *reterr)
{
    size_t len = strnlen(text, 2 * LIMIT_NAME_BYTES + 2);
    const char *at = memchr(text, '@', len);
    size_t volume_len = at != NULL ? (size_t)(at - text) : len;
    size_t snapshot_len = at != NULL ? len - volume_len - 1 : 0;

    int rc = name_check_len(text, volume_len, "volume", reterr);
    if (rc == 0 && at != NULL)
        rc = name_check_len(at + 1, snapshot_len, "snapshot", reterr);
    if (rc < 0)
        return rc;
    memset(ret, 0, sizeof *ret);
    memcpy(ret->volume, text, volume_len);
    if (at != NULL)
        memcpy(ret->snapshot, at + 1, snapshot_len);
    return 0;
}
