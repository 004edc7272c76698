/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote jobs, cancel: the daemon's long work, listed, waited for and cancelled.
 *
 * A job is named by its uuid or by enough of its beginning.
 */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/remote_json.h"

#include <inttypes.h>
#include <string.h>

enum { JOB_TYPED_MIN = 4 };

/* -- one job --------------------------------------------------------------------------------- */

static json_t *faults_json(const struct snapwire_job *j)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < j->fault_count; i++) {
        const struct snapwire_fault *f = j->faults[i];
        if (json_array_append_new(
                rows, json_pack("{s:I, s:I, s:s}", "old_chunk", (json_int_t)f->old_chunk,
                                "new_chunk", (json_int_t)f->new_chunk, "fault", f->text)) != 0) {
            json_decref(rows);
            return NULL;
        }
    }
    return rows;
}

static bool is_verification(const struct snapwire_job *j)
{
    return strcmp(j->kind, "verify") == 0 || strcmp(j->kind, "scrub") == 0;
}

json_t *remote_job_json(const struct snapwire_job *j)
{
    json_t *object =
        json_pack("{s:o, s:s, s:s, s:o, s:s, s:I, s:I, s:s, s:s}", "id", remote_uuid_json(&j->id),
                  "kind", j->kind, "volume", j->volume_name, "volume_id",
                  remote_uuid_json(&j->volume), "subject", j->subject, "done", (json_int_t)j->done,
                  "total", (json_int_t)j->total, "state", j->state, "text", j->text ? j->text : "");
    if (object && is_verification(j) &&
        (json_object_set_new(object, "faults_total", json_integer((json_int_t)j->faults_total)) ||
         json_object_set_new(object, "faults", faults_json(j)))) {
        json_decref(object);
        return NULL;
    }
    return object;
}

int remote_job_print(const struct cli *cli, const struct snapwire_job *j, struct err *reterr)
{
    return cli->json ? out_object(cli, remote_job_json(j), NULL, reterr) : 0;
}

int remote_job_outcome(const struct snapwire_job *j, struct err *reterr)
{
    if (strcmp(j->state, "failed") == 0)
        return err_set(reterr, SNAP_EIO, "%s of %s failed: %s", j->kind, j->subject,
                       j->text && j->text[0] ? j->text : "the daemon does not say why");
    if (strcmp(j->state, "cancelled") == 0)
        return err_set(reterr, SNAP_ECANCELED, "%s of %s was cancelled", j->kind, j->subject);
    return 0;
}

/* -- waiting ----------------------------------------------------------------------------------- */

struct follow {
    const struct cli *cli;
    struct progress progress;
    bool started, said;
    char what[64];
};

static int on_look(void *user, const struct snapwire_job *j)
{
    struct follow *f = user;
    if (j->total > 0 && (!f->started || f->progress.total != j->total)) {
        (void)snprintf(f->what, sizeof f->what, "%s", j->kind);
        if (!f->started)
            progress_start(&f->progress, f->cli, f->what, j->total);
        f->progress.total = j->total;
        f->progress.unit = PROGRESS_COUNT;
        f->started = true;
    }
    if (f->started)
        progress_add(&f->progress, j->done > f->progress.done ? j->done - f->progress.done : 0);
    if (strcmp(j->state, "waiting") == 0 && j->text && j->text[0] && !f->said) {
        cli_note(f->cli, "%s of %s cannot go on at the moment and will try again: %s", j->kind,
                 j->subject, j->text);
        f->said = true;
    }
    return cli_interrupted();
}

int remote_job_follow(const struct cli *cli, struct remote *r, const struct snapwire_uuid *volume,
                      const struct snapwire_uuid *job, struct snapwire_job **ret,
                      struct err *reterr)
{
    struct follow f = {.cli = cli};
    struct snapwire_error why = {0};
    char id[SNAPWIRE_UUID_TEXT_BYTES];
    const struct snapwire_job_wait args = {
        .size = sizeof args, .volume = *volume, .job = *job, .progress = on_look, .user = &f};
    *ret = NULL;
    int rc = snapwire_job_wait_sync(r->client, &args, ret, &why);
    progress_end(&f.progress);
    if (rc < 0)
        return remote_error(&why, reterr);
    if (snapwire_job_is_over(*ret))
        return 0;
    (void)snapwire_uuid_format(job, id);
    bool fixed = strcmp((*ret)->kind, "hand-down") == 0;
    rc = err_set(reterr, SNAP_ECANCELED,
                 "no longer waited for; the daemon goes on with it. snapctl remote jobs --wait "
                 "%.8s waits again%s%.*s%s",
                 id, fixed ? "" : ", --cancel ", fixed ? 0 : REMOTE_JOB_SHORT, id,
                 fixed ? "" : " takes it back");
    snapwire_free(*ret);
    *ret = NULL;
    return rc;
}

/* -- finding --------------------------------------------------------------------------------- */

struct job_name {
    char id[SNAPWIRE_UUID_TEXT_BYTES];
    struct snapwire_uuid volume, job;
    char kind[32];
    char subject[600];
};

static int find_job(struct remote *r, const char *typed, struct job_name *ret, struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_job_list *list = NULL;
    size_t found = 0, len = strlen(typed);
    if (snapwire_job_list_sync(r->client, NULL, &list, &why) < 0)
        return remote_error(&why, reterr);
    for (size_t i = 0; i < list->count; i++) {
        const struct snapwire_job *j = list->jobs[i];
        char id[SNAPWIRE_UUID_TEXT_BYTES];
        if (strncasecmp(snapwire_uuid_format(&j->id, id), typed, len) != 0)
            continue;
        found++;
        memcpy(ret->id, id, sizeof ret->id);
        ret->volume = j->volume;
        ret->job = j->id;
        (void)snprintf(ret->kind, sizeof ret->kind, "%s", j->kind);
        (void)snprintf(ret->subject, sizeof ret->subject, "%s", j->subject);
    }
    snapwire_free(list);
    if (found == 0)
        return err_set(reterr, SNAP_ENOENT,
                       "no job %s, or it ended long ago; snapctl remote jobs lists them", typed);
    if (found > 1)
        return err_set(reterr, SNAP_EINVAL, "%zu jobs begin with %s; type more of it", found,
                       typed);
    return 0;
}

static int cancel_job(const struct cli *cli, struct remote *r, const char *typed,
                      struct err *reterr)
{
    struct job_name name;
    struct snapwire_error why = {0};
    struct snapwire_job *job = NULL;
    int rc = find_job(r, typed, &name, reterr);
    if (rc < 0)
        return rc;
    if (snapwire_job_cancel_sync(r->client, &name.volume, &name.job, &job, &why) < 0) {
        rc = remote_error(&why, reterr);
        return strcmp(name.kind, "hand-down") == 0
                   ? err_set(reterr, rc,
                             "a hand-down is the end of a deletion and cannot be taken back")
                   : rc;
    }
    rc = remote_job_print(cli, job, reterr);
    if (!cli->json)
        cli_note(cli, "%s of %s: %s", job->kind, job->subject, job->state);
    snapwire_free(job);
    return rc;
}

int remote_job_report(const struct cli *cli, const struct snapwire_job *j, struct err *reterr)
{
    const char *text = j->text ? j->text : "";
    int rc = remote_job_print(cli, j, reterr);
    for (size_t i = 0; rc == 0 && !cli->json && i < j->fault_count; i++)
        (void)puts(j->faults[i]->text);
    if (rc == 0 && j->faults_total > 0)
        return err_set(reterr, SNAP_ECORRUPT, "%s: %s", j->subject, text[0] ? text : "damaged");
    if (rc == 0)
        rc = remote_job_outcome(j, reterr);
    if (rc == 0 && !cli->json && is_verification(j))
        cli_note(cli, "%s of %s: %" PRIu64 " chunks compared; %s", j->kind, j->subject, j->done,
                 text[0] ? text : "0 faults");
    else if (rc == 0 && !cli->json)
        cli_note(cli, "%s of %s: done%s%s", j->kind, j->subject, text[0] ? "; " : "", text);
    return rc;
}

static int wait_job(const struct cli *cli, struct remote *r, const char *typed, struct err *reterr)
{
    struct job_name name;
    struct snapwire_job *job = NULL;
    int rc = find_job(r, typed, &name, reterr);
    if (rc < 0)
        return rc;
    cli_catch_signals();
    rc = remote_job_follow(cli, r, &name.volume, &name.job, &job, reterr);
    if (rc == SNAP_ENOENT && strcmp(name.kind, "hand-down") == 0) { /* it is not remembered */
        err_clear(reterr);
        if (cli->json)
            return out_object(cli,
                              json_pack("{s:s, s:s, s:s, s:s}", "id", name.id, "kind", name.kind,
                                        "subject", name.subject, "state", "done"),
                              NULL, reterr);
        cli_note(cli, "%s of %s: done", name.kind, name.subject);
        return 0;
    }
    if (rc < 0)
        return rc;
    rc = remote_job_report(cli, job, reterr);
    snapwire_free(job);
    return rc;
}

/* -- list ------------------------------------------------------------------------------- */

/* For people: the short id and how far it is. */
static int add_columns(json_t *row, const struct snapwire_job *j)
{
    char id[SNAPWIRE_UUID_TEXT_BYTES], percent[16] = "";
    (void)snapwire_uuid_format(&j->id, id);
    id[REMOTE_JOB_SHORT] = '\0';
    if (j->total > 0)
        (void)snprintf(percent, sizeof percent, "%u%%",
                       (unsigned)((double)j->done * 100 / (double)j->total));
    return json_object_set_new(row, "short", json_string(id)) ||
           json_object_set_new(row, "percent", json_string(percent));
}

static json_t *jobs_json(const struct cli *cli, const struct snapwire_job_list *list)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < list->count; i++) {
        json_t *row = remote_job_json(list->jobs[i]);
        if ((row && !cli->json && add_columns(row, list->jobs[i]) != 0) ||
            json_array_append_new(rows, row) != 0) {
            json_decref(rows);
            return NULL;
        }
    }
    return rows;
}

static int list_jobs(const struct cli *cli, struct remote *r, const char *volume,
                     struct err *reterr)
{
    static const struct out_column columns[] = {
        {"short", "ID", OUT_TEXT},
        {"kind", "JOB", OUT_TEXT},
        {"subject", "OF", OUT_TEXT},
        {"state", "STATE", OUT_TEXT},
        {"done", "DONE", OUT_NUMBER},
        {"total", "TOTAL", OUT_NUMBER},
        {"percent", "PROGRESS", OUT_NUMBER},
        {"text", "REMARK", OUT_TEXT},
        {0},
    };
    struct remote_target t;
    struct snapwire_error why = {0};
    struct snapwire_job_list *list = NULL;
    int rc = volume ? remote_resolve(r, volume, REMOTE_WANT_VOLUME, &t, reterr) : 0;
    if (rc < 0)
        return rc;
    if (snapwire_job_list_sync(r->client, volume ? &t.volume : NULL, &list, &why) < 0)
        return remote_error(&why, reterr);
    rc = out_rows(cli, jobs_json(cli, list), columns, reterr);
    snapwire_free(list);
    return rc;
}

/* -- the commands ----------------------------------------------------------------------- */

struct jobs_args {
    struct remote_words words; /* first */
    const char *wait, *cancel;
};

static const char *check_id(const char *option, const char *typed, const struct argp_state *state)
{
    if (strlen(typed) < JOB_TYPED_MIN ||
        strspn(typed, "0123456789abcdefABCDEF-") != strlen(typed) ||
        strlen(typed) >= SNAPWIRE_UUID_TEXT_BYTES)
        cli_usage_error(state,
                        "%s: '%s' is no job's id, or too little of it; snapctl remote jobs shows "
                        "them",
                        option, typed);
    return typed;
}

static error_t parse_jobs(int key, char *arg, struct argp_state *state)
{
    struct jobs_args *a = state->input;
    switch (key) {
    case 'w':
        a->wait = check_id("--wait", arg, state);
        return 0;
    case 'c':
        a->cancel = check_id("--cancel", arg, state);
        return 0;
    case ARGP_KEY_END:
        if ((a->words.count > 0) + (a->wait != NULL) + (a->cancel != NULL) > 1)
            cli_usage_error(state, "one of VOLUME, --wait and --cancel at a time");
        return remote_parse_word(key, arg, state);
    default:
        return remote_parse_word(key, arg, state);
    }
}

int remote_cmd_jobs(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "wait", .key = 'w', .arg = "JOB", .doc = "until it is over, with progress"},
        {.name = "cancel",
         .key = 'c',
         .arg = "JOB",
         .doc = "take it back: a rollback then returns to where it began"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_jobs,
        .args_doc = "[VOLUME]",
        .doc = "What the daemon does on its own: rollbacks, merges, verifications, and handing the "
               "exceptions of a deleted snapshot down to the next older one. They go on over "
               "restarts. JOB is an id, or the beginning of one.",
        .children = remote_children,
    };
    struct jobs_args a = {.words = {.most = 1}};
    struct remote r = {0};
    remote_parse(cli, &argp, argc, argv, &a);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = a.cancel ? cancel_job(cli, &r, a.cancel, reterr)
             : a.wait ? wait_job(cli, &r, a.wait, reterr)
                      : list_jobs(cli, &r, a.words.count ? a.words.word[0] : NULL, reterr);
    remote_close(&r);
    return rc;
}

static error_t parse_cancel(int key, char *arg, struct argp_state *state)
{
    if (key == ARGP_KEY_ARG)
        (void)check_id("JOB", arg, state);
    return remote_parse_word(key, arg, state);
}

int remote_cmd_cancel(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = parse_cancel,
        .args_doc = "JOB",
        .doc = "Take a job back, as snapctl remote jobs --cancel: a rollback then returns to where "
               "it began.",
        .children = remote_children,
    };
    struct remote_words words = {
        .least = 1, .most = 1, .missing = "which job? snapctl remote jobs lists them"};
    struct remote r = {0};
    remote_parse(cli, &argp, argc, argv, &words);
    int rc = remote_open(cli, &r, reterr);
    if (rc == 0)
        rc = cancel_job(cli, &r, words.word[0], reterr);
    remote_close(&r);
    return rc;
}
