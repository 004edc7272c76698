/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote diff: the extents of the volume that changed since a snapshot, up to now or to
 * a newer one.
 *
 * Runs come page by page and are printed as they come, neighbours as one; a table
 * of millions of extents takes no memory here.
 */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_connect.h"
#include "common/base/bytes.h"
#include "common/base/size.h"

#include <inttypes.h>
#include <string.h>

struct diff {
    const struct cli *cli;
    uint64_t size_bytes;
    uint64_t offset_bytes, len_bytes; /* the one not printed yet; len 0: none */
    uint64_t extents, changed_bytes;
};

static void print_head(const struct diff *d)
{
    if (d->cli->json)
        (void)putchar('[');
    else
        (void)printf("%20s  %12s  %7s\n", "OFFSET", "LENGTH", "SIZE");
}

static void print_extent(struct diff *d)
{
    char size[24];
    if (d->len_bytes == 0)
        return;
    if (d->extents == 0)
        print_head(d);
    if (d->cli->json)
        (void)printf("%s\n  {\"offset_bytes\": %" PRIu64 ", \"length_bytes\": %" PRIu64 "}",
                     d->extents == 0 ? "" : ",", d->offset_bytes, d->len_bytes);
    else
        (void)printf("%20" PRIu64 "  %12" PRIu64 "  %7s\n", d->offset_bytes, d->len_bytes,
                     size_format(d->len_bytes, size, sizeof size));
    d->extents++;
    d->changed_bytes += d->len_bytes;
    d->len_bytes = 0;
}

static int on_page(void *user, const struct snapwire_run *runs, size_t count,
                   uint32_t chunk_size_sectors)
{
    struct diff *d = user;
    uint64_t chunk = (uint64_t)chunk_size_sectors * SECTOR_BYTES;
    for (size_t i = 0; i < count; i++) {
        uint64_t from = runs[i].old_chunk * chunk;
        uint64_t to = u64_min(from + runs[i].count * chunk, d->size_bytes);
        if (from >= to)
            continue;
        if (d->len_bytes > 0 && d->offset_bytes + d->len_bytes == from) {
            d->len_bytes += to - from;
            continue;
        }
        print_extent(d);
        d->offset_bytes = from;
        d->len_bytes = to - from;
    }
    return ferror(stdout) != 0 || cli_interrupted();
}

/* What is asked about: a snapshot, and a newer one or the volume as it is now. */
struct span {
    const char *text;
    char from_text[2 * LIMIT_NAME_BYTES + 2];
    struct remote_target from, to;
    bool has_to;
};

/* VOLUME@A, VOLUME@A..B; VOLUME@A.. is to now, too. */
static int resolve_span(struct remote *r, const char *text, struct span *ret, struct err *reterr)
{
    char to[2 * LIMIT_NAME_BYTES + 2];
    const char *at = strchr(text, '@'), *dots = at ? strstr(at, "..") : NULL;
    *ret = (struct span){.text = text};
    if (strlen(text) >= sizeof to || (dots && strchr(dots, '@')))
        return err_set(reterr, SNAP_EINVAL, "'%s' is not VOLUME@A..B, two snapshots of a volume",
                       text);
    (void)snprintf(ret->from_text, sizeof ret->from_text, "%.*s",
                   dots ? (int)(dots - text) : (int)strlen(text), text);
    int rc = remote_resolve(r, ret->from_text, REMOTE_WANT_SNAPSHOT, &ret->from, reterr);
    if (rc < 0 || !dots)
        return rc;
    (void)snprintf(to, sizeof to, "%.*s@%s", (int)(at - text), text, dots + 2);
    ret->has_to = dots[2] != '\0';
    if (rc == 0 && ret->has_to)
        rc = remote_resolve(r, to, REMOTE_WANT_SNAPSHOT, &ret->to, reterr);
    if (rc == 0 && ret->has_to && snapwire_uuid_equal(&ret->from.snapshot, &ret->to.snapshot))
        rc = err_set(reterr, SNAP_EINVAL, "%s and %s are the same snapshot", ret->from_text, to);
    return rc;
}

static int each_page(struct remote *r, const struct span *s, struct diff *d, struct err *reterr)
{
    struct snapwire_error why = {0};
    int rc;
    if (s->from.hosted || s->has_to) {
        const struct snapwire_diff args = {.size = sizeof args,
                                           .volume = s->from.volume,
                                           .from = s->from.snapshot,
                                           .to = s->to.snapshot};
        rc = snapwire_diff_each_sync(r->client, &args, on_page, d, &why);
    } else {
        const struct snapwire_run_list args = {
            .size = sizeof args, .volume = s->from.volume, .snapshot = s->from.snapshot};
        rc = snapwire_run_each_sync(r->client, &args, on_page, d, &why);
    }
    return rc < 0 ? remote_error(&why, reterr) : 0;
}

static int diff(const struct cli *cli, struct remote *r, const struct span *s, struct err *reterr)
{
    struct diff d = {.cli = cli, .size_bytes = s->from.size_bytes};
    int rc = each_page(r, s, &d, reterr);
    if (rc < 0)
        return rc;
    print_extent(&d);
    if (d.extents == 0 && cli->json)
        print_head(&d);
    if (cli->json)
        (void)puts(d.extents == 0 ? "]" : "\n]");
    if (out_flush(reterr) < 0)
        return SNAP_EIO;
    if (cli_interrupted())
        return err_set(reterr, SNAP_ECANCELED, "stopped");
    char changed[24];
    if (!cli->json)
        cli_note(cli, "%s in %" PRIu64 " extent%s changed %s %s",
                 size_format(d.changed_bytes, changed, sizeof changed), d.extents,
                 d.extents == 1 ? "" : "s", s->has_to ? "in" : "since",
                 s->has_to ? s->text : s->from_text);
    return 0;
}

int remote_cmd_diff(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "VOLUME@SNAPSHOT[..NEWER]",
        .doc = "The extents of the volume that may differ from the snapshot, in bytes: what was "
               "overwritten since, or until the NEWER snapshot, rounded to chunks. No data is "
               "read for it.",
        .children = remote_children,
    };
    struct remote_words words = {
        .least = 1, .most = 1, .missing = "which snapshot? VOLUME@SNAPSHOT"};
    struct remote r = {0};
    struct span span;
    remote_parse(cli, &argp, argc, argv, &words);
    int rc = remote_open(cli, &r, reterr);
    cli_catch_signals();
    if (rc == 0)
        rc = resolve_span(&r, words.word[0], &span, reterr);
    if (rc == 0)
        rc = diff(cli, &r, &span, reterr);
    remote_close(&r);
    return rc;
}
