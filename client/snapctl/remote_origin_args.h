/* SPDX-License-Identifier: Apache-2.0 */
/* The options of commands that take a local origin beside VOLUME@SNAPSHOT. */
#ifndef SNAP_SNAPCTL_REMOTE_ORIGIN_ARGS_H
#define SNAP_SNAPCTL_REMOTE_ORIGIN_ARGS_H

#include "client/host/origin.h"
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_writer.h"

/* First member of such a command's own input. */
struct remote_origin_args {
    struct remote_words words; /* first */
    const char *origin;
    const char *origin_is; /* for the error: "the disk that is to be overwritten" */
    bool may_be_hosted;    /* then there is no origin: remote_check_origin() */
    bool new_origin;       /* another disk than before is right */
    bool steal;            /* of those that become the volume's writer */
};

#define REMOTE_ORIGIN_OPTION(text)                                 \
    {                                                              \
        .name = "origin", .key = 'O', .arg = "ORIGIN", .doc = text \
    }
#define REMOTE_NEW_ORIGIN_OPTION                                                    \
    {                                                                               \
        .name = "new-origin", .key = 'n',                                           \
        .doc = "the volume's origin is another disk than before, and that is right" \
    }
#define REMOTE_WRITER_OPTIONS                                                                 \
    REMOTE_NEW_ORIGIN_OPTION,                                                                 \
    {                                                                                         \
        .name = "steal", .key = 't', .doc = "fence the volume's present writer (admins only)" \
    }

/* The end of a command's parser, instead of remote_parse_word(). */
error_t remote_parse_origin(int key, char *arg, struct argp_state *state);

/* The target's kind is known: a remote volume needs --origin, a hosted one has none.
 * Errors: SNAP_EINVAL. */
int remote_check_origin(const struct remote_origin_args *args, const struct remote_target *target,
                        struct err *reterr) SNAP_WUR;

/* The open origin must be the one that the volume was written with, or --new-origin say that
 * another is right; a volume that never had a writer takes any. For those who only read; a
 * writer's is looked at by the daemon. Errors: SNAP_EMISMATCH. */
int remote_check_same_origin(const struct remote_origin_args *args,
                             const struct remote_target *target, const struct origin *origin,
                             struct err *reterr) SNAP_WUR;

/* Become the writer of the target, whose origin is open for writing.
 * Errors: as remote_writer_open(). */
int remote_origin_writer(struct remote_writer *w, struct remote *r,
                         const struct remote_origin_args *args, const struct cli *cli,
                         const struct remote_target *target, const struct origin *origin,
                         struct err *reterr) SNAP_WUR;

#endif
