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
 * which its writes were answered, and fails its next flush. So `boot` is the machine's, mixed with
 * 16 bytes of a file of the state directory, and the first failure of a run changes these.
 *
 *   flush-failed    what it says
 *   16 zero bytes   no flush has failed: the machine's boot as it is
 *   16 others       one has: mixed
 *   shorter         one has, and the bytes could not be written: another boot, and the file is
 *                   mended with it
 *   missing         as zero bytes, which are written now
 *
 * A disk that fails to flush may well be one that is full, so the file is there from the start on,
 * with its space: marking it writes in place. Where not even that succeeds it is cut short, which
 * needs no space. The mark is not flushed: it has to outlive the process and not the machine.
 *
 * Thread: any.
 */
#include "daemon/service/server.h"

#include "common/base/file.h"
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

enum { BOOT_PATH_BYTES = LIMIT_PATH_BYTES + sizeof BOOT_FILE };

static const char *boot_path(const char *state_dir, char *buf)
{
    (void)snprintf(buf, BOOT_PATH_BYTES, "%s/" BOOT_FILE, state_dir);
    return buf;
}

/* The file anew, with its space. */
static bool boot_store(const char *path, const struct uuid *mixed)
{
    struct err err = ERR_INIT;
    if (file_replace(path, mixed->b, sizeof mixed->b, 0600, &err) == 0)
        return true;
    LOG_WARN("no space is set aside for the mark of a failed flush: it is tried again if one fails",
             F_ERR(&err));
    return false;
}

struct uuid boot_of(const char *state_dir)
{
    struct uuid boot, mixed = {.b = {0}};
    char path[BOOT_PATH_BYTES];
    if (!boot_of_machine(&boot))
        return uuid_make(); /* every run is one */
    int fd = open(boot_path(state_dir, path), O_RDONLY | O_CLOEXEC);
    bool missing = fd < 0 && errno == ENOENT;
    if (fd < 0 && !missing)
        return uuid_make();
    ssize_t n = missing ? 0 : read(fd, mixed.b, sizeof mixed.b);
    if (fd >= 0)
        (void)close(fd);
    if (missing) {
        (void)boot_store(path, &mixed);
    } else if (n != (ssize_t)sizeof mixed.b) {
        mixed = uuid_make();
        if (!boot_store(path, &mixed))
            return uuid_make();
    }
    for (unsigned i = 0; i < UUID_BYTES; i++)
        boot.b[i] ^= mixed.b[i];
    return boot;
}

void boot_flush_failed(void *user)
{
    struct server *server = user;
    struct uuid fresh;
    char path[BOOT_PATH_BYTES];
    if (atomic_load(&server->flush_failed))
        return;
    rng_secret(&fresh, sizeof fresh);
    int fd = open(boot_path(server->config->state_dir, path), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 &&
        (pwrite(fd, &fresh, sizeof fresh, 0) == (ssize_t)sizeof fresh || ftruncate(fd, 0) == 0)) {
        atomic_store(&server->flush_failed, true);
    } else {
        LOG_ERROR("a failed flush is not on record: a restart would hide it from clients that "
                  "have not heard of it",
                  F_I64("errno", errno));
    }
    if (fd >= 0)
        (void)close(fd);
}
