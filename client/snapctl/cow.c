/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl cow create, info, list, check: one COW device, offline. */
#include "client/snapctl/cow_cmd.h"

#include "client/snapctl/cow_dev.h"
#include "common/base/bytes.h"
#include "common/base/limits.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* -- create --------------------------------------------------------------------------- */

struct create_args {
    const char *path;
    uint64_t size_bytes, chunk_bytes;
    bool has_size;
};

static error_t parse_create(int key, char *arg, struct argp_state *state)
{
    struct create_args *a = state->input;
    switch (key) {
    case 's':
        a->size_bytes = cli_size_arg(state, "--size", arg);
        if (a->size_bytes > INT64_MAX)
            cli_usage_error(state, "--size: %s is more than a file can have", arg);
        a->has_size = true;
        return 0;
    case 'c':
        a->chunk_bytes = cli_chunk_size_arg(state, arg);
        return 0;
    case ARGP_KEY_ARG:
        if (a->path)
            cli_usage_error(state, "'%s' is one word too many", arg);
        a->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->path)
            cli_usage_error(state, "which COW device? Name a file to make or a block device");
        /* a header, an area of the table and one chunk */
        if (a->has_size && (a->size_bytes % SECTOR_BYTES || a->size_bytes < 3 * a->chunk_bytes))
            cli_usage_error(state,
                            "--size: %" PRIu64 " bytes; a multiple of 512 with room for three "
                            "chunks, %" PRIu64 " bytes, is the least",
                            a->size_bytes, 3 * a->chunk_bytes);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int create_on(struct blk_engine *engine, const struct create_args *a, struct err *reterr)
{
    struct blk_dev *dev = NULL;
    bool make_file = a->has_size;
    /* a block device directly: then the least chunk size is its logical block, as for the kernel */
    unsigned how = make_file ? BLK_OPEN_BUFFERED | BLK_OPEN_CREATE : 0;
    int rc = blk_open(engine, a->path, BLK_OPEN_EXCLUSIVE | how, &dev, reterr);
    if (rc == SNAP_EEXIST)
        return err_set(reterr, rc, "%s exists; for a block device leave out --size", a->path);
    if (rc == SNAP_ENOENT && !make_file)
        return err_set(reterr, rc, "%s does not exist; give --size to make a file", a->path);
    if (rc < 0)
        return rc;
    if (!make_file && !blk_dev_info(dev)->is_block)
        rc = err_set(reterr, SNAP_EEXIST, "%s is a file that exists; remove it first", a->path);
    if (rc == 0 && make_file)
        rc = blk_grow_sync(dev, a->size_bytes, reterr);
    if (rc == 0)
        rc = cow_store_create_sync(dev, (uint32_t)(a->chunk_bytes / SECTOR_BYTES), reterr);
    blk_dev_close(dev);
    if (rc < 0) {
        err_prefix(reterr, "%s", a->path);
        if (make_file)
            (void)remove(a->path);
    }
    return rc;
}

int cow_cmd_create(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "size", .key = 's', .arg = "SIZE", .doc = "make a file of this size"},
        {.name = "chunk-size",
         .key = 'c',
         .arg = "SIZE",
         .doc = "512 to 16M, a power of two; default 16K"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_create,
        .args_doc = "COW",
        .doc = "Make an empty COW device: a new file, or a block device whose content is "
               "overwritten.",
    };
    struct create_args a = {.chunk_bytes = LIMIT_CHUNK_SECTORS_DEFAULT * SECTOR_BYTES};
    cli_parse(cli, &argp, argc, argv, &a);
    struct blk_engine *engine = NULL;
    int rc = blk_engine_new(&engine, reterr);
    if (rc == 0)
        rc = create_on(engine, &a, reterr);
    blk_engine_free(engine);
    if (rc == 0)
        cli_note(cli, "made %s, an empty COW device", a.path);
    return rc;
}

/* -- commands with one COW device and nothing else --------------------------------------- */

static error_t parse_one(int key, char *arg, struct argp_state *state)
{
    const char **path = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        if (*path)
            cli_usage_error(state, "'%s' is one word too many", arg);
        *path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!*path)
            cli_usage_error(state, "which COW device?");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* -- info ------------------------------------------------------------------------------------ */

static json_t *info_json(const struct cow_dev *d, const char *path)
{
    struct cow_usage u;
    char status[80];
    cow_store_usage(d->store, &u);
    return json_pack("{s:o, s:b, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "path",
                     out_path(path), "valid", u.state != COW_INVALID, "version", COW_VERSION,
                     "chunk_size_sectors", (json_int_t)u.geometry.chunk_sectors, "device_sectors",
                     (json_int_t)u.device_sectors, "exceptions", (json_int_t)u.exceptions, "areas",
                     (json_int_t)u.areas, "next_free", (json_int_t)u.next_free, "sectors_allocated",
                     (json_int_t)u.sectors_allocated, "metadata_sectors",
                     (json_int_t)u.metadata_sectors, "status",
                     cow_status_format(&u, status, sizeof status));
}

int cow_cmd_info(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = parse_one,
        .args_doc = "COW",
        .doc = "Header, usage, and the status line as `dmsetup status` prints it.",
    };
    static const struct out_column columns[] = {
        {"path", "COW device", OUT_TEXT},
        {"valid", "Valid", OUT_YES_NO},
        {"version", "Version", OUT_NUMBER},
        {"chunk_size_sectors", "Chunk size", OUT_SECTORS},
        {"device_sectors", "Device size", OUT_SECTORS},
        {"exceptions", "Exceptions", OUT_NUMBER},
        {"areas", "Areas", OUT_NUMBER},
        {"next_free", "Next free chunk", OUT_NUMBER},
        {"sectors_allocated", "Allocated", OUT_SECTORS},
        {"metadata_sectors", "Metadata", OUT_SECTORS},
        {"status", "Status", OUT_TEXT},
        {0},
    };
    const char *path = NULL;
    struct cow_dev d = {0};
    cli_parse(cli, &argp, argc, argv, &path);
    int rc = cow_dev_open(path, COW_DEV_READ, NULL, NULL, &d, reterr);
    if (rc == 0)
        rc = out_object(cli, info_json(&d, path), columns, reterr);
    cow_dev_close(&d);
    return rc;
}

/* -- list ------------------------------------------------------------------------------------- */

/* Where a listing is. */
struct run_cursor {
    const struct cow_map *map;
    uint64_t old;
    uint32_t seq;
};

static bool next_run(void *user, json_t *row)
{
    struct run_cursor *c = user;
    struct cow_run run;
    if (!cow_map_next(c->map, c->old, c->seq, &run))
        return false;
    cow_map_after(&run, &c->old, &c->seq);
    (void)json_integer_set(json_object_get(row, "old"), (json_int_t)run.old_chunk);
    (void)json_integer_set(json_object_get(row, "new"), (json_int_t)run.new_chunk);
    (void)json_integer_set(json_object_get(row, "count"), (json_int_t)run.count);
    return true;
}

int cow_cmd_list(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = parse_one,
        .args_doc = "COW",
        .doc = "The exceptions as runs, by old chunk: old, new, count.",
    };
    static const struct out_column columns[] = {
        {"old", "OLD", OUT_NUMBER},
        {"new", "NEW", OUT_NUMBER},
        {"count", "COUNT", OUT_NUMBER},
        {0},
    };
    const char *path = NULL;
    struct cow_dev d = {0};
    cli_parse(cli, &argp, argc, argv, &path);
    int rc = cow_dev_open(path, COW_DEV_READ, NULL, NULL, &d, reterr);
    struct run_cursor at = {.map = d.map};
    if (rc == 0)
        rc = out_rows_each(cli, json_pack("{s:i, s:i, s:i}", "old", 0, "new", 0, "count", 0),
                           next_run, &at, columns, reterr);
    cow_dev_close(&d);
    return rc;
}

/* -- check ------------------------------------------------------------------------------ */

struct check_args {
    const char *path;
    bool repair;
};

static error_t parse_check(int key, char *arg, struct argp_state *state)
{
    struct check_args *a = state->input;
    if (key == 'r') {
        a->repair = true;
        return 0;
    }
    state->input = &a->path;
    error_t rc = parse_one(key, arg, state);
    state->input = a;
    return rc;
}

/* What a look at the device found. */
struct findings {
    json_t *faults;
    uint64_t total; /* of them; the list is cut */
    uint64_t
        leftovers; /* entries behind the table's end: no fault, but the kernel trips over them */
    bool invalid, repaired;
};

static void add_fault(void *user, const struct cow_fault *f)
{
    struct findings *found = user;
    enum { SHOWN_MAX = 1000 };
    if (found->total++ >= SHOWN_MAX)
        return;
    (void)json_array_append_new(
        found->faults, json_pack("{s:o, s:I, s:o, s:o, s:s}", "area", out_u64(f->area_no), "index",
                                 (json_int_t)f->index, "old", out_u64(f->exception.old_chunk),
                                 "new", out_u64(f->exception.new_chunk), "fault", f->text));
}

static int look(const char *path, struct findings *found, struct err *reterr)
{
    struct cow_dev d = {0};
    struct cow_usage u;
    int rc = cow_dev_open(path, COW_DEV_INSPECT, add_fault, found, &d, reterr);
    if (rc == 0) {
        cow_store_usage(d.store, &u);
        found->leftovers = u.leftovers;
        found->invalid = cow_store_state(d.store) == COW_INVALID;
    }
    cow_dev_close(&d);
    return rc;
}

/* What opening for writing does: it zeroes, durably, what stands past the end entry. */
static int repair(const char *path, struct err *reterr)
{
    struct cow_dev d = {0};
    int rc = cow_dev_open(path, COW_DEV_WRITE, NULL, NULL, &d, reterr);
    if (rc == 0) {
        struct cow_store *s = d.store;
        d.store = NULL;
        rc = cow_store_close_sync(s, reterr);
    }
    cow_dev_close(&d);
    return rc;
}

static int print_findings(const struct cli *cli, const struct findings *found, struct err *reterr)
{
    static const struct out_column columns[] = {
        {"area", "AREA", OUT_NUMBER}, {"index", "INDEX", OUT_NUMBER}, {"old", "OLD", OUT_NUMBER},
        {"new", "NEW", OUT_NUMBER},   {"fault", "FAULT", OUT_TEXT},   {0},
    };
    if (!cli->json)
        return out_rows(cli, json_incref(found->faults), columns, reterr);
    return out_object(cli,
                      json_pack("{s:b, s:b, s:I, s:I, s:b, s:O}", "sound", found->total == 0,
                                "valid", !found->invalid, "faults_total", (json_int_t)found->total,
                                "leftovers", (json_int_t)found->leftovers, "repaired",
                                found->repaired, "faults", found->faults),
                      columns, reterr);
}

/* In words, what is no fault. */
static void remark(const struct cli *cli, const char *path, const struct findings *found)
{
    const char *entries = found->leftovers == 1 ? "entry" : "entries";
    if (found->repaired)
        cli_note(cli, "%s: zeroed %" PRIu64 " left-over %s behind the table's end", path,
                 found->leftovers, entries);
    else if (found->leftovers > 0 && found->total == 0 && !found->invalid)
        cli_note(cli,
                 "%s: %" PRIu64 " left-over %s of a torn write behind the table's end (that is no "
                 "structural fault); zero before the kernel opens it: snapctl cow check --repair "
                 "%s",
                 path, found->leftovers, entries, path);
    if (found->total == 0 && !found->invalid)
        cli_note(cli, "%s: sound", path);
    else if (found->total == 0)
        cli_note(cli,
                 "%s: the table is sound; the snapshot is invalid: it ran out of space, or was "
                 "given up, and is no longer of any use",
                 path);
    else if (found->invalid)
        cli_note(cli, "%s: the snapshot is invalid besides", path);
}

int cow_cmd_check(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "repair",
         .key = 'r',
         .doc = "zero what a torn area write left behind the table's end; nothing else is "
                "ever changed, and nothing at all when there is a fault"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_check,
        .args_doc = "COW",
        .doc = "Look for every structural fault and say its place. Exits with 12 when there "
               "is one.",
    };
    struct check_args a = {0};
    cli_parse(cli, &argp, argc, argv, &a);
    struct findings found = {.faults = json_array()};
    int rc = found.faults ? look(a.path, &found, reterr)
                          : err_set(reterr, SNAP_ENOMEM, "list of faults");
    if (rc == 0 && a.repair && found.total == 0) {
        rc = repair(a.path, reterr);
        found.repaired = rc == 0 && found.leftovers > 0 && !found.invalid;
    }
    if (rc == 0)
        rc = print_findings(cli, &found, reterr);
    if (rc == 0)
        remark(cli, a.path, &found);
    if (rc == 0 && found.total > 0)
        rc = err_set(reterr, SNAP_ECORRUPT, "%s: %" PRIu64 " fault%s%s", a.path, found.total,
                     found.total == 1 ? "" : "s", a.repair ? "; nothing was changed" : "");
    json_decref(found.faults);
    return rc;
}

/* -- the group -------------------------------------------------------------------------- */

static const struct cli_command commands[] = {
    {"create", "make an empty COW device", cow_cmd_create},
    {"info", "header, usage and status", cow_cmd_info},
    {"list", "the exceptions as runs", cow_cmd_list},
    {"check", "find structural faults", cow_cmd_check},
    {"export", "write the snapshot's content to a file", cow_cmd_export},
    {"merge", "roll an origin back", cow_cmd_merge},
    {0},
};

const struct cli_group cli_group_cow = {
    .name = "cow",
    .summary = "COW devices on this machine, offline",
    .commands = commands,
};
