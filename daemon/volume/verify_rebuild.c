/* SPDX-License-Identifier: Apache-2.0 */
/* New checksums for what stands there.
 *
 *   no side file, or one of before:  puts wait ──> close ──> open with a new one ──> puts go on
 *   at the end:                      flush each node whose checksums were made anew
 *
 * That the checksums themselves are made is verify_batch.c's. Thread: the shard's.
 */
#include "daemon/volume/verify_priv.h"

#include "daemon/volume/put.h"

/* -- a new side file ------------------------------------------------------------------ */

static void verify_rebuilt(struct verify *y, int code, const struct err *err)
{
    struct snapshot *s = y->rebuilding;
    y->rebuilding = NULL;
    s->busy = false;
    volume_put_resume(y->volume);
    if (code < 0 || !sum_dev_is(s->dev))
        verify_end(y, JOB_FAILED, code < 0 ? err->text : s->sums_text);
    else
        verify_go_on(y);
}

static void verify_reopened(void *user, int code, const struct err *err)
{
    struct verify *y = user;
    struct snapshot *s = y->rebuilding;
    if (code < 0) {
        s->sums_create = false; /* whoever opens it next takes those that there are */
        snapshot_open_later(s);
    }
    verify_rebuilt(y, code, err);
}

static void verify_closed(void *user, int code, const struct err *err)
{
    struct verify *y = user;
    if (code < 0) { /* its exceptions could not leave the map */
        verify_rebuilt(y, code, err);
        return;
    }
    y->rebuilding->sums_create = true;
    snapshot_open(y->rebuilding, verify_reopened, y);
}

void verify_rebuild(struct verify *y)
{
    y->rebuilding->busy = true;
    snapshot_close(y->rebuilding, true, verify_closed, y);
}

/* -- making them durable -------------------------------------------------------------------- */

static void verify_flushed(struct blk_req *req, int result)
{
    struct verify *y = req->user;
    struct snapshot *s = y->held;
    y->held = NULL;
    if (result < 0) {
        struct err err = ERR_INIT;
        (void)err_set_errno(&err, result, req->sys_errno, "flush new checksums");
        snapshot_flush_failed(s, &err);
        snapshot_reader_end(s);
        verify_end(y, JOB_FAILED, "new checksums could not be made durable");
        return;
    }
    snapshot_reader_end(s);
    verify_go_on(y);
}

bool verify_flush(struct verify *y)
{
    struct volume *v = y->volume;
    struct snapshot *s;
    struct snapshot_list *lists[] = {&v->chain, &v->clones};
    for (unsigned i = 0; i < 2; i++)
        TAILQ_FOREACH (s, lists[i], link) {
            if (!s->sums_unflushed)
                continue;
            s->sums_unflushed = false;
            if (s->dev == NULL || s->phase == SNAPSHOT_CLOSING)
                continue;
            y->held = s;
            snapshot_reader_begin(s);
            y->flush = (struct blk_req){.op = BLK_FLUSH, .done = verify_flushed, .user = y};
            blk_submit(s->dev, &y->flush);
            return true;
        }
    return false;
}
