/* SPDX-License-Identifier: Apache-2.0 */
/* The state directory at start: the lock, what is odd, and the registry against the records. */
#include "common/base/file.h"
#include "daemon/service/state_dir.h"
#include "daemon/service/trash.h"
#include "daemon/volume/draft.h"
#include "daemon/volume/group.h"
#include "daemon/volume/volume.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WARNINGS_MAX = 16 };

struct fixture {
    struct tmpdir dir;
    int lock;
    struct state_volumes volumes;
    char warnings[WARNINGS_MAX][1024];
    unsigned count;
};

static void keep_warning(void *user, const char *text)
{
    struct fixture *f = user;
    assert_true(f->count < WARNINGS_MAX);
    (void)snprintf(f->warnings[f->count++], sizeof f->warnings[0], "%s", text);
}

static bool is_warned(const struct fixture *f, const char *a, const char *b)
{
    for (unsigned i = 0; i < f->count; i++)
        if (strstr(f->warnings[i], a) != NULL && strstr(f->warnings[i], b) != NULL)
            return true;
    return false;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err err = ERR_INIT;
    tmpdir_make(&f->dir);
    if (state_dir_open(f->dir.path, &f->lock, &err) < 0)
        fail_msg("%s", err.text);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    state_volumes_done(&f->volumes);
    (void)close(f->lock);
    tmpdir_remove(&f->dir);
    free(f);
    return 0;
}

static struct uuid make_volume(const struct fixture *f, const char *name, uint64_t size)
{
    struct volume_record r;
    char dir[LIMIT_PATH_BYTES];
    volume_record_init(&r);
    r.id = uuid_make();
    r.size_bytes = size;
    (void)snprintf(r.name, sizeof r.name, "%s", name);
    assert_int_equal(volume_dir_format(f->dir.path, &r.id, dir, sizeof dir, NULL), 0);
    assert_int_equal(file_make_dir(dir, 0700, NULL), 0);
    assert_int_equal(volume_record_save(dir, &r, NULL), 0);
    struct uuid id = r.id;
    volume_record_done(&r);
    return id;
}

static void touch(const struct fixture *f, const char *fmt, const char *name)
{
    char path[TMPDIR_FILE_BYTES], sub[TMPDIR_FILE_BYTES];
    (void)snprintf(sub, sizeof sub, "%s%s", fmt, name);
    int fd = open(tmpdir_file(&f->dir, sub, path), O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), 1);
    (void)close(fd);
}

static void scan(struct fixture *f)
{
    struct err err = ERR_INIT;
    state_volumes_done(&f->volumes);
    f->count = 0;
    if (state_dir_scan(f->dir.path, &f->volumes, keep_warning, f, &err) < 0)
        fail_msg("%s", err.text);
}

static void lock__second_daemon_is_refused_and_told_by_whom(void **state)
{
    struct fixture *f = *state;
    struct err err = ERR_INIT;
    char pid[32];
    int fd = -1;
    assert_int_equal(state_dir_open(f->dir.path, &fd, &err), SNAP_EBUSY);
    (void)snprintf(pid, sizeof pid, "process %ld)", (long)getpid());
    assert_non_null(strstr(err.text, pid));
    (void)close(f->lock);
    assert_int_equal(state_dir_open(f->dir.path, &f->lock, &err), 0);
}

static void scan__odd_things_are_told_and_left_alone(void **state)
{
    struct fixture *f = *state;
    char id[UUID_TEXT_BYTES], folder[128], path[TMPDIR_FILE_BYTES];
    struct uuid good = make_volume(f, "good", 4096);
    (void)snprintf(folder, sizeof folder, "volumes/%s/", uuid_format(&good, id));
    touch(f, folder, "stray.cow");
    assert_int_equal(mkdir(tmpdir_file(&f->dir, "volumes/notes", path), 0700), 0);
    struct uuid bare = uuid_make();
    (void)snprintf(folder, sizeof folder, "volumes/%s", uuid_format(&bare, id));
    assert_int_equal(mkdir(tmpdir_file(&f->dir, folder, path), 0700), 0);
    struct uuid broken = uuid_make();
    (void)snprintf(folder, sizeof folder, "volumes/%s", uuid_format(&broken, id));
    assert_int_equal(mkdir(tmpdir_file(&f->dir, folder, path), 0700), 0);
    (void)strcat(folder, "/");
    touch(f, folder, "record");
    scan(f);
    assert_int_equal(f->volumes.count, 1);
    assert_string_equal(f->volumes.records[0].name, "good");
    assert_int_equal(f->count, 4);
    assert_true(is_warned(f, "stray.cow", "neither used nor deleted"));
    assert_true(is_warned(f, "volumes/notes", "not a volume's folder"));
    assert_true(is_warned(f, uuid_format(&bare, id), "has no record"));
    assert_true(is_warned(f, uuid_format(&broken, id), "not served"));
    (void)snprintf(folder, sizeof folder, "volumes/%s/stray.cow", uuid_format(&good, id));
    assert_int_equal(access(tmpdir_file(&f->dir, folder, path), F_OK), 0);
}

static void scan__label_that_is_there_twice_does_not_keep_a_volume_from_being_served(void **state)
{
    struct fixture *f = *state;
    static const char begin[] = "\"labels\": {";
    char id[UUID_TEXT_BYTES], sub[128], path[TMPDIR_FILE_BYTES], *text = NULL, *longer = NULL;
    size_t len = 0;
    struct uuid v = make_volume(f, "v", 4096);
    (void)snprintf(sub, sizeof sub, "volumes/%s/record", uuid_format(&v, id));
    assert_int_equal(file_read_all(tmpdir_file(&f->dir, sub, path), 65536, &text, &len, NULL), 0);
    char *labels = strstr(text, begin);
    assert_non_null(labels);
    labels += strlen(begin);
    assert_true(asprintf(&longer, "%.*s\"site\": \"Basel\", \"site\": \"Bern\"%s",
                         (int)(labels - text), text, labels) > 0);
    assert_int_equal(file_replace(path, longer, strlen(longer), 0600, NULL), 0);
    scan(f);
    assert_int_equal(f->volumes.count, 1);
    assert_int_equal(f->volumes.records[0].label_count, 2);
    assert_int_equal(f->count, 1);
    assert_true(is_warned(f, sub, "site.2"));
    free(text);
    free(longer);
}

static void scan__record_of_another_volume_is_not_used(void **state)
{
    struct fixture *f = *state;
    char id[UUID_TEXT_BYTES], from[TMPDIR_FILE_BYTES], to[TMPDIR_FILE_BYTES], sub[128];
    struct uuid a = make_volume(f, "a", 4096), b = uuid_make();
    (void)snprintf(sub, sizeof sub, "volumes/%s", uuid_format(&a, id));
    (void)tmpdir_file(&f->dir, sub, from);
    (void)snprintf(sub, sizeof sub, "volumes/%s", uuid_format(&b, id));
    assert_int_equal(rename(from, tmpdir_file(&f->dir, sub, to)), 0);
    scan(f);
    assert_int_equal(f->volumes.count, 0);
    assert_true(is_warned(f, id, "another volume"));
}

/* -- files of a hosted volume, groups ------------------------------------------------- */

static struct volume_record hosted_record(const char *name)
{
    struct volume_record r;
    volume_record_init(&r);
    r.id = uuid_make();
    r.size_bytes = 4096;
    r.kind = VOLUME_HOSTED;
    r.chunk_size_sectors = 8;
    (void)snprintf(r.name, sizeof r.name, "%s", name);
    (void)snprintf(r.origin_path, sizeof r.origin_path, "origin");
    return r;
}

static struct uuid add_snapshot(struct volume_record *r, const char *name, const struct uuid *group)
{
    struct record_snapshot s = {.id = uuid_make(), .seq = r->next_seq, .chunk_size_sectors = 8};
    (void)snprintf(s.name, sizeof s.name, "%s", name);
    s.group = group != NULL ? *group : (struct uuid){{0}};
    assert_int_equal(volume_record_add_snapshot(r, &s, NULL), 0);
    return s.id;
}

/* With a file for each snapshot. */
static void save_volume(const struct fixture *f, const struct volume_record *r)
{
    char dir[LIMIT_PATH_BYTES], folder[64], id[UUID_TEXT_BYTES], file[64];
    assert_int_equal(volume_dir_format(f->dir.path, &r->id, dir, sizeof dir, NULL), 0);
    assert_int_equal(file_make_dir(dir, 0700, NULL), 0);
    assert_int_equal(volume_record_save(dir, r, NULL), 0);
    (void)snprintf(folder, sizeof folder, "volumes/%s/", uuid_format(&r->id, id));
    for (uint32_t i = 0; i < r->snapshot_count; i++) {
        touch(f, folder, r->snapshots[i].cow_path);
        (void)snprintf(file, sizeof file, "%s.sum", uuid_format(&r->snapshots[i].id, id));
        touch(f, folder, file);
    }
    touch(f, folder, "origin");
}

static void scan__files_of_a_hosted_volume_are_listed(void **state)
{
    struct fixture *f = *state;
    struct volume_record r = hosted_record("vm");
    char folder[64], id[UUID_TEXT_BYTES], file[64];
    (void)add_snapshot(&r, "a", NULL);
    (void)add_snapshot(&r, "b", NULL);
    save_volume(f, &r);
    scan(f);
    assert_int_equal(f->count, 0);
    /* sums of nobody, a COW file of nobody */
    struct uuid nobody = uuid_make();
    (void)snprintf(folder, sizeof folder, "volumes/%s/", uuid_format(&r.id, id));
    (void)snprintf(file, sizeof file, "%s.sum", uuid_format(&nobody, id));
    touch(f, folder, file);
    (void)snprintf(file, sizeof file, "%s.cow", uuid_format(&nobody, id));
    touch(f, folder, file);
    scan(f);
    assert_int_equal(f->count, 2);
    assert_true(is_warned(f, id, ".sum is listed by no record"));
    volume_record_done(&r);
}

/* "volumes/<volume>/<node><end>" */
static const char *node_file(const struct uuid *volume, const struct uuid *node, const char *end,
                             char buf[TMPDIR_FILE_BYTES])
{
    char v[UUID_TEXT_BYTES], n[UUID_TEXT_BYTES];
    (void)snprintf(buf, TMPDIR_FILE_BYTES, "volumes/%s/%s%s", uuid_format(volume, v),
                   uuid_format(node, n), end);
    return buf;
}

static bool is_there(const struct fixture *f, const char *file)
{
    char path[TMPDIR_FILE_BYTES];
    return access(tmpdir_file(&f->dir, file, path), F_OK) == 0;
}

/* What has a note and is in no record is ours; of the rest nothing is known. */
static void scan__half_made_files_go_if_a_note_says_whose_they_are(void **state)
{
    static const char *const ends[] = {".cow", ".sum", DRAFT_END};
    struct fixture *f = *state;
    struct volume_record r = hosted_record("vm");
    struct uuid listed = add_snapshot(&r, "a", NULL), ours = uuid_make(), nobodys = uuid_make();
    char file[TMPDIR_FILE_BYTES];
    save_volume(f, &r);
    touch(f, node_file(&r.id, &listed, DRAFT_END, file), "");
    for (unsigned i = 0; i < 3; i++)
        touch(f, node_file(&r.id, &ours, ends[i], file), "");
    touch(f, node_file(&r.id, &nobodys, ".cow", file), "");
    touch(f, node_file(&r.id, &nobodys, ".draft.cow", file), "");
    scan(f);
    for (unsigned i = 0; i < 3; i++) {
        assert_false(is_there(f, node_file(&r.id, &ours, ends[i], file)));
        assert_int_equal(is_there(f, node_file(&r.id, &listed, ends[i], file)), i < 2);
    }
    assert_true(is_there(f, node_file(&r.id, &nobodys, ".cow", file)));
    assert_int_equal(f->count, 2);
    assert_true(is_warned(f, node_file(&r.id, &nobodys, ".cow", file), "neither used nor deleted"));
    volume_record_done(&r);
}

/* What cannot be removed keeps its note, and is told. */
static void scan__half_made_file_that_cannot_be_removed_is_told(void **state)
{
    struct fixture *f = *state;
    struct volume_record r = hosted_record("vm");
    struct uuid ours = uuid_make();
    char file[TMPDIR_FILE_BYTES], path[TMPDIR_FILE_BYTES];
    save_volume(f, &r);
    touch(f, node_file(&r.id, &ours, DRAFT_END, file), "");
    assert_int_equal(mkdir(tmpdir_file(&f->dir, node_file(&r.id, &ours, ".cow", file), path), 0700),
                     0);
    scan(f);
    assert_true(is_warned(f, ".cow", "neither used nor deleted"));
    assert_true(is_there(f, node_file(&r.id, &ours, DRAFT_END, file)));
    assert_int_equal(rmdir(path), 0);
    scan(f);
    assert_int_equal(f->count, 0);
    assert_false(is_there(f, node_file(&r.id, &ours, DRAFT_END, file)));
    volume_record_done(&r);
}

static void scan__group_that_was_not_committed_is_undone(void **state)
{
    struct fixture *f = *state;
    struct uuid done = uuid_make(), cut = uuid_make(), unused = uuid_make();
    struct volume_record a = hosted_record("a"), b = hosted_record("b");
    char path[TMPDIR_FILE_BYTES], sub[256], text[UUID_TEXT_BYTES], volume[UUID_TEXT_BYTES];
    (void)add_snapshot(&a, "alone", NULL);
    (void)add_snapshot(&a, "together", &done);
    struct uuid gone = add_snapshot(&a, "cut", &cut);
    (void)add_snapshot(&b, "together", &done);
    save_volume(f, &a);
    save_volume(f, &b);
    assert_int_equal(group_save(f->dir.path, &done, &a.id, 1, NULL), 0);
    assert_int_equal(group_save(f->dir.path, &unused, &a.id, 1, NULL), 0);
    scan(f);
    assert_int_equal(f->volumes.count, 2);
    struct volume_record *found = &f->volumes.records[0];
    found = uuid_equal(&found->id, &a.id) ? found : &f->volumes.records[1];
    assert_int_equal(found->snapshot_count, 2);
    assert_null(volume_record_find(found, &gone));
    assert_int_equal(found->next_seq, 4); /* never given again */
    assert_true(is_warned(f, "a@cut", "undone"));
    assert_int_equal(f->count, 3);
    /* what it had lies in trash/, and stays there */
    trash_empty(f->dir.path);
    (void)snprintf(sub, sizeof sub, "trash/%s.%s.cow", uuid_format(&a.id, volume),
                   uuid_format(&gone, text));
    assert_int_equal(access(tmpdir_file(&f->dir, sub, path), F_OK), 0);
    (void)snprintf(sub, sizeof sub, "trash/%s.%s.sum", volume, text);
    assert_int_equal(access(tmpdir_file(&f->dir, sub, path), F_OK), 0);
    /* what is whole needs its group's record no more: it goes, and may be lost with the others */
    for (uint32_t i = 0; i < f->volumes.count; i++)
        for (uint32_t n = 0; n < f->volumes.records[i].snapshot_count; n++) {
            const struct record_snapshot *s = &f->volumes.records[i].snapshots[n];
            assert_int_equal(s->grouped, !uuid_is_zero(&s->group));
        }
    assert_false(group_exists(f->dir.path, &done));
    assert_false(group_exists(f->dir.path, &unused));
    /* and the record on disk says so: nothing is left to tell */
    scan(f);
    assert_int_equal(f->count, 0);
    assert_int_equal(f->volumes.records[0].snapshot_count + f->volumes.records[1].snapshot_count,
                     3);
    volume_record_done(&a);
    volume_record_done(&b);
}

/* At each moment at which the daemon may be killed: from the group's record on, all is there. */
static void scan__group_is_whole_wherever_its_making_was_cut_off(void **state)
{
    struct fixture *f = *state;
    enum { MEMBERS_SAVED, GROUP_SAVED, ONE_FINISHED, BOTH_FINISHED, GROUP_REMOVED, MOMENTS };
    for (int at = 0; at < MOMENTS; at++) {
        struct volume_record a = hosted_record("a"), b = hosted_record("b");
        struct uuid group = uuid_make();
        (void)add_snapshot(&a, "s", &group);
        (void)add_snapshot(&b, "s", &group);
        a.snapshots[0].grouped = at >= ONE_FINISHED;
        b.snapshots[0].grouped = at >= BOTH_FINISHED;
        save_volume(f, &a);
        save_volume(f, &b);
        if (at >= GROUP_SAVED && at < GROUP_REMOVED)
            assert_int_equal(group_save(f->dir.path, &group, &a.id, 1, NULL), 0);
        for (int starts = 0; starts < 2; starts++) {
            scan(f);
            unsigned there = 0;
            for (uint32_t i = 0; i < f->volumes.count; i++) {
                struct volume_record *r = &f->volumes.records[i];
                if (uuid_equal(&r->id, &a.id) || uuid_equal(&r->id, &b.id))
                    there += r->snapshot_count;
            }
            assert_int_equal(there, at >= GROUP_SAVED ? 2 : 0);
            assert_false(group_exists(f->dir.path, &group));
        }
        volume_record_done(&a);
        volume_record_done(&b);
    }
}

/* Its record may name any group. */
static void scan__groups_stay_while_a_volume_cannot_be_read(void **state)
{
    struct fixture *f = *state;
    struct uuid group = uuid_make(), broken = make_volume(f, "broken", 4096);
    char sub[128], id[UUID_TEXT_BYTES], path[TMPDIR_FILE_BYTES];
    assert_int_equal(group_save(f->dir.path, &group, &broken, 1, NULL), 0);
    (void)snprintf(sub, sizeof sub, "volumes/%s/record", uuid_format(&broken, id));
    assert_int_equal(truncate(tmpdir_file(&f->dir, sub, path), 10), 0);
    scan(f);
    assert_int_equal(f->volumes.count, 0);
    assert_true(group_exists(f->dir.path, &group));
}

/* -- registry ------------------------------------------------------------------------- */

static struct registry *open_registry(const struct fixture *f, bool rebuild, bool *ret_new)
{
    struct registry *r = NULL;
    struct err err = ERR_INIT;
    if (state_registry_open(f->dir.path, rebuild, ret_new, &r, &err) < 0)
        fail_msg("%s", err.text);
    return r;
}

static void compare(struct fixture *f, struct registry *r, bool is_new)
{
    struct err err = ERR_INIT;
    if (state_registry_compare(r, &f->volumes, is_new, keep_warning, f, &err) < 0)
        fail_msg("%s", err.text);
}

static void registry__missing_one_is_made_from_the_records(void **state)
{
    struct fixture *f = *state;
    struct uuid a = make_volume(f, "a", 4096);
    struct registry_volume row;
    bool is_new = false;
    (void)make_volume(f, "b", 8192);
    scan(f);
    struct registry *r = open_registry(f, false, &is_new);
    assert_true(is_new);
    compare(f, r, is_new);
    assert_int_equal(f->count, 0);
    assert_int_equal(registry_find_volume(r, "a", &row, NULL), 0);
    assert_true(uuid_equal(&row.id, &a));
    assert_int_equal(registry_find_volume(r, "b", &row, NULL), 0);
    registry_close(r);
    r = open_registry(f, false, &is_new);
    assert_false(is_new);
    compare(f, r, is_new);
    assert_int_equal(f->count, 0);
    registry_close(r);
}

static void registry__records_win_and_the_difference_is_told(void **state)
{
    struct fixture *f = *state;
    struct registry_volume row, ghost = {.id = uuid_make(), .name = "b", .size_bytes = 1};
    bool is_new = false;
    struct uuid a = make_volume(f, "a", 4096);
    struct registry_volume wrong = {.id = a, .name = "a", .size_bytes = 5};
    struct registry *r = open_registry(f, false, &is_new);
    assert_int_equal(registry_put_volume(r, &ghost, NULL, 0, NULL), 0);
    assert_int_equal(registry_put_volume(r, &wrong, NULL, 0, NULL), 0);
    struct uuid b = make_volume(f, "b", 8192); /* the name that the ghost has */
    scan(f);
    compare(f, r, false);
    assert_true(is_warned(f, "volume b", "has no record"));
    assert_true(is_warned(f, "volume a", "differs"));
    assert_int_equal(registry_find_volume(r, "b", &row, NULL), 0);
    assert_true(uuid_equal(&row.id, &b));
    assert_int_equal(registry_get_volume(r, &a, &row, NULL), 0);
    assert_int_equal(row.size_bytes, 4096);
    assert_int_equal(f->volumes.count, 2);
    registry_close(r);
}

static void registry__second_record_of_a_name_is_not_served(void **state)
{
    struct fixture *f = *state;
    bool is_new = false;
    (void)make_volume(f, "a", 4096);
    (void)make_volume(f, "a", 4096);
    (void)make_volume(f, "c", 4096);
    scan(f);
    struct registry *r = open_registry(f, false, &is_new);
    compare(f, r, true);
    assert_int_equal(f->volumes.count, 2);
    assert_true(is_warned(f, "another volume is called a", "not served"));
    registry_close(r);
}

static void registry__damaged_one_is_refused_and_rebuilt_on_demand(void **state)
{
    struct fixture *f = *state;
    char path[TMPDIR_FILE_BYTES], garbage[8192];
    struct registry *r = NULL;
    struct err err = ERR_INIT;
    bool is_new = false;
    memset(garbage, 0x5a, sizeof garbage);
    assert_int_equal(file_replace(tmpdir_file(&f->dir, "registry.db", path), garbage,
                                  sizeof garbage, 0600, NULL),
                     0);
    assert_int_equal(state_registry_open(f->dir.path, false, &is_new, &r, &err), SNAP_ECORRUPT);
    assert_non_null(strstr(err.text, "--rebuild-registry"));
    r = open_registry(f, true, &is_new);
    assert_true(is_new);
    assert_int_equal(access(tmpdir_file(&f->dir, "registry.db.old", path), F_OK), 0);
    registry_close(r);
}

/* The difference of two records leads the registry from the one to the other. */
static void registry__follows_random_changes(void **state)
{
    struct fixture *f = *state;
    struct rng rng;
    bool is_new = false;
    seed_init_rng(&rng);
    struct registry *reg = open_registry(f, false, &is_new);
    struct volume_record r = hosted_record("vm"), next;
    assert_int_equal(volume_registry_put(reg, &r, NULL), 0);
    for (unsigned step = 0; step < 200; step++) {
        char name[16];
        assert_int_equal(volume_record_copy(&next, &r, NULL), 0);
        for (uint64_t i = rng_below(&rng, 4); i-- > 0;) {
            uint32_t count = next.snapshot_count;
            struct record_snapshot *s = count > 0 ? &next.snapshots[rng_below(&rng, count)] : NULL;
            struct uuid id = s != NULL ? s->id : (struct uuid){{0}};
            switch (rng_below(&rng, 5)) {
            case 0:
                if (s != NULL)
                    s->hidden = true;
                break;
            case 1:
                if (s != NULL && s->clone)
                    s->parent_seq = 0;
                break;
            case 2:
                if (s != NULL)
                    assert_int_equal(volume_record_remove_snapshot(&next, &id, NULL), 0);
                break;
            default: /* names come again */
                (void)snprintf(name, sizeof name, "n%u", (unsigned)rng_below(&rng, 12));
                if (volume_record_find_name(&next, name) == NULL) {
                    (void)add_snapshot(&next, name, NULL);
                    s = &next.snapshots[next.snapshot_count - 1];
                    s->clone = rng_chance(&rng, 30) != 0;
                    s->parent_seq = s->clone ? (uint32_t)rng_below(&rng, 5) : 0;
                    s->undo = !s->clone && rng_chance(&rng, 10) != 0;
                }
            }
        }
        assert_int_equal(volume_registry_update(reg, &r, &next, NULL), 0);
        volume_record_done(&r);
        r = next;
        struct state_volumes one = {.records = &r, .count = 1};
        struct err err = ERR_INIT;
        assert_int_equal(state_registry_compare(reg, &one, false, keep_warning, f, &err), 0);
        if (f->count > 0)
            fail_msg("step %u: %s", step, f->warnings[0]);
    }
    volume_record_done(&r);
    registry_close(reg);
}

/* -- trash ------------------------------------------------------------------------------- */

static void keep_key(void *user, const struct uuid *key)
{
    struct uuid *ret = user;
    *ret = *key;
}

static void trash__volume_is_gone_at_once_and_its_files_afterwards(void **state)
{
    struct fixture *f = *state;
    char id[UUID_TEXT_BYTES], folder[128], path[TMPDIR_FILE_BYTES];
    struct uuid a = make_volume(f, "a", 4096), key = uuid_make(), found = {{0}};
    char key_text[UUID_TEXT_BYTES];
    (void)snprintf(folder, sizeof folder, "volumes/%s/", uuid_format(&a, id));
    touch(f, folder, "x.cow");
    assert_int_equal(trash_volume(f->dir.path, &a, &key, NULL), 0);
    scan(f);
    assert_int_equal(f->volumes.count, 0);
    assert_int_equal(f->count, 0);
    (void)snprintf(folder, sizeof folder, "trash/%s.%s", id, uuid_format(&key, key_text));
    trash_each_key(f->dir.path, keep_key, &found);
    assert_true(uuid_equal(&found, &key));
    assert_int_equal(access(tmpdir_file(&f->dir, folder, path), F_OK), 0);
    trash_empty(f->dir.path);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(trash_volume(f->dir.path, &a, &key, NULL), SNAP_ENOENT);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(lock__second_daemon_is_refused_and_told_by_whom),
        CASE(scan__odd_things_are_told_and_left_alone),
        CASE(scan__record_of_another_volume_is_not_used),
        CASE(scan__label_that_is_there_twice_does_not_keep_a_volume_from_being_served),
        CASE(scan__files_of_a_hosted_volume_are_listed),
        CASE(scan__half_made_files_go_if_a_note_says_whose_they_are),
        CASE(scan__half_made_file_that_cannot_be_removed_is_told),
        CASE(scan__group_that_was_not_committed_is_undone),
        CASE(scan__group_is_whole_wherever_its_making_was_cut_off),
        CASE(scan__groups_stay_while_a_volume_cannot_be_read),
        CASE(registry__follows_random_changes),
        CASE(registry__missing_one_is_made_from_the_records),
        CASE(registry__records_win_and_the_difference_is_told),
        CASE(registry__second_record_of_a_name_is_not_served),
        CASE(registry__damaged_one_is_refused_and_rebuilt_on_demand),
        CASE(trash__volume_is_gone_at_once_and_its_files_afterwards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
