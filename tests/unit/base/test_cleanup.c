/* SPDX-License-Identifier: Apache-2.0 */
/* Scope clean-up, and the folders and ports of the test library. */
#include "common/base/cleanup.h"

#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

static void cleanup_close__ends_with_the_scope(void **state)
{
    (void)state;
    int seen;
    {
        CLEANUP_CLOSE int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        CLEANUP_CLOSE int none = -1;
        CLEANUP_FREE char *text = malloc(10);
        CLEANUP_FREE char *nothing = NULL;
        assert_true(fd >= 0 && none == -1 && text != NULL && nothing == NULL);
        seen = fd;
    }
    errno = 0;
    assert_int_equal(fcntl(seen, F_GETFD), -1);
    assert_int_equal(errno, EBADF);
}

static void tmpdir__goes_away_with_what_it_holds(void **state)
{
    (void)state;
    struct tmpdir dir, outside;
    char path[TMPDIR_FILE_BYTES], kept[TMPDIR_FILE_BYTES];

    tmpdir_make(&dir);
    tmpdir_make(&outside);
    tmpdir_file(&outside, "kept", kept);
    assert_int_equal(mkdir(kept, 0700), 0);
    assert_int_equal(mkdir(tmpdir_file(&dir, "a", path), 0700), 0);
    assert_int_equal(mkdir(tmpdir_file(&dir, "a/b", path), 0700), 0);
    assert_int_equal(symlink(outside.path, tmpdir_file(&dir, "a/link", path)), 0);
    (void)snprintf(path, sizeof path, "%s", dir.path);
    tmpdir_remove(&dir);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(kept, F_OK), 0);
    tmpdir_remove(&dir);
    tmpdir_remove(&outside);
}

static void port_find_free__can_be_listened_on(void **state)
{
    (void)state;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    addr.sin_port = htons(port_find_free());
    assert_int_not_equal(addr.sin_port, 0);
    CLEANUP_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(listen(fd, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cleanup_close__ends_with_the_scope),
        cmocka_unit_test(tmpdir__goes_away_with_what_it_holds),
        cmocka_unit_test(port_find_free__can_be_listened_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
