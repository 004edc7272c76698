/* SPDX-License-Identifier: Apache-2.0 */
/* Clones, and snapshots of several volumes at one moment. Both carry uuids that were chosen
 * here, so that a request that is sent again finds what the first try made.
 *
 * Thread: the client's.
 */
#include "client/lib/face_priv.h"

#include <stdlib.h>
#include <string.h>

/* -- clones -- */

static int clone_create(struct snapwire_client *c, const struct snapwire_clone_create *args,
                        const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__CloneCreate m = SNAPWIRE__V1__CLONE_CREATE__INIT;
    struct snapwire_clone_create a;
    const int r = public_args(&a, sizeof a, args, sizeof a, reterr);

    if (r < 0)
        return r;
    if (snapwire_uuid_is_zero(&a.id))
        a.id = snapwire_uuid_make();
    m.volume = pb_uuid(&a.volume);
    m.snapshot = pb_uuid(&a.snapshot);
    m.clone = pb_uuid(&a.id);
    m.name = text_of(a.name);
    m.cow_limit_bytes = a.cow_limit_bytes;
    return call_begin(c,
                      &(struct call_spec){.method = M(CLONE_CREATE),
                                          .message = &m.base,
                                          .convert = convert_snapshot},
                      to, reterr);
}

int snapwire_clone_create(struct snapwire_client *c, const struct snapwire_clone_create *args,
                          snapwire_snapshot_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(clone_create(c, args, CALL_TO(snapshot, cb, user), &err));
}

int snapwire_clone_create_sync(struct snapwire_client *c, const struct snapwire_clone_create *args,
                               struct snapwire_snapshot **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(clone_create(c, args, SYNC_TO(&wait), &err));
}

/* -- groups -- */

struct group_parts {
    Snapwire__V1__GroupMember member;
    struct snapwire_uuid volume, snapshot;
};

static int group_send(struct snapwire_client *c, const struct snapwire_group_create *a,
                      struct group_parts *parts, Snapwire__V1__GroupMember **pointers,
                      const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__GroupCreate m = SNAPWIRE__V1__GROUP_CREATE__INIT;
    const struct snapwire_uuid id = snapwire_uuid_is_zero(&a->id) ? snapwire_uuid_make() : a->id;

    for (size_t i = 0; i < a->member_count; i++) {
        const struct snapwire_group_member *from = &a->members[i];
        struct group_parts *p = &parts[i];
        snapwire__v1__group_member__init(&p->member);
        p->volume = from->volume;
        p->snapshot =
            snapwire_uuid_is_zero(&from->snapshot) ? snapwire_uuid_make() : from->snapshot;
        p->member.volume = pb_uuid(&p->volume);
        p->member.snapshot = pb_uuid(&p->snapshot);
        p->member.name = text_of(from->name);
        p->member.cow_limit_bytes = from->cow_limit_bytes;
        pointers[i] = &p->member;
    }
    m.group = pb_uuid(&id);
    m.n_members = a->member_count;
    m.members = pointers;
    return call_begin(c,
                      &(struct call_spec){.method = M(GROUP_CREATE),
                                          .message = &m.base,
                                          .convert = convert_snapshot_list},
                      to, reterr);
}

static int group_create(struct snapwire_client *c, const struct snapwire_group_create *args,
                        const struct call_to *to, struct err *reterr)
{
    struct snapwire_group_create a;
    int r = public_args(&a, sizeof a, args, sizeof a, reterr);

    if (r < 0)
        return r;
    if (a.members == NULL || a.member_count == 0 || a.member_count > LIMIT_GROUP_MEMBERS)
        return err_set(reterr, SNAP_EINVAL, "a group of %zu volumes; 1 to %d are possible",
                       a.member_count, (int)LIMIT_GROUP_MEMBERS);
    struct group_parts *parts = calloc(a.member_count, sizeof *parts);
    Snapwire__V1__GroupMember **pointers =
        calloc(a.member_count, sizeof(Snapwire__V1__GroupMember *));
    if (parts == NULL || pointers == NULL)
        r = err_set(reterr, SNAP_ENOMEM, "out of memory for a group");
    else
        r = group_send(c, &a, parts, pointers, to, reterr);
    free(parts);
    free(pointers);
    return r;
}

int snapwire_group_create(struct snapwire_client *c, const struct snapwire_group_create *args,
                          snapwire_snapshot_list_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(group_create(c, args, CALL_TO(snapshot_list, cb, user), &err));
}

int snapwire_group_create_sync(struct snapwire_client *c, const struct snapwire_group_create *args,
                               struct snapwire_snapshot_list **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(group_create(c, args, SYNC_TO(&wait), &err));
}
