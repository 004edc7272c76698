/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote accept: take an unverified snapshot as it is. */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_connect.h"

struct accept_args {
    struct remote_words words; /* first */
    bool force;
};

static error_t parse_accept(int key, char *arg, struct argp_state *state)
{
    struct accept_args *a = state->input;
    if (key == 'f') {
        a->force = true;
        return 0;
    }
    return remote_parse_word(key, arg, state);
}

int remote_cmd_accept(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "force",
         .key = 'f',
         .doc = "even while the volume's guard is away: it is not waited for any more, and the "
                "other snapshots stay unverified until they are accepted"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_accept,
        .args_doc = "VOLUME@SNAPSHOT",
        .doc = "Take an unverified snapshot as it is, although some of its content may be newer "
               "than it: the disk's guard was away, and may have written without keeping what was "
               "there. Admins only.",
        .children = remote_children,
    };
    struct accept_args a = {
        .words = {.least = 1, .most = 1, .missing = "which snapshot? VOLUME@SNAPSHOT"}};
    struct remote r = {0};
    struct remote_target t;
    struct snapwire_error why = {0};
    remote_parse(cli, &argp, argc, argv, &a);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = remote_resolve(&r, a.words.word[0], REMOTE_WANT_SNAPSHOT, &t, reterr);
    if (rc == 0 &&
        snapwire_snapshot_accept_sync(r.client, &t.volume, &t.snapshot, a.force, &why) < 0)
        rc = remote_error(&why, reterr);
    remote_close(&r);
    return rc;
}
