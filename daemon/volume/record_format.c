/* SPDX-License-Identifier: Apache-2.0 */
/* Writing the text form of volume records: JSON, one snapshot a line.
 *
 *   {"format": 1,
 *    "id": …, "name": …,
 *    "snapshots": [
 *     {"id": …, "name": …, "seq": 1, …},
 *     {"id": …, "name": …, "seq": 2, …}],
 *    "labels": {…}, "tombstones": […]}
 *
 * A record is written at every structural change, and may list tens of thousands of snapshots:
 * so lines are put together here and no tree of JSON values is made; the library is asked only
 * for texts that need escapes. For the same reason a hosted volume's snapshots leave out flags
 * that are not set and the name of their own file. A remote volume's do not: an older release,
 * which would read its record, wants them.
 */
#include "daemon/volume/record_text.h"

#include "common/base/cleanup.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_ROOM_MIN = 4096 };

struct text {
    char *p;
    size_t len, room;
    int rc; /* the first error; nothing is put behind it */
};

static bool text_reserve(struct text *t, size_t more)
{
    if (t->rc < 0 || t->room - t->len > more)
        return t->rc == 0;
    size_t room = t->room * 2 > t->len + more ? t->room * 2 : t->len + more + TEXT_ROOM_MIN;
    char *grown = realloc(t->p, room);
    if (!grown) {
        t->rc = SNAP_ENOMEM;
        return false;
    }
    t->p = grown;
    t->room = room;
    return true;
}

static void text_put(struct text *t, const char *s, size_t len)
{
    if (!text_reserve(t, len))
        return;
    memcpy(t->p + t->len, s, len);
    t->len += len;
    t->p[t->len] = '\0';
}

SNAP_PRINTF(2, 3) static void text_printf(struct text *t, const char *fmt, ...)
{
    enum { PIECE_BYTES = 512 };
    if (!text_reserve(t, PIECE_BYTES))
        return;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->p + t->len, PIECE_BYTES, fmt, ap);
    va_end(ap);
    if (n < 0 || n >= PIECE_BYTES)
        t->rc = SNAP_ELIMIT;
    else
        t->len += (size_t)n;
}

static bool is_plain(const char *s)
{
    for (; *s != '\0'; s++)
        if (*s < ' ' || *s > '~' || *s == '"' || *s == '\\')
            return false;
    return true;
}

/* A text in quotes. */
static void text_quote(struct text *t, const char *s)
{
    if (is_plain(s)) {
        text_put(t, "\"", 1);
        text_put(t, s, strlen(s));
        text_put(t, "\"", 1);
        return;
    }
    json_t *value = json_string(s);
    if (!value) { /* or no memory, which the next piece will find out too */
        t->rc = t->rc < 0 ? t->rc : SNAP_EINVAL;
        return;
    }
    CLEANUP_FREE char *quoted = json_dumps(value, JSON_ENCODE_ANY);
    json_decref(value);
    if (quoted)
        text_put(t, quoted, strlen(quoted));
    else
        t->rc = t->rc < 0 ? t->rc : SNAP_ENOMEM;
}

static void text_key(struct text *t, const char *key, const char *value)
{
    text_printf(t, "\"%s\": ", key);
    text_quote(t, value);
}

/* -- the parts ------------------------------------------------------------------- */

static const char *word(bool b)
{
    return b ? "true" : "false";
}

static bool is_own_file(const struct record_snapshot *s, const char *id)
{
    size_t len = strlen(id);
    return strncmp(s->cow_path, id, len) == 0 && strcmp(s->cow_path + len, ".cow") == 0;
}

static void put_flag(struct text *t, const char *key, bool value, bool always)
{
    if (value || always)
        text_printf(t, ", \"%s\": %s", key, word(value));
}

static void put_snapshot(struct text *t, const struct record_snapshot *s, bool all)
{
    char id[UUID_TEXT_BYTES];
    text_printf(t,
                "{\"id\": \"%s\", \"name\": \"%s\", \"seq\": %" PRIu32 ", \"created_s\": %" PRId64
                ", \"chunk_size_sectors\": %" PRIu32 ", \"limit_bytes\": %" PRIu64,
                uuid_format(&s->id, id), s->name, s->seq, s->created_s, s->chunk_size_sectors,
                s->limit_bytes);
    put_flag(t, "hidden", s->hidden, all);
    put_flag(t, "merging", s->merging, all);
    put_flag(t, "unverified", s->unverified, all);
    put_flag(t, "broken", s->broken, false);
    put_flag(t, "lost", s->lost, false);
    if (all || !is_own_file(s, id)) {
        text_put(t, ", ", 2);
        text_key(t, "cow_path", s->cow_path);
    }
    if (s->clone)
        text_printf(t, ", \"clone\": true, \"parent_seq\": %" PRIu32, s->parent_seq);
    put_flag(t, "undo", s->undo, false);
    if (!uuid_is_zero(&s->group))
        text_printf(t, ", \"group\": \"%s\"", uuid_format(&s->group, id));
    put_flag(t, "grouped", s->grouped, false);
    text_put(t, "}", 1);
}

static void put_rollback(struct text *t, const struct record_rollback *b)
{
    char id[UUID_TEXT_BYTES];
    if (uuid_is_zero(&b->job))
        return;
    text_printf(
        t,
        ",\n \"rollback\": {\"job\": \"%s\", \"to_seq\": %" PRIu32 ", \"undo_seq\": %" PRIu32
        ", \"merge\": %s, \"drop_newer\": %s, \"cancelled\": %s, \"started_s\": %" PRId64 "}",
        uuid_format(&b->job, id), b->to_seq, b->undo_seq, word(b->merge), word(b->drop_newer),
        word(b->cancelled), b->started_s);
}

static void put_lease(struct text *t, const struct volume_record *r)
{
    char id[UUID_TEXT_BYTES], hex[2 * FINGERPRINT_BYTES_MAX + 1] = "";
    for (uint32_t i = 0; i < r->fingerprint_bytes; i++)
        (void)snprintf(hex + (size_t)2 * i, 3, "%02x", r->fingerprint[i]);
    text_printf(t, ",\n \"lease_epoch\": %" PRIu64 ", ", r->lease_epoch);
    text_key(t, "lease_holder", r->lease_holder);
    text_printf(t, ", \"lease_instance\": \"%s\", \"fingerprint\": \"%s\"",
                uuid_format(&r->lease_instance, id), hex);
    if (r->lease_ttl_ms != 0 && r->lease_holder[0] != '\0')
        text_printf(t, ", \"lease_ttl_ms\": %" PRIu32, r->lease_ttl_ms);
    if (!uuid_is_zero(&r->guard))
        text_printf(t, ", \"guard\": \"%s\"", uuid_format(&r->guard, id));
}

static void put_head(struct text *t, const struct volume_record *r)
{
    char id[UUID_TEXT_BYTES];
    text_printf(t,
                "{\"format\": %d,\n \"id\": \"%s\", \"name\": \"%s\", \"size_bytes\": %" PRIu64
                ", \"kind\": \"%s\", \"full_policy\": \"%s\", \"created_s\": %" PRId64,
                RECORD_FORMAT, uuid_format(&r->id, id), r->name, r->size_bytes,
                record_kind_names[r->kind], record_policy_names[r->full_policy], r->created_s);
    if (r->kind == VOLUME_HOSTED) {
        text_put(t, ",\n ", 3);
        text_key(t, "origin_path", r->origin_path);
        text_printf(t, ", \"chunk_size_sectors\": %" PRIu32, r->chunk_size_sectors);
    }
    if (r->scrubbed_s != 0)
        text_printf(t, ", \"scrubbed_s\": %" PRId64, r->scrubbed_s);
    put_lease(t, r);
    put_rollback(t, &r->rollback);
    text_printf(t, ",\n \"next_seq\": %" PRIu32, r->next_seq);
}

static void put_record(struct text *t, const struct volume_record *r)
{
    char id[UUID_TEXT_BYTES], key[UUID_TEXT_BYTES];
    put_head(t, r);
    text_printf(t, ",\n \"snapshots\": [");
    for (uint32_t i = 0; i < r->snapshot_count; i++) {
        text_printf(t, i > 0 ? ",\n  " : "\n  ");
        put_snapshot(t, &r->snapshots[i], r->kind == VOLUME_REMOTE);
    }
    text_printf(t, "],\n \"labels\": {");
    for (uint32_t i = 0; i < r->label_count; i++) {
        text_printf(t, i > 0 ? ", " : "");
        text_quote(t, r->labels[i].key);
        text_printf(t, ": ");
        text_quote(t, r->labels[i].value);
    }
    text_printf(t, "},\n \"tombstones\": [");
    for (uint32_t i = 0; i < r->tombstone_count; i++)
        text_printf(t, "%s{\"id\": \"%s\", \"key\": \"%s\"}", i > 0 ? ",\n  " : "\n  ",
                    uuid_format(&r->tombstones[i].id, id), uuid_format(&r->tombstones[i].key, key));
    text_printf(t, "]}\n");
}

int volume_record_format(const struct volume_record *r, char **ret_text, size_t *ret_len,
                         struct err *reterr)
{
    struct text t = {0};
    put_record(&t, r);
    if (t.rc < 0) {
        free(t.p);
        return err_set(reterr, t.rc, "record of volume '%s'%s", r->name,
                       t.rc == SNAP_EINVAL ? ": a label or path is no UTF-8" : "");
    }
    *ret_text = t.p;
    *ret_len = t.len;
    return 0;
}
