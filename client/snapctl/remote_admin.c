/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote ls, show, delete, check: what a daemon has, told and tended. */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_connect.h"
#include "client/snapctl/remote_json.h"

#include <inttypes.h>

/* -- ls ------------------------------------------------------------------------------------ */

static int list_volumes(const struct cli *cli, struct remote *r, struct err *reterr)
{
    static const struct out_column columns[] = {
        {"name", "VOLUME", OUT_TEXT},
        {"size_bytes", "SIZE", OUT_SIZE},
        {"kind", "KIND", OUT_TEXT},
        {"snapshot_count", "SNAPSHOTS", OUT_NUMBER},
        {"head", "NEWEST", OUT_TEXT},
        {"chunk_size_sectors", "CHUNK", OUT_SECTORS},
        {"lease_holder", "WRITER", OUT_TEXT},
        {"created_s", "CREATED", OUT_TIME},
        {0},
    };
    struct snapwire_error why = {0};
    struct snapwire_volume_list *list = NULL;
    if (snapwire_volume_list_sync(r->client, &list, &why) < 0)
        return remote_error(&why, reterr);
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < list->count; i++)
        if (json_array_append_new(rows, remote_volume_json(list->volumes[i], false)) != 0) {
            json_decref(rows);
            rows = NULL;
        }
    if (list->count == 0 && !cli->json)
        cli_note(cli, "there is no volume that you may see");
    snapwire_free(list);
    return out_rows(cli, rows, columns, reterr);
}

static const struct out_column snapshot_columns[] = {
    {"name", "SNAPSHOT", OUT_TEXT},
    {"state", "STATE", OUT_TEXT},
    {"head", "NEWEST", OUT_YES_NO},
    {"chunk_size_sectors", "CHUNK", OUT_SECTORS},
    {"exceptions", "EXCEPTIONS", OUT_NUMBER},
    {"sectors_allocated", "USED", OUT_SECTORS},
    {"limit_sectors", "LIMIT", OUT_SECTORS},
    {"created_s", "CREATED", OUT_TIME},
    {0},
};

static const struct out_column tree_columns[] = {
    {"tree", "SNAPSHOT", OUT_TEXT},
    {"state", "STATE", OUT_TEXT},
    {"head", "NEWEST", OUT_YES_NO},
    {"writable", "WRITABLE", OUT_YES_NO},
    {"exceptions", "EXCEPTIONS", OUT_NUMBER},
    {"sectors_allocated", "USED", OUT_SECTORS},
    {"limit_sectors", "LIMIT", OUT_SECTORS},
    {"created_s", "CREATED", OUT_TIME},
    {0},
};

/* For people: warnings of the daemon about snapshots stand below. */
static void print_warnings(const struct snapwire_snapshot *s)
{
    for (size_t i = 0; i < s->warning_count; i++)
        (void)printf("Warning: %s@%s: %s\n", s->volume_name, s->name, s->warnings[i]);
}

/* The snapshots of one, for people: clones stand indented below what they read through. */
static int print_snapshots(const struct cli *cli, const struct snapwire_volume *v,
                           struct err *reterr)
{
    int rc = v->kind == SNAPWIRE_VOLUME_HOSTED
                 ? out_rows(cli, remote_tree_json(v), tree_columns, reterr)
                 : out_rows(cli, remote_snapshots_json(v), snapshot_columns, reterr);
    for (size_t i = 0; rc == 0 && i < v->snapshot_count; i++) {
        const struct snapwire_snapshot *s = v->snapshots[i];
        if (s->state_text && s->state_text[0])
            (void)printf("%s@%s is %s: %s\n", s->volume_name, s->name,
                         snapwire_snapshot_state_name(s->state), s->state_text);
        print_warnings(s);
    }
    return rc;
}

static int show_volume(struct remote *r, const char *text, struct snapwire_volume **ret,
                       struct err *reterr)
{
    struct snapwire_error why = {0};
    struct remote_target t;
    int rc = remote_resolve(r, text, REMOTE_WANT_VOLUME, &t, reterr);
    if (rc == 0 && snapwire_volume_show_sync(r->client, &t.volume, ret, &why) < 0)
        rc = remote_error(&why, reterr);
    return rc;
}

static int list_snapshots(const struct cli *cli, struct remote *r, const char *text,
                          struct err *reterr)
{
    struct snapwire_volume *v = NULL;
    int rc = show_volume(r, text, &v, reterr);
    if (rc == 0)
        rc = cli->json ? out_rows(cli, remote_snapshots_json(v), NULL, reterr)
                       : print_snapshots(cli, v, reterr);
    if (rc == 0 && !cli->json && v->snapshot_count == 0)
        cli_note(cli, "%s has no snapshots; snapctl remote create %s@NAME makes one", v->name,
                 v->name);
    snapwire_free(v);
    return rc;
}

int remote_cmd_ls(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "[VOLUME]",
        .doc = "The volumes that you may see, or the snapshots of one, oldest first.",
        .children = remote_children,
    };
    struct remote_words words = {.most = 1};
    struct remote r = {0};
    remote_parse(cli, &argp, argc, argv, &words);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = words.count == 0 ? list_volumes(cli, &r, reterr)
                              : list_snapshots(cli, &r, words.word[0], reterr);
    remote_close(&r);
    return rc;
}

/* -- show ----------------------------------------------------------------------------------- */

static int show_one_volume(const struct cli *cli, struct remote *r, const char *text,
                           struct err *reterr)
{
    static const struct out_column columns[] = {
        {"name", "Volume", OUT_TEXT},
        {"id", "Id", OUT_TEXT},
        {"size_bytes", "Size", OUT_SIZE},
        {"kind", "Kind", OUT_TEXT},
        {"chunk_size_sectors", "Chunk size", OUT_SECTORS},
        {"full_policy", "When full", OUT_TEXT},
        {"created_s", "Created", OUT_TIME},
        {"lease_holder", "Writer", OUT_TEXT},
        {"lease_epoch", "Lease epoch", OUT_NUMBER},
        {"head", "Newest snapshot", OUT_TEXT},
        {0},
    };
    struct snapwire_volume *v = NULL;
    int rc = show_volume(r, text, &v, reterr);
    if (rc == 0) {
        json_t *object = remote_volume_json(v, true);
        if (object && !cli->json && !v->leased)
            (void)json_object_del(object, "lease_holder");
        if (object && !cli->json && v->kind == SNAPWIRE_VOLUME_HOSTED)
            (void)json_object_del(object, "lease_epoch");
        rc = out_object(cli, object, columns, reterr);
    }
    for (size_t i = 0; rc == 0 && !cli->json && i < v->label_count; i++)
        (void)printf("Label %s: %s\n", v->labels[i]->key, v->labels[i]->value);
    if (rc == 0 && !cli->json && v->snapshot_count > 0) {
        (void)putchar('\n');
        rc = print_snapshots(cli, v, reterr);
    }
    snapwire_free(v);
    return rc;
}

static int show_one_snapshot(const struct cli *cli, struct remote *r, const char *text,
                             struct err *reterr)
{
    static const struct out_column columns[] = {
        {"name", "Snapshot", OUT_TEXT},
        {"volume", "Volume", OUT_TEXT},
        {"id", "Id", OUT_TEXT},
        {"state", "State", OUT_TEXT},
        {"state_text", "Because", OUT_TEXT},
        {"head", "Newest", OUT_YES_NO},
        {"writable", "Writable", OUT_YES_NO},
        {"parent", "Clone of", OUT_TEXT},
        {"created_s", "Created", OUT_TIME},
        {"volume_size_bytes", "Volume size", OUT_SIZE},
        {"chunk_size_sectors", "Chunk size", OUT_SECTORS},
        {"exceptions", "Exceptions", OUT_NUMBER},
        {"areas", "Areas", OUT_NUMBER},
        {"sectors_allocated", "Allocated", OUT_SECTORS},
        {"metadata_sectors", "Metadata", OUT_SECTORS},
        {"device_sectors", "COW device size", OUT_SECTORS},
        {"limit_sectors", "COW device limit", OUT_SECTORS},
        {"status", "Status", OUT_TEXT},
        {"cow_path", "COW device", OUT_TEXT},
        {0},
    };
    struct snapwire_error why = {0};
    struct snapwire_snapshot *s = NULL;
    struct remote_target t;
    int rc = remote_resolve(r, text, REMOTE_WANT_SNAPSHOT, &t, reterr);
    if (rc == 0 && snapwire_snapshot_show_sync(r->client, &t.volume, &t.snapshot, &s, &why) < 0)
        rc = remote_error(&why, reterr);
    if (rc < 0)
        return rc;
    json_t *object = remote_snapshot_json(s);
    if (object && !cli->json && (!s->state_text || !s->state_text[0]))
        (void)json_object_del(object, "state_text");
    if (object && !cli->json && (!s->parent || !s->parent[0]))
        (void)json_object_del(object, "parent");
    rc = out_object(cli, object, columns, reterr);
    if (rc == 0 && !cli->json)
        print_warnings(s);
    snapwire_free(s);
    return rc;
}

int remote_cmd_show(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "VOLUME|VOLUME@SNAPSHOT",
        .doc = "All about a volume or a snapshot.",
        .children = remote_children,
    };
    struct remote_words words = {
        .least = 1, .most = 1, .missing = "what? VOLUME or VOLUME@SNAPSHOT"};
    struct remote r = {0};
    struct target t;
    remote_parse(cli, &argp, argc, argv, &words);
    int rc = target_parse(words.word[0], &t, reterr);
    if (rc == 0)
        rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = t.snapshot[0] ? show_one_snapshot(cli, &r, words.word[0], reterr)
                           : show_one_volume(cli, &r, words.word[0], reterr);
    remote_close(&r);
    return rc;
}

/* -- delete ------------------------------------------------------------------------------------ */

struct delete_args {
    struct remote_words words;
    bool force;
};

static error_t parse_delete(int key, char *arg, struct argp_state *state)
{
    struct delete_args *a = state->input;
    if (key == 'f') {
        a->force = true;
        return 0;
    }
    return remote_parse_word(key, arg, state);
}

static int delete_target(struct remote *r, const struct remote_target *t, bool force,
                         struct err *reterr)
{
    struct snapwire_error why = {0};
    int rc;
    if (!t->name.snapshot[0])
        rc = snapwire_volume_delete_sync(r->client, &t->volume, NULL, force, &why);
    else if (force)
        rc = snapwire_snapshot_drop_sync(r->client, &t->volume, &t->snapshot, NULL, &why);
    else
        rc = snapwire_snapshot_delete_sync(r->client, &t->volume, &t->snapshot, NULL, &why);
    return rc < 0 ? remote_error(&why, reterr) : rc;
}

int remote_cmd_delete(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "force",
         .key = 'f',
         .doc = "a volume together with its snapshots; a damaged snapshot although others read "
                "through it: they become invalid"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_delete,
        .args_doc = "VOLUME|VOLUME@SNAPSHOT",
        .doc = "Delete a volume, a snapshot or a clone. Older snapshots and clones keep their "
               "content: the daemon hands what they need down to them (see snapctl remote jobs).",
        .children = remote_children,
    };
    struct delete_args a = {
        .words = {.least = 1, .most = 1, .missing = "what? VOLUME or VOLUME@SNAPSHOT"}};
    struct remote r = {0};
    struct remote_target t;
    remote_parse(cli, &argp, argc, argv, &a);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = remote_resolve(&r, a.words.word[0], REMOTE_WANT_ANY, &t, reterr);
    if (rc == 0)
        rc = delete_target(&r, &t, a.force, reterr);
    remote_close(&r);
    return rc;
}

/* -- check ------------------------------------------------------------------------------ */

static json_t *faults_json(const struct snapwire_check *c)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < c->fault_count; i++) {
        const struct snapwire_fault *f = c->faults[i];
        if (json_array_append_new(rows, json_pack("{s:o, s:I, s:o, s:o, s:s}", "area",
                                                  out_u64(f->area), "index", (json_int_t)f->index,
                                                  "old", out_u64(f->old_chunk), "new",
                                                  out_u64(f->new_chunk), "fault", f->text)) != 0) {
            json_decref(rows);
            return NULL;
        }
    }
    return rows;
}

/* One whose COW device cannot be read at all: that is its fault. */
static int check_lost(const struct cli *cli, const struct snapwire_snapshot *s,
                      const struct snapwire_error *why, json_t *results, uint64_t *faults,
                      struct err *reterr)
{
    (*faults)++;
    if (!cli->json) {
        (void)printf("%s@%s: not sound, cannot be read: %s\n", s->volume_name, s->name, why->text);
        return 0;
    }
    json_t *lost = json_pack("{s:s, s:s, s:b, s:i, s:i, s:[{s:s}]}", "volume", s->volume_name,
                             "snapshot", s->name, "sound", 0, "exceptions", 0, "faults_total", 1,
                             "faults", "fault", why->text);
    if (json_array_append_new(results, lost) != 0)
        return err_set(reterr, SNAP_ENOMEM, "list of faults");
    return 0;
}

/* Check one and append what was found to results. */
static int check_one(const struct cli *cli, struct remote *r, const struct snapwire_snapshot *s,
                     json_t *results, uint64_t *faults, struct err *reterr)
{
    static const struct out_column columns[] = {
        {"area", "AREA", OUT_NUMBER}, {"index", "INDEX", OUT_NUMBER}, {"old", "OLD", OUT_NUMBER},
        {"new", "NEW", OUT_NUMBER},   {"fault", "FAULT", OUT_TEXT},   {0},
    };
    struct snapwire_error why = {0};
    struct snapwire_check *c = NULL;
    int rc = snapwire_snapshot_check_sync(r->client, &s->volume, &s->id, &c, &why);
    if (rc < 0 && s->state == SNAPWIRE_SNAPSHOT_DAMAGED && rc != SNAP_ECONN)
        return check_lost(cli, s, &why, results, faults, reterr);
    if (rc < 0) {
        (void)remote_error(&why, reterr);
        return err_prefix(reterr, "check of %s@%s", s->volume_name, s->name);
    }
    *faults += c->faults_total;
    if (!cli->json) {
        (void)printf("%s@%s: %s, %" PRIu64 " exceptions, %" PRIu64 " faults\n", s->volume_name,
                     s->name, c->sound ? "sound" : "not sound", c->exceptions, c->faults_total);
        rc = out_rows(cli, faults_json(c), columns, reterr);
    } else if (json_array_append_new(
                   results, json_pack("{s:s, s:s, s:b, s:I, s:I, s:o}", "volume", s->volume_name,
                                      "snapshot", s->name, "sound", (int)c->sound, "exceptions",
                                      (json_int_t)c->exceptions, "faults_total",
                                      (json_int_t)c->faults_total, "faults", faults_json(c))) !=
               0) {
        rc = err_set(reterr, SNAP_ENOMEM, "list of faults");
    }
    snapwire_free(c);
    return rc;
}

static int check_all(const struct cli *cli, struct remote *r, const struct remote_target *t,
                     struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_volume *v = NULL;
    uint64_t faults = 0;
    if (snapwire_volume_show_sync(r->client, &t->volume, &v, &why) < 0)
        return remote_error(&why, reterr);
    json_t *results = json_array();
    int rc = results ? 0 : err_set(reterr, SNAP_ENOMEM, "list of faults");
    for (size_t i = 0; rc == 0 && i < v->snapshot_count; i++) {
        const struct snapwire_snapshot *s = v->snapshots[i];
        if (t->name.snapshot[0] == '\0' || snapwire_uuid_equal(&s->id, &t->snapshot))
            rc = check_one(cli, r, s, results, &faults, reterr);
    }
    if (rc == 0 && cli->json)
        rc = out_rows(cli, json_incref(results), NULL, reterr);
    json_decref(results);
    snapwire_free(v);
    if (rc == 0 && faults > 0)
        rc = err_set(reterr, SNAP_ECORRUPT, "%s: %" PRIu64 " fault%s", t->text, faults,
                     faults == 1 ? "" : "s");
    return rc;
}

int remote_cmd_check(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "VOLUME|VOLUME@SNAPSHOT",
        .doc = "Have the daemon look for every structural fault of a snapshot's COW device, or of "
               "all of a volume. Exits with 12 when there is one.",
        .children = remote_children,
    };
    struct remote_words words = {
        .least = 1, .most = 1, .missing = "what? VOLUME or VOLUME@SNAPSHOT"};
    struct remote r = {0};
    struct remote_target t;
    remote_parse(cli, &argp, argc, argv, &words);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = remote_resolve(&r, words.word[0], REMOTE_WANT_ANY, &t, reterr);
    if (rc == 0)
        rc = check_all(cli, &r, &t, reterr);
    remote_close(&r);
    return rc;
}
