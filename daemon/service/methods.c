/* SPDX-License-Identifier: Apache-2.0 */
/* The table of methods: what each takes, where it runs, which right it needs. */
#include "daemon/service/server.h"

#define TYPE(msg) snapwire__v1__##msg##__descriptor
#define M(n) SNAPWIRE__V1__METHOD__METHOD_##n
/* runs on its volume's shard */
#define AT(type) .at = RUN_VOLUME, .volume_offset = offsetof(Snapwire__V1__##type, volume)

static const struct method methods[] = {
    {M(PING), "ping", &TYPE(ping_request), RUN_HOME, .right_free = true, .fn = service_ping},
    {M(SERVER_STATUS), "server-status", &TYPE(empty), RUN_HOME, .right = ACL_RIGHT_ADMIN,
     .right_free = true, .fn = service_server_status},
    {M(VOLUME_CREATE), "volume-create", &TYPE(volume_create), RUN_HOME, .right = ACL_RIGHT_ADMIN,
     .mutates = true, .fn = service_volume_create},
    {M(VOLUME_LIST), "volume-list", &TYPE(volume_list_request), RUN_HOME, .right_free = true,
     .fn = service_volume_list},
    {M(VOLUME_SHOW), "volume-show", &TYPE(volume_ref), AT(VolumeRef), .right = ACL_RIGHT_SEE,
     .fn = service_volume_show},
    {M(VOLUME_DELETE), "volume-delete", &TYPE(delete_request), RUN_HOME, .right_free = true,
     .mutates = true, .fn = service_volume_delete},
    {M(RESOLVE), "resolve", &TYPE(resolve_request), RUN_HOME, .right_free = true,
     .fn = service_resolve},
    {M(SNAPSHOT_CREATE), "snapshot-create", &TYPE(snapshot_create), AT(SnapshotCreate),
     .right = ACL_RIGHT_APPEND, .mutates = true, .fn = service_snapshot_create},
    {M(SNAPSHOT_SHOW), "snapshot-show", &TYPE(snapshot_ref), AT(SnapshotRef),
     .right = ACL_RIGHT_SEE, .fn = service_snapshot_show},
    {M(SNAPSHOT_DELETE), "snapshot-delete", &TYPE(delete_request), AT(DeleteRequest),
     .right = ACL_RIGHT_WRITE, .mutates = true, .fn = service_snapshot_delete},
    {M(SNAPSHOT_CHECK), "snapshot-check", &TYPE(snapshot_ref), AT(SnapshotRef),
     .right = ACL_RIGHT_READ, .fn = service_snapshot_check},
    {M(SNAPSHOT_ACCEPT), "snapshot-accept", &TYPE(accept_request), AT(AcceptRequest),
     .right = ACL_RIGHT_ADMIN, .mutates = true, .kind = METHOD_OF_REMOTE,
     .fn = service_snapshot_accept},
    {M(SNAPSHOT_READ), "snapshot-read", &TYPE(read_request), AT(ReadRequest),
     .right = ACL_RIGHT_READ, .follows = true, .fn = service_snapshot_read},
    {M(RUN_LIST), "run-list", &TYPE(run_list_request), AT(RunListRequest), .right = ACL_RIGHT_READ,
     .fn = service_run_list},
    {M(GROUP_CREATE), "group-create", &TYPE(group_create), RUN_HOME, .right_free = true,
     .mutates = true, .fn = service_group_create},
    {M(CLONE_CREATE), "clone-create", &TYPE(clone_create), AT(CloneCreate),
     .right = ACL_RIGHT_WRITE, .kind = METHOD_OF_HOSTED, .mutates = true,
     .fn = service_clone_create},
    {M(WRITE), "write", &TYPE(write_request), AT(WriteRequest), .right = ACL_RIGHT_WRITE,
     .kind = METHOD_OF_HOSTED, .payload = true, .follows = true, .fn = service_write},
    {M(ZERO), "zero", &TYPE(zero_request), AT(ZeroRequest), .right = ACL_RIGHT_WRITE,
     .kind = METHOD_OF_HOSTED, .follows = true, .fn = service_zero},
    {M(FLUSH), "flush", &TYPE(flush_request), AT(FlushRequest), .right = ACL_RIGHT_WRITE,
     .kind = METHOD_OF_HOSTED, .follows = true, .fn = service_flush},
    {M(EXTENT_LIST), "extent-list", &TYPE(extent_list_request), AT(ExtentListRequest),
     .right = ACL_RIGHT_READ, .kind = METHOD_OF_HOSTED, .fn = service_extent_list},
    {M(DIFF), "diff", &TYPE(diff_request), AT(DiffRequest), .right = ACL_RIGHT_READ,
     .fn = service_diff},
    {M(ROLLBACK), "rollback", &TYPE(rollback_request), AT(RollbackRequest),
     .right = ACL_RIGHT_WRITE, .kind = METHOD_OF_HOSTED, .mutates = true, .fn = service_rollback},
    {M(VERIFY), "verify", &TYPE(verify_request), AT(VerifyRequest), .right = ACL_RIGHT_READ,
     .mutates = true, .fn = service_verify},
    {M(GRANT), "grant", &TYPE(grant), RUN_HOME, .right_free = true, .mutates = true,
     .fn = service_grant},
    {M(REVOKE), "revoke", &TYPE(grant), RUN_HOME, .right_free = true, .mutates = true,
     .fn = service_revoke},
    {M(GRANT_LIST), "grant-list", &TYPE(volume_list_request), RUN_HOME, .right_free = true,
     .fn = service_grant_list},
    {M(LEASE_ACQUIRE), "lease-acquire", &TYPE(lease_acquire), AT(LeaseAcquire),
     .right = ACL_RIGHT_APPEND, .mutates = true, .kind = METHOD_OF_REMOTE,
     .fn = service_lease_acquire},
    {M(LEASE_RENEW), "lease-renew", &TYPE(lease_ref), AT(LeaseRef), .right = ACL_RIGHT_APPEND,
     .kind = METHOD_OF_REMOTE, .fn = service_lease_renew},
    {M(LEASE_RELEASE), "lease-release", &TYPE(lease_ref), AT(LeaseRef), .right = ACL_RIGHT_APPEND,
     .mutates = true, .kind = METHOD_OF_REMOTE, .fn = service_lease_release},
    {M(HEAD_READY), "head-ready", &TYPE(lease_ref), AT(LeaseRef), .right = ACL_RIGHT_APPEND,
     .kind = METHOD_OF_REMOTE, .fn = service_head_ready},
    {M(COW_PUT), "cow-put", &TYPE(cow_put), AT(CowPut), .right = ACL_RIGHT_APPEND, .payload = true,
     .kind = METHOD_OF_REMOTE, .fn = service_cow_put},
    {M(MERGE_BEGIN), "merge-begin", &TYPE(merge_begin), AT(MergeBegin), .right = ACL_RIGHT_WRITE,
     .mutates = true, .kind = METHOD_OF_REMOTE, .fn = service_merge_begin},
    {M(MERGE_PREPARE), "merge-prepare", &TYPE(merge_ref), AT(MergeRef), .right = ACL_RIGHT_WRITE,
     .kind = METHOD_OF_REMOTE, .fn = service_merge_prepare},
    {M(MERGE_COMMIT), "merge-commit", &TYPE(merge_commit), AT(MergeCommit),
     .right = ACL_RIGHT_WRITE, .kind = METHOD_OF_REMOTE, .fn = service_merge_commit},
    {M(MERGE_END), "merge-end", &TYPE(merge_ref), AT(MergeRef), .right = ACL_RIGHT_WRITE,
     .mutates = true, .kind = METHOD_OF_REMOTE, .fn = service_merge_end},
    {M(MERGE_ABORT), "merge-abort", &TYPE(merge_ref), AT(MergeRef), .right = ACL_RIGHT_WRITE,
     .mutates = true, .kind = METHOD_OF_REMOTE, .fn = service_merge_abort},
    {M(JOB_LIST), "job-list", &TYPE(volume_list_request), RUN_HOME, .right_free = true,
     .fn = service_job_list},
    {M(JOB_SHOW), "job-show", &TYPE(job_ref), AT(JobRef), .right = ACL_RIGHT_SEE,
     .fn = service_job_show},
    {M(JOB_CANCEL), "job-cancel", &TYPE(job_ref), AT(JobRef), .right = ACL_RIGHT_WRITE,
     .mutates = true, .fn = service_job_cancel},
};

const struct method *method_find(uint16_t number)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (methods[i].number == number)
            return &methods[i];
    return NULL;
}
