/* SPDX-License-Identifier: Apache-2.0 */
/* SIGXFSZ ends a process that does not expect it: a guard, and with it the disk of a guest, for
 * one write that a limit forbids, or for a line of its log.
 *
 * It is handled, by nothing, rather than ignored: what nbdkit runs (--run) would inherit that, a
 * handler it does not. The handler goes with the plugin's code. Who has ordered something else of
 * the signal keeps it. It must not know what is written.
 */
#include "client/nbdkit/limit.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

static bool handled;

static void nothing(int signo)
{
    (void)signo;
}

void limit_file_size_fails(void)
{
    struct sigaction now;
    const struct sigaction ours = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    handled = sigaction(SIGXFSZ, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) == 0 &&
              now.sa_handler == SIG_DFL && sigaction(SIGXFSZ, &ours, NULL) == 0;
}

void limit_file_size_done(void)
{
    if (handled)
        (void)signal(SIGXFSZ, SIG_DFL);
    handled = false;
}
