/* SPDX-License-Identifier: Apache-2.0 */
/* Rights on their way to the shards: a list that is late does not displace a newer one. */
#include "daemon/service/server.h"

#include "common/base/bytes.h"
#include "tests/lib/cm.h"

#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS = 2 };

struct world {
    struct server server;
    struct part parts[PARTS];
    struct acl *lists[3];
};

struct publishing {
    struct loop_msg msg;
    struct control_job job;
    struct request req;
    struct acl_publication publication;
    struct session session;
    struct acl *list;
    sem_t taken, go, done;
    bool stall; /* the shard does nothing else until go */
};

static void publish_take(struct control_job *job)
{
    struct publishing *p = CONTAINER_OF(job, struct publishing, job);
    service_take_acl(p->session.server, acl_ref(p->list));
    shard_post(p->req.at->shard, &p->msg);
}

static void publish_done(struct request *req)
{
    struct publishing *p = CONTAINER_OF(req, struct publishing, req);
    sem_post(&p->done);
}

static void publish_run(struct loop_msg *msg)
{
    struct publishing *p = CONTAINER_OF(msg, struct publishing, msg);
    service_publish_acl(&p->req, &p->publication, publish_done);
    sem_post(&p->taken);
    if (p->stall)
        sem_wait(&p->go);
}

static void publish_begin(struct world *w, struct publishing *p, unsigned part, struct acl *list)
{
    p->msg.fn = publish_run;
    p->job.run = publish_take;
    p->session.server = &w->server;
    p->session.home = &w->parts[part];
    p->req.session = &p->session;
    p->req.at = &w->parts[part];
    p->list = list;
    sem_init(&p->taken, 0, 0);
    sem_init(&p->go, 0, 0);
    sem_init(&p->done, 0, 0);
    control_submit(w->server.control, &p->job);
    sem_wait(&p->taken);
}

struct barrier {
    struct control_job job;
    sem_t done;
};

static void barrier_run(struct control_job *job)
{
    sem_post(&CONTAINER_OF(job, struct barrier, job)->done);
}

/* What was submitted before has run. */
static void control_settle(struct world *w)
{
    struct barrier b = {.job = {.run = barrier_run}};
    sem_init(&b.done, 0, 0);
    control_submit(w->server.control, &b.job);
    sem_wait(&b.done);
}

static void publish__late_list_does_not_displace_a_newer_one(void **state)
{
    (void)state;
    struct world *w = calloc(1, sizeof *w);
    struct err err = ERR_INIT;
    for (unsigned i = 0; i < 3; i++)
        w->lists[i] = acl_new_empty();
    w->server.parts = w->parts;
    w->server.part_count = PARTS;
    w->server.acl = acl_ref(w->lists[0]);
    assert_int_equal(control_new(&w->server.control, &err), 0);
    for (unsigned i = 0; i < PARTS; i++) {
        struct shard_config config = {.index = i, .io_engine = "threads"};
        w->parts[i].server = &w->server;
        w->parts[i].index = i;
        assert_int_equal(shard_new(&config, &w->parts[i].shard, &err), 0);
        volume_set_init(&w->parts[i].set, w->parts[i].shard, &w->server.env, acl_ref(w->lists[0]));
    }
    struct publishing *older = calloc(1, sizeof *older), *newer = calloc(1, sizeof *newer);
    older->stall = true;
    publish_begin(w, older, 1, w->lists[1]);
    control_settle(w); /* the older list has been taken, and waits on its shard */
    publish_begin(w, newer, 0, w->lists[2]);
    control_settle(w);
    sem_post(&older->go);
    sem_wait(&older->done);
    sem_wait(&newer->done);
    for (unsigned i = 0; i < PARTS; i++)
        assert_ptr_equal(w->parts[i].set.acl, w->lists[2]);

    control_free(w->server.control);
    for (unsigned i = 0; i < PARTS; i++) {
        shard_free(w->parts[i].shard);
        volume_set_done(&w->parts[i].set);
    }
    acl_unref(w->server.acl);
    for (unsigned i = 0; i < 3; i++)
        acl_unref(w->lists[i]);
    free(older);
    free(newer);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(publish__late_list_does_not_displace_a_newer_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
