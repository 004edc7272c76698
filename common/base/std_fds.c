/* SPDX-License-Identifier: Apache-2.0 */
/* Standard input, output and error that were closed before the program began.
 *
 * The kernel gives the lowest free number to what is opened next. A program started with `2>&-`
 * would open a disk as number 2, and the next message to standard error would be written over the
 * disk's content. So the three numbers are taken at once. What takes them is a path descriptor of
 * the root folder: it needs no device node and no right, and everything that is read from or
 * written to it fails with EBADF, which is what a closed descriptor says, too.
 */
#include "common/base/std_fds.h"

#include "common/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int std_fds_occupy(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        /* those below are taken, so this is the lowest free number */
        int got = open("/", O_PATH | O_DIRECTORY);
        if (got < 0)
            return err_code_of_errno(errno);
        if (got != fd)
            return SNAP_EINTERNAL;
    }
    return 0;
}
