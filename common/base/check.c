/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a process that has found a bug of its own: say where and abort, so
 * that a core and the journal hold the place. Takes no memory and no locks; any
 * thread.
 */
#include "common/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void check_failed(const char *expr, const char *file, int line, const char *func)
{
    char text[512];
    int n =
        snprintf(text, sizeof text, "%s:%d: %s: assertion failed: %s\n", file, line, func, expr);

    if (n > 0) {
        size_t len = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
        ssize_t written = write(STDERR_FILENO, text, len);
        (void)written;
    }
    abort();
}
