/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote rollback: return a hosted volume to a snapshot, by a job of the daemon.
 *
 * It is also what `merge` does on a hosted volume: a rollback that consumes the snapshot.
 */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_hosted.h"

#include <string.h>

static int confirm(const struct remote_target *t, const struct remote_rollback *how,
                   struct err *reterr)
{
    return remote_confirm(
        how->yes, reterr, "%s returns to %s: what was written to it since is gone%s%s.",
        t->name.volume, t->text,
        how->drop_newer ? ", and so are all newer snapshots" : " unless a newer snapshot has it",
        how->merge ? ", and the snapshot is used up" : "");
}

static int begin(struct remote *r, const struct remote_target *t, const struct remote_rollback *how,
                 struct snapwire_job **ret, struct err *reterr)
{
    struct snapwire_error why = {0};
    const struct snapwire_rollback args = {
        .size = sizeof args,
        .volume = t->volume,
        .snapshot = t->snapshot,
        .job = snapwire_uuid_make(),
        .merge = how->merge,
        .drop_newer = how->drop_newer,
    };
    if (snapwire_rollback_sync(r->client, &args, ret, &why) < 0)
        return remote_error(&why, reterr);
    return 0;
}

int remote_rollback(const struct cli *cli, struct remote *r, const struct remote_target *t,
                    const struct remote_rollback *how, struct err *reterr)
{
    struct snapwire_job *job = NULL, *last = NULL;
    char id[SNAPWIRE_UUID_TEXT_BYTES];
    int rc = remote_want_hosted(t, "roll it back with snapctl remote merge --origin", reterr);
    if (rc == 0)
        rc = confirm(t, how, reterr);
    if (rc == 0)
        rc = begin(r, t, how, &job, reterr);
    if (rc < 0)
        return rc;
    if (how->no_wait) {
        rc = remote_job_print(cli, job, reterr);
        if (!cli->json)
            cli_note(cli,
                     "%s reads as %s from now on and is writable when job %.8s is over; snapctl "
                     "remote jobs --wait %.8s waits for it",
                     t->name.volume, t->text, snapwire_uuid_format(&job->id, id), id);
        snapwire_free(job);
        return rc;
    }
    cli_catch_signals();
    rc = remote_job_follow(cli, r, &t->volume, &job->id, &last, reterr);
    if (rc == 0)
        rc = remote_job_print(cli, last, reterr);
    if (rc == 0)
        rc = remote_job_outcome(last, reterr);
    if (rc == 0 && !cli->json)
        cli_note(cli, "%s is as %s was%s%s", t->name.volume, t->text,
                 how->merge ? ", which is used up" : "",
                 how->drop_newer ? "; newer snapshots are deleted" : "");
    snapwire_free(last);
    snapwire_free(job);
    return rc;
}

struct rollback_args {
    struct remote_words words; /* first */
    struct remote_rollback how;
};

static error_t parse_rollback(int key, char *arg, struct argp_state *state)
{
    struct rollback_args *a = state->input;
    switch (key) {
    case 'm':
        a->how.merge = true;
        return 0;
    case 'd':
        a->how.drop_newer = true;
        return 0;
    case 'w':
        a->how.no_wait = true;
        return 0;
    case 'y':
        a->how.yes = true;
        return 0;
    default:
        return remote_parse_word(key, arg, state);
    }
}

int remote_cmd_rollback(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "merge", .key = 'm', .doc = "the snapshot is used up: deleted at the end"},
        {.name = "drop-newer", .key = 'd', .doc = "newer snapshots are deleted at the end"},
        {.name = "no-wait", .key = 'w', .doc = "return at once; see snapctl remote jobs"},
        {.name = "yes", .key = 'y', .doc = "do not ask"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_rollback,
        .args_doc = "VOLUME@SNAPSHOT",
        .doc = "Return a hosted volume to the snapshot. The snapshot and all others keep their "
               "content. The volume reads as the snapshot at once, and can be written again when "
               "it is done. On a terminal you are asked first.",
        .children = remote_children,
    };
    struct rollback_args a = {
        .words = {.least = 1, .most = 1, .missing = "to which snapshot? VOLUME@SNAPSHOT"}};
    struct remote r = {0};
    struct remote_target t;
    remote_parse(cli, &argp, argc, argv, &a);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = remote_resolve(&r, a.words.word[0], REMOTE_WANT_SNAPSHOT, &t, reterr);
    if (rc == 0)
        rc = remote_rollback(cli, &r, &t, &a.how, reterr);
    remote_close(&r);
    return rc;
}
