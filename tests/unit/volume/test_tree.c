/* SPDX-License-Identifier: Apache-2.0 */
/* Who reads through whom: the tree of a volume as its record tells, its stores not open. */
#include "tests/unit/volume/volume_fixture.h"

#include "daemon/volume/tree.h"

/*   origin ── s5 ── s3 (hidden) ── s1
 *      │       │     └── c4
 *      │       └── c7 ── c8
 *      └── c2 (hidden, once below a snapshot that went) ── c6
 */
static const struct {
    const char *name;
    uint32_t seq;
    bool clone, hidden;
    uint32_t parent_seq;
} nodes[] = {
    {"s1", 1, false, false, 0}, {"c2", 2, true, true, 0},   {"s3", 3, false, true, 0},
    {"c4", 4, true, false, 3},  {"s5", 5, false, false, 0}, {"c6", 6, true, false, 2},
    {"c7", 7, true, false, 5},  {"c8", 8, true, false, 7},
};

enum { NODE_COUNT = sizeof nodes / sizeof nodes[0] };

static void do_build(struct call *c)
{
    struct err err = ERR_INIT;
    int rc = volume_new(&c->f->set, c->arg, &c->f->volume, &err); /* nothing of it is opened */
    call_end(c, rc, &err);
}

static int setup(void **state)
{
    (void)fixture_setup_hosted(state);
    struct fixture *f = *state;
    struct err err = ERR_INIT;
    struct volume_record r;
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    assert_int_equal(volume_record_copy(&r, &f->record, &err), 0);
    for (unsigned i = 0; i < NODE_COUNT; i++) {
        struct record_snapshot s = {.id = uuid_make(),
                                    .seq = nodes[i].seq,
                                    .chunk_size_sectors = CHUNK_SECTORS,
                                    .clone = nodes[i].clone,
                                    .hidden = nodes[i].hidden,
                                    .parent_seq = nodes[i].parent_seq};
        (void)snprintf(s.name, sizeof s.name, "%s", nodes[i].name);
        assert_int_equal(volume_record_add_snapshot(&r, &s, &err), 0);
    }
    assert_int_equal(volume_record_check(&r, &err), 0);
    return call(f, do_build, &r);
}

static struct snapshot *node(struct fixture *f, uint32_t seq)
{
    struct snapshot *s = volume_snapshot_by_seq(f->volume, seq);
    assert_non_null(s);
    return s;
}

struct told {
    char names[64];
};

static bool tell(struct snapshot *s, void *user)
{
    struct told *t = user;
    size_t len = strlen(t->names);
    (void)snprintf(t->names + len, sizeof t->names - len, "%s ", snapshot_record(s)->name);
    return true;
}

static bool tell_one(struct snapshot *s, void *user)
{
    (void)tell(s, user);
    return false;
}

static void expect_told(struct fixture *f, struct snapshot *place, const char *want)
{
    struct told t = {""};
    tree_each_dependant(f->volume, place, tell, &t);
    assert_string_equal(t.names, want);
}

static void parents__and_children(void **state)
{
    struct fixture *f = *state;
    struct volume *v = f->volume;
    assert_ptr_equal(tree_parent(node(f, 1)), node(f, 3));
    assert_null(tree_parent(node(f, 5)));
    assert_null(tree_parent(node(f, 2)));
    assert_ptr_equal(tree_parent(node(f, 8)), node(f, 7));
    assert_int_equal(tree_children(v, NULL), 2);
    assert_int_equal(tree_children(v, node(f, 3)), 2);
    assert_int_equal(tree_children(v, node(f, 1)), 0);
    assert_null(tree_only_child(v, node(f, 3)));
    assert_ptr_equal(tree_only_child(v, node(f, 2)), node(f, 6));
    assert_false(tree_folds(node(f, 3)));
    assert_true(tree_folds(node(f, 2)));
    assert_false(tree_folds(node(f, 8)));
    assert_int_equal(tree_depth(node(f, 8)), 2);
    assert_int_equal(tree_depth(node(f, 1)), 0);
}

static void remove__gives_clones_and_place_to_the_parent(void **state)
{
    struct fixture *f = *state;
    struct volume *v = f->volume;
    struct snapshot *gone = node(f, 7), *of_origin = node(f, 2), *leaf = node(f, 4);
    tree_remove(gone);
    assert_ptr_equal(tree_parent(node(f, 8)), node(f, 5));
    assert_int_equal(tree_children(v, node(f, 5)), 2);
    tree_remove(of_origin);
    assert_null(tree_parent(node(f, 6)));
    assert_int_equal(tree_children(v, NULL), 2);
    tree_remove(leaf);
    assert_true(tree_folds(node(f, 3)));
    snapshot_free(leaf);
    snapshot_free(gone);
    snapshot_free(of_origin);
}

static void dependants__of_the_origin_and_of_a_clone(void **state)
{
    struct fixture *f = *state;
    /* c2 folds, but its store is not open: nobody knows what it has */
    expect_told(f, NULL, "s5 c2 ");
    expect_told(f, node(f, 7), "c8 ");
    expect_told(f, node(f, 8), "");
    struct told t = {""};
    tree_each_dependant(f->volume, NULL, tell_one, &t);
    assert_string_equal(t.names, "s5 ");
    tree_set_hidden(node(f, 8), true);
    expect_told(f, node(f, 7), ""); /* hidden, and nobody reads through it */
}

static void put(struct fixture *f, uint32_t seq, uint64_t old_chunk, uint64_t new_chunk)
{
    struct err err = ERR_INIT;
    struct cow_entry x = {.old_chunk = old_chunk, .new_chunk = new_chunk, .seq = seq};
    assert_int_equal(cow_map_insert(node(f, seq)->map, x, &err), 0);
}

static void has__looks_no_further_than_the_place(void **state)
{
    struct fixture *f = *state;
    put(f, 5, 10, 2);
    put(f, 7, 11, 2);
    assert_true(tree_has(node(f, 1), NULL, 10)); /* in s5, before the origin */
    assert_true(tree_has(node(f, 8), NULL, 10)); /* through c7 and s5 */
    assert_true(tree_has(node(f, 8), NULL, 11)); /* in c7 */
    assert_false(tree_has(node(f, 8), node(f, 7), 11));
    assert_false(tree_has(node(f, 8), node(f, 7), 10)); /* s5 is behind the place */
    assert_false(tree_has(node(f, 6), NULL, 10));       /* c6 does not read through the chain */
    assert_false(tree_has(node(f, 1), node(f, 5), 10));
    assert_false(tree_has(node(f, 5), NULL, 12));
    put(f, 2, 12, 2);
    assert_true(tree_has(node(f, 6), NULL, 12));
}

static void layers__lead_to_the_node(void **state)
{
    struct fixture *f = *state;
    struct cow_layer layers[TREE_DEPTH_MAX + 1];
    put(f, 5, 10, 2);
    put(f, 7, 11, 2);
    put(f, 8, 12, 2);
    assert_int_equal(tree_layers(NULL, layers), 0);
    assert_int_equal(tree_layers(node(f, 6), layers), 2);
    unsigned n = tree_layers(node(f, 8), layers);
    assert_int_equal(n, 3);
    struct cow_view view = {.layers = layers, .layer_count = n};
    static const uint32_t want[] = {0, 5, 7, 8, 0};
    for (uint64_t c = 9; c <= 13; c++) {
        struct cow_extent x;
        cow_view_extent(&view, c * CHUNK_BYTES, CHUNK_BYTES, &x);
        struct snapshot *s = tree_extent_node(node(f, 8), &x);
        assert_int_equal(s == NULL ? 0 : s->seq, want[c - 9]);
    }
}

/* State texts name what is nearest. */
static void state__of_a_node_is_that_of_what_it_reads_through(void **state)
{
    struct fixture *f = *state;
    char text[ERR_TEXT_BYTES];
    assert_int_equal(snapshot_state(node(f, 1), text, sizeof text), SNAPSHOT_DAMAGED);
    assert_int_equal(snapshot_state(node(f, 6), NULL, 0), SNAPSHOT_DAMAGED);
    struct snapshot *s;
    unsigned n = 0;
    LIST_FOREACH (s, &f->volume->unsound, unsound_link)
        n++;
    assert_int_equal(n, NODE_COUNT);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(parents__and_children),
        CASE(remove__gives_clones_and_place_to_the_parent),
        CASE(dependants__of_the_origin_and_of_a_clone),
        CASE(has__looks_no_further_than_the_place),
        CASE(layers__lead_to_the_node),
        CASE(state__of_a_node_is_that_of_what_it_reads_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
