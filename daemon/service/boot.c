/* SPDX-License-Identifier: Apache-2.0 */
/* What a client must not take for durable after the daemon was away.
 *
 *   what was answered and not flushed        `boot` in HELLO
 *   outlives the daemon's process            stays: it is the machine's
 *   does not outlive the machine             another one
 *   may be gone when a flush has failed      another one from the next run on
 *
 * The last is for those who have not heard of the failure when the daemon ends: who has heard, and
 * what is lost, is known to the process only. A client finds that the `boot` is not the one under
 * which its writes were answered, and fails its next flush. So the first failure of a run puts
 * random bytes into a file of the state directory, and `boot` is the machine's mixed with them.
 * The file is neither flushed nor removed: it has to outlive the process and not the machine.
 *
 * Thread: any.
 */
#include "daemon/service/server.h"

#include "common/base/log.h"
#include "common/base/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define BOOT_FILE "flush-failed"

/* The machine's; false: it is not known. */
static bool boot_of_machine(struct uuid *ret)
{
    char text[UUID_TEXT_BYTES] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    bool read = f != NULL && fgets(text, sizeof text, f) != NULL;
    if (f != NULL)
        (void)fclose(f);
    return read && uuid_parse_text(text, ret, NULL) == 0;
}

static int boot_open(const char *state_dir, int flags)
{
    char path[LIMIT_PATH_BYTES + sizeof BOOT_FILE];
    (void)snprintf(path, sizeof path, "%s/" BOOT_FILE, state_dir);
    return open(path, flags | O_CLOEXEC, 0600);
}

struct uuid boot_of(const char *state_dir)
{
    struct uuid boot, mixed = {.b = {0}};
    if (!boot_of_machine(&boot))
        return uuid_make(); /* every run is one */
    int fd = boot_open(state_dir, O_RDONLY);
    if (fd < 0)
        return errno == ENOENT ? boot : uuid_make();
    ssize_t n = read(fd, mixed.b, sizeof mixed.b);
    (void)close(fd);
    if (n != (ssize_t)sizeof mixed.b) /* it was being written when the daemon ended */
        return uuid_make();
    for (unsigned i = 0; i < UUID_BYTES; i++)
        boot.b[i] ^= mixed.b[i];
    return boot;
}

void boot_flush_failed(void *user)
{
    struct server *server = user;
    struct uuid fresh;
    if (atomic_load(&server->flush_failed))
        return;
    rng_secret(&fresh, sizeof fresh);
    int fd = boot_open(server->config->state_dir, O_WRONLY | O_CREAT);
    if (fd < 0 || pwrite(fd, &fresh, sizeof fresh, 0) != (ssize_t)sizeof fresh) {
        LOG_ERROR("a failed flush is not on record: a restart would hide it from clients that "
                  "have not heard of it",
                  F_I64("errno", errno));
    } else {
        atomic_store(&server->flush_failed, true);
    }
    if (fd >= 0)
        (void)close(fd);
}
