/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the table: areas in order, many reads in flight.
 *
 * Where area k stands follows from k alone, so areas are read before it is known
 * that the table goes that far. The window begins at one read and doubles with
 * every full area: a short table costs one read, a long one runs at the device's
 * speed. Reads may complete in any order; areas are handed on in theirs.
 *
 *   ring:   [k: whole] [k+1: in flight] [k+2: whole] [k+3: in flight]
 *            ▲ next_give                                       ▲ next_read
 *
 * A read that fails counts only when the table turns out to go that far.
 *
 * It must not know what the entries mean. Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

#include <stdlib.h>

enum { SCAN_WINDOW_MAX = 32, SCAN_WINDOW_BYTES = 32 * 1024 * 1024 };

struct scan_read {
    struct cow_io io;
    uint8_t *buf;
    uint64_t area_no;
    int result;
    struct err err;
    bool whole;
};

struct cow_scan {
    cow_scan_fn *each;
    cow_scan_done_fn *done;
    void *user;
    uint64_t next_read, next_give, areas_end;
    unsigned window, window_max, inflight;
    bool stopped;
    int code;
    struct err err;
    struct scan_read ring[];
};

uint64_t cow_scan_areas_on_device(const struct cow_store *s)
{
    uint64_t chunks = blk_dev_info(s->dev)->size_bytes / s->g.chunk_bytes;

    return chunks < 2 ? 0 : (chunks - 2) / ((uint64_t)s->g.area_exceptions + 1) + 1;
}

void cow_scan_free(struct cow_scan *scan)
{
    if (!scan)
        return;
    for (unsigned i = 0; i < scan->window_max; i++)
        free(scan->ring[i].buf);
    free(scan);
}

static void scan_finish(struct cow_store *s)
{
    struct cow_scan *scan = s->scan;

    s->scan = NULL;
    scan->done(s, scan->user, scan->code, scan->code < 0 ? &scan->err : NULL);
    cow_scan_free(scan);
}

static void scan_stop(struct cow_scan *scan, int code)
{
    scan->stopped = true;
    scan->code = code;
}

static void scan_read_done(struct cow_store *s, struct cow_io *io, int result);

static void scan_fill_window(struct cow_store *s)
{
    struct cow_scan *scan = s->scan;

    while (!scan->stopped && scan->next_read < scan->areas_end &&
           scan->next_read - scan->next_give < scan->window) {
        struct scan_read *r = &scan->ring[scan->next_read % scan->window_max];

        if (!r->buf)
            r->buf = cow_store_alloc(s, s->g.chunk_bytes);
        if (!r->buf) {
            if (scan->next_read > scan->next_give) { /* go on with what there is */
                scan->window = (unsigned)(scan->next_read - scan->next_give);
                return;
            }
            scan_stop(scan, err_set(&scan->err, SNAP_ENOMEM, "no memory to read an area"));
            return;
        }
        r->area_no = scan->next_read++;
        r->whole = false;
        scan->inflight++;
        cow_io_read(s, &r->io, cow_area_chunk(&s->g, r->area_no) * s->g.chunk_bytes, r->buf,
                    s->g.chunk_bytes, scan_read_done);
    }
}

static void scan_give(struct cow_store *s)
{
    struct cow_scan *scan = s->scan;

    while (!scan->stopped && scan->next_give < scan->next_read) {
        struct scan_read *r = &scan->ring[scan->next_give % scan->window_max];
        int code = 0;

        if (!r->whole)
            return;
        if (r->result < 0) {
            scan_stop(scan, err_copy(&scan->err, &r->err));
            return;
        }
        if (scan->each(s, scan->user, r->area_no, r->buf, &code, &scan->err) == COW_SCAN_STOP) {
            scan_stop(scan, code);
            return;
        }
        scan->next_give++;
        scan->window = scan->window * 2 < scan->window_max ? scan->window * 2 : scan->window_max;
        if (scan->next_give == scan->areas_end)
            scan_stop(scan, COW_SCAN_OFF_END);
        scan_fill_window(s);
    }
}

static void scan_read_done(struct cow_store *s, struct cow_io *io, int result)
{
    struct scan_read *r = CONTAINER_OF(io, struct scan_read, io);
    struct cow_scan *scan = s->scan;

    scan->inflight--;
    r->whole = true;
    r->result = result;
    if (result < 0)
        cow_io_err(s, io, result, "read area", r->area_no, &r->err);
    scan_give(s);
    if (scan->stopped && scan->inflight == 0)
        scan_finish(s);
}

void cow_scan_start(struct cow_store *s, cow_scan_fn *each, cow_scan_done_fn *done, void *user)
{
    uint32_t window_max = (uint32_t)(SCAN_WINDOW_BYTES / s->g.chunk_bytes);
    struct cow_scan *scan;
    struct err err = ERR_INIT;

    window_max = window_max < 2 ? 2 : window_max > SCAN_WINDOW_MAX ? SCAN_WINDOW_MAX : window_max;
    scan = calloc(1, sizeof *scan + window_max * sizeof scan->ring[0]);
    if (!scan) {
        done(s, user, err_set(&err, SNAP_ENOMEM, "no memory to read the table"), &err);
        return;
    }
    scan->each = each;
    scan->done = done;
    scan->user = user;
    scan->window = 1;
    scan->window_max = window_max;
    scan->areas_end = cow_scan_areas_on_device(s);
    s->scan = scan;
    if (scan->areas_end == 0)
        scan_stop(scan, COW_SCAN_OFF_END);
    scan_fill_window(s);
    if (scan->stopped)
        scan_finish(s);
}
