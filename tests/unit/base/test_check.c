/* SPDX-License-Identifier: Apache-2.0 */
/* An assertion that fails ends the process and says where. */
#include "common/base/check.h"

#include "tests/lib/cm.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void check__true_goes_on_and_evaluates_once(void **state)
{
    (void)state;
    int n = 0;
    CHECK(++n == 1);
    assert_int_equal(n, 1);
}

static void check__false_aborts_and_names_the_place(void **state)
{
    (void)state;
    int pipe_fds[2], status;
    char text[600] = {0};

    assert_int_equal(pipe(pipe_fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        (void)signal(SIGABRT, SIG_DFL);
        (void)dup2(pipe_fds[1], STDERR_FILENO);
        CHECK(1 + 1 == 3);
        _exit(0);
    }
    (void)close(pipe_fds[1]);
    ssize_t n = read(pipe_fds[0], text, sizeof text - 1);
    (void)close(pipe_fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_true(n > 0);
    assert_non_null(strstr(text, "test_check.c:"));
    assert_non_null(strstr(text, "assertion failed: 1 + 1 == 3\n"));
    assert_non_null(strstr(text, __func__));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check__true_goes_on_and_evaluates_once),
        cmocka_unit_test(check__false_aborts_and_names_the_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
