/* SPDX-License-Identifier: Apache-2.0 */
/* Rights: grant, revoke, list.
 *
 *   control: new list saved ──> every part takes it over in turn ──> answer
 *
 * A list never changes once it is out; a part looks rights up in the one that it has
 * last taken over. When the answer is out, all have the new one. */
#include "daemon/service/service_page.h"

#include "common/base/name.h"

#include <stdio.h>
#include <string.h>

struct grant_op {
    struct acl_grant grant;
    bool revoke;
    enum acl_role held; /* revoke: what is to be taken away; ACL_NONE: whatever there is */
    struct acl_publication publication;
};

/* -- publishing ------------------------------------------------------------------------ */

static void grant_publish_part(struct request *req)
{
    const struct acl_publication *p = req->op;
    struct part *part = req->at;
    if (part->set.acl_version >= p->version)
        return; /* a later change was faster */
    acl_unref(part->set.acl);
    part->set.acl = acl_ref(p->acl);
    part->set.acl_version = p->version;
}

static void grant_published(struct request *req)
{
    struct acl_publication *p = req->op;
    acl_unref(p->acl);
    req->op = p->op;
    p->then(req);
}

static void grant_publish_ready(struct request *req)
{
    request_tour(req, grant_publish_part, grant_published);
}

/* server->acl is the control thread's: the reference is taken there. */
static void grant_publish_take(struct request *req)
{
    struct acl_publication *p = req->op;
    const struct server *server = req->session->server;
    p->acl = acl_ref(server->acl);
    p->version = server->acl_version;
}

void service_take_acl(struct server *server, struct acl *take_acl)
{
    acl_unref(server->acl);
    server->acl = take_acl;
    server->acl_version++;
}

void service_publish_acl(struct request *req, struct acl_publication *p, request_fn *then)
{
    p->op = req->op;
    p->then = then;
    req->op = p;
    request_control(req, grant_publish_take, grant_publish_ready);
}

/* -- changing -------------------------------------------------------------------------- */

static void grant_reply(struct request *req)
{
    request_reply_empty(req);
}

static void grant_saved(struct request *req)
{
    struct grant_op *g = req->op;
    if (req->code < 0)
        request_fail(req, req->code, &req->err);
    else
        service_publish_acl(req, &g->publication, grant_reply);
}

static const char *grant_role(const struct grant_op *g)
{
    if (g->revoke && g->held == ACL_NONE)
        return "whatever";
    return acl_role_name(g->revoke ? g->held : g->grant.role);
}

/* Is the role that is to be taken away the one that is there? What is not there at all acl_with()
 * tells. */
static int grant_check_held(const struct server *server, const struct grant_op *g,
                            struct err *reterr)
{
    struct registry_volume row;
    for (size_t i = 0; g->held != ACL_NONE && i < acl_count(server->acl); i++) {
        const struct acl_grant *there = acl_at(server->acl, i);
        if (there->role == g->held || strcmp(there->identity, g->grant.identity) != 0 ||
            !uuid_equal(&there->volume, &g->grant.volume))
            continue;
        bool named = !uuid_is_zero(&there->volume) &&
                     registry_get_volume(server->registry, &there->volume, &row, NULL) == 0;
        return err_set(reterr, SNAP_ENOENT, "'%s' is %s of %s, not %s", there->identity,
                       acl_role_name(there->role),
                       uuid_is_zero(&there->volume) ? "all volumes"
                       : named                      ? row.name
                                                    : "that volume",
                       acl_role_name(g->held));
    }
    return 0;
}

static int grant_change(struct request *req, struct err *reterr)
{
    struct server *server = req->session->server;
    struct grant_op *g = req->op;
    struct registry_volume row;
    if (!uuid_is_zero(&g->grant.volume)) {
        struct err err = ERR_INIT;
        int rc = registry_get_volume(server->registry, &g->grant.volume, &row, &err);
        if (rc < 0 && !g->revoke)
            return err_copy(reterr, &err);
        if (rc == 0)
            request_set_target(req, "%s %s of %s", g->grant.identity, grant_role(g), row.name);
    }
    struct acl *next = NULL;
    int rc = grant_check_held(server, g, reterr);
    if (rc == 0)
        rc = acl_with(server->acl, &g->grant, &next, reterr);
    if (rc < 0)
        return rc;
    rc = acl_save(server->acl_path, next, reterr);
    if (rc < 0) {
        acl_unref(next);
        return rc;
    }
    service_take_acl(server, next);
    return 0;
}

static void grant_run(struct request *req)
{
    req->code = grant_change(req, &req->err);
}

static void grant_begin(struct request *req, bool revoke)
{
    const Snapwire__V1__Grant *in = REQUEST_IN(req, Snapwire__V1__Grant);
    struct grant_op *g = request_alloc(req, sizeof *g);
    if (g == NULL) {
        request_no_memory(req);
        return;
    }
    req->op = g;
    g->revoke = revoke;
    bool all = in->volume.len == 0;
    if (!all && !request_uuid(req, &in->volume, "volume", &g->grant.volume))
        return;
    req->volume_id = g->grant.volume;
    int rc = name_check(in->identity, "identity", &req->err);
    if (rc < 0) {
        request_fail(req, rc, &req->err);
        return;
    }
    (void)snprintf(g->grant.identity, sizeof g->grant.identity, "%s", in->identity);
    if (in->role < SNAPWIRE__V1__ROLE__ROLE_NONE || in->role > SNAPWIRE__V1__ROLE__ROLE_ADMIN ||
        (!revoke && in->role == SNAPWIRE__V1__ROLE__ROLE_NONE)) {
        request_failf(req, SNAP_EINVAL, "role %d is not known", (int)in->role);
        return;
    }
    g->grant.role = revoke ? ACL_NONE : (enum acl_role)in->role;
    g->held = revoke ? (enum acl_role)in->role : ACL_NONE;
    request_set_target(req, "%s %s%s", in->identity, grant_role(g), all ? " of all volumes" : "");
    if (!request_allows(req, all ? NULL : &g->grant.volume, ACL_RIGHT_ADMIN)) {
        request_failf(req, SNAP_EPERM,
                      "%s may not change rights %s; that takes the role admin there",
                      req->session->peer.identity, all ? "on all volumes" : "on that volume");
        return;
    }
    request_control(req, grant_run, grant_saved);
}

void service_grant(struct request *req)
{
    grant_begin(req, false);
}

void service_revoke(struct request *req)
{
    grant_begin(req, true);
}

/* -- listing ------------------------------------------------------------------------------ */

enum { PAGE_GRANTS_MAX = 512 };

struct grant_listing {
    Snapwire__V1__GrantListResponse out;
    struct page page; /* max 0: all in one answer */
    struct acl *acl;
    bool one, all_allowed;
    struct uuid id;
};

static bool grant_list_add(struct request *req, struct grant_listing *l,
                           const struct acl_grant *grant, Snapwire__V1__Grant *out)
{
    snapwire__v1__grant__init(out);
    out->identity = request_strdup(req, grant->identity);
    out->role = (Snapwire__V1__Role)grant->role;
    if (out->identity == NULL)
        return false;
    if (!uuid_is_zero(&grant->volume)) {
        struct registry_volume row;
        out->volume = request_bytes(req, grant->volume.b, UUID_BYTES);
        if (registry_get_volume(req->session->server->registry, &grant->volume, &row, NULL) == 0)
            out->volume_name = request_strdup(req, row.name);
        if (out->volume.data == NULL || out->volume_name == NULL)
            return false;
    }
    l->out.grants[l->out.n_grants++] = out;
    return true;
}

static bool grant_is_listed(const struct request *req, const struct grant_listing *l,
                            const struct acl_grant *grant)
{
    bool about = uuid_is_zero(&grant->volume) || uuid_equal(&grant->volume, &l->id);
    bool mine = strcmp(grant->identity, req->session->peer.identity) == 0;
    return (about || !l->one) && (l->all_allowed || mine);
}

/* By identity, then volume. */
static void grant_list_pick(struct request *req, struct grant_listing *l)
{
    for (size_t i = 0; i < acl_count(l->acl); i++) {
        const struct acl_grant *grant = acl_at(l->acl, i);
        struct page_key key =
            page_key_of(grant->identity, strlen(grant->identity) + 1, grant->volume.b, UUID_BYTES);
        if (grant_is_listed(req, l, grant) && page_wants(&l->page, &key))
            page_put(&l->page, &key, (void *)(uintptr_t)grant);
    }
}

static bool grant_list_page(struct request *req, struct grant_listing *l, Snapwire__V1__Grant *all)
{
    size_t used = 0, room = page_room(req);
    uint32_t given = 0;
    grant_list_pick(req, l);
    for (; given < l->page.count && given < l->page.max; given++) {
        if (!grant_list_add(req, l, l->page.entries[given].item, &all[given]))
            return false;
        used += protobuf_c_message_get_packed_size(&all[given].base) + PAGE_ENTRY_BYTES;
        if (used > room && given > 0) {
            l->out.n_grants--;
            break;
        }
    }
    l->out.next = page_next(&l->page, given);
    return true;
}

/* On the control thread, for the volumes' names. */
static void grant_list_run(struct request *req)
{
    struct grant_listing *l = req->op;
    size_t n = l->page.max > 0 ? l->page.max : acl_count(l->acl);
    Snapwire__V1__Grant *all = request_alloc(req, (n + 1) * sizeof *all);
    l->out.grants = request_alloc(req, (n + 1) * sizeof(Snapwire__V1__Grant *));
    bool ok = all != NULL && l->out.grants != NULL;
    if (ok && l->page.max > 0) {
        ok = grant_list_page(req, l, all);
    } else {
        for (size_t i = 0; ok && i < n; i++)
            if (grant_is_listed(req, l, acl_at(l->acl, i)))
                ok = grant_list_add(req, l, acl_at(l->acl, i), &all[i]);
    }
    req->code = ok ? 0 : SNAP_ENOMEM;
}

static void grant_listed(struct request *req)
{
    struct grant_listing *l = req->op;
    acl_unref(l->acl);
    if (req->code < 0)
        request_no_memory(req);
    else
        request_reply(req, &l->out.base);
}

/* An admin sees all grants (of a volume: on it and on all); anybody else their own. */
void service_grant_list(struct request *req)
{
    const Snapwire__V1__VolumeListRequest *in = REQUEST_IN(req, Snapwire__V1__VolumeListRequest);
    struct grant_listing *l = request_alloc(req, sizeof *l);
    if (l == NULL) {
        request_no_memory(req);
        return;
    }
    snapwire__v1__grant_list_response__init(&l->out);
    l->one = in->volume.len > 0;
    if ((l->one && !request_uuid(req, &in->volume, "volume", &l->id)) ||
        (in->max > 0 && !page_init(&l->page, req, &in->after, in->max, PAGE_GRANTS_MAX)))
        return;
    l->all_allowed = request_allows(req, l->one ? &l->id : NULL, ACL_RIGHT_ADMIN);
    l->acl = acl_ref(req->at->set.acl);
    req->op = l;
    request_control(req, grant_list_run, grant_listed);
}
