/* SPDX-License-Identifier: Apache-2.0 */
/* Group records as files.
 *
 *   member records, each with the group's uuid ── durable
 *   groups/<uuid>.tmp ── fsync ── rename to groups/<uuid> ── fsync of the folder
 *
 * The same text goes there again with the same uuid, so a second try of a request that was
 * answered does no harm. It must not know of volumes beyond their uuids.
 */
#include "daemon/volume/group.h"

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/limits.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GROUP_FORMAT = 1 };

static int group_path(const char *state_dir, const struct uuid *id, char ret[LIMIT_PATH_BYTES],
                      struct err *reterr)
{
    char text[UUID_TEXT_BYTES];
    int n = snprintf(ret, LIMIT_PATH_BYTES, "%s/groups/%s", state_dir, uuid_format(id, text));
    if (n < 0 || n >= LIMIT_PATH_BYTES)
        return err_set(reterr, SNAP_EINVAL, "the path of group %s is too long", text);
    return 0;
}

static char *group_text(const struct uuid *id, const struct uuid *volumes, uint32_t count)
{
    size_t room = 256 + (size_t)count * (UUID_TEXT_BYTES + 8), len = 0;
    char uuid[UUID_TEXT_BYTES], *text = malloc(room);
    if (text == NULL)
        return NULL;
    len += (size_t)snprintf(
        text, room, "{\"format\": %d, \"id\": \"%s\", \"created_s\": %" PRId64 ",\n \"volumes\": [",
        GROUP_FORMAT, uuid_format(id, uuid), clock_wall_s());
    for (uint32_t i = 0; i < count; i++)
        len += (size_t)snprintf(text + len, room - len, "%s\"%s\"", i > 0 ? ",\n  " : "\n  ",
                                uuid_format(&volumes[i], uuid));
    (void)snprintf(text + len, room - len, "]}\n");
    return text;
}

int group_save(const char *state_dir, const struct uuid *id, const struct uuid *volumes,
               uint32_t count, struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    int rc = group_path(state_dir, id, path, reterr);
    if (rc < 0)
        return rc;
    CLEANUP_FREE char *text = group_text(id, volumes, count);
    if (text == NULL)
        return err_set(reterr, SNAP_ENOMEM, "group");
    rc = file_replace(path, text, strlen(text), 0600, reterr);
    if (rc < 0) {
        err_prefix(reterr, "group record");
        (void)!group_remove(state_dir, id, NULL); /* it may be in place and not durable */
    }
    return rc;
}

bool group_exists(const char *state_dir, const struct uuid *id)
{
    char path[LIMIT_PATH_BYTES];
    return group_path(state_dir, id, path, NULL) == 0 && access(path, F_OK) == 0;
}

int group_remove(const char *state_dir, const struct uuid *id, struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    int rc = group_path(state_dir, id, path, reterr);
    if (rc < 0)
        return rc;
    if (unlink(path) == 0)
        return file_sync_parent(path, reterr);
    if (errno == ENOENT)
        return 0;
    return err_set_errno(reterr, err_code_of_errno(errno), errno, "remove %s", path);
}

/* "<uuid>.tmp". */
static bool is_cut_off(const char *name)
{
    char text[UUID_TEXT_BYTES] = "";
    struct uuid id;
    if (strlen(name) != UUID_TEXT_BYTES - 1 + strlen(".tmp") ||
        strcmp(name + UUID_TEXT_BYTES - 1, ".tmp") != 0)
        return false;
    memcpy(text, name, UUID_TEXT_BYTES - 1);
    return uuid_parse_text(text, &id, NULL) == 0;
}

int group_each(const char *state_dir, int (*fn)(void *user, const struct uuid *id), void *user,
               struct err *reterr)
{
    char dir[LIMIT_PATH_BYTES];
    struct uuid id;
    int n = snprintf(dir, sizeof dir, "%s/groups", state_dir);
    if (n < 0 || (size_t)n >= sizeof dir)
        return err_set(reterr, SNAP_EINVAL, "the path of the groups is too long");
    DIR *d = opendir(dir);
    if (d == NULL && errno == ENOENT)
        return 0;
    if (d == NULL)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "read %s", dir);
    int rc = 0;
    const struct dirent *e;
    while (rc == 0 && (e = readdir(d)) != NULL) {
        if (is_cut_off(e->d_name))
            (void)unlinkat(dirfd(d), e->d_name, 0);
        else if (uuid_parse_text(e->d_name, &id, NULL) == 0)
            rc = fn(user, &id);
    }
    (void)closedir(d);
    return rc;
}
