/* SPDX-License-Identifier: Apache-2.0 */
/* trash/: one rename makes a volume's deletion durable, with the key of the request that
 * asked for it; files go afterwards. And one rename makes a volume: until then its folder is here,
 * where a crash leaves nothing for long. */
#include "daemon/service/trash.h"

#include "common/base/file.h"
#include "common/base/limits.h"
#include "daemon/volume/volume.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

int trash_volume(const char *state_dir, const struct uuid *id, const struct uuid *key,
                 struct err *reterr)
{
    char from[LIMIT_PATH_BYTES], to[LIMIT_PATH_BYTES + 2 * UUID_TEXT_BYTES + 8];
    char text[UUID_TEXT_BYTES], key_text[UUID_TEXT_BYTES];
    int rc = volume_dir_format(state_dir, id, from, sizeof from, reterr);
    if (rc < 0)
        return rc;
    (void)snprintf(to, sizeof to, "%s/trash/%s.%s", state_dir, uuid_format(id, text),
                   uuid_format(key, key_text));
    if (rename(from, to) < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "move %s to trash/", from);
    rc = file_sync_parent(from, reterr);
    if (rc == 0)
        rc = file_sync_parent(to, reterr);
    if (rc < 0 && rename(to, from) < 0)
        rc = 0; /* it cannot be served from there any more: gone, if not for good */
    return rc;
}

void trash_each_key(const char *state_dir, void (*fn)(void *user, const struct uuid *key),
                    void *user)
{
    char trash[LIMIT_PATH_BYTES + 8];
    struct uuid key;
    (void)snprintf(trash, sizeof trash, "%s/trash", state_dir);
    DIR *d = opendir(trash);
    if (d == NULL)
        return;
    const struct dirent *e;
    while ((e = readdir(d)) != NULL)
        if (strlen(e->d_name) == 2 * UUID_TEXT_BYTES - 1 &&
            uuid_parse_text(e->d_name + UUID_TEXT_BYTES, &key, NULL) == 0)
            fn(user, &key);
    (void)closedir(d);
}

/* A volume's folder holds files only. */
static void trash_remove_folder(const char *path)
{
    DIR *d = opendir(path);
    if (d == NULL)
        return;
    const struct dirent *e;
    char file[2 * LIMIT_PATH_BYTES];
    while ((e = readdir(d)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        int n = snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        if (n > 0 && (size_t)n < sizeof file)
            (void)remove(file);
    }
    (void)closedir(d);
    (void)remove(path);
}

static void trash_stage_path(const char *state_dir, const struct uuid *id, char *buf,
                             size_t buf_bytes)
{
    char text[UUID_TEXT_BYTES];
    (void)snprintf(buf, buf_bytes, "%s/trash/%s.new", state_dir, uuid_format(id, text));
}

enum { STAGE_PATH_BYTES = LIMIT_PATH_BYTES + UUID_TEXT_BYTES + 16 };

int trash_stage(const char *state_dir, const struct uuid *id, char *ret_dir, size_t dir_bytes,
                struct err *reterr)
{
    char stage[STAGE_PATH_BYTES];
    trash_stage_path(state_dir, id, stage, sizeof stage);
    if (strlen(stage) >= dir_bytes)
        return err_set(reterr, SNAP_ELIMIT, "the path %s is too long", stage);
    trash_remove_folder(stage);
    memcpy(ret_dir, stage, strlen(stage) + 1);
    return file_make_dir(stage, 0700, reterr);
}

int trash_unstage(const char *state_dir, const struct uuid *id, struct err *reterr)
{
    char stage[STAGE_PATH_BYTES], to[LIMIT_PATH_BYTES];
    trash_stage_path(state_dir, id, stage, sizeof stage);
    int rc = volume_dir_format(state_dir, id, to, sizeof to, reterr);
    if (rc < 0)
        return rc;
    if (rename(stage, to) < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "make %s", to);
    rc = file_sync_parent(to, reterr);
    if (rc == 0)
        rc = file_sync_parent(stage, reterr);
    if (rc < 0)
        (void)!rename(to, stage);
    return rc;
}

void trash_drop(const char *state_dir, const struct uuid *id, bool unstaged)
{
    char stage[STAGE_PATH_BYTES], from[LIMIT_PATH_BYTES];
    trash_stage_path(state_dir, id, stage, sizeof stage);
    if (unstaged && volume_dir_format(state_dir, id, from, sizeof from, NULL) == 0)
        (void)!rename(from, stage);
    trash_remove_folder(stage);
}

void trash_empty(const char *state_dir)
{
    char trash[LIMIT_PATH_BYTES + 8], path[LIMIT_PATH_BYTES + 300];
    (void)snprintf(trash, sizeof trash, "%s/trash", state_dir);
    DIR *d = opendir(trash);
    if (d == NULL)
        return;
    const struct dirent *e;
    while ((e = readdir(d)) != NULL) {
        if (e->d_name[0] == '.')
            continue;
        int n = snprintf(path, sizeof path, "%s/%s", trash, e->d_name);
        if (n > 0 && (size_t)n < sizeof path)
            trash_remove_folder(path);
    }
    (void)closedir(d);
}
