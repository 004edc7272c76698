/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote verify: have the daemon compare what stands on its disk with its checksums. */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_hosted.h"

struct verify_args {
    struct remote_words words; /* first */
    bool rebuild, no_wait;
};

static error_t parse_verify(int key, char *arg, struct argp_state *state)
{
    struct verify_args *a = state->input;
    switch (key) {
    case 'r':
        a->rebuild = true;
        return 0;
    case 'w':
        a->no_wait = true;
        return 0;
    default:
        return remote_parse_word(key, arg, state);
    }
}

static int verify(const struct cli *cli, struct remote *r, const struct remote_target *t,
                  const struct verify_args *a, struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_job *job = NULL, *last = NULL;
    char id[SNAPWIRE_UUID_TEXT_BYTES];
    const struct snapwire_verify args = {
        .size = sizeof args,
        .volume = t->volume,
        .snapshot = t->snapshot,
        .job = snapwire_uuid_make(),
        .rebuild = a->rebuild,
    };
    if (snapwire_verify_sync(r->client, &args, &job, &why) < 0)
        return remote_error(&why, reterr);
    int rc;
    if (a->no_wait) {
        rc = remote_job_print(cli, job, reterr);
        if (!cli->json)
            cli_note(cli, "job %.8s; snapctl remote jobs --wait %.8s tells what it finds",
                     snapwire_uuid_format(&job->id, id), id);
    } else {
        cli_catch_signals();
        rc = remote_job_follow(cli, r, &t->volume, &job->id, &last, reterr);
        if (rc == 0)
            rc = remote_job_report(cli, last, reterr);
    }
    snapwire_free(last);
    snapwire_free(job);
    return rc;
}

int remote_cmd_verify(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "rebuild",
         .key = 'r',
         .doc = "take what stands there for right, and make the checksums anew from it"},
        {.name = "no-wait", .key = 'w', .doc = "return at once; see snapctl remote jobs"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_verify,
        .args_doc = "VOLUME|VOLUME@SNAPSHOT",
        .doc = "Have the daemon read every exception of a snapshot, or of all of a volume, and "
               "compare it with its checksum. Exits with 12 when one differs. For the structure of "
               "COW devices see snapctl remote check.",
        .children = remote_children,
    };
    struct verify_args a = {
        .words = {.least = 1, .most = 1, .missing = "what? VOLUME or VOLUME@SNAPSHOT"}};
    struct remote r = {0};
    struct remote_target t;
    remote_parse(cli, &argp, argc, argv, &a);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = remote_resolve(&r, a.words.word[0], REMOTE_WANT_ANY, &t, reterr);
    if (rc == 0)
        rc = verify(cli, &r, &t, &a, reterr);
    remote_close(&r);
    return rc;
}
