/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote status: the daemon at a glance. */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_connect.h"

static json_t *status_json(const struct snapwire_status *s, const char *remote)
{
    json_t *warnings = json_array();
    for (size_t i = 0; warnings && i < s->warning_count; i++)
        if (json_array_append_new(warnings, json_string(s->warnings[i])) != 0) {
            json_decref(warnings);
            warnings = NULL;
        }
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}",
        "remote", remote, "software", s->software, "identity", s->identity, "io_engine",
        s->io_engine, "state_dir", s->state_dir, "uptime_s", (json_int_t)s->uptime_s, "volumes",
        (json_int_t)s->volumes, "snapshots", (json_int_t)s->snapshots, "snapshots_invalid",
        (json_int_t)s->snapshots_invalid, "snapshots_damaged", (json_int_t)s->snapshots_damaged,
        "leases", (json_int_t)s->leases, "connections", (json_int_t)s->connections, "shards",
        (json_int_t)s->shards, "jobs", (json_int_t)s->jobs, "chunks_added",
        (json_int_t)s->chunks_added, "chunks_existed", (json_int_t)s->chunks_existed, "commits",
        (json_int_t)s->commits, "flushes", (json_int_t)s->flushes, "cow_bytes_used",
        (json_int_t)s->cow_bytes_used, "state_bytes_free", (json_int_t)s->state_bytes_free,
        "cache_size_bytes", (json_int_t)s->cache_size_bytes, "cache_used_bytes",
        (json_int_t)s->cache_used_bytes, "cache_hits", (json_int_t)s->cache_hits, "cache_misses",
        (json_int_t)s->cache_misses, "warnings", warnings);
}

int remote_cmd_status(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .doc = "The daemon at a glance.",
        .children = remote_children,
    };
    static const struct out_column columns[] = {
        {"remote", "Remote", OUT_TEXT},
        {"software", "Software", OUT_TEXT},
        {"identity", "You are", OUT_TEXT},
        {"uptime_s", "Up, seconds", OUT_NUMBER},
        {"state_dir", "State", OUT_TEXT},
        {"io_engine", "I/O engine", OUT_TEXT},
        {"shards", "Shards", OUT_NUMBER},
        {"volumes", "Volumes", OUT_NUMBER},
        {"snapshots", "Snapshots", OUT_NUMBER},
        {"snapshots_invalid", "  invalid", OUT_NUMBER},
        {"snapshots_damaged", "  damaged", OUT_NUMBER},
        {"leases", "Writers", OUT_NUMBER},
        {"connections", "Connections", OUT_NUMBER},
        {"jobs", "Jobs", OUT_NUMBER},
        {"chunks_added", "Chunks added", OUT_NUMBER},
        {"chunks_existed", "Chunks existed", OUT_NUMBER},
        {"commits", "Commits", OUT_NUMBER},
        {"flushes", "Flushes", OUT_NUMBER},
        {"cache_size_bytes", "Block cache", OUT_SIZE},
        {"cache_used_bytes", "  in use", OUT_SIZE},
        {"cache_hits", "  hits", OUT_NUMBER},
        {"cache_misses", "  misses", OUT_NUMBER},
        {"cow_bytes_used", "COW space used", OUT_SIZE},
        {"state_bytes_free", "Space free", OUT_SIZE},
        {0},
    };
    struct remote_words words = {0};
    struct remote r = {0};
    struct snapwire_error why = {0};
    struct snapwire_status *s = NULL;
    remote_parse(cli, &argp, argc, argv, &words);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0 && snapwire_server_status_sync(r.client, &s, &why) < 0)
        rc = remote_error(&why, reterr);
    if (rc == 0) {
        json_t *object = status_json(s, r.name);
        if (object && !s->state_dir[0]) { /* told to admins only */
            (void)json_object_del(object, "state_dir");
            (void)json_object_del(object, "state_bytes_free");
        }
        rc = out_object(cli, object, columns, reterr);
    }
    for (size_t i = 0; rc == 0 && !cli->json && i < s->warning_count; i++)
        (void)printf("Warning: %s\n", s->warnings[i]);
    snapwire_free(s);
    remote_close(&r);
    return rc;
}
