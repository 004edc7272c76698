/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the text form of volume records: JSON, strictly.
 *
 * A record may have been edited or damaged, so every value is checked for type
 * and range, unknown keys are refused (they may come from a newer release, whose
 * meaning must not be dropped in silence), and what a text says of itself twice
 * has to agree: order of seq, doubled names and uuids, who reads through whom.
 *
 * Keys of what older releases did not have are there only where they say something. A hosted
 * volume's snapshots, which no older release can serve, leave out more of what goes without
 * saying: see record_format.c.
 */
#include "daemon/volume/record_text.h"

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/name.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void json_done(json_t **j)
{
    json_decref(*j);
}

#define CLEANUP_JSON CLEANUP(json_done) json_t

/* -- reading ------------------------------------------------------------------ */

/* One object being read: each get_… takes a key; what is left over is unknown. */
struct reader {
    const json_t *object;
    size_t taken;
    struct err *reterr;
    int rc; /* the first error */
};

static int reader_fail(struct reader *r, const char *key, const char *what)
{
    if (r->rc == 0)
        r->rc = err_set(r->reterr, SNAP_ECORRUPT, "key '%s': %s", key, what);
    return r->rc;
}

static const json_t *take(struct reader *r, const char *key, json_type type)
{
    const json_t *v = json_object_get(r->object, key);
    if (!v) {
        reader_fail(r, key, "missing");
        return NULL;
    }
    r->taken++;
    if (json_typeof(v) != type) {
        reader_fail(r, key, "of the wrong type");
        return NULL;
    }
    return v;
}

static uint64_t get_u64(struct reader *r, const char *key, uint64_t max)
{
    const json_t *v = take(r, key, JSON_INTEGER);
    if (!v)
        return 0;
    json_int_t n = json_integer_value(v);
    if (n < 0 || (uint64_t)n > max) {
        reader_fail(r, key, "out of range");
        return 0;
    }
    return (uint64_t)n;
}

static void get_text(struct reader *r, const char *key, char *ret, size_t ret_bytes)
{
    const json_t *v = take(r, key, JSON_STRING);
    if (!v)
        return;
    size_t len = json_string_length(v);
    if (len >= ret_bytes || memchr(json_string_value(v), '\0', len)) {
        reader_fail(r, key, "too long or with a zero byte");
        return;
    }
    memcpy(ret, json_string_value(v), len + 1);
}

static void get_name(struct reader *r, const char *key, char ret[LIMIT_NAME_BYTES + 1])
{
    struct err why = ERR_INIT;
    get_text(r, key, ret, LIMIT_NAME_BYTES + 1);
    if (r->rc == 0 && name_check(ret, "name", &why) < 0)
        reader_fail(r, key, why.text);
}

static void get_uuid(struct reader *r, const char *key, struct uuid *ret)
{
    char text[UUID_TEXT_BYTES] = "";
    struct err why = ERR_INIT;
    get_text(r, key, text, sizeof text);
    if (r->rc == 0 && uuid_parse_text(text, ret, &why) < 0)
        reader_fail(r, key, why.text);
}

static bool get_bool(struct reader *r, const char *key)
{
    const json_t *v = json_object_get(r->object, key);
    if (!v) {
        reader_fail(r, key, "missing");
        return false;
    }
    r->taken++;
    if (!json_is_boolean(v))
        reader_fail(r, key, "of the wrong type");
    return json_is_true(v);
}

static bool has(const struct reader *r, const char *key)
{
    return json_object_get(r->object, key) != NULL;
}

/* False where the key is not there. */
static bool get_flag(struct reader *r, const char *key)
{
    return has(r, key) && get_bool(r, key);
}

/* One of names[0 … count-1]; its index. */
static unsigned get_choice(struct reader *r, const char *key, const char *const *names,
                           unsigned count)
{
    char text[32] = "";
    get_text(r, key, text, sizeof text);
    for (unsigned i = 0; i < count; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    reader_fail(r, key, "none of the words it may be");
    return 0;
}

static int reader_end(struct reader *r)
{
    const char *key;
    json_t *v;
    if (r->rc == 0 && json_object_size(r->object) != r->taken) {
        /* the keys that were taken are known by name; say one that is not */
        static const char *const known =
            " format id name size_bytes kind full_policy created_s lease_epoch lease_holder "
            "lease_instance fingerprint next_seq snapshots labels tombstones seq "
            "chunk_size_sectors limit_bytes hidden merging unverified cow_path key clone "
            "parent_seq undo group broken guard origin_path rollback job to_seq undo_seq merge "
            "drop_newer "
            "cancelled started_s scrubbed_s grouped lost lease_ttl_ms ";
        json_object_foreach ((json_t *)r->object, key, v) {
            char word[80];
            (void)snprintf(word, sizeof word, " %.70s ", key);
            if (!strstr(known, word))
                return reader_fail(r, key, "unknown; was this written by a newer release?");
        }
        return reader_fail(r, "?", "a key stands where it does not belong");
    }
    return r->rc;
}

const char *const record_kind_names[] = {"remote", "hosted"};
const char *const record_policy_names[] = {"refuse", "invalidate"};

static void get_chunk_size(struct reader *r, const char *key, uint32_t *ret_sectors)
{
    *ret_sectors = (uint32_t)get_u64(r, key, LIMIT_CHUNK_SECTORS_MAX);
    if (r->rc == 0 && !u64_is_pow2(*ret_sectors))
        reader_fail(r, key, "no power of two");
}

/* A file in the volume's folder, or the absolute path of a bound device. */
static void get_path(struct reader *r, const char *key, char ret[LIMIT_PATH_BYTES])
{
    get_text(r, key, ret, LIMIT_PATH_BYTES);
    if (r->rc == 0 && ret[0] != '/' && (ret[0] == '\0' || ret[0] == '.' || strchr(ret, '/')))
        reader_fail(r, key, "neither a file's name nor an absolute path");
}

static void get_group(struct reader *r, struct record_snapshot *s)
{
    if (!has(r, "group"))
        return;
    get_uuid(r, "group", &s->group);
    if (r->rc == 0 && uuid_is_zero(&s->group))
        reader_fail(r, "group", "nil");
    s->grouped = get_flag(r, "grouped");
}

/* path: for s->cow_path to point to. */
static int parse_snapshot(const json_t *object, struct record_snapshot *s,
                          char path[LIMIT_PATH_BYTES], struct err *reterr)
{
    struct reader r = {.object = object, .reterr = reterr};
    get_uuid(&r, "id", &s->id);
    get_name(&r, "name", s->name);
    s->seq = (uint32_t)get_u64(&r, "seq", UINT32_MAX - 1);
    s->created_s = (int64_t)get_u64(&r, "created_s", INT64_MAX);
    get_chunk_size(&r, "chunk_size_sectors", &s->chunk_size_sectors);
    s->limit_bytes = get_u64(&r, "limit_bytes", INT64_MAX);
    s->hidden = get_flag(&r, "hidden");
    s->merging = get_flag(&r, "merging");
    s->unverified = get_flag(&r, "unverified");
    s->broken = get_flag(&r, "broken");
    if (s->broken && !s->unverified)
        reader_fail(&r, "broken", "without being unverified");
    s->lost = get_flag(&r, "lost");
    if (has(&r, "cow_path")) {
        get_path(&r, "cow_path", path);
        s->cow_path = path;
    }
    s->clone = get_flag(&r, "clone");
    if (s->clone)
        s->parent_seq = (uint32_t)get_u64(&r, "parent_seq", UINT32_MAX - 1);
    s->undo = get_flag(&r, "undo");
    get_group(&r, s);
    return reader_end(&r);
}

static int parse_snapshots(const json_t *array, struct volume_record *ret, struct err *reterr)
{
    size_t count = json_array_size(array);
    if (count > LIMIT_SNAPSHOTS)
        return err_set(reterr, SNAP_ECORRUPT, "key 'snapshots': more than %d", LIMIT_SNAPSHOTS);
    char path[LIMIT_PATH_BYTES];
    uint32_t last = 0;
    for (size_t i = 0; i < count; i++) {
        struct record_snapshot s = {0};
        int rc = json_is_object(json_array_get(array, i))
                     ? parse_snapshot(json_array_get(array, i), &s, path, reterr)
                     : err_set(reterr, SNAP_ECORRUPT, "no object");
        if (rc == 0 && s.seq <= last)
            rc = err_set(reterr, SNAP_ECORRUPT, "seq %u does not follow %u", s.seq, last);
        last = s.seq;
        if (rc == 0)
            rc = volume_record_add_snapshot(ret, &s, reterr);
        if (rc < 0) {
            err_prefix(reterr, "snapshot %zu", i);
            return rc;
        }
    }
    return 0;
}

static int parse_labels(const json_t *object, struct volume_record *ret, struct err *reterr)
{
    const char *key;
    json_t *v;
    if (json_object_size(object) > LIMIT_LABELS)
        return err_set(reterr, SNAP_ECORRUPT, "key 'labels': more than %d", LIMIT_LABELS);
    ret->labels = calloc(json_object_size(object) + 1, sizeof *ret->labels);
    if (!ret->labels)
        return err_set(reterr, SNAP_ENOMEM, "labels");
    json_object_foreach ((json_t *)object, key, v) {
        if (!json_is_string(v))
            return err_set(reterr, SNAP_ECORRUPT, "label '%s': no text", key);
        struct record_label *l = &ret->labels[ret->label_count++];
        l->key = strdup(key);
        l->value = strdup(json_string_value(v));
        if (!l->key || !l->value)
            return err_set(reterr, SNAP_ENOMEM, "labels");
    }
    return 0;
}

static int parse_tombstones(const json_t *array, struct volume_record *ret, struct err *reterr)
{
    if (json_array_size(array) > RECORD_TOMBSTONES)
        return err_set(reterr, SNAP_ECORRUPT, "key 'tombstones': more than %d", RECORD_TOMBSTONES);
    for (size_t i = 0; i < json_array_size(array); i++) {
        struct record_tombstone t = {0};
        struct reader r = {.object = json_array_get(array, i), .reterr = reterr};
        get_uuid(&r, "id", &t.id);
        get_uuid(&r, "key", &t.key);
        int rc = reader_end(&r);
        if (rc < 0) {
            err_prefix(reterr, "tombstone %zu", i);
            return rc;
        }
        ret->tombstones[ret->tombstone_count++] = t;
    }
    return 0;
}

static void get_fingerprint(struct reader *r, struct volume_record *ret)
{
    char hex[2 * FINGERPRINT_BYTES_MAX + 1] = "";
    get_text(r, "fingerprint", hex, sizeof hex);
    size_t len = strlen(hex);
    if (len % 2 != 0 || strspn(hex, "0123456789abcdef") != len) {
        reader_fail(r, "fingerprint", "no hexadecimal bytes");
        return;
    }
    for (size_t i = 0; i < len / 2; i++) {
        unsigned byte = 0;
        (void)sscanf(hex + 2 * i, "%2x", &byte);
        ret->fingerprint[i] = (uint8_t)byte;
    }
    ret->fingerprint_bytes = (uint32_t)(len / 2);
}

/* What only hosted volumes have. */
static void get_hosted(struct reader *r, struct volume_record *ret)
{
    if (ret->kind != VOLUME_HOSTED)
        return;
    get_path(r, "origin_path", ret->origin_path);
    get_chunk_size(r, "chunk_size_sectors", &ret->chunk_size_sectors);
}

static int parse_rollback(const json_t *object, struct record_rollback *ret, struct err *reterr)
{
    struct reader r = {.object = object, .reterr = reterr};
    get_uuid(&r, "job", &ret->job);
    if (r.rc == 0 && uuid_is_zero(&ret->job))
        reader_fail(&r, "job", "nil");
    ret->to_seq = (uint32_t)get_u64(&r, "to_seq", UINT32_MAX - 1);
    ret->undo_seq = (uint32_t)get_u64(&r, "undo_seq", UINT32_MAX - 1);
    ret->merge = get_bool(&r, "merge");
    ret->drop_newer = get_bool(&r, "drop_newer");
    ret->cancelled = get_bool(&r, "cancelled");
    ret->started_s = (int64_t)get_u64(&r, "started_s", INT64_MAX);
    int rc = reader_end(&r);
    if (rc < 0)
        err_prefix(reterr, "rollback");
    return rc;
}

static int parse_lists(const json_t *snapshots, const json_t *labels, const json_t *tombstones,
                       struct volume_record *ret, struct err *reterr)
{
    uint32_t next_seq = ret->next_seq;
    int rc = parse_snapshots(snapshots, ret, reterr);
    if (rc == 0)
        rc = parse_labels(labels, ret, reterr);
    if (rc == 0)
        rc = parse_tombstones(tombstones, ret, reterr);
    if (rc == 0 && ret->next_seq > next_seq)
        rc = err_set(reterr, SNAP_ECORRUPT, "key 'next_seq': below a snapshot's seq");
    return rc;
}

static int parse_object(const json_t *root, struct volume_record *ret, struct err *reterr)
{
    struct reader r = {.object = root, .reterr = reterr};
    if (get_u64(&r, "format", INT64_MAX) != RECORD_FORMAT && r.rc == 0)
        return err_set(reterr, SNAP_ENOTSUP, "record format is not %d: a newer release wrote it",
                       RECORD_FORMAT);
    get_uuid(&r, "id", &ret->id);
    get_name(&r, "name", ret->name);
    ret->size_bytes = get_u64(&r, "size_bytes", LIMIT_VOLUME_BYTES);
    ret->kind = (enum volume_kind)get_choice(&r, "kind", record_kind_names, 2);
    ret->full_policy = (enum full_policy)get_choice(&r, "full_policy", record_policy_names, 2);
    ret->created_s = (int64_t)get_u64(&r, "created_s", INT64_MAX);
    ret->lease_epoch = get_u64(&r, "lease_epoch", INT64_MAX);
    get_text(&r, "lease_holder", ret->lease_holder, sizeof ret->lease_holder);
    get_uuid(&r, "lease_instance", &ret->lease_instance);
    if (has(&r, "lease_ttl_ms"))
        ret->lease_ttl_ms = (uint32_t)get_u64(&r, "lease_ttl_ms", UINT32_MAX);
    if (has(&r, "guard"))
        get_uuid(&r, "guard", &ret->guard);
    get_fingerprint(&r, ret);
    get_hosted(&r, ret);
    if (has(&r, "scrubbed_s"))
        ret->scrubbed_s = (int64_t)get_u64(&r, "scrubbed_s", INT64_MAX);
    ret->next_seq = (uint32_t)get_u64(&r, "next_seq", UINT32_MAX - 1);
    const json_t *snapshots = take(&r, "snapshots", JSON_ARRAY);
    const json_t *labels = take(&r, "labels", JSON_OBJECT);
    const json_t *tombstones = take(&r, "tombstones", JSON_ARRAY);
    const json_t *rollback = has(&r, "rollback") ? take(&r, "rollback", JSON_OBJECT) : NULL;
    int rc = reader_end(&r);
    if (rc == 0)
        rc = parse_lists(snapshots, labels, tombstones, ret, reterr);
    if (rc == 0 && rollback)
        rc = parse_rollback(rollback, &ret->rollback, reterr);
    return rc < 0 ? rc : volume_record_check(ret, reterr);
}

/* *bad: why not, of the text as it is. */
static json_t *load_text(const char *text, size_t len, char ret_renamed[RECORD_LABEL_BYTES],
                         json_error_t *bad)
{
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, bad);
    CLEANUP_FREE char *apart = NULL;
    size_t apart_len = 0;
    if (!root && json_error_code(bad) == json_error_duplicate_key &&
        record_labels_tell_apart(text, len, &apart, &apart_len, ret_renamed) == 0)
        root = json_loadb(apart, apart_len, JSON_REJECT_DUPLICATES, NULL);
    return root;
}

int volume_record_parse(const char *text, size_t len, struct volume_record *ret, struct err *reterr)
{
    json_error_t bad;
    char renamed[RECORD_LABEL_BYTES] = "";
    CLEANUP_JSON *root = load_text(text, len, renamed, &bad);
    if (!root)
        return err_set(reterr, SNAP_ECORRUPT, "line %d column %d: %s", bad.line, bad.column,
                       bad.text);
    if (!json_is_object(root))
        return err_set(reterr, SNAP_ECORRUPT, "line 1: no object");
    struct volume_record r;
    volume_record_init(&r);
    int rc = parse_object(root, &r, reterr);
    if (rc < 0) {
        volume_record_done(&r);
        return rc;
    }
    memcpy(r.label_renamed, renamed, sizeof renamed);
    *ret = r;
    return 0;
}
