/* SPDX-License-Identifier: Apache-2.0 */
/* Volume records: the text form there and back, every damage refused with its place. */
#include "daemon/volume/record.h"

#include "common/base/rng.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"
#include "tests/lib/tmpdir.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static struct record_snapshot snapshot(const char *name, uint32_t seq)
{
    static char cow_path[LIMIT_NAME_BYTES + 8]; /* until the next call; a record copies it */
    struct record_snapshot s = {
        .id = uuid_make(), .seq = seq, .created_s = 7, .chunk_size_sectors = 32};
    (void)snprintf(s.name, sizeof s.name, "%s", name);
    s.cow_path = cow_path;
    (void)snprintf(cow_path, sizeof cow_path, "%s.cow", name);
    return s;
}

static void fill(struct volume_record *r)
{
    volume_record_init(r);
    r->id = uuid_make();
    (void)snprintf(r->name, sizeof r->name, "disk1");
    r->size_bytes = 1 << 30;
    r->full_policy = FULL_INVALIDATE;
    r->lease_epoch = 9;
    (void)snprintf(r->lease_holder, sizeof r->lease_holder, "host-a");
    r->lease_instance = uuid_make();
    r->guard = r->lease_instance;
    r->lease_ttl_ms = 1500;
    memcpy(r->fingerprint, "\x01\xff\x20", 3);
    r->fingerprint_bytes = 3;
    struct record_snapshot a = snapshot("a", 1);
    a.hidden = a.unverified = a.broken = true;
    assert_int_equal(volume_record_add_snapshot(r, &a, NULL), 0);
    struct record_snapshot b = snapshot("b", 4);
    b.merging = true;
    assert_int_equal(volume_record_add_snapshot(r, &b, NULL), 0);
    r->labels = calloc(1, sizeof *r->labels);
    r->labels[0] = (struct record_label){.key = strdup("site"), .value = strdup("Zürich")};
    r->label_count = 1;
    struct uuid id = uuid_make(), key = uuid_make();
    volume_record_bury(r, &id, &key);
}

static __attribute__((noinline)) char *text_of(const struct volume_record *r)
{
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(volume_record_format(r, &text, &len, NULL), 0);
    return text;
}

static void format__parses_back_to_the_same(void **state)
{
    (void)state;
    struct volume_record r, back, copy;
    fill(&r);
    char *text = text_of(&r);
    struct err e = ERR_INIT;
    if (volume_record_parse(text, strlen(text), &back, &e) < 0)
        fail_msg("%s", e.text);
    char *again = text_of(&back);
    assert_string_equal(text, again);
    assert_int_equal(volume_record_copy(&copy, &back, NULL), 0);
    char *third = text_of(&copy);
    assert_string_equal(text, third);
    assert_int_equal(back.next_seq, 5);
    free(text);
    free(again);
    free(third);
    volume_record_done(&r);
    volume_record_done(&back);
    volume_record_done(&copy);
}

/* As older releases wrote it. */
static void parse__labels_of_one_key_are_told_apart(void **state)
{
    (void)state;
    static const char *const had[][2] = {
        {"site", "Basel"}, {"site", "a \"b\\\\, {c}"}, {"site.2", "x"}, {"site", "y"}};
    static const char *const want[] = {"site", "site.3", "site.2", "site.4"};
    struct volume_record r, back, again;
    fill(&r);
    free(r.labels[0].key);
    free(r.labels[0].value);
    free(r.labels);
    r.labels = calloc(4, sizeof *r.labels);
    r.label_count = 4;
    for (unsigned i = 0; i < 4; i++)
        r.labels[i] = (struct record_label){.key = strdup(had[i][0]), .value = strdup(had[i][1])};
    struct err e = ERR_INIT;
    char *text = text_of(&r);
    if (volume_record_parse(text, strlen(text), &back, &e) < 0)
        fail_msg("%s", e.text);
    assert_string_equal(back.label_renamed, "site.3");
    assert_int_equal(back.label_count, 4);
    for (unsigned i = 0; i < 4; i++)
        for (unsigned k = 0; k <= 4; k++) {
            if (k == 4)
                fail_msg("no label %s", want[i]);
            if (strcmp(back.labels[k].key, want[i]) == 0) {
                assert_string_equal(back.labels[k].value, had[i][1]);
                break;
            }
        }
    char *whole = text_of(&back); /* and what is written from now on is sound */
    assert_int_equal(volume_record_parse(whole, strlen(whole), &again, &e), 0);
    assert_string_equal(again.label_renamed, "");
    free(text);
    free(whole);
    volume_record_done(&r);
    volume_record_done(&back);
    volume_record_done(&again);
}

/* Its text would be one that no start reads. */
static void check__label_that_is_there_twice_is_refused(void **state)
{
    (void)state;
    struct volume_record r;
    fill(&r);
    assert_int_equal(volume_record_check(&r, NULL), 0);
    struct record_label *labels = calloc(2, sizeof *labels);
    labels[0] = r.labels[0];
    labels[1] = (struct record_label){.key = strdup("site"), .value = strdup("Basel")};
    free(r.labels);
    r.labels = labels;
    r.label_count = 2;
    assert_int_equal(volume_record_check(&r, NULL), SNAP_ECORRUPT);
    volume_record_done(&r);
}

struct damage {
    const char *from, *to, *named; /* the last: what the error tells of */
};

static void refuse_each(const char *text, const struct damage *damages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct damage *d = &damages[i];
        const char *at = strstr(text, d->from);
        if (!at)
            fail_msg("the text has no %s", d->from);
        char *bad = NULL;
        assert_true(
            asprintf(&bad, "%.*s%s%s", (int)(at - text), text, d->to, at + strlen(d->from)) > 0);
        struct volume_record back;
        struct err e = ERR_INIT;
        if (volume_record_parse(bad, strlen(bad), &back, &e) == 0)
            fail_msg("taken: %s", d->to);
        if (!strstr(e.text, d->named))
            fail_msg("'%s' does not name %s", e.text, d->named);
        free(bad);
    }
}

static void parse__refuses_each_damage_by_name(void **state)
{
    (void)state;
    static const struct damage damages[] = {
        {"\"size_bytes\": 1073741824", "\"size_bytes\": -1", "size_bytes"},
        {"\"size_bytes\": 1073741824", "\"size_bytes\": \"1\"", "size_bytes"},
        {"\"name\": \"disk1\"", "\"name\": \"../etc\"", "name"},
        {"\"kind\": \"remote\"", "\"kind\": \"weird\"", "kind"},
        {"\"full_policy\": \"invalidate\"", "\"full_policy\": \"\"", "full_policy"},
        {"\"fingerprint\": \"01ff20\"", "\"fingerprint\": \"01ff2\"", "fingerprint"},
        {"\"seq\": 4", "\"seq\": 1", "seq"},
        {"\"next_seq\": 5", "\"next_seq\": 2", "next_seq"},
        {"\"merging\": true", "\"merging\": 1", "merging"},
        {"\"chunk_size_sectors\": 32", "\"chunk_size_sectors\": 0", "chunk_size_sectors"},
        {"\"chunk_size_sectors\": 32", "\"chunk_size_sectors\": 48", "chunk_size_sectors"},
        {"\"cow_path\": \"b.cow\"", "\"cow_path\": \"\"", "cow_path"},
        {"\"cow_path\": \"b.cow\"", "\"cow_path\": \"..\"", "cow_path"},
        {"\"cow_path\": \"b.cow\"", "\"cow_path\": \"a/b.cow\"", "cow_path"},
        {"\"unverified\": true", "\"unverified\": false", "broken"},
        {"\"guard\": \"", "\"guard\": \"x", "guard"},
        {"\"created_s\": 7", "\"created_at\": 7", "created_"},
        {"\"format\": 1", "\"format\": 2", "format"},
        {"\"lease_epoch\": 9", "\"lease_epoch\": 9, \"colour\": 1", "colour"},
    };
    struct volume_record r;
    fill(&r);
    char *text = text_of(&r);
    refuse_each(text, damages, sizeof damages / sizeof damages[0]);
    for (size_t len = 0; len <= (size_t)(strrchr(text, '}') - text); len++) {
        struct volume_record back;
        assert_true(volume_record_parse(text, len, &back, NULL) < 0);
    }
    free(text);
    volume_record_done(&r);
}

/* What releases before hosted volumes wrote. */
static void parse__older_text_is_read(void **state)
{
    (void)state;
    static const char old[] =
        "{\n \"created_s\": 0,\n \"fingerprint\": \"\",\n \"format\": 1,\n"
        " \"full_policy\": \"refuse\",\n \"id\": \"00000000-0000-0000-0000-000000000001\",\n"
        " \"kind\": \"remote\",\n \"labels\": {},\n \"lease_epoch\": 0,\n"
        " \"lease_holder\": \"\",\n"
        " \"lease_instance\": \"00000000-0000-0000-0000-000000000000\",\n"
        " \"name\": \"v\",\n \"next_seq\": 3,\n \"size_bytes\": 512,\n \"snapshots\": [\n"
        "  {\n   \"chunk_size_sectors\": 8,\n   \"cow_path\": \"/dev/x\",\n"
        "   \"created_s\": 1,\n   \"hidden\": true,\n"
        "   \"id\": \"00000000-0000-0000-0000-000000000002\",\n   \"limit_bytes\": 0,\n"
        "   \"merging\": false,\n   \"name\": \"s\",\n   \"seq\": 2,\n"
        "   \"unverified\": false\n  }\n ],\n \"tombstones\": []\n}";
    struct volume_record r;
    struct err e = ERR_INIT;
    if (volume_record_parse(old, strlen(old), &r, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(r.snapshot_count, 1);
    assert_string_equal(r.snapshots[0].cow_path, "/dev/x");
    assert_true(r.snapshots[0].hidden);
    /* and what is written of a remote volume has every key that they want */
    char *text = text_of(&r);
    assert_non_null(strstr(text, "\"merging\": false, \"unverified\": false, \"cow_path\": "));
    assert_null(strstr(text, "clone"));
    assert_null(strstr(text, "rollback"));
    free(text);
    volume_record_done(&r);
}

/* s1 ── s2 (hidden) ── u5 (undo), clones c3 of s1 and c4 of c3, c6 of the origin; a rollback to
 * s1; s1 and s2 were made with others. */
static void fill_hosted(struct volume_record *r)
{
    volume_record_init(r);
    r->id = uuid_make();
    (void)snprintf(r->name, sizeof r->name, "vm");
    (void)snprintf(r->origin_path, sizeof r->origin_path, "/dev/vg/\"odd\"");
    r->size_bytes = 1 << 30;
    r->kind = VOLUME_HOSTED;
    r->chunk_size_sectors = 16;
    static const char *const names[] = {"s1", "s2", "c3", "c4", "u5", "c6"};
    static const uint32_t parents[] = {0, 0, 1, 3, 0, 0};
    struct uuid group = uuid_make();
    for (uint32_t i = 0; i < 6; i++) {
        struct record_snapshot s = {.id = uuid_make(), .seq = i + 1, .chunk_size_sectors = 16};
        (void)snprintf(s.name, sizeof s.name, "%s", names[i]);
        s.clone = names[i][0] == 'c';
        s.parent_seq = parents[i];
        s.hidden = i == 1;
        s.undo = names[i][0] == 'u';
        if (i < 2)
            s.group = group;
        assert_int_equal(volume_record_add_snapshot(r, &s, NULL), 0);
    }
    r->rollback = (struct record_rollback){
        .job = uuid_make(), .to_seq = 1, .undo_seq = 5, .merge = true, .started_s = 99};
}

static void format__hosted_parses_back_to_the_same(void **state)
{
    (void)state;
    struct volume_record r, back;
    struct err e = ERR_INIT;
    fill_hosted(&r);
    char *text = text_of(&r);
    if (volume_record_parse(text, strlen(text), &back, &e) < 0)
        fail_msg("%s", e.text);
    char *again = text_of(&back);
    assert_string_equal(text, again);
    assert_string_equal(back.origin_path, r.origin_path);
    assert_int_equal(back.chunk_size_sectors, 16);
    assert_int_equal(back.snapshots[3].parent_seq, 3);
    assert_true(back.snapshots[3].clone && back.snapshots[4].undo && back.snapshots[1].hidden);
    assert_false(back.snapshots[0].clone || back.snapshots[0].undo || back.snapshots[0].hidden);
    assert_true(uuid_equal(&back.snapshots[1].group, &r.snapshots[0].group));
    assert_true(uuid_is_zero(&back.snapshots[2].group));
    assert_string_equal(back.snapshots[2].cow_path, r.snapshots[2].cow_path);
    assert_true(uuid_equal(&back.rollback.job, &r.rollback.job));
    assert_int_equal(back.rollback.to_seq, 1);
    assert_int_equal(back.rollback.undo_seq, 5);
    assert_true(back.rollback.merge);
    assert_false(back.rollback.drop_newer || back.rollback.cancelled);
    free(text);
    free(again);
    volume_record_done(&r);
    volume_record_done(&back);
}

static void parse__refuses_each_damage_of_a_tree(void **state)
{
    (void)state;
    static const struct damage damages[] = {
        {"\"parent_seq\": 3", "\"parent_seq\": 77", "parent_seq"},
        {"\"parent_seq\": 3", "\"parent_seq\": 4", "parent_seq"},
        {"\"parent_seq\": 1", "\"parent_seq\": 4", "parent_seq"},
        {"\"clone\": true, \"parent_seq\": 3", "\"clone\": true", "parent_seq"},
        {"\"clone\": true, \"parent_seq\": 3", "\"parent_seq\": 3", "belong"},
        {"\"clone\": true, \"parent_seq\": 3", "\"clone\": 1, \"parent_seq\": 3", "clone"},
        {"\"parent_seq\": 0", "\"parent_seq\": 0, \"undo\": true", "undo"},
        {"\"to_seq\": 1", "\"to_seq\": 9", "to_seq"},
        {"\"undo_seq\": 5", "\"undo_seq\": 0", "undo_seq"},
        {"\"undo_seq\": 5, ", "", "undo_seq"},
        {"\"merge\": true", "\"merge\": true, \"speed\": 1", "speed"},
        {"\"kind\": \"hosted\"", "\"kind\": \"remote\"", "belong"},
        {"\"origin_path\": \"/dev/vg/\\\"odd\\\"\"", "\"origin_path\": \"a/b\"", "origin_path"},
        {"\"origin_path\": \"/dev/vg/\\\"odd\\\"\", ", "", "origin_path"},
        {"\"chunk_size_sectors\": 16", "\"chunk_size_sectors\": 0", "chunk_size_sectors"},
    };
    struct volume_record r;
    fill_hosted(&r);
    char *text = text_of(&r);
    refuse_each(text, damages, sizeof damages / sizeof damages[0]);
    free(text);
    volume_record_done(&r);
}

static void head__is_neither_hidden_nor_undo_nor_clone(void **state)
{
    (void)state;
    struct volume_record r, copy;
    fill_hosted(&r);
    assert_string_equal(volume_record_head(&r)->name, "s1");
    struct record_snapshot s = {
        .id = uuid_make(), .seq = 7, .name = "s7", .chunk_size_sectors = 16};
    assert_int_equal(volume_record_add_snapshot(&r, &s, NULL), 0);
    assert_string_equal(volume_record_head(&r)->name, "s7");
    assert_int_equal(volume_record_copy(&copy, &r, NULL), 0);
    volume_record_find_seq(&copy, 7)->hidden = true;
    assert_string_equal(volume_record_head(&copy)->name, "s1");
    assert_string_equal(volume_record_head(&r)->name, "s7");
    volume_record_find_seq(&copy, 1)->hidden = true;
    assert_null(volume_record_head(&copy));
    /* an undo's name is nobody's */
    assert_null(volume_record_find_name(&r, "u5"));
    assert_non_null(volume_record_find_name(&r, "c6"));
    volume_record_done(&r);
    volume_record_done(&copy);
}

/* Random changes; every look-up is compared with a walk. */
static void find__many_are_found_as_a_walk_finds_them(void **state)
{
    (void)state;
    enum { STEPS = 6000, NAMES = 700 };
    struct rng rng;
    seed_init_rng(&rng);
    struct volume_record r, copy;
    volume_record_init(&r);
    for (int step = 0; step < STEPS; step++) {
        uint64_t what = rng_below(&rng, 100);
        struct record_snapshot *at =
            r.snapshot_count > 0 ? &r.snapshots[rng_below(&rng, r.snapshot_count)] : NULL;
        struct uuid id = at ? at->id : (struct uuid){{0}};
        if (what < 60) {
            struct record_snapshot s = {.id = uuid_make(), .seq = r.next_seq};
            (void)snprintf(s.name, sizeof s.name, "n%u", (unsigned)rng_below(&rng, NAMES));
            (void)!volume_record_add_snapshot(&r, &s, NULL);
        } else if (what < 70 && at) {
            at->hidden = true;
        } else if (what < 85 && at) {
            assert_int_equal(volume_record_remove_snapshot(&r, &id, NULL), 0);
            assert_null(volume_record_find(&r, &id));
        } else if (what < 90) {
            assert_int_equal(volume_record_copy(&copy, &r, NULL), 0);
            volume_record_done(&r);
            r = copy;
        }
        if (r.snapshot_count == 0)
            continue;
        at = &r.snapshots[rng_below(&rng, r.snapshot_count)];
        assert_ptr_equal(volume_record_find(&r, &at->id), at);
        assert_ptr_equal(volume_record_find_seq(&r, at->seq), at);
        assert_null(volume_record_find_seq(&r, r.next_seq));
        char name[16];
        const struct record_snapshot *named = NULL, *head = NULL;
        (void)snprintf(name, sizeof name, "n%u", (unsigned)rng_below(&rng, NAMES));
        for (uint32_t i = 0; i < r.snapshot_count; i++) {
            const struct record_snapshot *s = &r.snapshots[i];
            named = !s->hidden && strcmp(s->name, name) == 0 ? s : named;
            head = !s->hidden ? s : head;
        }
        assert_ptr_equal(volume_record_find_name(&r, name), named);
        assert_ptr_equal(volume_record_head(&r), head);
    }
    assert_true(r.snapshot_count > 100);
    volume_record_done(&r);
}

static void find__hidden_ones_are_known_by_uuid_only(void **state)
{
    (void)state;
    struct volume_record r;
    fill(&r);
    assert_null(volume_record_find_name(&r, "a"));
    assert_non_null(volume_record_find(&r, &r.snapshots[0].id));
    assert_string_equal(volume_record_head(&r)->name, "b");
    r.snapshots[1].hidden = true;
    assert_null(volume_record_head(&r));
    volume_record_done(&r);
}

static void bury__remembers_the_last_ones(void **state)
{
    (void)state;
    struct volume_record r;
    volume_record_init(&r);
    struct uuid first = uuid_make(), key = uuid_make(), last = {{0}};
    volume_record_bury(&r, &first, &key);
    assert_true(volume_record_buried(&r, &first, &key));
    for (int i = 0; i < RECORD_TOMBSTONES; i++) {
        last = uuid_make();
        volume_record_bury(&r, &last, &key);
    }
    assert_false(volume_record_buried(&r, &first, &key));
    assert_true(volume_record_buried(&r, &last, &key));
    assert_int_equal(r.tombstone_count, RECORD_TOMBSTONES);
    volume_record_done(&r);
}

static void save__what_could_not_be_loaded_again_is_refused(void **state)
{
    (void)state;
    struct tmpdir dir;
    struct volume_record r;
    struct err e = ERR_INIT;
    tmpdir_make(&dir);
    fill(&r);
    assert_int_equal(volume_record_save(dir.path, &r, &e), 0);
    assert_string_equal(e.text, "");
    /* bound devices with the longest paths */
    char path[LIMIT_PATH_BYTES] = "/";
    memset(path + 1, 'd', sizeof path - 2);
    for (uint32_t i = 0; i < LIMIT_RECORD_BYTES / LIMIT_PATH_BYTES; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "x%u", i);
        struct record_snapshot s = snapshot(name, 10 + i);
        s.cow_path = path;
        assert_int_equal(volume_record_add_snapshot(&r, &s, NULL), 0);
    }
    assert_int_equal(volume_record_save(dir.path, &r, &e), SNAP_ELIMIT);
    assert_non_null(strstr(e.text, "disk1"));
    volume_record_done(&r);
    struct volume_record back; /* the one before is still there */
    assert_int_equal(volume_record_load(dir.path, &back, &e), 0);
    assert_int_equal(back.snapshot_count, 2);
    volume_record_done(&back);
    tmpdir_remove(&dir);
}

static void add_many(struct volume_record *r, uint32_t count)
{
    char name[32];
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(name, sizeof name, "many%u", r->next_seq);
        struct record_snapshot s = snapshot(name, r->next_seq);
        assert_int_equal(volume_record_add_snapshot(r, &s, NULL), 0);
    }
}

static void assert_loads(const struct tmpdir *dir, uint32_t snapshot_count)
{
    struct volume_record back;
    struct err e = ERR_INIT;
    if (volume_record_load(dir->path, &back, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(back.snapshot_count, snapshot_count);
    volume_record_done(&back);
}

/* The two files take turns: what a longer text left behind is never read. */
static void save__a_shorter_text_covers_a_longer_one(void **state)
{
    (void)state;
    struct tmpdir dir;
    struct volume_record r;
    tmpdir_make(&dir);
    fill(&r);
    add_many(&r, 8000);
    for (int turn = 0; turn < 3; turn++) {
        assert_int_equal(volume_record_save(dir.path, &r, NULL), 0);
        assert_loads(&dir, 8002);
    }
    while (r.snapshot_count > 5) {
        struct uuid id = r.snapshots[r.snapshot_count - 1].id;
        assert_int_equal(volume_record_remove_snapshot(&r, &id, NULL), 0);
    }
    for (int turn = 0; turn < 3; turn++) {
        assert_int_equal(volume_record_save(dir.path, &r, NULL), 0);
        assert_loads(&dir, 5);
    }
    char path[LIMIT_PATH_BYTES + 16];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/" RECORD_SPARE_FILE, dir.path);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size < 100000); /* and its room is given back */
    volume_record_done(&r);
    tmpdir_remove(&dir);
}

static void save__what_does_not_fit_together_is_refused(void **state)
{
    (void)state;
    struct tmpdir dir;
    struct volume_record r;
    struct err e = ERR_INIT;
    tmpdir_make(&dir);
    fill_hosted(&r);
    assert_int_equal(volume_record_save(dir.path, &r, NULL), 0);
    struct uuid parent = r.snapshots[2].id; /* c4 reads through it */
    assert_int_equal(volume_record_remove_snapshot(&r, &parent, NULL), 0);
    assert_int_equal(volume_record_save(dir.path, &r, &e), SNAP_ECORRUPT);
    assert_non_null(strstr(e.text, "parent_seq"));
    const char *const prefix = "this change cannot be written down: ";
    assert_memory_equal(e.text, prefix, strlen(prefix));
    assert_null(strstr(e.text + 1, prefix));
    assert_loads(&dir, 6);
    volume_record_done(&r);
    tmpdir_remove(&dir);
}

static void undo__clones_read_on_through_what_it_read_through(void **state)
{
    (void)state;
    struct volume_record r;
    fill_hosted(&r);
    struct uuid parent = r.snapshots[2].id; /* c4 reads through it */
    uint32_t seq = r.snapshots[2].seq;
    assert_int_equal(volume_record_undo_snapshot(&r, &parent, NULL), 0);
    assert_int_equal(volume_record_check(&r, NULL), 0);
    for (uint32_t i = 0; i < r.snapshot_count; i++)
        assert_int_not_equal(r.snapshots[i].parent_seq, seq);
    assert_int_equal(volume_record_undo_snapshot(&r, &parent, NULL), SNAP_ENOENT);
    volume_record_done(&r);
}

/* Take every block that is free. */
static void fill_disk(const char *dir)
{
    static char block[4096];
    char path[LIMIT_PATH_BYTES + 16];
    (void)snprintf(path, sizeof path, "%s/filler", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    assert_true(fd >= 0);
    while (write(fd, block, sizeof block) > 0)
        ;
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(close(fd), 0);
}

static void save_on_full(const struct tmpdir *dir, const struct volume_record *r, const char *what)
{
    struct err e = ERR_INIT;
    if (volume_record_save(dir->path, r, &e) < 0)
        fail_msg("%s with %u snapshots: %s", what, r->snapshot_count, e.text);
    fill_disk(dir->path);
    assert_loads(dir, r->snapshot_count);
}

/* A hundred snapshots are hidden, which makes the text longer, and dropped, with not one block to
 * be had. */
static void save__needs_no_space_on_a_full_disk(void **state)
{
    (void)state;
    enum { DELETED = 100 };
    struct tmpdir dir;
    struct volume_record r;
    struct err e = ERR_INIT;
    tmpdir_make(&dir);
    /* in a namespace of its own: it goes away with the process, however that ends */
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", dir.path, "tmpfs", 0, "size=2m") != 0) {
        tmpdir_remove(&dir);
        printf("SKIPPED: mount a small file system: %s\n", strerror(errno));
        skip();
    }
    fill_hosted(&r);
    add_many(&r, 1000);
    assert_int_equal(volume_record_save(dir.path, &r, NULL), 0);
    fill_disk(dir.path);
    for (uint32_t i = 0; i < DELETED; i++) {
        struct uuid key = uuid_make();
        volume_record_bury(&r, &r.snapshots[900 - i].id, &key);
        r.snapshots[900 - i].hidden = true;
        save_on_full(&dir, &r, "hide");
    }
    for (uint32_t i = 0; i < DELETED; i++) {
        struct uuid id = r.snapshots[900 - i].id;
        assert_int_equal(volume_record_remove_snapshot(&r, &id, NULL), 0);
        save_on_full(&dir, &r, "drop");
    }
    /* what is longer than the slack is refused, and the record stays */
    add_many(&r, 1000);
    assert_int_equal(volume_record_save(dir.path, &r, &e), SNAP_ENOSPC);
    assert_loads(&dir, 1006 - DELETED);
    volume_record_done(&r);
    assert_int_equal(umount(dir.path), 0);
    tmpdir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format__parses_back_to_the_same),
        cmocka_unit_test(parse__labels_of_one_key_are_told_apart),
        cmocka_unit_test(check__label_that_is_there_twice_is_refused),
        cmocka_unit_test(parse__refuses_each_damage_by_name),
        cmocka_unit_test(parse__older_text_is_read),
        cmocka_unit_test(format__hosted_parses_back_to_the_same),
        cmocka_unit_test(parse__refuses_each_damage_of_a_tree),
        cmocka_unit_test(head__is_neither_hidden_nor_undo_nor_clone),
        cmocka_unit_test(find__many_are_found_as_a_walk_finds_them),
        cmocka_unit_test(save__a_shorter_text_covers_a_longer_one),
        cmocka_unit_test(save__what_does_not_fit_together_is_refused),
        cmocka_unit_test(save__needs_no_space_on_a_full_disk),
        cmocka_unit_test(find__hidden_ones_are_known_by_uuid_only),
        cmocka_unit_test(bury__remembers_the_last_ones),
        cmocka_unit_test(save__what_could_not_be_loaded_again_is_refused),
        cmocka_unit_test(undo__clones_read_on_through_what_it_read_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
