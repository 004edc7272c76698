/* SPDX-License-Identifier: Apache-2.0 */
/* Standard descriptors that are closed at the start; each case in a process of its own. */
#include "common/base/std_fds.h"

#include "tests/lib/cm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child found wrong, as its exit status; 0: nothing. */
enum { FINE = 0, NOT_OCCUPIED = 1, A_FILE_GOT_ONE = 2, CAN_BE_USED = 3, OPEN_ONE_CHANGED = 4 };

static int look(unsigned closed)
{
    for (int fd = 0; fd <= 2; fd++)
        if (closed & 1U << fd)
            (void)close(fd);
    if (std_fds_occupy() != 0)
        return NOT_OCCUPIED;
    if (open("/dev/null", O_RDWR | O_CLOEXEC) <= 2)
        return A_FILE_GOT_ONE;
    for (int fd = 0; fd <= 2; fd++) {
        char byte = 0;
        if (!(closed & 1U << fd)) {
            if (fcntl(fd, F_GETFL) & O_PATH)
                return OPEN_ONE_CHANGED;
            continue;
        }
        errno = 0;
        if (write(fd, &byte, 1) >= 0 || errno != EBADF || read(fd, &byte, 1) >= 0)
            return CAN_BE_USED;
    }
    return FINE;
}

static void std_fds_occupy__closed_ones_are_taken_and_of_no_use(void **state)
{
    (void)state;
    for (unsigned closed = 0; closed < 8; closed++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(look(closed));
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), FINE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(std_fds_occupy__closed_ones_are_taken_and_of_no_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
