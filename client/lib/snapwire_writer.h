/* SPDX-License-Identifier: Apache-2.0 */
/* libsnapwire, for the writer of a remote volume: its lease, the stream of old content, the
 * merge that rolls its origin back.
 *
 * Included by snapwire.h, at its end; include that one. All that it says of faces, errors,
 * results, arguments and reconnecting holds here too.
 */
#ifndef SNAPWIRE_WRITER_H
#define SNAPWIRE_WRITER_H

#ifndef SNAPWIRE_H
#error "include snapwire.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* -- the writer's lease ---------------------------------------------------------- */

/* A volume has one writer. The library keeps the lease alive, and after a reconnect takes
 * it up again with the same instance and epoch:
 *
 *   acquiring ──> held <──(answer in time)──> lapsed ──> lost
 *                  └────────(fenced by another)───────────^
 *
 * *lapsed*: the time the daemon promised has passed without an answer; another may be
 * writing. Writers must look at snapwire_lease_valid() before each origin write: it turns
 * false at that moment, by the local clock, whether or not the loop runs. */
struct snapwire_lease;

struct snapwire_lease_info {
    struct snapwire_uuid volume;
    struct snapwire_uuid instance;
    uint64_t epoch;
    struct snapwire_uuid head; /* zero: the volume has no snapshot */
    const char *head_name;
    uint32_t ttl_ms;
    uint32_t chunk_size_sectors;
    uint64_t size_bytes; /* the volume's */
    bool broken;         /* its snapshots miss what was overwritten, see snapwire_lease_break() */
    uint32_t head_seq;   /* newer snapshots have larger ones; 0: no head, or a daemon that does not
                          * tell it, which does not know of late writes either */
};

struct snapwire_lease_config {
    size_t size;
    struct snapwire_uuid volume;
    struct snapwire_uuid instance; /* with epoch: an earlier lease, taken up; zero: a new writer */
    uint64_t epoch;
    uint64_t origin_size_bytes;      /* must equal the volume's */
    const void *origin_fingerprint;  /* a change is refused with SNAPWIRE_EMISMATCH … */
    size_t origin_fingerprint_bytes; /* at most 64 */
    bool new_origin;                 /* … unless said so */
    bool steal;                      /* admin: fence the present holder */
    /* Once the lease is over this writer may write its origin all the same: snapshots are
     * unverified whenever it is away, until it is back, as the same instance. See
     * snapwire_lease_break(). broken: it did so before this lease. */
    bool goes_on, broken;
    /* Origin writes that were begun under an earlier lease ended after it, or have not ended. The
     * head_seq under which the first of them was begun (0: there was no head): newer snapshots may
     * hold what was written, and stay unverified for good. */
    bool late;
    uint32_t late_after_seq;

    /* All may be NULL but quiesce, without which a snapshot of a leased volume cannot be
     * made: then the library answers for the caller as soon as no put is unanswered. */

    /* A new head is wanted: stop writing the origin, then snapwire_lease_head_ready(). */
    void (*quiesce)(void *user, struct snapwire_lease *lease);
    /* There is a new head (or, after head_ready, the same again): forget which chunks were
     * copied if info->head changed, and go on. */
    void (*head_changed)(void *user, struct snapwire_lease *lease,
                         const struct snapwire_lease_info *info);
    /* The promised time passed without an answer; the library keeps trying. */
    void (*lapsed)(void *user, struct snapwire_lease *lease, const struct snapwire_error *why);
    /* Held again after a lapse. */
    void (*resumed)(void *user, struct snapwire_lease *lease);
    /* Gone for good: unanswered puts end with SNAPWIRE_ESTALE. Free it. */
    void (*lost)(void *user, struct snapwire_lease *lease, const struct snapwire_error *why);
    void *user;
};

/* lease: NULL on error. It is the caller's: release or free it. */
typedef void (*snapwire_lease_cb)(void *user, const struct snapwire_error *error,
                                  struct snapwire_lease *lease);
SNAPWIRE_API int snapwire_lease_acquire(struct snapwire_client *client,
                                        const struct snapwire_lease_config *config,
                                        snapwire_lease_cb cb, void *user,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_lease_acquire_sync(struct snapwire_client *client,
                                             const struct snapwire_lease_config *config,
                                             struct snapwire_lease **ret,
                                             struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Renew now (the library does it by itself in time). */
SNAPWIRE_API int snapwire_lease_renew(struct snapwire_lease *lease, snapwire_done_cb cb, void *user,
                                      struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_lease_renew_sync(struct snapwire_lease *lease,
                                           struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Give it back and free it (freed when cb runs, whatever the outcome; not when this returns
 * an error). Its stream must be closed: SNAPWIRE_EBUSY. */
SNAPWIRE_API int snapwire_lease_release(struct snapwire_lease *lease, snapwire_done_cb cb,
                                        void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_lease_release_sync(struct snapwire_lease *lease,
                                             struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Free without giving back: it lasts on the daemon until its time is over, and can be taken up
 * with instance and epoch. Its stream, if it has one, is closed. Takes NULL. */
SNAPWIRE_API void snapwire_lease_free(struct snapwire_lease *lease);
/* A writer that goes_on asks for leave to write what is not kept: from cb on (error NULL) it may,
 * and the snapshots that are there now stay unverified for good. Until a new head is adopted the
 * lease then serves to hear of that, and puts are refused. While the daemon is away cb runs
 * when the lease's time is over for the daemon too. A broken mark of the caller's own must be
 * durable before the call. */
SNAPWIRE_API int snapwire_lease_break(struct snapwire_lease *lease, snapwire_done_cb cb, void *user,
                                      struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API bool snapwire_lease_valid(const struct snapwire_lease *lease);
/* Milliseconds until snapwire_lease_valid() turns false unless renewed; 0: it is. */
SNAPWIRE_API uint64_t snapwire_lease_remaining_ms(const struct snapwire_lease *lease);
/* Valid until the next callback of the lease. */
SNAPWIRE_API const struct snapwire_lease_info *
snapwire_lease_info(const struct snapwire_lease *lease);
/* The origin stands still. The library waits for unanswered puts, tells the daemon, and
 * head_changed follows. Until then snapwire_stream_put() says SNAPWIRE_WOULD_BLOCK. */
SNAPWIRE_API int snapwire_lease_head_ready(struct snapwire_lease *lease,
                                           struct snapwire_error *reterr) SNAPWIRE_WUR;

/* -- COW stream ------------------------------------------------------------------ */

/* Streams old chunks to the head before they are overwritten. Puts gather into batches, one
 * frame each, sent when full or at the end of the loop's turn, straight from the caller's
 * buffers. After a reconnect the unanswered ones are sent again; if the lease was lost or the
 * head changed meanwhile they end with SNAPWIRE_ESTALE. */
struct snapwire_stream;

struct snapwire_stream_config {
    size_t size;
    uint32_t batch_bytes_max;     /* payload of a frame; default 1 MiB, at least one chunk */
    uint32_t batch_chunks_max;    /* default (and most) 4096 */
    uint64_t inflight_bytes_max;  /* unanswered; default 16 MiB, at least one batch */
    uint32_t inflight_chunks_max; /* default 65536 */
    /* After a SNAPWIRE_WOULD_BLOCK there is room again. */
    void (*drained)(void *user, struct snapwire_stream *stream);
    void *user;
};
/* One stream a lease (SNAPWIRE_EBUSY). The head may be absent yet: puts then fail with
 * SNAPWIRE_ENOENT. */
SNAPWIRE_API int snapwire_stream_new(struct snapwire_lease *lease,
                                     const struct snapwire_stream_config *config,
                                     struct snapwire_stream **ret,
                                     struct snapwire_error *reterr) SNAPWIRE_WUR;

/* error NULL: all chunks of the put are durable, the origin may be overwritten (if
 * snapwire_lease_valid()). Else nothing is promised of any of them; putting again is safe. */
typedef void (*snapwire_put_cb)(void *user, uint64_t old_chunk, uint32_t count,
                                const struct snapwire_error *error);

enum snapwire_put_flags {
    SNAPWIRE_PUT_ZERO = 1 << 0, /* the chunks hold only zeros: data is NULL and nothing is sent */
};
/* Put `count` consecutive chunks, at most snapwire_stream_put_max(); data holds them, whole
 * chunks (the origin's last one padded with zeros), and must not change until cb.
 * Returns 0, SNAPWIRE_WOULD_BLOCK (nothing taken; `drained` will run), or an error. */
SNAPWIRE_API int snapwire_stream_put(struct snapwire_stream *stream, uint64_t old_chunk,
                                     uint32_t count, const void *data, unsigned flags,
                                     snapwire_put_cb cb, void *user,
                                     struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Blocking face: the same, but waits for room. */
SNAPWIRE_API int snapwire_stream_put_sync(struct snapwire_stream *stream, uint64_t old_chunk,
                                          uint32_t count, const void *data, unsigned flags,
                                          snapwire_put_cb cb, void *user,
                                          struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Most chunks of one put. Changes with the head's chunk size. */
SNAPWIRE_API uint32_t snapwire_stream_put_max(const struct snapwire_stream *stream);
/* Send what has gathered; cb (may be NULL) runs when every put made before is answered, with
 * the first error among them. */
SNAPWIRE_API int snapwire_stream_flush(struct snapwire_stream *stream, snapwire_done_cb cb,
                                       void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Blocking face: wait until every put is answered; the first error since the last flush. */
SNAPWIRE_API int snapwire_stream_flush_sync(struct snapwire_stream *stream,
                                            struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Unanswered puts end with SNAPWIRE_ECANCELED (they may have happened), no buffer is used any
 * more, then `closed` (may be NULL) runs and the stream is freed. Payload that is being sent
 * is sent to its end before that: flush first where time matters. */
SNAPWIRE_API void snapwire_stream_close(struct snapwire_stream *stream, void (*closed)(void *user),
                                        void *user);
/* Blocking face: the same, and waits for it. Takes NULL. */
SNAPWIRE_API void snapwire_stream_free(struct snapwire_stream *stream);

struct snapwire_stream_stats {
    uint64_t puts, chunks, zero_chunks, bytes; /* taken */
    uint64_t chunks_added, chunks_existed;     /* as the daemon answered */
    uint64_t chunks_failed;
    uint64_t batches, batches_replayed;
    uint64_t would_blocks;
};
/* stats_bytes: sizeof *ret of the caller. */
SNAPWIRE_API void snapwire_stream_stats(const struct snapwire_stream *stream,
                                        struct snapwire_stream_stats *ret, size_t stats_bytes);

/* -- merge: roll the origin back ------------------------------------------------- */

/* TABLE: the only snapshot: prepare gives a run from the table's end; copy its chunks to the
 * origin (snapwire_snapshot_read), make them durable, commit; until a run's count is 0; end.
 * VIEW: one of several: write its view (snapwire_run_each) back to the origin, first putting
 * the origin's present chunks to the head unless it is the head; then abort or end.
 * A merge that stops anywhere is taken up again with begin. */
enum snapwire_merge_mode { SNAPWIRE_MERGE_TABLE = 0, SNAPWIRE_MERGE_VIEW = 1 };

struct snapwire_merge_state {
    int mode;
    uint64_t table_len;
    struct snapwire_uuid head;
};
struct snapwire_merge_run {
    uint64_t old_chunk, new_chunk;
    uint32_t count; /* 0: nothing is left */
    uint64_t table_len;
    uint32_t commit_max; /* so many may go with one commit; count of them are this run */
};
typedef void (*snapwire_merge_state_cb)(void *user, const struct snapwire_error *error,
                                        const struct snapwire_merge_state *state);
typedef void (*snapwire_merge_run_cb)(void *user, const struct snapwire_error *error,
                                      const struct snapwire_merge_run *run);
SNAPWIRE_API int snapwire_merge_begin(struct snapwire_lease *lease,
                                      const struct snapwire_uuid *snapshot,
                                      snapwire_merge_state_cb cb, void *user,
                                      struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_merge_begin_sync(struct snapwire_lease *lease,
                                           const struct snapwire_uuid *snapshot,
                                           struct snapwire_merge_state **ret,
                                           struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_merge_prepare(struct snapwire_lease *lease,
                                        const struct snapwire_uuid *snapshot,
                                        snapwire_merge_run_cb cb, void *user,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_merge_prepare_sync(struct snapwire_lease *lease,
                                             const struct snapwire_uuid *snapshot,
                                             struct snapwire_merge_run **ret,
                                             struct snapwire_error *reterr) SNAPWIRE_WUR;
/* table_len: as prepare said; count: its run's, or fewer from the run's end; up to commit_max
 * where the origin has durably what all the table's exceptions hold. */
SNAPWIRE_API int snapwire_merge_commit(struct snapwire_lease *lease,
                                       const struct snapwire_uuid *snapshot, uint64_t table_len,
                                       uint32_t count, snapwire_done_cb cb, void *user,
                                       struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_merge_commit_sync(struct snapwire_lease *lease,
                                            const struct snapwire_uuid *snapshot,
                                            uint64_t table_len, uint32_t count,
                                            struct snapwire_error *reterr) SNAPWIRE_WUR;
/* The snapshot is consumed: deleted. */
SNAPWIRE_API int snapwire_merge_end(struct snapwire_lease *lease,
                                    const struct snapwire_uuid *snapshot, snapwire_done_cb cb,
                                    void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_merge_end_sync(struct snapwire_lease *lease,
                                         const struct snapwire_uuid *snapshot,
                                         struct snapwire_error *reterr) SNAPWIRE_WUR;
/* It stays as it is, to be taken up again. */
SNAPWIRE_API int snapwire_merge_abort(struct snapwire_lease *lease,
                                      const struct snapwire_uuid *snapshot, snapwire_done_cb cb,
                                      void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_merge_abort_sync(struct snapwire_lease *lease,
                                           const struct snapwire_uuid *snapshot,
                                           struct snapwire_error *reterr) SNAPWIRE_WUR;

#ifdef __cplusplus
}
#endif

#endif
