/* SPDX-License-Identifier: Apache-2.0 */
/* libsnapwire, for volumes whose origin the daemon stores.
 *
 * Included by snapwire.h, at its end; include that one. All that it says of faces, errors,
 * results, arguments and reconnecting holds here too.
 *
 * Words: a *hosted* volume is read and written through the daemon as a disk is, beside its
 * snapshots. A *clone* is a writable snapshot. A *job* is what goes on in the daemon by itself,
 * over restarts, until it is done: it is known by a uuid.
 *
 * Where a function takes `snapshot`, NULL or zero stands for the volume itself.
 */
#ifndef SNAPWIRE_HOSTED_H
#define SNAPWIRE_HOSTED_H

#ifndef SNAPWIRE_H
#error "include snapwire.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* -- reading and writing --------------------------------------------------------- */

/* Any offset and length of at least 1 inside the volume; what is longer than a frame takes is
 * split, the pieces are under way together, and the callback runs after the last of them.
 * Requests that overlap and are under way together take effect in any order.
 * When the connection breaks, the pieces without an answer are sent again: the same bytes at the
 * same place.
 * Errors: SNAPWIRE_EINVAL (outside), SNAPWIRE_ENOENT, SNAPWIRE_EPERM (no right, or a plain
 * snapshot), SNAPWIRE_ENOTSUP (a remote volume), SNAPWIRE_EBUSY (it is being rolled back),
 * SNAPWIRE_ENOSPC, SNAPWIRE_EINVALID, SNAPWIRE_EPOISONED, SNAPWIRE_EIO; SNAPWIRE_ELIMIT from
 * the call itself: requests_max are under way, try again after a callback. After an error any
 * part of the range may have been read or written. */
enum snapwire_io_flags {
    SNAPWIRE_IO_FUA = 1 << 0,     /* write, zero: durable when the callback runs */
    SNAPWIRE_IO_DISCARD = 1 << 1, /* zero: the space may be given back */
    SNAPWIRE_IO_ALONE = 1 << 2,   /* write, zero: SNAPWIRE_EBUSY while another client writes so */
};

/* buf, len_bytes long, is the library's until the callback; then it holds the content. Works on
 * snapshots of hosted volumes too; of remote ones see snapwire_snapshot_read(). */
SNAPWIRE_API int snapwire_io_read(struct snapwire_client *client,
                                  const struct snapwire_uuid *volume,
                                  const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                                  size_t len_bytes, void *buf, snapwire_done_cb cb, void *user,
                                  struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_io_read_sync(struct snapwire_client *client,
                                       const struct snapwire_uuid *volume,
                                       const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                                       size_t len_bytes, void *buf,
                                       struct snapwire_error *reterr) SNAPWIRE_WUR;
/* data is borrowed, and must not change, until the callback. When it runs, readers see the
 * content; durable it is with SNAPWIRE_IO_FUA, or after a flush begun later. */
SNAPWIRE_API int snapwire_io_write(struct snapwire_client *client,
                                   const struct snapwire_uuid *volume,
                                   const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                                   size_t len_bytes, const void *data, unsigned flags,
                                   snapwire_done_cb cb, void *user,
                                   struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_io_write_sync(struct snapwire_client *client,
                                        const struct snapwire_uuid *volume,
                                        const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                                        size_t len_bytes, const void *data, unsigned flags,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;
/* The range reads as zeros. Nothing is sent but this. */
SNAPWIRE_API int snapwire_io_zero(struct snapwire_client *client,
                                  const struct snapwire_uuid *volume,
                                  const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                                  uint64_t len_bytes, unsigned flags, snapwire_done_cb cb,
                                  void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_io_zero_sync(struct snapwire_client *client,
                                       const struct snapwire_uuid *volume,
                                       const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                                       uint64_t len_bytes, unsigned flags,
                                       struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Everything whose callback ran before this call is durable when its callback runs.
 * Errors: also SNAPWIRE_EIO when what was answered and not flushed may be lost: the daemon's
 * machine was started anew since, or a flush has failed, whoever asked for it. That is told once,
 * and perhaps to each of several flushes that are under way together. */
SNAPWIRE_API int snapwire_io_flush(struct snapwire_client *client,
                                   const struct snapwire_uuid *volume,
                                   const struct snapwire_uuid *snapshot, snapwire_done_cb cb,
                                   void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_io_flush_sync(struct snapwire_client *client,
                                        const struct snapwire_uuid *volume,
                                        const struct snapwire_uuid *snapshot,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;

/* Where data stands, without reading any: extents of kind DATA and ZERO in order, without holes,
 * from offset_bytes on; at least one, but perhaps not to the range's end: ask again from there. */
typedef void (*snapwire_extents_cb)(void *user, const struct snapwire_error *error,
                                    const struct snapwire_extent_list *list);
SNAPWIRE_API int snapwire_extents(struct snapwire_client *client,
                                  const struct snapwire_uuid *volume,
                                  const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                                  uint64_t len_bytes, snapwire_extents_cb cb, void *user,
                                  struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_extents_sync(struct snapwire_client *client,
                                       const struct snapwire_uuid *volume,
                                       const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                                       uint64_t len_bytes, struct snapwire_extent_list **ret,
                                       struct snapwire_error *reterr) SNAPWIRE_WUR;

/* The chunks in which a newer state may differ from an older one, found from the exceptions
 * alone. Clones cannot be asked about. */
struct snapwire_diff {
    size_t size;
    struct snapwire_uuid volume;
    struct snapwire_uuid from; /* the older snapshot */
    struct snapwire_uuid to;   /* a newer one; zero: the volume as it is now */
    uint64_t start_chunk;
    uint64_t end_chunk; /* exclusive; 0: to the end */
};
/* Pages as in snapwire_run_each(); new_chunk is 0. */
SNAPWIRE_API int snapwire_diff_each(struct snapwire_client *client,
                                    const struct snapwire_diff *args, snapwire_run_page_cb page,
                                    snapwire_done_cb done, void *user,
                                    struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_diff_each_sync(struct snapwire_client *client,
                                         const struct snapwire_diff *args,
                                         snapwire_run_page_cb page, void *user,
                                         struct snapwire_error *reterr) SNAPWIRE_WUR;

/* -- clones and groups ----------------------------------------------------------- */

struct snapwire_clone_create {
    size_t size;
    struct snapwire_uuid volume;
    struct snapwire_uuid snapshot; /* what it is a clone of: a snapshot or a clone */
    struct snapwire_uuid id;       /* of the clone; zero: the library makes one */
    const char *name;              /* among the volume's snapshots */
    uint64_t cow_limit_bytes;      /* 0: the daemon's default */
};
SNAPWIRE_API int snapwire_clone_create(struct snapwire_client *client,
                                       const struct snapwire_clone_create *args,
                                       snapwire_snapshot_cb cb, void *user,
                                       struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_clone_create_sync(struct snapwire_client *client,
                                            const struct snapwire_clone_create *args,
                                            struct snapwire_snapshot **ret,
                                            struct snapwire_error *reterr) SNAPWIRE_WUR;

/* Fixed for ever. */
struct snapwire_group_member {
    struct snapwire_uuid volume;
    struct snapwire_uuid snapshot; /* zero: the library makes one */
    const char *name;
    uint64_t cow_limit_bytes; /* 0: the daemon's default */
};
struct snapwire_group_create {
    size_t size;
    struct snapwire_uuid id;                     /* of the group; zero: the library makes one */
    const struct snapwire_group_member *members; /* each of another volume */
    size_t member_count;
};
struct snapwire_snapshot_list {
    const struct snapwire_snapshot *const *snapshots;
    size_t count;
};
typedef void (*snapwire_snapshot_list_cb)(void *user, const struct snapwire_error *error,
                                          const struct snapwire_snapshot_list *list);
/* Snapshots of several volumes at one moment, all of them or none. */
SNAPWIRE_API int snapwire_group_create(struct snapwire_client *client,
                                       const struct snapwire_group_create *args,
                                       snapwire_snapshot_list_cb cb, void *user,
                                       struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_group_create_sync(struct snapwire_client *client,
                                            const struct snapwire_group_create *args,
                                            struct snapwire_snapshot_list **ret,
                                            struct snapwire_error *reterr) SNAPWIRE_WUR;

/* -- checking ------------------------------------------------------------------ */

/* The structure of a COW device, of volumes of either kind; its content: snapwire_verify(). */
struct snapwire_fault {
    uint64_t area;
    uint32_t index;
    uint64_t old_chunk, new_chunk;
    const char *text;
};
struct snapwire_check {
    bool sound;
    uint64_t exceptions;
    uint64_t faults_total; /* may be more than are listed */
    const struct snapwire_fault *const *faults;
    size_t fault_count;
};
typedef void (*snapwire_check_cb)(void *user, const struct snapwire_error *error,
                                  const struct snapwire_check *check);
SNAPWIRE_API int snapwire_snapshot_check(struct snapwire_client *client,
                                         const struct snapwire_uuid *volume,
                                         const struct snapwire_uuid *snapshot, snapwire_check_cb cb,
                                         void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_snapshot_check_sync(struct snapwire_client *client,
                                              const struct snapwire_uuid *volume,
                                              const struct snapwire_uuid *snapshot,
                                              struct snapwire_check **ret,
                                              struct snapwire_error *reterr) SNAPWIRE_WUR;

/* -- jobs ------------------------------------------------------------------------ */

struct snapwire_job {
    struct snapwire_uuid id; /* of a hand-down: the deleted snapshot's */
    const char *kind;        /* "hand-down", "rollback", "merge", "verify", "scrub" */
    const char *volume_name;
    const char *subject;
    uint64_t done, total; /* chunks */
    const char *state;    /* "running", "waiting", "cancelling", "done", "failed", "cancelled" */
    const char *text;     /* why it waits or failed; what it found; may be empty */
    struct snapwire_uuid volume;
    uint64_t faults_total; /* of a verification; may be more than are listed */
    const struct snapwire_fault *const *faults;
    size_t fault_count;
};
struct snapwire_job_list {
    const struct snapwire_job *const *jobs;
    size_t count;
};
typedef void (*snapwire_job_cb)(void *user, const struct snapwire_error *error,
                                const struct snapwire_job *job);
typedef void (*snapwire_job_list_cb)(void *user, const struct snapwire_error *error,
                                     const struct snapwire_job_list *list);
/* "done", "failed" or "cancelled". */
SNAPWIRE_API bool snapwire_job_is_over(const struct snapwire_job *job);
/* volume: NULL: all that the asker may see. */
SNAPWIRE_API int snapwire_job_list(struct snapwire_client *client,
                                   const struct snapwire_uuid *volume, snapwire_job_list_cb cb,
                                   void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_job_list_sync(struct snapwire_client *client,
                                        const struct snapwire_uuid *volume,
                                        struct snapwire_job_list **ret,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Errors: SNAPWIRE_ENOENT (never was, or over for long). */
SNAPWIRE_API int snapwire_job_show(struct snapwire_client *client,
                                   const struct snapwire_uuid *volume,
                                   const struct snapwire_uuid *job, snapwire_job_cb cb, void *user,
                                   struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_job_show_sync(struct snapwire_client *client,
                                        const struct snapwire_uuid *volume,
                                        const struct snapwire_uuid *job, struct snapwire_job **ret,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Returns at once; a rollback then goes back to where it began, which takes its time. Errors:
 * SNAPWIRE_ENOENT, SNAPWIRE_EBUSY (a hand-down, or it has ended). */
SNAPWIRE_API int snapwire_job_cancel(struct snapwire_client *client,
                                     const struct snapwire_uuid *volume,
                                     const struct snapwire_uuid *job, snapwire_job_cb cb,
                                     void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_job_cancel_sync(struct snapwire_client *client,
                                          const struct snapwire_uuid *volume,
                                          const struct snapwire_uuid *job,
                                          struct snapwire_job **ret,
                                          struct snapwire_error *reterr) SNAPWIRE_WUR;

struct snapwire_job_wait {
    size_t size;
    struct snapwire_uuid volume, job;
    uint32_t poll_ms; /* between two looks; 0: 200 */
    /* After each look that finds it not over; may be NULL. Non-zero: stop waiting. */
    int (*progress)(void *user, const struct snapwire_job *job);
    void *user;
};
/* cb gets the job as it was last seen: over (failed is no error of the waiting), or stopped at.
 * Errors: SNAPWIRE_ENOENT as of snapwire_job_show(): also of a hand-down that has ended. */
SNAPWIRE_API int snapwire_job_wait(struct snapwire_client *client,
                                   const struct snapwire_job_wait *args, snapwire_job_cb cb,
                                   void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_job_wait_sync(struct snapwire_client *client,
                                        const struct snapwire_job_wait *args,
                                        struct snapwire_job **ret,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;

struct snapwire_rollback {
    size_t size;
    struct snapwire_uuid volume;
    struct snapwire_uuid snapshot; /* what the volume returns to */
    struct snapwire_uuid job;      /* the same again is the same job; zero: the library makes one */
    bool merge;                    /* the snapshot is consumed at the end */
    bool drop_newer;               /* newer snapshots are deleted at the end */
};
/* From the callback on the volume reads as the snapshot; writes are refused until the job is
 * over. */
SNAPWIRE_API int snapwire_rollback(struct snapwire_client *client,
                                   const struct snapwire_rollback *args, snapwire_job_cb cb,
                                   void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_rollback_sync(struct snapwire_client *client,
                                        const struct snapwire_rollback *args,
                                        struct snapwire_job **ret,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;

struct snapwire_verify {
    size_t size;
    struct snapwire_uuid volume;
    struct snapwire_uuid snapshot; /* zero: all of the volume's */
    struct snapwire_uuid job;      /* as in snapwire_rollback */
    bool rebuild;                  /* make the checksums anew from what stands there */
};
/* Compare data with checksums. The job's faults say what was found. */
SNAPWIRE_API int snapwire_verify(struct snapwire_client *client, const struct snapwire_verify *args,
                                 snapwire_job_cb cb, void *user,
                                 struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_verify_sync(struct snapwire_client *client,
                                      const struct snapwire_verify *args, struct snapwire_job **ret,
                                      struct snapwire_error *reterr) SNAPWIRE_WUR;

#ifdef __cplusplus
}
#endif

#endif
