/* SPDX-License-Identifier: Apache-2.0 */
/* What a verification has found: counted by kind, the first VERIFY_FAULTS_MAX with their places;
 * and how it is told: to the job's status, to the log, to the nodes themselves.
 *
 * It must not know how anything was compared. Thread: the shard's.
 */
#include "daemon/volume/verify_found.h"

#include "common/base/bytes.h"

#include <stdio.h>
#include <stdlib.h>

enum { VERIFY_FAULTS_TOLD = 20 }; /* in the log */

bool verify_found_init(struct verify_found *f)
{
    *f = (struct verify_found){.faults = calloc(VERIFY_FAULTS_MAX, sizeof *f->faults)};
    return f->faults != NULL;
}

void verify_found_done(struct verify_found *f)
{
    free(f->faults);
    f->faults = NULL;
}

void verify_found_add(struct verify_found *f, const struct verify_fault *fault)
{
    uint64_t *counters[] = {[VERIFY_DIFFERS] = &f->differs,   [VERIFY_OLDER] = &f->older,
                            [VERIFY_IN_DOUBT] = &f->in_doubt, [VERIFY_UNREADABLE] = &f->unreadable,
                            [VERIFY_ENTRY] = &f->entries,     [VERIFY_DAMAGED] = &f->damaged};
    ++*counters[fault->kind];
    if (f->fault_count < VERIFY_FAULTS_MAX)
        f->faults[f->fault_count++] = *fault;
}

uint64_t verify_found_total(const struct verify_found *f)
{
    return f->differs + f->older + f->in_doubt + f->unreadable + f->entries + f->damaged;
}

/* -- telling ----------------------------------------------------------------------------- */

static const char *fault_what(const struct verify_fault *f)
{
    switch (f->kind) {
    case VERIFY_DIFFERS:
        return f->entry_suspect
                   ? "differs from its checksum: the disk has changed it, or its entry in the table"
                   : "differs from its checksum: the disk has changed it";
    case VERIFY_OLDER:
        return "holds what it held before: the disk has lost a write";
    case VERIFY_IN_DOUBT:
        return "differs from its checksum, but was being overwritten when the machine stopped: if "
               "its content is sound, rebuild";
    case VERIFY_UNREADABLE:
        return "cannot be read";
    case VERIFY_ENTRY:
        return "the disk has changed its entry in the table: what stands there is sound, but it is "
               "of old_chunk ";
    case VERIFY_DAMAGED:
        break;
    }
    return "damaged, not compared: ";
}

const char *verify_fault_format(struct volume *v, const struct verify_fault *f, char *buf,
                                size_t buf_bytes)
{
    char place[64] = "", meant[24] = "";
    const struct snapshot *s = volume_snapshot_find(v, &f->snapshot);
    const struct record_snapshot *rs = s != NULL ? snapshot_record(s) : NULL;
    if (f->kind == VERIFY_DAMAGED) {
        (void)snprintf(buf, buf_bytes, "%s@%s: %s%s", v->record.name,
                       rs != NULL ? rs->name : "(gone)", fault_what(f),
                       s != NULL ? s->fault_text : "");
        return buf;
    }
    if (f->placed)
        (void)snprintf(place, sizeof place, " (area %llu, entry %u)",
                       (unsigned long long)f->area_no, f->entry);
    if (f->kind == VERIFY_ENTRY)
        (void)snprintf(meant, sizeof meant, "%llu", (unsigned long long)f->meant_old);
    (void)snprintf(buf, buf_bytes, "%s@%s: old_chunk %llu, new_chunk %llu%s: %s%s", v->record.name,
                   rs != NULL ? rs->name : "(gone)", (unsigned long long)f->old_chunk,
                   (unsigned long long)f->new_chunk, place, fault_what(f), meant);
    return buf;
}

void verify_found_format(const struct verify_found *f, char *buf, size_t buf_bytes)
{
    const struct {
        uint64_t count;
        const char *text;
    } parts[] = {
        {f->differs, "differ from their checksums"},
        {f->older, "hold older content"},
        {f->in_doubt, "were being overwritten when the machine stopped"},
        {f->unreadable, "cannot be read"},
        {f->entries, "have a damaged entry in the table"},
        {f->damaged, "are damaged snapshots, which were not compared"},
        {f->missing, "have no checksum (rebuild makes them)"},
        {f->rebuilt, "were given a new checksum"},
    };
    int n = snprintf(buf, buf_bytes, "%llu faults", (unsigned long long)verify_found_total(f));
    for (size_t i = 0; i < ARRAY_LEN(parts) && n >= 0; i++)
        if (parts[i].count > 0 && (size_t)n < buf_bytes)
            n += snprintf(buf + n, buf_bytes - (size_t)n, "; %llu %s",
                          (unsigned long long)parts[i].count, parts[i].text);
}

void verify_found_tell(const struct verify_found *f, struct volume *v)
{
    struct err err = ERR_INIT;
    char text[ERR_TEXT_BYTES];
    if (verify_found_total(f) == 0)
        return;
    verify_found_format(f, text, sizeof text);
    (void)err_set(&err, SNAP_ECORRUPT, "%s", text);
    volume_notice(v, NULL, "verification found faults", &err);
    for (uint32_t i = 0; i < f->fault_count && i < VERIFY_FAULTS_TOLD; i++) {
        (void)err_set(&err, SNAP_ECORRUPT, "%s",
                      verify_fault_format(v, &f->faults[i], text, sizeof text));
        volume_notice(v, NULL, "damaged content", &err);
    }
}

bool verify_covers(const struct uuid *what, const struct snapshot *s)
{
    return uuid_is_zero(what) || uuid_equal(what, &s->id);
}

void verify_found_mark(const struct verify_found *f, struct volume *v, const struct uuid *what,
                       bool all_compared)
{
    struct snapshot_list *lists[] = {&v->chain, &v->clones};
    struct snapshot *s;
    for (unsigned i = 0; i < 2 && all_compared; i++)
        TAILQ_FOREACH (s, lists[i], link)
            s->faulty = s->faulty && !verify_covers(what, s);
    for (uint32_t i = 0; i < f->fault_count; i++) {
        s = volume_snapshot_find(v, &f->faults[i].snapshot);
        if (s != NULL && f->faults[i].kind != VERIFY_DAMAGED)
            s->faulty = true;
    }
}
