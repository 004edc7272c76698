/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote create A@S B@S …: snapshots of several hosted volumes at one moment. */
#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/remote_json.h"

#include <stdlib.h>
#include <string.h>

static int resolve_members(struct remote *r, const char *const *words, unsigned count,
                           uint64_t cow_limit_bytes, struct target *targets,
                           struct snapwire_group_member *members, struct err *reterr)
{
    for (unsigned i = 0; i < count; i++) {
        struct remote_target volume;
        int rc = target_parse(words[i], &targets[i], reterr);
        if (rc == 0)
            rc = remote_resolve(r, targets[i].volume, REMOTE_WANT_VOLUME, &volume, reterr);
        if (rc == 0)
            rc = remote_want_hosted(&volume, "make its snapshot by itself", reterr);
        if (rc < 0)
            return rc;
        members[i] = (struct snapwire_group_member){
            .volume = volume.volume,
            .name = targets[i].snapshot,
            .cow_limit_bytes = cow_limit_bytes,
        };
    }
    return 0;
}

static int report(const struct cli *cli, const struct snapwire_snapshot_list *list,
                  struct err *reterr)
{
    if (!cli->json) {
        for (size_t i = 0; i < list->count; i++)
            cli_note(cli, "snapshot %s@%s", list->snapshots[i]->volume_name,
                     list->snapshots[i]->name);
        return 0;
    }
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < list->count; i++)
        if (json_array_append_new(rows, remote_snapshot_json(list->snapshots[i])) != 0) {
            json_decref(rows);
            rows = NULL;
        }
    return out_rows(cli, rows, NULL, reterr);
}

int remote_create_group(const struct cli *cli, struct remote *r, const char *const *words,
                        unsigned count, uint64_t cow_limit_bytes, struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_snapshot_list *list = NULL;
    struct target *targets = calloc(count, sizeof *targets);
    struct snapwire_group_member *members = calloc(count, sizeof *members);
    int rc = targets && members ? 0 : err_set(reterr, SNAP_ENOMEM, "group");
    if (rc == 0)
        rc = resolve_members(r, words, count, cow_limit_bytes, targets, members, reterr);
    if (rc == 0) {
        const struct snapwire_group_create args = {
            .size = sizeof args, .members = members, .member_count = count};
        if (snapwire_group_create_sync(r->client, &args, &list, &why) < 0)
            rc = remote_error(&why, reterr);
    }
    if (rc == 0)
        rc = report(cli, list, reterr);
    snapwire_free(list);
    free(members);
    free(targets);
    return rc;
}
