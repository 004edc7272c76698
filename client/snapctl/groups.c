/* SPDX-License-Identifier: Apache-2.0 */
/* The groups of commands, in the order that help shows them. */
#include "client/snapctl/cli.h"

const struct cli_group *const cli_groups[] = {
    &cli_group_remote,
    &cli_group_cow,
    &cli_group_pki,
    NULL,
};
