/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote create: a volume, a snapshot of one, or snapshots of several at one moment.
 *
 * Which of them is meant is what the targets say, VOLUME or VOLUME@SNAPSHOT…;
 * options of the other kind are refused, not ignored.
 */
#include "client/host/origin.h"
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/remote_json.h"
#include "common/base/bytes.h"
#include "common/base/size.h"

#include <string.h>

struct create_args {
    struct remote_words words;
    struct target target;
    /* of a volume */
    uint64_t size_bytes;
    const char *like, *full_policy;
    struct snapwire_label labels[LIMIT_LABELS];
    size_t label_count;
    bool hosted;
    const char *device;
    /* of a snapshot */
    uint64_t chunk_bytes, cow_bytes; /* chunk size: of a hosted volume too */
    const char *cow_device;
    bool take_over;
};

static void parse_label(char *arg, struct create_args *a, const struct argp_state *state)
{
    char *equals = strchr(arg, '=');
    if (!equals || equals == arg)
        cli_usage_error(state, "--label: '%s' is not KEY=VALUE", arg);
    if (a->label_count >= LIMIT_LABELS)
        cli_usage_error(state, "more than %d labels", LIMIT_LABELS);
    *equals = '\0';
    a->labels[a->label_count++] = (struct snapwire_label){.key = arg, .value = equals + 1};
}

static void check_group(const struct create_args *a, const struct argp_state *state)
{
    struct err why = ERR_INIT;
    for (unsigned i = 0; i < a->words.count; i++) {
        struct target t, other;
        if (target_parse(a->words.word[i], &t, &why) < 0)
            cli_usage_error(state, "%s", why.text);
        if (!t.snapshot[0])
            cli_usage_error(state,
                            "%s is a volume; several at a time are snapshots, "
                            "VOLUME@SNAPSHOT",
                            a->words.word[i]);
        for (unsigned j = 0; j < i; j++)
            if (target_parse(a->words.word[j], &other, NULL) == 0 &&
                strcmp(t.volume, other.volume) == 0)
                cli_usage_error(state, "%s and %s: a volume has only one snapshot of a moment",
                                a->words.word[j], a->words.word[i]);
    }
    if (a->chunk_bytes || a->cow_device)
        cli_usage_error(state, "--chunk-size and --cow-device are for one snapshot at a time");
}

static void check_args(struct create_args *a, const struct argp_state *state)
{
    struct err why = ERR_INIT;
    if (a->words.count > 1)
        check_group(a, state);
    if (target_parse(a->words.word[0], &a->target, &why) < 0)
        cli_usage_error(state, "%s", why.text);
    bool snapshot = a->target.snapshot[0] != '\0';
    if (snapshot && (a->size_bytes || a->like || a->full_policy || a->label_count > 0))
        cli_usage_error(state, "--size, --like, --label and --full-policy are for a volume; "
                               "a snapshot has its volume's");
    if (snapshot && (a->hosted || a->device))
        cli_usage_error(state, "--hosted and --device are for a volume");
    if (!snapshot && (a->cow_bytes || a->cow_device || a->take_over))
        cli_usage_error(state, "--cow-size, --cow-device and --take-over are for a snapshot, "
                               "VOLUME@SNAPSHOT");
    if (!snapshot && a->chunk_bytes && !a->hosted)
        cli_usage_error(state, "--chunk-size is for a hosted volume (--hosted), or a snapshot, "
                               "VOLUME@SNAPSHOT");
    if (a->device && !a->hosted)
        cli_usage_error(state, "--device is for a hosted volume; say --hosted too");
    if (!snapshot && !a->size_bytes == !a->like)
        cli_usage_error(state, "give a volume's size: either --size SIZE or --like FILE");
    if (a->take_over && !a->cow_device)
        cli_usage_error(state, "--take-over is for a --cow-device");
}

static error_t parse_create(int key, char *arg, struct argp_state *state)
{
    struct create_args *a = state->input;
    switch (key) {
    case 's':
        a->size_bytes = cli_size_arg(state, "--size", arg);
        if (a->size_bytes == 0 || a->size_bytes % SECTOR_BYTES != 0)
            cli_usage_error(state, "--size: %s: a multiple of 512, at least 512, is needed", arg);
        return 0;
    case 'L':
        a->like = arg;
        return 0;
    case 'l':
        parse_label(arg, a, state);
        return 0;
    case 'f':
        if (strcmp(arg, "refuse") != 0 && strcmp(arg, "invalidate") != 0)
            cli_usage_error(state, "--full-policy: '%s' is none of: refuse, invalidate", arg);
        a->full_policy = arg;
        return 0;
    case 'c':
        a->chunk_bytes = cli_chunk_size_arg(state, arg);
        return 0;
    case 'C':
        a->cow_bytes = cli_size_arg(state, "--cow-size", arg);
        return 0;
    case 'd':
        a->cow_device = arg;
        return 0;
    case 't':
        a->take_over = true;
        return 0;
    case 'H':
        a->hosted = true;
        return 0;
    case 'D':
        a->device = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->words.count > 0)
            check_args(a, state);
        return remote_parse_word(key, arg, state);
    default:
        return remote_parse_word(key, arg, state);
    }
}

static int size_like(const char *path, uint64_t *ret_bytes, struct err *reterr)
{
    struct origin o = ORIGIN_INIT;
    int rc = origin_open(path, false, &o, reterr);
    if (rc < 0)
        return rc;
    *ret_bytes = o.size_bytes;
    origin_close(&o);
    if (*ret_bytes == 0)
        return err_set(reterr, SNAP_EINVAL, "%s is empty", path);
    if (*ret_bytes % SECTOR_BYTES != 0)
        return err_set(reterr, SNAP_EINVAL,
                       "%s has %llu bytes, which is no multiple of 512; make it longer, as with "
                       "truncate -s %%512 FILE",
                       path, (unsigned long long)*ret_bytes);
    return 0;
}

static int create_volume(const struct cli *cli, struct remote *r, const struct create_args *a,
                         struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_volume *v = NULL;
    struct snapwire_volume_create args = {
        .size = sizeof args,
        .name = a->target.volume,
        .size_bytes = a->size_bytes,
        .kind = a->hosted ? SNAPWIRE_VOLUME_HOSTED : SNAPWIRE_VOLUME_REMOTE,
        .chunk_size_sectors = (uint32_t)(a->chunk_bytes / SECTOR_BYTES),
        .device = a->device,
        .full_policy = !a->full_policy                             ? SNAPWIRE_FULL_DEFAULT
                       : strcmp(a->full_policy, "invalidate") == 0 ? SNAPWIRE_FULL_INVALIDATE
                                                                   : SNAPWIRE_FULL_REFUSE,
        .labels = a->labels,
        .label_count = a->label_count,
    };
    int rc = 0;
    if (a->like)
        rc = size_like(a->like, &args.size_bytes, reterr);
    if (rc < 0)
        return rc;
    if (snapwire_volume_create_sync(r->client, &args, &v, &why) < 0)
        return remote_error(&why, reterr);
    char size[24];
    if (cli->json)
        rc = out_object(cli, remote_volume_json(v, true), NULL, reterr);
    else
        cli_note(cli, "volume %s, %s%s", v->name, size_format(v->size_bytes, size, sizeof size),
                 a->hosted ? ", hosted" : "");
    snapwire_free(v);
    return rc;
}

static int create_snapshot(const struct cli *cli, struct remote *r, const struct create_args *a,
                           struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_snapshot *s = NULL;
    struct remote_target volume;
    int rc = remote_resolve(r, a->target.volume, REMOTE_WANT_VOLUME, &volume, reterr);
    if (rc < 0)
        return rc;
    const struct snapwire_snapshot_create args = {
        .size = sizeof args,
        .volume = volume.volume,
        .name = a->target.snapshot,
        .chunk_size_sectors = (uint32_t)(a->chunk_bytes / SECTOR_BYTES),
        .take_over = a->take_over,
        .cow_limit_bytes = a->cow_bytes,
        .cow_device = a->cow_device,
    };
    if (snapwire_snapshot_create_sync(r->client, &args, &s, &why) < 0)
        return remote_error(&why, reterr);
    char size[24];
    if (cli->json)
        rc = out_object(cli, remote_snapshot_json(s), NULL, reterr);
    else
        cli_note(cli, "snapshot %s@%s, chunks of %s", s->volume_name, s->name,
                 size_format((uint64_t)s->chunk_size_sectors * SECTOR_BYTES, size, sizeof size));
    snapwire_free(s);
    return rc;
}

int remote_cmd_create(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.doc = "A volume:", .group = 1},
        {.name = "size", .key = 's', .arg = "SIZE", .doc = "of this size", .group = 1},
        {.name = "like", .key = 'L', .arg = "FILE", .doc = "of this disk's size", .group = 1},
        {.name = "label", .key = 'l', .arg = "KEY=VALUE", .doc = "may be repeated", .group = 1},
        {.name = "full-policy",
         .key = 'f',
         .arg = "POLICY",
         .doc = "when a COW device is full: refuse the write (the default), or invalidate the "
                "snapshot",
         .group = 1},
        {.name = "hosted",
         .key = 'H',
         .doc = "the daemon keeps the volume's content too: it is read and written there",
         .group = 1},
        {.name = "device",
         .key = 'D',
         .arg = "DEV",
         .doc = "with --hosted: on this device of the daemon's host, instead of a file",
         .group = 1},
        {.doc = "A snapshot, or a hosted volume:", .group = 2},
        {.name = "chunk-size",
         .key = 'c',
         .arg = "SIZE",
         .doc = "512 to 16M, a power of two; the same for all snapshots of a volume",
         .group = 2},
        {.doc = "A snapshot:", .group = 3},
        {.name = "cow-size",
         .key = 'C',
         .arg = "SIZE",
         .doc = "the most that its COW device may grow to",
         .group = 3},
        {.name = "cow-device",
         .key = 'd',
         .arg = "DEV",
         .doc = "keep it on this device of the daemon's host",
         .group = 3},
        {.name = "take-over",
         .key = 't',
         .doc = "the device holds exceptions already: keep them",
         .group = 3},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_create,
        .args_doc = "VOLUME\nVOLUME@SNAPSHOT...",
        .doc = "Make a volume, or a snapshot of one. A snapshot is complete when the volume's "
               "writer, if there is one, streams to it. Snapshots of several hosted volumes "
               "are of one moment, and all of them are made or none.",
        .children = remote_children,
    };
    struct create_args a = {.words = {.least = 1,
                                      .most = REMOTE_WORDS_MAX,
                                      .missing = "what? VOLUME or VOLUME@SNAPSHOT"}};
    struct remote r = {0};
    remote_parse(cli, &argp, argc, argv, &a);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = a.words.count > 1
                 ? remote_create_group(cli, &r, a.words.word, a.words.count, a.cow_bytes, reterr)
             : a.target.snapshot[0] ? create_snapshot(cli, &r, &a, reterr)
                                    : create_volume(cli, &r, &a, reterr);
    remote_close(&r);
    return rc;
}
