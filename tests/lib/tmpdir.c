/* SPDX-License-Identifier: Apache-2.0 */
/* Folders and ports for tests. Any thread, one at a time a folder. */
#include "tests/lib/tmpdir.h"

#include "common/base/check.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

void tmpdir_make(struct tmpdir *dir)
{
    const char *parent = getenv("TMPDIR");

    if (parent == NULL || *parent == '\0')
        parent = "/tmp";
    int n = snprintf(dir->path, sizeof dir->path, "%s/snapwire-test-XXXXXX", parent);
    CHECK(n > 0 && (size_t)n < sizeof dir->path);
    CHECK(mkdtemp(dir->path) != NULL);
}

char *tmpdir_file(const struct tmpdir *dir, const char *name, char *buf)
{
    int n = snprintf(buf, TMPDIR_FILE_BYTES, "%s/%s", dir->path, name);
    CHECK(n > 0 && n < TMPDIR_FILE_BYTES);
    return buf;
}

static int tmpdir_remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st;
    (void)kind;
    (void)where;
    return remove(path);
}

void tmpdir_remove(struct tmpdir *dir)
{
    if (dir->path[0] == '\0')
        return;
    CHECK(nftw(dir->path, tmpdir_remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0);
    dir->path[0] = '\0';
}

uint16_t port_find_free(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;

    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK(bind(fd, (const struct sockaddr *)&addr, sizeof addr) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&addr, &len) == 0);
    (void)close(fd);
    return ntohs(addr.sin_port);
}
