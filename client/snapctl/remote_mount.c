/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote mount, umount: a file system inside a hosted volume, a snapshot or a clone, in
 * this host's tree.
 *
 *     resolve ─> folder ─> nbdkit ─> nbdfuse ─> partition ─> claim ─> loop device ─> mount
 *                  └────────────── mount_undo() after a failure at any of these ────────────┘
 *
 * A plain snapshot is read-only down to the disk, so its file system's journal cannot be replayed
 * and is left alone.
 */
#include "client/snapctl/remote_mount.h"

#include "client/host/remote_conf.h"
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_hosted.h"
#include "common/base/bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <libmount/libmount.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPTIONS_BYTES = 1024, STEPS = 4 };

struct mount_args {
    struct remote_words words; /* first */
    const char *options;
    unsigned partition;
    bool partition_given, read_only;
};

/* -- words ------------------------------------------------------------------------------ */

static unsigned partition_arg(const struct argp_state *state, const char *text)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || n > MOUNT_PARTS_MAX)
        cli_usage_error(state, "--partition %s: it must be 0 (the whole disk) to %d", text,
                        MOUNT_PARTS_MAX);
    return (unsigned)n;
}

/* What would make libmount put a loop device of its own upon ours. */
static void check_options(const struct argp_state *state, const char *options)
{
    static const char *const refused[] = {"loop",  "offset", "sizelimit", "bind",
                                          "rbind", "move",   "remount"};
    if (strlen(options) > OPTIONS_BYTES / 2)
        cli_usage_error(state, "--options: at most %d bytes", OPTIONS_BYTES / 2);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        if (mnt_optstr_get_option(options, refused[i], NULL, NULL) == 0)
            cli_usage_error(state, "--options %s: that is none of a file system; see --partition",
                            refused[i]);
}

static error_t parse_mount(int key, char *arg, struct argp_state *state)
{
    struct mount_args *a = state->input;
    switch (key) {
    case 'p':
        a->partition = partition_arg(state, arg);
        a->partition_given = true;
        return 0;
    case 'r':
        a->read_only = true;
        return 0;
    case 'o':
        check_options(state, arg);
        a->options = arg;
        return 0;
    default:
        return remote_parse_word(key, arg, state);
    }
}

static int need_root(const char *what, struct err *reterr)
{
    if (geteuid() == 0)
        return 0;
    return err_set(reterr, SNAP_EPERM, "only root can %s; run it with sudo", what);
}

/* Where it really is; with missing_ok a name that leads nowhere is taken as it is. */
static int real_directory(const char *text, bool missing_ok, char buf[LIMIT_PATH_BYTES],
                          struct err *reterr)
{
    struct stat st;
    char *path = realpath(text, NULL);
    if (!path && !(missing_ok && text[0] == '/'))
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "%s", text);
    int n = snprintf(buf, LIMIT_PATH_BYTES, "%s", path ? path : text);
    free(path);
    if (n >= LIMIT_PATH_BYTES)
        return err_set(reterr, SNAP_EINVAL, "path too long");
    if (!missing_ok && (stat(buf, &st) != 0 || !S_ISDIR(st.st_mode)))
        return err_set(reterr, SNAP_EINVAL, "%s is no directory", text);
    return 0;
}

/* -- which part of the disk ------------------------------------------------------------- */

static int show_parts(const struct cli *cli, const struct mount_parts *all, struct err *reterr)
{
    static const struct out_column columns[] = {
        {"partition", "PARTITION", OUT_NUMBER}, {"start_bytes", "START", OUT_SIZE},
        {"size_bytes", "SIZE", OUT_SIZE},       {"content", "CONTENT", OUT_TEXT},
        {"label", "LABEL", OUT_TEXT},           {0},
    };
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < all->count; i++) {
        const struct mount_part *p = &all->part[i];
        json_t *row = json_pack("{s:I, s:I, s:I, s:s, s:s}", "partition", (json_int_t)p->number,
                                "start_bytes", (json_int_t)p->start_bytes, "size_bytes",
                                (json_int_t)p->size_bytes, "content", p->fs, "label", p->label);
        if (json_array_append_new(rows, row) != 0) {
            json_decref(rows);
            rows = NULL;
        }
    }
    return out_rows(cli, rows, columns, reterr);
}

/* Which of the partitions is meant; *ret NULL: that is to be chosen, of those shown. */
static int choose_part(const struct cli *cli, const struct mount_args *a,
                       const struct mount_parts *all, const struct mount_part **ret,
                       struct err *reterr)
{
    const char *target = a->words.word[0];
    *ret = NULL;
    if (a->partition_given ? a->partition == 0 : all->count == 0)
        *ret = &all->whole;
    else if (!a->partition_given && all->count == 1)
        *ret = &all->part[0];
    for (size_t i = 0; a->partition_given && !*ret && i < all->count; i++)
        if (all->part[i].number == a->partition)
            *ret = &all->part[i];
    if (*ret)
        return 0;
    if (all->count == 0)
        return err_set(reterr, SNAP_ENOENT, "%s has no partitions; mount it without --partition",
                       target);
    int rc = show_parts(cli, all, reterr);
    if (rc < 0)
        return rc;
    if (a->partition_given)
        return err_set(reterr, SNAP_ENOENT, "%s has no partition %u", target, a->partition);
    return err_set(reterr, SNAP_EINVAL, "%s has %zu partitions; choose one with --partition N",
                   target, all->count);
}

static int check_part(const struct mount_args *a, const struct mount_part *p, struct err *reterr)
{
    char which[48] = "";
    if (p->is_fs)
        return 0;
    if (p->number)
        (void)snprintf(which, sizeof which, "partition %u of ", p->number);
    if (p->fs[0])
        return err_set(reterr, SNAP_ENOTSUP,
                       "%s%s holds no file system but %s; attach it with nbdkit-snapwire-plugin(1) "
                       "and what that needs",
                       which, a->words.word[0], p->fs);
    return err_set(reterr, SNAP_ENOTSUP, "%s%s holds no file system that is known here", which,
                   a->words.word[0]);
}

/* -- the steps -------------------------------------------------------------------------- */

/* Read-only: nothing may be replayed. A copy has its origin's UUID: XFS is told that this is
 * meant. */
static void make_options(const struct mount_args *a, const struct mount_state *s, const char *fs,
                         bool copy, char buf[OPTIONS_BYTES])
{
    const char *journal = "";
    if (s->read_only && (strcmp(fs, "ext4") == 0 || strcmp(fs, "ext3") == 0))
        journal = ",noload";
    else if (s->read_only && strcmp(fs, "xfs") == 0)
        journal = ",norecovery";
    else if (s->read_only && strcmp(fs, "btrfs") == 0)
        journal = ",rescue=nologreplay";
    (void)snprintf(buf, OPTIONS_BYTES, "%s%s%s%s%s", a->options ? a->options : "",
                   a->options && *a->options ? "," : "", s->read_only ? "ro" : "rw", journal,
                   copy && strcmp(fs, "xfs") == 0 ? ",nouuid" : "");
}

struct mounted {
    char disk[MOUNT_DISK_BYTES]; /* known before the steps */
    char device[MOUNT_DEVICE_BYTES], options[OPTIONS_BYTES];
    struct mount_part part;
};

static int interrupted(struct err *reterr)
{
    return cli_interrupted() ? err_set(reterr, SNAP_ECANCELED, "interrupted") : 0;
}

static int mount_steps(const struct cli *cli, const struct mount_args *a, const char *config,
                       const char *remote, struct mount_state *s, struct mounted *ret,
                       struct err *reterr)
{
    const struct mount_part *part = NULL;
    struct progress p = {.unit = PROGRESS_COUNT};
    struct mount_parts *all = malloc(sizeof *all);
    if (!all)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for looking into the disk");
    progress_start(&p, cli, "mounting", STEPS);
    int rc = mount_nbdkit_start(s, config, remote, reterr);
    progress_add(&p, 1);
    if (rc == 0)
        rc = mount_nbdfuse_start(s, reterr);
    progress_add(&p, 1);
    if (rc == 0)
        rc = mount_parts_read(s, all, reterr);
    progress_add(&p, 1);
    if (rc == 0)
        rc = interrupted(reterr);
    progress_end(&p);
    if (rc == 0)
        rc = choose_part(cli, a, all, &part, reterr);
    if (rc == 0)
        rc = check_part(a, part, reterr);
    if (rc == 0)
        rc = mount_state_claim(s, ret->disk, part->number, reterr);
    if (rc == 0)
        rc = mount_loop_attach(s, part, ret->device, reterr);
    if (rc == 0) {
        ret->part = *part;
        make_options(a, s, part->fs, strchr(s->target, '@') != NULL, ret->options);
        rc = mount_fs_mount(s, ret->device, part->fs, ret->options, reterr);
    }
    free(all);
    return rc;
}

static int report(const struct cli *cli, const struct mount_state *s, const struct mounted *m,
                  struct err *reterr)
{
    char which[48] = "";
    if (cli->json)
        return out_object(cli,
                          json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:b}", "target", s->target,
                                    "directory", s->directory, "device", m->device, "partition",
                                    (json_int_t)m->part.number, "fs", m->part.fs, "options",
                                    m->options, "read_only", (int)s->read_only),
                          NULL, reterr);
    if (m->part.number)
        (void)snprintf(which, sizeof which, "partition %u of ", m->part.number);
    cli_note(cli, "%s%s is on %s, %s, %s", which, s->target, s->directory, m->part.fs,
             s->read_only ? "read-only" : "writable");
    return 0;
}

/* -- commands --------------------------------------------------------------------------- */

/* What the daemon says of the target: is it there, who is it, and can it be written? */
static int ask(struct remote *r, const char *target, char ret_disk[MOUNT_DISK_BYTES],
               bool *ret_writable, struct err *reterr)
{
    struct remote_target t;
    struct snapwire_snapshot *snapshot = NULL;
    int rc = remote_resolve(r, target, REMOTE_WANT_ANY, &t, reterr);
    if (rc == 0)
        rc = remote_want_hosted(&t, "export it with snapctl remote export --origin, and mount that",
                                reterr);
    if (rc == 0)
        (void)snapwire_uuid_format(t.name.snapshot[0] ? &t.snapshot : &t.volume, ret_disk);
    *ret_writable = true;
    if (rc == 0 && t.name.snapshot[0]) {
        rc = remote_show_snapshot(r, &t, &snapshot, reterr);
        *ret_writable = rc == 0 && snapshot->writable;
        snapwire_free(snapshot);
    }
    return rc;
}

static int mount_it(const struct cli *cli, const struct mount_args *a, struct err *reterr)
{
    char directory[LIMIT_PATH_BYTES], config[LIMIT_PATH_BYTES];
    struct remote r = {0};
    struct mount_state s = {.lock_fd = -1};
    struct mounted m = {0};
    struct err why = ERR_INIT;
    bool writable = false;
    int rc = need_root("mount", reterr);
    if (rc == 0)
        rc = real_directory(a->words.word[1], false, directory, reterr);
    if (rc == 0)
        rc = mount_fs_check_free(directory, reterr);
    if (rc == 0)
        rc = remote_conf_path(config, reterr);
    if (rc == 0)
        rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = ask(&r, a->words.word[0], m.disk, &writable, reterr);
    remote_close(&r);
    if (rc == 0)
        rc = mount_state_make(a->words.word[0], directory, &s, reterr);
    if (rc < 0)
        return rc;
    cli_catch_signals();
    s.read_only = a->read_only || !writable;
    rc = mount_steps(cli, a, config, r.name, &s, &m, reterr);
    if (rc < 0 && mount_undo(&s, &why) < 0)
        cli_note(cli, "not all could be undone (%s); snapctl remote umount %s", why.text,
                 s.directory);
    mount_state_done(&s);
    return rc < 0 ? rc : report(cli, &s, &m, reterr);
}

int remote_cmd_mount(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "partition",
         .key = 'p',
         .arg = "N",
         .doc = "which one, when the disk has several; 0 is the whole disk"},
        {.name = "read-only", .key = 'r', .doc = "although it could be written"},
        {.name = "options",
         .key = 'o',
         .arg = "LIST",
         .doc = "the file system's, separated by commas, as mount(8) takes them"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_mount,
        .args_doc = "VOLUME[@SNAPSHOT] DIR",
        .doc = "Mount the file system of a hosted volume, a snapshot or a clone on DIR: snapshots "
               "read-only and without replaying a journal, volumes and clones writable. A volume "
               "or clone must be written by one host at a time. For root; uses nbdkit, nbdfuse "
               "and a loop device.",
        .children = remote_children,
    };
    struct mount_args a = {.words = {.least = 2,
                                     .most = 2,
                                     .missing = "what to mount, and where? As in: mount "
                                                "disk1@monday /mnt"}};
    remote_parse(cli, &argp, argc, argv, &a);
    return mount_it(cli, &a, reterr);
}

int remote_cmd_umount(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "DIR",
        .doc = "Unmount what snapctl remote mount has mounted on DIR, and end all that served it. "
               "After a crash in between it clears what is left.",
        .children = remote_children,
    };
    struct remote_words words = {.least = 1, .most = 1, .missing = "which directory?"};
    char directory[LIMIT_PATH_BYTES];
    struct mount_state s = {.lock_fd = -1};
    remote_parse(cli, &argp, argc, argv, &words);
    int rc = need_root("unmount", reterr);
    if (rc == 0)
        rc = real_directory(words.word[0], true, directory, reterr);
    if (rc == 0)
        rc = mount_state_find(directory, &s, reterr);
    if (rc == 0)
        rc = mount_undo(&s, reterr);
    mount_state_done(&s);
    return rc;
}
