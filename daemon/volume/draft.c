/* SPDX-License-Identifier: Apache-2.0 */
/* Notes about nodes that are on their way into the record, or out of it: draft.h tells when, and
 * daemon/service/state_dir.c what is done about them at start. They must not say more than that
 * they are there: the record alone knows which nodes a volume has. Thread: the shard's. */
#include "daemon/volume/draft.h"

#include "common/base/bytes.h"
#include "daemon/volume/sums.h"

#include <stdio.h>
#include <stdlib.h>

static int draft_path(const struct volume *v, const struct uuid *node, char path[LIMIT_PATH_BYTES],
                      struct err *reterr)
{
    char name[UUID_TEXT_BYTES + sizeof DRAFT_END], text[UUID_TEXT_BYTES];
    (void)snprintf(name, sizeof name, "%s" DRAFT_END, uuid_format(node, text));
    return volume_cow_path(v, name, path, LIMIT_PATH_BYTES, reterr);
}

int draft_begin(const struct volume *v, const struct uuid *node, struct err *reterr)
{
    const struct volume_storage *s = v->set->env->storage;
    char path[LIMIT_PATH_BYTES];
    int rc = draft_path(v, node, path, reterr);
    return rc == 0 && s->note != NULL ? s->note(s->user, path, true, reterr) : rc;
}

void draft_end(const struct volume *v, const struct uuid *node)
{
    const struct volume_storage *s = v->set->env->storage;
    char path[LIMIT_PATH_BYTES];
    if (s->note != NULL && draft_path(v, node, path, NULL) == 0)
        (void)!s->note(s->user, path, false, NULL); /* one that stays goes at the next start */
}

struct draft_removal {
    struct control_job job;
    const struct volume_storage *storage;
    char cow[LIMIT_PATH_BYTES], sum[LIMIT_PATH_BYTES], note[LIMIT_PATH_BYTES];
};

static void draft_remove_run(struct control_job *job)
{
    struct draft_removal *d = CONTAINER_OF(job, struct draft_removal, job);
    const struct volume_storage *s = d->storage;
    bool gone = d->cow[0] == '\0' || s->remove(s->user, d->cow, NULL) == 0;
    gone = s->remove(s->user, d->sum, NULL) == 0 && gone;
    if (gone && s->note != NULL)
        (void)!s->note(s->user, d->note, false, NULL);
    free(d);
}

void draft_remove_later(struct volume *v, const struct uuid *node, const char *cow_path)
{
    struct draft_removal *d = calloc(1, sizeof *d);
    char name[SUMS_NAME_BYTES];
    if (d == NULL || volume_cow_path(v, sums_name(node, name), d->sum, sizeof d->sum, NULL) < 0 ||
        draft_path(v, node, d->note, NULL) < 0) {
        free(d); /* they go at the next start */
        return;
    }
    d->job.run = draft_remove_run;
    d->storage = v->set->env->storage;
    (void)snprintf(d->cow, sizeof d->cow, "%s", cow_path);
    control_submit(v->set->env->control, &d->job);
}
