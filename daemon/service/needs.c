/* SPDX-License-Identifier: Apache-2.0 */
/* What a start needs of the process and its host, and what an operator can do where it is refused.
 *
 * Libraries end the process when they get no descriptor, so whether there are enough is asked
 * before anything else. Of all other limits the start itself finds out, and its error says where;
 * here stands what helps. Thread: main's.
 */
#include "daemon/service/service_priv.h"

#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

unsigned service_shard_count(const struct config *config)
{
    unsigned count = config->shards;
    if (count == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        count = cores < 1 ? 1 : (unsigned)cores;
    }
    return count > SERVER_SHARDS_MAX ? SERVER_SHARDS_MAX : count;
}

enum { FILES_BASE = 40, FILES_PER_SHARD = 8 }; /* rather more than are open before a volume is */

int service_check_files(const struct config *config, struct err *reterr)
{
    struct rlimit files;
    const unsigned shards = service_shard_count(config);
    const unsigned need = FILES_BASE + FILES_PER_SHARD * shards + config->listen_count;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur >= need)
        return 0;
    return err_set_errno(
        reterr, SNAP_ELIMIT, EMFILE,
        "the process may have %llu open files, %u shards need %u before there is a volume",
        (unsigned long long)files.rlim_cur, shards, need);
}

const char *service_remedy(const struct err *err)
{
    if (err->sys_errno == EAGAIN)
        return "raise the limits on processes, threads and memory (ulimit -u, LimitNPROC=, "
               "TasksMax=, MemoryMax=), or have fewer shards";
    if (err->code == SNAP_ENOMEM)
        return "raise the limits on memory (ulimit -v, LimitAS=, MemoryMax=), or lower "
               "cache { size }, limits { buffers } and shards";
    if (err->sys_errno == EROFS)
        return "mount that file system to be written (mount -o remount,rw; ReadWritePaths=), or "
               "choose another state_dir";
    if (err->code == SNAP_EPERM)
        return "the daemon's user may not: what is in the state directory and the folders of its "
               "sockets have to be its own (chown), ports below 1024 take CAP_NET_BIND_SERVICE";
    if (err->code == SNAP_ENOSPC)
        return "make room there: df and df -i tell how much there is";
    return NULL;
}
