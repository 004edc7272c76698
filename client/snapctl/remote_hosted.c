/* SPDX-License-Identifier: Apache-2.0 */
/* Small things that several commands on hosted volumes need: is it one at all, a question on
 * the terminal, and where data stands.
 */
#include "client/snapctl/remote_hosted.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int remote_want_hosted(const struct remote_target *t, const char *instead, struct err *reterr)
{
    if (t->hosted)
        return 0;
    return err_set(reterr, SNAP_ENOTSUP, "volume %s is remote: its disk is not the daemon's; %s",
                   t->name.volume, instead);
}

int remote_want_remote(const struct remote_target *t, const char *instead, struct err *reterr)
{
    if (!t->hosted)
        return 0;
    return err_set(reterr, SNAP_ENOTSUP, "volume %s is hosted: the daemon has its content; %s",
                   t->name.volume, instead);
}

const struct snapwire_uuid *remote_node(const struct remote_target *t)
{
    return t->name.snapshot[0] ? &t->snapshot : NULL;
}

int remote_confirm(bool yes, struct err *reterr, const char *fmt, ...)
{
    char answer[8] = "";
    if (yes || !isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return 0;
    va_list ap;
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputs("\nGo on? [y/N] ", stderr);
    (void)fflush(stderr);
    if (!fgets(answer, sizeof answer, stdin))
        (void)fputc('\n', stderr);
    if (answer[0] == 'y' || answer[0] == 'Y')
        return 0;
    return err_set(reterr, SNAP_ECANCELED, "nothing was done");
}

int remote_show_snapshot(struct remote *r, const struct remote_target *t,
                         struct snapwire_snapshot **ret, struct err *reterr)
{
    struct snapwire_error why = {0};
    if (snapwire_snapshot_show_sync(r->client, &t->volume, &t->snapshot, ret, &why) < 0)
        return remote_error(&why, reterr);
    return 0;
}

/* -- where data stands ----------------------------------------------------------------------- */

void extent_map_init(struct extent_map *m, struct remote *r, const struct remote_target *t)
{
    *m = (struct extent_map){
        .client = r->client,
        .volume = t->volume,
        .node = remote_node(t),
        .size_bytes = t->size_bytes,
    };
}

static const struct snapwire_extent *find(struct extent_map *m, uint64_t at_bytes)
{
    if (m->list && m->at > 0 && m->list->extents[m->at].offset_bytes > at_bytes)
        m->at = 0;
    for (; m->list && m->at < m->list->count; m->at++) {
        const struct snapwire_extent *e = &m->list->extents[m->at];
        if (at_bytes < e->offset_bytes)
            return NULL;
        if (at_bytes - e->offset_bytes < e->len_bytes)
            return e;
    }
    return NULL;
}

int extent_map_at(struct extent_map *m, uint64_t at_bytes, uint64_t *ret_end, bool *ret_zero,
                  struct err *reterr)
{
    struct snapwire_error why = {0};
    const struct snapwire_extent *e = find(m, at_bytes);
    if (!e) {
        extent_map_done(m);
        if (snapwire_extents_sync(m->client, &m->volume, m->node, at_bytes,
                                  m->size_bytes - at_bytes, &m->list, &why) < 0)
            return remote_error(&why, reterr);
        e = find(m, at_bytes);
    }
    if (!e)
        return err_set(reterr, SNAP_EPROTO, "the daemon does not tell where data stands");
    *ret_end = e->offset_bytes + e->len_bytes;
    *ret_zero = e->kind == SNAPWIRE_EXTENT_ZERO;
    return 0;
}

void extent_map_done(struct extent_map *m)
{
    snapwire_free(m->list);
    m->list = NULL;
    m->at = 0;
}
