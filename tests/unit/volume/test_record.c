/* SPDX-License-Identifier: Apache-2.0 */
/* Volume records: the text form there and back, every damage refused with its place. */
#include "daemon/volume/record.h"

#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct record_snapshot snapshot(const char *name, uint32_t seq)
{
    struct record_snapshot s = {
        .id = uuid_make(), .seq = seq, .created_s = 7, .chunk_size_sectors = 32};
    (void)snprintf(s.name, sizeof s.name, "%s", name);
    (void)snprintf(s.cow_path, sizeof s.cow_path, "%s.cow", name);
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
    memcpy(r->fingerprint, "\x01\xff\x20", 3);
    r->fingerprint_bytes = 3;
    struct record_snapshot a = snapshot("a", 1), b = snapshot("b", 4);
    a.hidden = true;
    b.merging = true;
    assert_int_equal(volume_record_add_snapshot(r, &a, NULL), 0);
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

static void parse__refuses_each_damage_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *named;
    } damages[] = {
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
        {"\"created_s\": 7", "\"created_at\": 7", "created_"},
        {"\"format\": 1", "\"format\": 2", "format"},
        {"\"lease_epoch\": 9", "\"lease_epoch\": 9, \"colour\": 1", "colour"},
    };
    struct volume_record r;
    fill(&r);
    char *text = text_of(&r);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        char *at = strstr(text, damages[i].from);
        if (!at)
            fail_msg("the text has no %s", damages[i].from);
        char *bad = NULL;
        assert_true(asprintf(&bad, "%.*s%s%s", (int)(at - text), text, damages[i].to,
                             at + strlen(damages[i].from)) > 0);
        struct volume_record back;
        struct err e = ERR_INIT;
        if (volume_record_parse(bad, strlen(bad), &back, &e) == 0)
            fail_msg("taken: %s", damages[i].to);
        if (!strstr(e.text, damages[i].named))
            fail_msg("'%s' does not name %s", e.text, damages[i].named);
        free(bad);
    }
    for (size_t len = 0; len < strlen(text); len++) {
        struct volume_record back;
        assert_true(volume_record_parse(text, len, &back, NULL) < 0);
    }
    free(text);
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
    /* bound devices with the longest paths: 16 MiB of text are reached with 5,000 of them */
    enum { COUNT = 5000 };
    struct record_snapshot *grown = realloc(r.snapshots, COUNT * sizeof *grown);
    assert_non_null(grown);
    r.snapshots = grown;
    for (; r.snapshot_count < COUNT; r.snapshot_count++) {
        struct record_snapshot *s = &r.snapshots[r.snapshot_count];
        *s = snapshot("x", 10 + r.snapshot_count);
        memset(s->cow_path, 'd', sizeof s->cow_path - 1);
        s->cow_path[0] = '/';
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format__parses_back_to_the_same),
        cmocka_unit_test(parse__refuses_each_damage_by_name),
        cmocka_unit_test(find__hidden_ones_are_known_by_uuid_only),
        cmocka_unit_test(bury__remembers_the_last_ones),
        cmocka_unit_test(save__what_could_not_be_loaded_again_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
