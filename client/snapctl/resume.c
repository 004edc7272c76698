/* SPDX-License-Identifier: Apache-2.0 */
/* The state of long work. It is replaced as a whole, durably: after a power cut it tells the
 * last point or the one before. It must not know what the work is.
 */
#include "client/snapctl/resume.h"

#include "common/base/file.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STATE_BYTES_MAX = 4096, STATE_VERSION = 1 };

struct resume_file resume_file_of(const struct stat *st, bool is_read)
{
    bool is_block = S_ISBLK(st->st_mode);
    return (struct resume_file){
        .device = is_block ? st->st_rdev : st->st_dev,
        .inode = is_block ? 0 : st->st_ino,
        .changed_ns = is_read && !is_block
                          ? (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec
                          : 0,
    };
}

bool resume_file_equal(const struct resume_file *a, const struct resume_file *b)
{
    return a->device == b->device && a->inode == b->inode && a->changed_ns == b->changed_ns;
}

static int state_path(char buf[LIMIT_PATH_BYTES], const char *name, struct err *reterr)
{
    const char *folder = getenv("XDG_STATE_HOME"), *below = "";
    if (!folder || *folder != '/') { /* as its specification says, others are ignored */
        folder = getenv("HOME");
        below = "/.local/state";
    }
    if (!folder || !*folder) {
        const struct passwd *pw = getpwuid(getuid());
        folder = pw ? pw->pw_dir : NULL;
    }
    if (!folder || !*folder)
        return err_set(reterr, SNAP_EINVAL,
                       "no home folder to keep its progress in; set "
                       "XDG_STATE_HOME to a folder");
    if (snprintf(buf, LIMIT_PATH_BYTES, "%s%s/snapwire/%s", folder, below, name) >=
        LIMIT_PATH_BYTES)
        return err_set(reterr, SNAP_EINVAL, "the home folder's name is too long");
    return 0;
}

int resume_init(struct resume *s, const char *name, uint64_t size_bytes, struct err *reterr)
{
    *s = (struct resume){.size_bytes = size_bytes};
    int rc = state_path(s->path, name, reterr);
    if (rc < 0)
        s->path[0] = '\0';
    return rc;
}

static bool number(const json_t *state, const char *key, uint64_t *ret)
{
    const json_t *v = json_object_get(state, key);
    if (!json_is_integer(v))
        return false;
    *ret = (uint64_t)json_integer_value(v);
    return true;
}

int resume_init_output(struct resume *s, const struct resume_file *file, const char *subject,
                       uint64_t size_bytes, struct err *reterr)
{
    char name[64];
    (void)snprintf(name, sizeof name, "export-%" PRIx64 "-%" PRIx64, file->device, file->inode);
    int rc = resume_init(s, name, size_bytes, reterr);
    (void)snprintf(s->subject, sizeof s->subject, "%s", subject);
    return rc;
}

bool resume_load(const struct resume *s, const struct resume_file *file, uint64_t *ret_bytes,
                 const char **ret_why)
{
    char *text = NULL;
    size_t len = 0;
    uint64_t version = 0, size = 0, device = 0, inode = 0, changed = 0, done = 0;
    *ret_why = "";
    if (!s->path[0] || file_read_all(s->path, STATE_BYTES_MAX, &text, &len, NULL) < 0)
        return false;
    json_t *state = json_loadb(text, len, 0, NULL);
    const char *subject = json_string_value(json_object_get(state, "subject"));
    free(text);
    if (!number(state, "version", &version) || version != STATE_VERSION ||
        !number(state, "size_bytes", &size) || !number(state, "device", &device) ||
        !number(state, "inode", &inode) || !number(state, "changed_ns", &changed) ||
        !number(state, "done_bytes", &done) || done > size)
        *ret_why = "what was noted of it cannot be read";
    else if (strcmp(subject ? subject : "", s->subject) != 0)
        *ret_why = "it was begun with another snapshot";
    else if (size != s->size_bytes)
        *ret_why = "it had another size then";
    else if (device != file->device || inode != file->inode)
        *ret_why = "it is another file than then";
    else if ((int64_t)changed != file->changed_ns)
        *ret_why = "it was changed since";
    json_decref(state);
    if (**ret_why)
        return false;
    *ret_bytes = done;
    return true;
}

int resume_save(const struct resume *s, const struct resume_file *file, uint64_t done_bytes,
                struct err *reterr)
{
    char text[STATE_BYTES_MAX];
    if (!s->path[0])
        return 0;
    /* signed, as JSON's readers take no larger number: a file system may number as it likes */
    int n = snprintf(text, sizeof text,
                     "{\"version\": %d, \"subject\": \"%s\", \"size_bytes\": %" PRId64
                     ", \"device\": %" PRId64 ", \"inode\": %" PRId64 ", \"changed_ns\": %" PRId64
                     ", \"done_bytes\": %" PRId64 "}\n",
                     STATE_VERSION, s->subject, (int64_t)s->size_bytes, (int64_t)file->device,
                     (int64_t)file->inode, file->changed_ns, (int64_t)done_bytes);
    int rc = file_make_parents(s->path, 0700, reterr);
    if (rc == 0)
        rc = file_replace(s->path, text, (size_t)n, 0600, reterr);
    return rc;
}

int resume_forget(const struct resume *s, struct err *reterr)
{
    char half[LIMIT_PATH_BYTES + sizeof ".tmp"]; /* file_replace() may have been killed in it */
    if (!s->path[0])
        return 0;
    (void)snprintf(half, sizeof half, "%s.tmp", s->path);
    (void)unlink(half);
    if (unlink(s->path) == 0)
        return file_sync_parent(s->path, reterr);
    const int why = errno;
    struct stat st;
    /* nothing there that we could go on with: also on a file system that is only read, or in the
     * home of somebody else */
    if (lstat(s->path, &st) != 0 && (errno == ENOENT || errno == ENOTDIR || errno == EACCES))
        return 0;
    return err_set_errno(reterr, err_code_of_errno(why), why, "remove %s", s->path);
}

int resume_forget_output(const struct resume_file *file, struct err *reterr)
{
    struct resume s;
    if (resume_init_output(&s, file, "", 0, NULL) < 0)
        return 0; /* no place for notes, so there is none */
    return resume_forget(&s, reterr);
}
