/* SPDX-License-Identifier: Apache-2.0 */
/* Every structural change of a volume is a commit.
 *
 *   queued ──> copy the record ──> change() ──> save, registry ──> take it over ──> done ──> next
 *                                     │         (control thread)
 *                                     └─(refused)────────────────────────────────> done
 *
 * One at a time a volume, so a change always sees the outcome of the one before. A registry that
 * could not be told is no error: the record counts, and it can be made anew from that.
 *
 * It must not know what changes. Thread: the shard's; volume_commit_run() the control thread's,
 * while nothing else touches the commit or replaces the record.
 */
#include "daemon/volume/volume.h"

#include "common/base/bytes.h"

static void volume_commit_run(struct control_job *job)
{
    struct volume_commit *c = CONTAINER_OF(job, struct volume_commit, job);
    const struct volume_env *env = c->volume->set->env;
    char dir[LIMIT_PATH_BYTES];
    c->code = volume_dir_format(env->state_dir, &c->next.id, dir, sizeof dir, &c->err);
    if (c->code == 0)
        c->code = env->storage->save(env->storage->user, dir, &c->next, &c->err);
    if (c->code == 0 && env->registry != NULL &&
        volume_registry_update(env->registry, &c->volume->record, &c->next, &c->registry_err) < 0)
        (void)err_prefix(&c->registry_err, "registry");
}

static void volume_commit_next(struct volume *v);

/* The commit leaves the queue before done runs, which may start another or free c. */
static void volume_commit_end(struct volume_commit *c, int code, const struct err *err)
{
    struct volume *v = c->volume;
    struct err why = *err;
    STAILQ_REMOVE_HEAD(&v->commits, link);
    volume_record_done(&c->next);
    c->done(c, code, &why);
    v->committing = false;
    volume_commit_next(v);
    volume_unref(v);
}

static void volume_commit_back(struct control_job *job)
{
    struct volume_commit *c = CONTAINER_OF(job, struct volume_commit, job);
    struct volume *v = c->volume;
    if (c->code == 0) {
        struct volume_record old = v->record;
        v->record = c->next;
        c->next = old;
    }
    if (c->registry_err.code != 0)
        volume_notice(v, NULL, "registry lags behind the record", &c->registry_err);
    volume_commit_end(c, c->code, &c->err);
}

static void volume_commit_next(struct volume *v)
{
    struct volume_commit *c = STAILQ_FIRST(&v->commits);
    if (c == NULL || v->committing)
        return;
    v->committing = true;
    c->code = 0;
    c->err = ERR_INIT;
    c->registry_err = ERR_INIT;
    volume_record_init(&c->next);
    int rc = volume_record_copy(&c->next, &v->record, &c->err);
    if (rc == 0)
        rc = c->change(c, &c->next, &c->err);
    if (rc < 0) {
        volume_commit_end(c, rc, &c->err);
        return;
    }
    c->job = (struct control_job){
        .run = volume_commit_run, .done = volume_commit_back, .back = v->set->shard->loop};
    control_submit(v->set->env->control, &c->job);
}

void volume_commit_start(struct volume *v, struct volume_commit *c)
{
    c->volume = v;
    volume_ref(v);
    STAILQ_INSERT_TAIL(&v->commits, c, link);
    volume_commit_next(v);
}
