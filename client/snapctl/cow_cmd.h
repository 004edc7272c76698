/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of `snapctl cow`; their options are told by --help and snapctl-cow(1). */
#ifndef SNAP_SNAPCTL_COW_CMD_H
#define SNAP_SNAPCTL_COW_CMD_H

#include "client/snapctl/cli.h"

int cow_cmd_create(struct cli *cli, int argc, char **argv, struct err *reterr);
int cow_cmd_info(struct cli *cli, int argc, char **argv, struct err *reterr);
int cow_cmd_list(struct cli *cli, int argc, char **argv, struct err *reterr);
int cow_cmd_check(struct cli *cli, int argc, char **argv, struct err *reterr);
int cow_cmd_export(struct cli *cli, int argc, char **argv, struct err *reterr);
int cow_cmd_merge(struct cli *cli, int argc, char **argv, struct err *reterr);

#endif
