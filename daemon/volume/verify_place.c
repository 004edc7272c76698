/* SPDX-License-Identifier: Apache-2.0 */
/* Faulty exceptions are looked up in the tables on disk, area by area, so that people can look
 * there: what does not match its checksum may be the content or the entry.
 *
 *   areas    0 … [start] … last        in this order:  start, start-1 … 0, last … start+1
 *
 * A store gives its chunks out in the order of the table, so an entry stands where its new_chunk
 * says, or somewhat before that, if chunks were given out in vain. The rest is for tables that
 * others wrote. A node is done when each of its faults has its place. One that goes meanwhile is
 * passed over; an entry that is not there any more stays without a place.
 *
 * It must not know what is wrong with them. Thread: the shard's.
 */
#include "daemon/volume/verify_place.h"

#include "common/base/bytes.h"
#include "common/cow/cow_disk.h"
#include "daemon/volume/change.h"

#include <stdlib.h>

static int place_by_old(const void *key, const void *element)
{
    const struct cow_exception *x = key;
    const struct verify_fault *const *f = element;
    return x->old_chunk < (*f)->old_chunk ? -1 : x->old_chunk > (*f)->old_chunk;
}

static void place_compare(struct verify_place *p, const struct cow_geometry *g, uint64_t area_no)
{
    for (uint32_t i = 0; i < g->area_exceptions && p->wanted_left > 0; i++) {
        struct cow_exception x;
        cow_exception_decode(&x, p->area, i);
        if (x.new_chunk == 0)
            return;
        struct verify_fault **at =
            bsearch(&x, p->wanted, p->wanted_count, sizeof p->wanted[0], place_by_old);
        if (at == NULL || (*at)->new_chunk != x.new_chunk || (*at)->placed)
            continue;
        (*at)->placed = true;
        (*at)->area_no = area_no;
        (*at)->entry = i;
        p->wanted_left--;
    }
}

static uint64_t place_area(const struct verify_place *p)
{
    return (p->start + p->areas - p->looked) % p->areas;
}

static void place_read(struct blk_req *req, int result)
{
    struct verify_place *p = req->user;
    struct snapshot *s = p->node;
    p->node = NULL;
    if (result == 0 && s->store != NULL)
        place_compare(p, cow_store_geometry(s->store), place_area(p));
    p->looked++;
    snapshot_reader_end(s);
    p->done(p->user);
}

/* -- nodes, one after another ---------------------------------------------------------- */

/* Of the faults at hand. NULL: it is not open. */
static struct snapshot *place_node(const struct verify_place *p)
{
    struct snapshot *s = volume_snapshot_find(p->volume, &p->wanted[0]->snapshot);
    return s != NULL && snapshot_is_open(s) ? s : NULL;
}

/* Gather the faults of the next node that has some. False: there is none. */
static bool place_next_node(struct verify_place *p)
{
    const struct verify_found *found = p->found;
    uint64_t new_max = 0;
    p->wanted_count = 0;
    p->areas = p->looked = 0;
    for (uint32_t i = p->next; i < found->fault_count; i++) {
        struct verify_fault *f = &found->faults[i];
        if (!f->entry_suspect || f->sought ||
            (p->wanted_count > 0 && !uuid_equal(&f->snapshot, &p->wanted[0]->snapshot)))
            continue;
        if (p->wanted_count == 0)
            p->next = i + 1;
        f->sought = true;
        new_max = u64_max(new_max, f->new_chunk);
        p->wanted[p->wanted_count++] = f;
    }
    p->wanted_left = p->wanted_count;
    const struct snapshot *s = p->wanted_count > 0 ? place_node(p) : NULL;
    if (s != NULL) {
        struct cow_usage u;
        cow_store_usage(s->store, &u);
        p->areas = u.exceptions / u.geometry.area_exceptions + 1;
        p->start = u64_min(new_max / (u.geometry.area_exceptions + 1) + 1, p->areas - 1);
    }
    return p->wanted_count > 0;
}

static void place_submit(struct verify_place *p, struct snapshot *s)
{
    const struct cow_geometry *g = cow_store_geometry(s->store);
    p->node = s;
    p->req = (struct blk_req){.op = BLK_READ,
                              .flags = BLK_MEDIUM,
                              .offset_bytes = cow_area_chunk(g, place_area(p)) * g->chunk_bytes,
                              .len_bytes = g->chunk_bytes,
                              .data = p->area,
                              .done = place_read,
                              .user = p};
    snapshot_reader_begin(s);
    blk_submit(s->dev, &p->req);
}

bool verify_place_step(struct verify_place *p)
{
    for (;;) {
        bool more = p->wanted_left > 0 && p->looked < p->areas;
        struct snapshot *s = more ? place_node(p) : NULL;
        if (s != NULL) {
            place_submit(p, s);
            return true;
        }
        if (!place_next_node(p))
            return false;
    }
}
