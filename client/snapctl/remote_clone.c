/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote clone: a writable snapshot of a snapshot. */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/remote_json.h"

#include <string.h>

struct clone_args {
    struct remote_words words; /* first */
    uint64_t cow_bytes;
    struct target source, clone;
};

/* NAME, or VOLUME@NAME of the same volume. */
static void check_args(struct clone_args *a, const struct argp_state *state)
{
    struct err why = ERR_INIT;
    const char *name = a->words.word[1];
    if (target_parse(a->words.word[0], &a->source, &why) < 0)
        cli_usage_error(state, "%s", why.text);
    if (!a->source.snapshot[0])
        cli_usage_error(state,
                        "%s is a volume, and a clone is of a snapshot: make one with snapctl "
                        "remote create %s@SNAPSHOT, then clone that",
                        a->source.volume, a->source.volume);
    if (strchr(name, '@')) {
        if (target_parse(name, &a->clone, &why) < 0)
            cli_usage_error(state, "%s", why.text);
        if (strcmp(a->clone.volume, a->source.volume) != 0)
            cli_usage_error(state, "a clone belongs to its snapshot's volume: %s@%s",
                            a->source.volume, a->clone.snapshot);
    } else if (name_check(name, "clone", &why) < 0) {
        cli_usage_error(state, "%s", why.text);
    } else {
        (void)snprintf(a->clone.snapshot, sizeof a->clone.snapshot, "%s", name);
    }
}

static error_t parse_clone(int key, char *arg, struct argp_state *state)
{
    struct clone_args *a = state->input;
    switch (key) {
    case 'C':
        a->cow_bytes = cli_size_arg(state, "--cow-size", arg);
        return 0;
    case ARGP_KEY_END:
        if (a->words.count == 2)
            check_args(a, state);
        return remote_parse_word(key, arg, state);
    default:
        return remote_parse_word(key, arg, state);
    }
}

static int make_clone(const struct cli *cli, struct remote *r, const struct clone_args *a,
                      struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_snapshot *s = NULL;
    struct remote_target t;
    int rc = remote_resolve(r, a->words.word[0], REMOTE_WANT_SNAPSHOT, &t, reterr);
    if (rc == 0)
        rc = remote_want_hosted(&t, "only snapshots of hosted volumes have clones", reterr);
    if (rc < 0)
        return rc;
    const struct snapwire_clone_create args = {
        .size = sizeof args,
        .volume = t.volume,
        .snapshot = t.snapshot,
        .name = a->clone.snapshot,
        .cow_limit_bytes = a->cow_bytes,
    };
    if (snapwire_clone_create_sync(r->client, &args, &s, &why) < 0)
        return remote_error(&why, reterr);
    if (cli->json)
        rc = out_object(cli, remote_snapshot_json(s), NULL, reterr);
    else
        cli_note(cli, "clone %s@%s of %s, writable", s->volume_name, s->name, t.text);
    snapwire_free(s);
    return rc;
}

int remote_cmd_clone(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "cow-size",
         .key = 'C',
         .arg = "SIZE",
         .doc = "the most that its COW device may grow to"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_clone,
        .args_doc = "VOLUME@SNAPSHOT NAME",
        .doc = "Make VOLUME@NAME, which begins as the snapshot is and can be written. The snapshot "
               "may be a clone itself. Only of hosted volumes.",
        .children = remote_children,
    };
    struct clone_args a = {.words = {.least = 2,
                                     .most = 2,
                                     .missing = "a snapshot and the clone's name are needed, as "
                                                "in: clone disk1@monday test"}};
    struct remote r = {0};
    remote_parse(cli, &argp, argc, argv, &a);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = make_clone(cli, &r, &a, reterr);
    remote_close(&r);
    return rc;
}
