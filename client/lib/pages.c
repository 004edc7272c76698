/* SPDX-License-Identifier: Apache-2.0 */
/* Lists that are longer than one answer, gathered: the caller sees the whole.
 *
 *   ask ──> page ──> `next`: ask behind it
 *             └──> none: volumes whose snapshots did not all come with them, one after another:
 *                        ask ──> page ──> `more`: ask behind the last seq
 *                                  └──> none: next volume … ──> deliver
 *
 * Each page is a request of its own, so what changes meanwhile may be seen or not. An answer has
 * to get ahead: a cursor or seq that does not grow is refused, and so is a list that does not
 * end. A daemon that knows no pages answers all at once. Thread: the client's.
 */
#include "client/lib/face_priv.h"
#include "common/base/limits.h"

#include <stdlib.h>
#include <string.h>

enum {
    PAGE_MAX = 1024,             /* entries asked for; the daemon may give fewer */
    PAGES_ENTRIES_MAX = 1 << 20, /* of everything that is kept */
};

struct items {
    const void **p;
    size_t count, room;
};

struct pages {
    struct snapwire_client *client;
    enum pages_of what;
    struct snapwire_uuid volume;
    struct call_to to;
    void *root;         /* the first page, from which the others hang */
    struct items items; /* of a list */
    size_t kept;        /* entries and snapshots */
    uint8_t after[PAGES_CURSOR_BYTES_MAX];
    size_t after_bytes;
    /* a volume whose snapshots are gathered */
    bool listed;               /* all items are there: these are their snapshots */
    size_t at;                 /* in items */
    struct volume_page *whole; /* NULL: the first page of the one asked for is to come */
    struct items snapshots;
};

static int items_add(struct pages *p, struct items *items, const void *const *more, size_t count,
                     struct err *reterr)
{
    if (count > PAGES_ENTRIES_MAX - p->kept)
        return err_set(reterr, SNAP_ELIMIT, "the daemon's list has more than %d entries",
                       (int)PAGES_ENTRIES_MAX);
    if (items->count + count > items->room) {
        const size_t room = (items->count + count) * 2;
        const void **grown = realloc(items->p, room * sizeof *grown);
        if (grown == NULL)
            return err_set(reterr, SNAP_ENOMEM, "out of memory for a list");
        items->p = grown;
        items->room = room;
    }
    if (count > 0)
        memcpy(items->p + items->count, more, count * sizeof *more);
    items->count += count;
    p->kept += count;
    return 0;
}

/* The page hangs from the root, or is it. */
static void pages_keep(struct pages *p, void *page)
{
    if (p->root == NULL)
        p->root = page;
    else
        result_adopt(p->root, page);
}

static void pages_free(struct pages *p)
{
    snapwire_free(p->root);
    free(p->items.p);
    free(p->snapshots.p);
    free(p);
}

static void pages_end(struct pages *p, const struct err *err)
{
    void *result = err == NULL ? p->root : NULL;

    if (err == NULL)
        p->root = NULL;
    p->to.deliver(&p->to, err, result);
    pages_free(p);
}

/* -- the snapshots of one volume ---------------------------------------------------- */

static const struct snapwire_snapshot *snapshot_at(const struct pages *p, size_t i)
{
    return p->snapshots.p[i];
}

static uint32_t last_seq(const struct pages *p)
{
    return p->snapshots.count > 0 ? snapshot_at(p, p->snapshots.count - 1)->seq : 0;
}

/* page: more of p->whole's, or itself the first of them. */
static int snapshots_add(struct pages *p, const struct volume_page *page, struct err *reterr)
{
    const struct snapwire_volume *v = &page->volume;
    const bool pages = page->more || p->snapshots.count > 0;
    uint32_t last = last_seq(p);

    if ((page->more && v->snapshot_count == 0 && p->whole != page) ||
        v->snapshot_count > LIMIT_SNAPSHOTS - p->snapshots.count)
        return pb_refuse(reterr, "volume in pages");
    for (size_t i = 0; i < v->snapshot_count; i++) {
        if (pages && v->snapshots[i]->seq <= last)
            return pb_refuse(reterr, "volume in pages");
        last = v->snapshots[i]->seq;
    }
    return items_add(p, &p->snapshots, (const void *const *)v->snapshots, v->snapshot_count,
                     reterr);
}

/* All are there: the chain's first, then the clones, each oldest first. */
static int snapshots_end(struct pages *p, struct err *reterr)
{
    const size_t count = p->snapshots.count;
    const struct snapwire_snapshot **all = result_alloc(p->root, count, sizeof *all);
    size_t n = 0;

    if (all == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a list");
    for (int clones = 0; clones < 2; clones++)
        for (size_t i = 0; i < count; i++)
            if (snapshot_at(p, i)->writable == (clones != 0))
                all[n++] = snapshot_at(p, i);
    p->whole->volume.snapshots = all;
    p->whole->volume.snapshot_count = n;
    p->whole->more = false;
    p->snapshots.count = 0;
    return 0;
}

/* -- asking ------------------------------------------------------------------------- */

static void pages_got(const struct call_to *to, const struct err *err, void *result);

static int pages_ask_volume(struct pages *p, const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__VolumeRef m = SNAPWIRE__V1__VOLUME_REF__INIT;

    m.volume = pb_uuid(p->whole != NULL ? &p->whole->volume.id : &p->volume);
    m.after_seq = last_seq(p);
    m.snapshots_max = PAGE_MAX;
    return call_begin(p->client,
                      &(struct call_spec){
                          .method = M(VOLUME_SHOW), .message = &m.base, .convert = convert_volume},
                      to, reterr);
}

static int pages_ask(struct pages *p, struct err *reterr)
{
    const struct call_to to = {.deliver = pages_got, .user = p};
    Snapwire__V1__VolumeListRequest m = SNAPWIRE__V1__VOLUME_LIST_REQUEST__INIT;
    struct call_spec spec = {.message = &m.base};

    if (p->what == PAGES_OF_VOLUME || p->listed)
        return pages_ask_volume(p, &to, reterr);
    m.volume = pb_uuid(&p->volume);
    m.after = (ProtobufCBinaryData){.data = p->after, .len = p->after_bytes};
    m.max = PAGE_MAX;
    switch (p->what) {
    case PAGES_OF_GRANTS:
        spec.method = M(GRANT_LIST);
        spec.convert = convert_grant_list;
        break;
    case PAGES_OF_JOBS:
        spec.method = M(JOB_LIST);
        spec.convert = convert_job_list;
        break;
    default:
        spec.method = M(VOLUME_LIST);
        spec.convert = convert_volume_list;
        break;
    }
    return call_begin(p->client, &spec, &to, reterr);
}

/* -- answers ------------------------------------------------------------------------ */

/* The list is complete. */
static int list_end(struct pages *p, struct err *reterr)
{
    struct list_page *root = p->root;
    const void **all = result_alloc(root, p->items.count, sizeof *all);

    if (all == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a list");
    if (p->items.count > 0)
        memcpy(all, p->items.p, p->items.count * sizeof *all);
    switch (p->what) {
    case PAGES_OF_GRANTS:
        root->list.grants.grants = (const struct snapwire_grant *const *)all;
        root->list.grants.count = p->items.count;
        break;
    case PAGES_OF_JOBS:
        root->list.jobs.jobs = (const struct snapwire_job *const *)all;
        root->list.jobs.count = p->items.count;
        break;
    default:
        root->list.volumes.volumes = (const struct snapwire_volume *const *)all;
        root->list.volumes.count = p->items.count;
        break;
    }
    return 0;
}

/* On to the next volume that lacks snapshots. 1: ask; 0: none is left. */
static int list_complete(struct pages *p, struct err *reterr)
{
    p->listed = true;
    for (; p->what == PAGES_OF_VOLUMES && p->at < p->items.count; p->at++) {
        /* the list is ours, whatever its readers may do */
        p->whole = (struct volume_page *)(uintptr_t)p->items.p[p->at];
        const bool more = p->whole->more;
        int r = snapshots_add(p, p->whole, reterr);
        if (r == 0 && more)
            return 1;
        if (r == 0)
            r = snapshots_end(p, reterr);
        if (r < 0)
            return r;
    }
    return list_end(p, reterr);
}

/* 1: ask again. */
static int got_list(struct pages *p, struct list_page *page, struct err *reterr)
{
    const size_t bytes = page->next_bytes;
    const size_t shorter = bytes < p->after_bytes ? bytes : p->after_bytes;
    const void *const *more = NULL;
    size_t count = 0;

    switch (p->what) {
    case PAGES_OF_GRANTS:
        more = (const void *const *)page->list.grants.grants;
        count = page->list.grants.count;
        break;
    case PAGES_OF_JOBS:
        more = (const void *const *)page->list.jobs.jobs;
        count = page->list.jobs.count;
        break;
    default:
        more = (const void *const *)page->list.volumes.volumes;
        count = page->list.volumes.count;
        break;
    }
    int r = items_add(p, &p->items, more, count, reterr);
    if (r < 0)
        return r;
    if (bytes == 0)
        return list_complete(p, reterr);
    r = memcmp(page->next, p->after, shorter);
    if (r < 0 || (r == 0 && bytes <= p->after_bytes))
        return pb_refuse(reterr, "list in pages");
    memcpy(p->after, page->next, bytes);
    p->after_bytes = bytes;
    return 1;
}

/* 1: ask again. */
static int got_volume(struct pages *p, struct volume_page *page, struct err *reterr)
{
    const bool more = page->more;

    if (p->whole == NULL)
        p->whole = page;
    int r = snapshots_add(p, page, reterr);
    if (r == 0 && !more)
        r = snapshots_end(p, reterr);
    if (r < 0 || more)
        return r < 0 ? r : 1;
    if (!p->listed)
        return 0;
    p->at++;
    return list_complete(p, reterr);
}

/* The volume went away while the others were listed. */
static int got_no_volume(struct pages *p, struct err *reterr)
{
    memmove(p->items.p + p->at, p->items.p + p->at + 1,
            (p->items.count - p->at - 1) * sizeof *p->items.p);
    p->items.count--;
    p->snapshots.count = 0;
    return list_complete(p, reterr);
}

static void pages_got(const struct call_to *to, const struct err *err, void *result)
{
    struct pages *p = to->user;
    struct err why = ERR_INIT;
    int r;

    if (err != NULL && p->listed && (err->code == SNAP_ENOENT || err->code == SNAP_EPERM)) {
        r = got_no_volume(p, &why);
    } else if (err != NULL) {
        pages_end(p, err);
        return;
    } else {
        pages_keep(p, result);
        r = p->what == PAGES_OF_VOLUME || p->listed ? got_volume(p, result, &why)
                                                    : got_list(p, result, &why);
    }
    if (r > 0)
        r = pages_ask(p, &why);
    else if (r == 0) {
        pages_end(p, NULL);
        return;
    }
    if (r < 0)
        pages_end(p, &why);
}

int pages_begin(struct snapwire_client *client, enum pages_of what,
                const struct snapwire_uuid *volume, const struct call_to *to, struct err *reterr)
{
    struct pages *p = calloc(1, sizeof *p);

    if (p == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a request");
    p->client = client;
    p->what = what;
    p->to = *to;
    if (volume != NULL)
        p->volume = *volume;
    const int r = pages_ask(p, reterr);
    if (r < 0)
        pages_free(p);
    return r;
}
