/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of `snapctl remote`; their options are told by --help and snapctl-remote(1). */
#ifndef SNAP_SNAPCTL_REMOTE_CMD_H
#define SNAP_SNAPCTL_REMOTE_CMD_H

#include "client/snapctl/cli.h"
#include "common/base/limits.h"

int remote_cmd_add(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_use(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_list(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_remove(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_create(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_ls(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_show(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_delete(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_accept(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_check(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_grant(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_revoke(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_grants(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_status(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_jobs(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_apply(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_diff(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_export(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_import(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_clone(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_mount(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_umount(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_rollback(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_verify(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_cancel(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_merge(struct cli *cli, int argc, char **argv, struct err *reterr);
int remote_cmd_bench(struct cli *cli, int argc, char **argv, struct err *reterr);

/* -- words: what stands beside the options ------------------------------------------------ */

enum { REMOTE_WORDS_MAX = LIMIT_GROUP_MEMBERS };

/* First member of a command's own input. */
struct remote_words {
    const char *word[REMOTE_WORDS_MAX];
    unsigned count;
    unsigned least, most; /* how many the command takes */
    const char *missing;  /* what to say when there are fewer: "which volume?" */
    const char *on;       /* --on */
};

/* The end of a command's parser: state->input begins with a struct remote_words. */
error_t remote_parse_word(int key, char *arg, struct argp_state *state);
/* --on NAME, as the children of each command's argp. */
extern const struct argp_child remote_children[];
/* cli_parse(), and --on reaches *cli. */
void remote_parse(struct cli *cli, const struct argp *argp, int argc, char **argv, void *input);

#endif
