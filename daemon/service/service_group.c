/* SPDX-License-Identifier: Apache-2.0 */
/* GROUP_CREATE: snapshots of several volumes at one moment, all of them or none.
 *
 *   coordinator (the connection's part)         a member's part
 *   start the next ─────────────────────────>   make the snapshot, keep the gate closed
 *        <──────────────────────────── held or failed
 *   all held: the group's record on the control thread: the commit point
 *   release all, kept or not ───────────────>   open the gate; kept: the record says "grouped"
 *        <───────────────────────────────── done
 *   all done: the group's record goes, answer
 *
 *   member   idle ──> starting ──> held ──> releasing ──> done
 *                        └──(failed, or there from an earlier try)──^
 *
 * Members are started one after another in the order of their volumes' uuids, so that of two
 * groups one has all that the other waits for: they cannot hold each other up. A writer that does
 * not stand still must not keep the other volumes closed for long: at the time limit those that
 * are held are let go, and the one that is late is undone when it comes.
 *
 * All state is the coordinator's; to a member's part goes one message, from it comes one. Of groups
 * of one uuid that are asked for at once each has its turn, see group_turn.h.
 */
#include "daemon/service/server.h"

#include "common/base/bytes.h"
#include "daemon/service/group_turn.h"
#include "daemon/volume/change.h"
#include "daemon/volume/group.h"

#include <stdlib.h>
#include <string.h>

enum { GROUP_TIMEOUT_MS = 10000 };

enum member_state { MEMBER_IDLE, MEMBER_STARTING, MEMBER_HELD, MEMBER_RELEASING, MEMBER_DONE };

struct group_member {
    struct group *group;
    struct part *part;
    struct uuid volume, snapshot;
    const Snapwire__V1__GroupMember *in;
    enum member_state state; /* the coordinator's */
    bool keep;
    bool finished; /* its record says so: it needs the group's no more */
    struct loop_msg command, event;
    /* what the event says */
    bool held;
    int code;
    struct err err;
    struct volume *at; /* from the start of the creation to its end */
};

struct group {
    struct request *req;
    struct uuid id;
    struct part *coordinator;
    struct group_member *members; /* in the request's order */
    struct group_member **order;  /* by volume */
    struct group_turn turn;
    unsigned count, started;
    unsigned there; /* from an earlier try */
    struct loop_timer timer;
    int code; /* the first failure */
    struct err err;
    Snapwire__V1__GroupCreateResponse out;
};

/* -- at a member's part ------------------------------------------------------------------ */

static void group_event_run(struct loop_msg *msg);

static void member_tell(struct group_member *m, bool held, int code, const struct err *err)
{
    m->held = held;
    m->code = code;
    m->err = err != NULL && code < 0 ? *err : ERR_INIT;
    m->event.fn = group_event_run;
    shard_post(m->group->coordinator->shard, &m->event);
}

static void member_held(void *user, int code, const struct err *err)
{
    member_tell(user, true, code, err);
}

/* A record that could not be written leaves the member dependent on the group's, as it was. */
static void member_finished(void *user, int code, const struct err *err)
{
    struct group_member *m = user;
    (void)err;
    m->finished = code == 0;
    member_tell(m, false, 0, NULL);
}

static void member_done(void *user, int code, const struct err *err)
{
    struct group_member *m = user;
    if (m->keep && code == 0) /* writes go on meanwhile */
        snapshot_group_finish(m->at, &m->snapshot, member_finished, m);
    else
        member_tell(m, false, code, err);
}

/* Has the volume another snapshot of that group? */
static bool member_differs(const struct group_member *m, const struct volume *v)
{
    for (uint32_t i = 0; i < v->record.snapshot_count; i++) {
        const struct record_snapshot *rs = &v->record.snapshots[i];
        if (uuid_equal(&rs->group, &m->group->id) && !uuid_equal(&rs->id, &m->snapshot))
            return true;
    }
    return false;
}

static int group_is_other(struct err *reterr)
{
    return err_set(reterr, SNAP_EEXIST, "a group of that uuid with other members exists");
}

static int member_check(struct group_member *m, const struct volume *v, struct err *reterr)
{
    const struct session *s = m->group->req->session;
    char text[UUID_TEXT_BYTES];
    if (v == NULL || v->leaving)
        return err_set(reterr, SNAP_ENOENT, "no volume %s", uuid_format(&m->volume, text));
    if (!s->admin &&
        !acl_allows(m->part->set.acl, s->peer.identity, &m->volume, ACL_RIGHT_APPEND)) {
        bool sees = acl_allows(m->part->set.acl, s->peer.identity, &m->volume, ACL_RIGHT_SEE);
        return err_set(reterr, SNAP_EPERM,
                       "%s may not make snapshots of volume %s; that takes the role %s",
                       s->peer.identity, sees ? v->record.name : uuid_format(&m->volume, text),
                       request_right_roles(ACL_RIGHT_APPEND));
    }
    if (v->opening)
        return err_set(reterr, SNAP_EBUSY, "volume %s is being opened", v->record.name);
    return member_differs(m, v) ? group_is_other(reterr) : 0;
}

static void member_start(struct loop_msg *msg)
{
    struct group_member *m = CONTAINER_OF(msg, struct group_member, command);
    struct volume *v = volume_set_find(&m->part->set, &m->volume);
    struct err err = ERR_INIT;
    int rc = member_check(m, v, &err);
    const struct snapshot *s = rc == 0 ? volume_snapshot_find(v, &m->snapshot) : NULL;
    const struct record_snapshot *rs = s == NULL ? NULL : snapshot_record(s);
    if (rs != NULL && !uuid_equal(&rs->group, &m->group->id))
        rc = err_set(&err, SNAP_EEXIST, "%s@%s exists, and was not made by this group",
                     v->record.name, rs->name);
    if (rc < 0) {
        member_tell(m, false, rc, &err);
        return;
    }
    const struct snapshot_spec spec = {.id = m->snapshot,
                                       .name = m->in->name,
                                       .limit_bytes = m->in->cow_limit_bytes,
                                       .group = &m->group->id,
                                       .held = member_held};
    m->at = v;
    snapshot_create_start(v, &spec, member_done, m);
}

static void member_release(struct loop_msg *msg)
{
    struct group_member *m = CONTAINER_OF(msg, struct group_member, command);
    /* it may be leaving meanwhile, but not without the creation that it holds */
    snapshot_create_release(m->at, &m->snapshot, m->keep);
}

/* -- the coordinator --------------------------------------------------------------------- */

static void group_command(struct group_member *m, enum member_state state,
                          void (*fn)(struct loop_msg *msg))
{
    m->state = state;
    m->command.fn = fn;
    shard_post(m->part->shard, &m->command);
}

static void group_release(struct group_member *m, bool keep)
{
    m->keep = keep;
    group_command(m, MEMBER_RELEASING, member_release);
}

static void group_release_held(struct group *g, bool keep)
{
    for (unsigned i = 0; i < g->count; i++)
        if (g->members[i].state == MEMBER_HELD)
            group_release(&g->members[i], keep);
}

static void group_fail(struct group *g, int code, const struct err *err)
{
    if (g->code == 0) {
        g->code = code;
        g->err = *err;
    }
    loop_timer_stop(&g->timer);
    group_release_held(g, false);
}

static void group_timeout(void *user)
{
    struct group *g = user;
    struct err err = ERR_INIT;
    (void)err_set(&err, SNAP_ETIMEDOUT, "%u of %u volumes stood still within %d ms: none was taken",
                  g->started - 1, g->count, (int)GROUP_TIMEOUT_MS);
    group_fail(g, SNAP_ETIMEDOUT, &err);
}

static void group_answer(struct request *req)
{
    struct group *g = req->op;
    if (protobuf_c_message_get_packed_size(&g->out.base) > req->session->peer.control_bytes_max) {
        const Snapwire__V1__Snapshot none = SNAPWIRE__V1__SNAPSHOT__INIT;
        for (size_t i = 0; i < g->out.n_snapshots; i++) { /* SNAPSHOT_SHOW has them too */
            g->out.snapshots[i]->cow_path = none.cow_path;
            g->out.snapshots[i]->state_text = none.state_text;
        }
    }
    request_reply(req, &g->out.base);
}

/* At each member's part in turn, in the request's order. */
static void group_fill(struct request *req)
{
    struct group *g = req->op;
    const struct group_member *m = &g->members[g->started];
    struct volume *v = volume_set_find(&req->at->set, &m->volume);
    const struct snapshot *s = v == NULL ? NULL : volume_snapshot_find(v, &m->snapshot);
    if (s != NULL && snapshot_record(s) != NULL) { /* else deleted meanwhile */
        Snapwire__V1__Snapshot *one = request_alloc(req, sizeof *one);
        if (one == NULL || !service_fill_snapshot(req, s, one)) {
            request_no_memory(req);
            return;
        }
        g->out.snapshots[g->out.n_snapshots++] = one;
    }
    if (++g->started < g->count)
        request_go(req, g->members[g->started].part, group_fill);
    else
        group_answer(req);
}

static bool group_is_finished(const struct group *g)
{
    for (unsigned i = 0; i < g->count; i++)
        if (!g->members[i].finished)
            return false;
    return true;
}

/* No record depends on it any more. One that stays goes at the next start. */
static void group_forget_run(struct request *req)
{
    const struct group *g = req->op;
    (void)!group_remove(req->session->server->env.state_dir, &g->id, NULL);
}

/* It is made: whoever asked for it too has their turn. */
static void group_leave(struct request *req)
{
    struct group *g = req->op;
    group_turn_end(req->session->server->group_turns, &g->turn, true);
    request_go(req, g->members[0].part, group_fill);
}

static void group_end(struct group *g)
{
    struct request *req = g->req;
    loop_timer_done(&g->timer);
    if (g->code < 0) {
        group_turn_end(req->session->server->group_turns, &g->turn, false);
        request_fail(req, g->code, &g->err);
        return;
    }
    g->started = 0;
    if (group_is_finished(g))
        request_control(req, group_forget_run, group_leave);
    else
        group_leave(req);
}

static void group_save_run(struct request *req)
{
    const struct group *g = req->op;
    struct uuid volumes[LIMIT_GROUP_MEMBERS];
    for (unsigned i = 0; i < g->count; i++)
        volumes[i] = g->order[i]->volume;
    req->code =
        group_save(req->session->server->env.state_dir, &g->id, volumes, g->count, &req->err);
}

static void group_saved(struct request *req)
{
    struct group *g = req->op;
    if (req->code < 0)
        group_fail(g, req->code, &req->err);
    else
        group_release_held(g, true);
    req->code = 0;
}

/* Every member is held, or there from an earlier try. */
static void group_commit(struct group *g)
{
    struct err err = ERR_INIT;
    loop_timer_stop(&g->timer);
    if (g->there == g->count) {
        group_end(g);
    } else if (g->there > 0) {
        group_fail(g, group_is_other(&err), &err);
    } else {
        request_control(g->req, group_save_run, group_saved);
    }
}

static void group_next(struct group *g)
{
    if (g->started < g->count)
        group_command(g->order[g->started++], MEMBER_STARTING, member_start);
    else
        group_commit(g);
}

static bool group_is_over(const struct group *g)
{
    for (unsigned i = 0; i < g->count; i++)
        if (g->members[i].state != MEMBER_IDLE && g->members[i].state != MEMBER_DONE)
            return false;
    return true;
}

static void group_event_run(struct loop_msg *msg)
{
    struct group_member *m = CONTAINER_OF(msg, struct group_member, event);
    struct group *g = m->group;
    const bool undone = m->state == MEMBER_RELEASING && !m->keep && m->code == SNAP_ECANCELED;
    if (m->held) {
        m->state = MEMBER_HELD;
        if (g->code < 0)
            group_release(m, false);
        else
            group_next(g);
        return;
    }
    const bool was_starting = m->state == MEMBER_STARTING;
    m->state = MEMBER_DONE;
    if (m->code < 0 && !undone) {
        group_fail(g, m->code, &m->err);
    } else if (was_starting && g->code == 0) {
        g->there++;
        group_next(g);
        return;
    }
    if (group_is_over(g))
        group_end(g);
}

/* -- the request ------------------------------------------------------------------------- */

static int group_order(const void *a, const void *b)
{
    const struct group_member *const *ma = a, *const *mb = b;
    return memcmp((*ma)->volume.b, (*mb)->volume.b, UUID_BYTES);
}

static bool group_take_members(struct request *req, struct group *g)
{
    const Snapwire__V1__GroupCreate *in = REQUEST_IN(req, Snapwire__V1__GroupCreate);
    for (unsigned i = 0; i < g->count; i++) {
        struct group_member *m = &g->members[i];
        m->group = g;
        m->in = in->members[i];
        g->order[i] = m;
        if (!request_uuid(req, &m->in->volume, "volume", &m->volume) ||
            !request_uuid(req, &m->in->snapshot, "snapshot", &m->snapshot))
            return false;
        m->part = server_part_of(req->session->server, &m->volume);
    }
    qsort(g->order, g->count, sizeof(struct group_member *), group_order);
    for (unsigned i = 1; i < g->count; i++) {
        if (uuid_equal(&g->order[i - 1]->volume, &g->order[i]->volume)) {
            request_failf(req, SNAP_EINVAL, "a volume is named twice in one group");
            return false;
        }
    }
    return true;
}

static void group_go(struct group_turn *t)
{
    struct group *g = CONTAINER_OF(t, struct group, turn);
    if (t->taken) {
        g->code = group_is_other(&g->err);
        group_end(g);
        return;
    }
    loop_timer_set(&g->timer, GROUP_TIMEOUT_MS);
    group_next(g);
}

/* All that a group takes while it is made, and for its answer. */
static bool group_take_turn(struct request *req, struct group *g)
{
    struct group_pair *pairs = request_alloc(req, g->count * sizeof *pairs);
    snapwire__v1__group_create_response__init(&g->out);
    g->out.snapshots = request_alloc(req, g->count * sizeof(Snapwire__V1__Snapshot *));
    if (pairs == NULL || g->out.snapshots == NULL) {
        request_no_memory(req);
        return false;
    }
    for (unsigned i = 0; i < g->count; i++)
        pairs[i] =
            (struct group_pair){.volume = g->order[i]->volume, .snapshot = g->order[i]->snapshot};
    g->turn = (struct group_turn){
        .id = g->id, .pairs = pairs, .count = g->count, .shard = req->at->shard, .go = group_go};
    return true;
}

void service_group_create(struct request *req)
{
    const Snapwire__V1__GroupCreate *in = REQUEST_IN(req, Snapwire__V1__GroupCreate);
    struct err err = ERR_INIT;
    if (in->n_members == 0 || in->n_members > LIMIT_GROUP_MEMBERS) {
        request_failf(req, SNAP_EINVAL, "a group of %zu volumes; 1 to %d are possible",
                      in->n_members, (int)LIMIT_GROUP_MEMBERS);
        return;
    }
    struct group *g = request_alloc(req, sizeof *g);
    if (g != NULL) {
        g->members = request_alloc(req, in->n_members * sizeof *g->members);
        g->order = request_alloc(req, in->n_members * sizeof(struct group_member *));
    }
    if (g == NULL || g->members == NULL || g->order == NULL) {
        request_no_memory(req);
        return;
    }
    request_set_target(req, "%zu volumes", in->n_members);
    req->op = g;
    g->req = req;
    g->coordinator = req->at;
    g->count = (unsigned)in->n_members;
    if (!request_uuid(req, &in->group, "group", &g->id))
        return;
    if (uuid_is_zero(&g->id)) {
        request_failf(req, SNAP_EINVAL, "a group needs a uuid");
        return;
    }
    if (!group_take_members(req, g) || !group_take_turn(req, g))
        return;
    if (loop_timer_init(req->at->shard->loop, &g->timer, group_timeout, g, &err) < 0) {
        request_fail(req, err.code, &err);
        return;
    }
    group_turn_begin(req->session->server->group_turns, &g->turn);
}
