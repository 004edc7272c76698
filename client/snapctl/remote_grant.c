/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote grant, revoke, grants: who may do what on which volume. */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_connect.h"
#include "client/snapctl/remote_json.h"

#include <string.h>

struct grant {
    int role;
    bool every; /* '*' */
    struct remote_target volume;
};

/* IDENTITY ROLE VOLUME|* */
static int grant_read(struct remote *r, const struct remote_words *w, struct grant *ret,
                      struct err *reterr)
{
    struct snapwire_error why = {0};
    int rc = name_check(w->word[0], "identity", reterr);
    if (rc == 0 && snapwire_role_parse(w->word[1], &ret->role, &why) < 0)
        rc = remote_error(&why, reterr);
    ret->every = strcmp(w->word[2], "*") == 0;
    if (rc == 0 && !ret->every)
        rc = remote_resolve(r, w->word[2], REMOTE_WANT_VOLUME, &ret->volume, reterr);
    return rc;
}

static int change(struct cli *cli, int argc, char **argv, const struct argp *argp,
                  int (*fn)(struct snapwire_client *client, const char *identity, int role,
                            const struct snapwire_uuid *volume, struct snapwire_error *reterr),
                  struct err *reterr)
{
    struct remote_words words = {
        .least = 3,
        .most = 3,
        .missing = "identity, role and volume are needed, as in: alice writer disk1; '*' stands "
                   "for every volume"};
    struct remote r = {0};
    struct grant g = {0};
    struct snapwire_error why = {0};
    remote_parse(cli, argp, argc, argv, &words);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = grant_read(&r, &words, &g, reterr);
    if (rc == 0 && fn(r.client, words.word[0], g.role, g.every ? NULL : &g.volume.volume, &why) < 0)
        rc = remote_error(&why, reterr);
    remote_close(&r);
    return rc;
}

int remote_cmd_grant(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "IDENTITY ROLE VOLUME|*",
        .doc =
            "Give an identity (the name in its certificate) a role on a volume. Roles: append "
            "(stream and make snapshots; no reading, no deleting), reader, writer (both of these; "
            "write hosted volumes, clone, roll back, merge, delete snapshots), admin. It takes "
            "the place of another role there. '*' stands for every volume.",
        .children = remote_children,
    };
    return change(cli, argc, argv, &argp, snapwire_grant_sync, reterr);
}

int remote_cmd_revoke(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "IDENTITY ROLE VOLUME|*",
        .doc = "Take a role away again; snapctl remote grants shows who has which.",
        .children = remote_children,
    };
    return change(cli, argc, argv, &argp, snapwire_revoke_sync, reterr);
}

static json_t *grants_json(const struct snapwire_grant_list *list)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < list->count; i++) {
        const struct snapwire_grant *g = list->grants[i];
        bool every = snapwire_uuid_is_zero(&g->volume);
        json_t *row = json_pack("{s:s, s:s, s:s, s:o}", "identity", g->identity, "role",
                                snapwire_role_name(g->role), "volume", every ? "*" : g->volume_name,
                                "volume_id", remote_uuid_json(&g->volume));
        if (json_array_append_new(rows, row) != 0) {
            json_decref(rows);
            return NULL;
        }
    }
    return rows;
}

int remote_cmd_grants(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "[VOLUME]",
        .doc = "Who may do what.",
        .children = remote_children,
    };
    static const struct out_column columns[] = {
        {"identity", "IDENTITY", OUT_TEXT},
        {"role", "ROLE", OUT_TEXT},
        {"volume", "VOLUME", OUT_TEXT},
        {0},
    };
    struct remote_words words = {.most = 1};
    struct remote r = {0};
    struct remote_target t;
    struct snapwire_error why = {0};
    struct snapwire_grant_list *list = NULL;
    remote_parse(cli, &argp, argc, argv, &words);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0 && words.count > 0)
        rc = remote_resolve(&r, words.word[0], REMOTE_WANT_VOLUME, &t, reterr);
    if (rc == 0 &&
        snapwire_grant_list_sync(r.client, words.count > 0 ? &t.volume : NULL, &list, &why) < 0)
        rc = remote_error(&why, reterr);
    if (rc == 0)
        rc = out_rows(cli, grants_json(list), columns, reterr);
    snapwire_free(list);
    remote_close(&r);
    return rc;
}
