/* SPDX-License-Identifier: Apache-2.0 */
/* Where long work was cut off, in a small file of ours, so that it can go on from there.
 *
 * It stands in $XDG_STATE_HOME/snapwire, else in ~/.local/state/snapwire, one for each place that
 * is written: an import's volume or clone, an export's file. It names the local file as the system
 * knows it, so that another one under the same name is not mistaken for it. Whoever begins to
 * write to a place anew forgets first what was noted of it: it is not true any more.
 */
#ifndef SNAP_SNAPCTL_RESUME_H
#define SNAP_SNAPCTL_RESUME_H

#include "common/base/err.h"
#include "common/base/limits.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

enum { RESUME_SUBJECT_BYTES = 64 };

struct resume {
    char path[LIMIT_PATH_BYTES];        /* of the state; empty: there is no place for one */
    uint64_t size_bytes;                /* of the whole */
    char subject[RESUME_SUBJECT_BYTES]; /* what is written there; empty: that does not matter */
};

/* What the local file is; compared as a whole. */
struct resume_file {
    uint64_t device, inode;
    int64_t changed_ns; /* of one that is read; 0: does not matter */
};
struct resume_file resume_file_of(const struct stat *st, bool is_read);
bool resume_file_equal(const struct resume_file *a, const struct resume_file *b);

/* name: of the work, a file's name.
 * Errors: SNAP_EINVAL (no folder for it, or its name is too long); the work can be done
 *         without. */
int resume_init(struct resume *s, const char *name, uint64_t size_bytes,
                struct err *reterr) SNAP_WUR;
/* Of an export, by the file or device that it writes, whatever its name. subject: what it writes
 * there. Errors: as resume_init(). */
int resume_init_output(struct resume *s, const struct resume_file *file, const char *subject,
                       uint64_t size_bytes, struct err *reterr) SNAP_WUR;
/* True and how far it was, when there is something to go on with. ret_why: else why not, for
 * people; empty: there is no state. */
bool resume_load(const struct resume *s, const struct resume_file *file, uint64_t *ret_bytes,
                 const char **ret_why);
/* All before done_bytes is durable where it shall be. */
int resume_save(const struct resume *s, const struct resume_file *file, uint64_t done_bytes,
                struct err *reterr) SNAP_WUR;
/* The work is done, or is begun anew; durably. Errors: SNAP_EPERM, SNAP_EIO. */
int resume_forget(const struct resume *s, struct err *reterr);
/* The same by the file that an export writes. */
int resume_forget_output(const struct resume_file *file, struct err *reterr) SNAP_WUR;

#endif
