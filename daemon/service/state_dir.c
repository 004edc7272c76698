/* SPDX-License-Identifier: Apache-2.0 */
/* The state directory at start: one daemon at a time, and an honest look at what is there.
 *
 * Nothing is repaired here but groups that a crash cut off, and files of snapshots that it left
 * half-made or half-deleted: those have a note (daemon/volume/draft.h). What no record lists and
 * no note is about is not known to be anybody's, so it is neither used nor deleted; the operator is
 * told where it lies.
 */
#include "daemon/service/state_dir.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "daemon/volume/draft.h"
#include "daemon/volume/volume.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_MAX_BYTES = 2 * LIMIT_PATH_BYTES };

/* -- lock ------------------------------------------------------------------------------ */

static int state_dir_lock(const char *path, int *ret_fd, struct err *reterr)
{
    char lock[PATH_MAX_BYTES], text[32] = "";
    (void)snprintf(lock, sizeof lock, "%s/lock", path);
    int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "open %s", lock);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int saved = errno;
        ssize_t n = pread(fd, text, sizeof text - 1, 0);
        (void)close(fd);
        if (saved != EWOULDBLOCK)
            return err_set_errno(reterr, err_code_of_errno(saved), saved, "lock %s", lock);
        text[n > 0 ? strcspn(text, "\n") : 0] = '\0';
        return err_set(reterr, SNAP_EBUSY,
                       "state directory %s is in use by another snapwired (process %s)", path,
                       text[0] != '\0' ? text : "unknown");
    }
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    /* over what stands there, and a full disk is no reason not to start: it is for people */
    ssize_t wrote = pwrite(fd, text, (size_t)n, 0);
    if ((wrote < 0 && err_code_of_errno(errno) != SNAP_ENOSPC) ||
        ftruncate(fd, wrote < 0 ? 0 : wrote) < 0) {
        int saved = errno;
        (void)close(fd);
        return err_set_errno(reterr, err_code_of_errno(saved), saved, "write %s", lock);
    }
    *ret_fd = fd;
    return 0;
}

int state_dir_open(const char *path, int *ret_fd, struct err *reterr)
{
    static const char *const folders[] = {"volumes", "trash", "groups"};
    char folder[PATH_MAX_BYTES];
    int rc = file_make_dir(path, 0700, reterr);
    for (size_t i = 0; rc == 0 && i < sizeof folders / sizeof folders[0]; i++) {
        (void)snprintf(folder, sizeof folder, "%s/%s", path, folders[i]);
        rc = file_make_dir(folder, 0700, reterr);
    }
    if (rc < 0)
        return err_prefix(reterr, "state directory");
    return state_dir_lock(path, ret_fd, reterr);
}

int state_dir_check(const char *path, struct err *reterr)
{
    char copy[LIMIT_PATH_BYTES];
    struct stat st;
    bool there = stat(path, &st) == 0;
    (void)snprintf(copy, sizeof copy, "%s", path);
    const char *in = there ? copy : dirname(copy);
    if (there && !S_ISDIR(st.st_mode))
        return err_set(reterr, SNAP_EINVAL, "state_dir: %s is not a folder", path);
    if (!there && (stat(in, &st) != 0 || !S_ISDIR(st.st_mode)))
        return err_set(reterr, SNAP_EINVAL, "state_dir: %s cannot be made: there is no folder %s",
                       path, in);
    if (access(in, W_OK | X_OK) != 0)
        return err_set_errno(reterr, SNAP_EPERM, errno, "state_dir: cannot write into %s", in);
    return 0;
}

/* -- scan ------------------------------------------------------------------------------- */

struct scan {
    struct state_volumes *volumes;
    bool all_read; /* every folder's record */
    void (*warn)(void *user, const char *text);
    void *user;
};

SNAP_PRINTF(2, 3) static void scan_warn(const struct scan *s, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES + LIMIT_PATH_BYTES];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    s->warn(s->user, text);
}

/* Is the file named "<uuid><end>"? */
static bool scan_uuid_of(const char *file, const char *end, struct uuid *ret)
{
    char text[UUID_TEXT_BYTES] = "";
    if (strlen(file) != UUID_TEXT_BYTES - 1 + strlen(end) ||
        strcmp(file + UUID_TEXT_BYTES - 1, end) != 0)
        return false;
    memcpy(text, file, UUID_TEXT_BYTES - 1);
    return uuid_parse_text(text, ret, NULL) == 0;
}

/* The snapshot that it is named for. */
static const struct record_snapshot *scan_snapshot_of(struct volume_record *r, const char *file,
                                                      const char *end)
{
    struct uuid id;
    return scan_uuid_of(file, end, &id) ? volume_record_find(r, &id) : NULL;
}

/* The record's own files, the origin, COW devices and the checksums beside them. */
static bool scan_is_listed(struct volume_record *r, const char *file)
{
    static const char *const own[] = {RECORD_FILE, RECORD_SPARE_FILE, RECORD_FILE ".tmp"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strcmp(file, own[i]) == 0)
            return true;
    if (strcmp(r->origin_path, file) == 0 || scan_snapshot_of(r, file, ".sum") != NULL)
        return true;
    const struct record_snapshot *s = scan_snapshot_of(r, file, ".cow");
    if (s != NULL && strcmp(s->cow_path, file) == 0)
        return true;
    for (uint32_t i = 0; i < r->snapshot_count; i++)
        if (strcmp(r->snapshots[i].cow_path, file) == 0)
            return true;
    return false;
}

static bool scan_remove(const char *dir, const struct uuid *id, const char *end)
{
    char path[2 * PATH_MAX_BYTES], text[UUID_TEXT_BYTES];
    (void)snprintf(path, sizeof path, "%s/%s%s", dir, uuid_format(id, text), end);
    if (unlink(path) < 0)
        return errno == ENOENT;
    if (strcmp(end, DRAFT_END) != 0)
        LOG_INFO("removed: a snapshot was being made, or deleted, when the daemon ended",
                 F_STR("path", path));
    return true;
}

/* The note last: what cannot be removed is tried again at the next start. */
static void scan_drafts(const char *dir, struct volume_record *r)
{
    DIR *d = opendir(dir);
    if (d == NULL)
        return;
    const struct dirent *e;
    struct uuid id;
    while ((e = readdir(d)) != NULL)
        if (scan_uuid_of(e->d_name, DRAFT_END, &id) &&
            (volume_record_find(r, &id) != NULL ||
             (scan_remove(dir, &id, ".cow") && scan_remove(dir, &id, ".sum"))))
            (void)scan_remove(dir, &id, DRAFT_END);
    (void)closedir(d);
}

static void scan_files(const struct scan *s, const char *dir, struct volume_record *r)
{
    scan_drafts(dir, r);
    DIR *d = opendir(dir);
    if (d == NULL)
        return;
    const struct dirent *e;
    while ((e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            !scan_is_listed(r, e->d_name))
            scan_warn(s, "%s/%s is listed by no record: neither used nor deleted", dir, e->d_name);
    (void)closedir(d);
}

static int scan_keep(struct state_volumes *v, struct volume_record *take, struct err *reterr)
{
    if (v->count == v->cap) {
        uint32_t cap = v->cap == 0 ? 64 : v->cap * 2;
        struct volume_record *grown = realloc(v->records, cap * sizeof *grown);
        if (grown == NULL) {
            volume_record_done(take);
            return err_set(reterr, SNAP_ENOMEM, "volume records");
        }
        v->records = grown;
        v->cap = cap;
    }
    v->records[v->count++] = *take;
    return 0;
}

static int scan_volume(struct scan *s, const char *volumes, const char *name, struct err *reterr)
{
    char dir[PATH_MAX_BYTES + 300];
    struct uuid id;
    struct volume_record r;
    struct err err = ERR_INIT;
    (void)snprintf(dir, sizeof dir, "%s/%s", volumes, name);
    if (uuid_parse_text(name, &id, NULL) < 0) {
        scan_warn(s, "%s is not a volume's folder: neither used nor deleted", dir);
        return 0;
    }
    volume_record_init(&r);
    int rc = volume_record_load(dir, &r, &err);
    if (rc == SNAP_ENOMEM)
        return err_copy(reterr, &err);
    s->all_read = s->all_read && rc == 0 && uuid_equal(&id, &r.id);
    if (rc == SNAP_ENOENT) {
        scan_warn(s, "%s has no record: neither used nor deleted", dir);
        return 0;
    }
    if (rc < 0) {
        scan_warn(s, "%s: %s: the volume is not served", dir, err.text);
        return 0;
    }
    if (!uuid_equal(&id, &r.id)) {
        scan_warn(s, "%s: its record is of another volume: neither used nor deleted", dir);
        volume_record_done(&r);
        return 0;
    }
    if (r.label_renamed[0] != '\0')
        scan_warn(s,
                  "%s/%s: a label is there twice, as an older release let it be: the later one is "
                  "called %s now, and written so when the volume changes next; for another name, "
                  "stop the daemon and change it there, in the line \"labels\"",
                  dir, RECORD_FILE, r.label_renamed);
    scan_files(s, dir, &r);
    return scan_keep(s->volumes, &r, reterr);
}

int state_dir_scan(const char *path, struct state_volumes *ret,
                   void (*warn)(void *user, const char *text), void *user, struct err *reterr)
{
    struct scan s = {.volumes = ret, .all_read = true, .warn = warn, .user = user};
    char volumes[PATH_MAX_BYTES];
    (void)snprintf(volumes, sizeof volumes, "%s/volumes", path);
    *ret = (struct state_volumes){.records = NULL};
    DIR *d = opendir(volumes);
    if (d == NULL)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "read %s", volumes);
    int rc = 0;
    const struct dirent *e;
    while (rc == 0 && (e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rc = scan_volume(&s, volumes, e->d_name, reterr);
    (void)closedir(d);
    if (rc == 0)
        rc = state_groups_check(path, ret, s.all_read, warn, user, reterr);
    if (rc < 0)
        state_volumes_done(ret);
    return rc;
}

void state_volumes_done(struct state_volumes *v)
{
    for (uint32_t i = 0; i < v->count; i++)
        volume_record_done(&v->records[i]);
    free(v->records);
    *v = (struct state_volumes){.records = NULL};
}
