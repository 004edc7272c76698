/* SPDX-License-Identifier: Apache-2.0 */
/* Who may do what: the `acl` file of the state directory, one grant a line
 * ("ROLE IDENTITY VOLUME-UUID|*"), replaced durably. Looked up by every request.
 *
 * Thread: the object is immutable once published; a change makes a new one
 * (acl_with) that readers take over at their own pace by reference.
 */
#ifndef SNAP_VOLUME_ACL_H
#define SNAP_VOLUME_ACL_H

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/uuid.h"

#include <stdbool.h>
#include <stddef.h>

enum acl_role { ACL_NONE, ACL_APPEND, ACL_READER, ACL_WRITER, ACL_ADMIN };

/* What a request wants to do. */
enum acl_right {
    ACL_RIGHT_SEE,    /* list, show: any role */
    ACL_RIGHT_READ,   /* content and runs: reader, writer, admin */
    ACL_RIGHT_APPEND, /* lease, COW put, create snapshot: append, writer, admin */
    ACL_RIGHT_WRITE,  /* merge, delete snapshot: writer, admin */
    ACL_RIGHT_ADMIN,  /* volumes, grants, status: admin */
};

struct acl_grant {
    char identity[LIMIT_NAME_BYTES + 1];
    enum acl_role role;
    struct uuid volume; /* zero: every volume */
};

struct acl;

struct acl *acl_new_empty(void);
struct acl *acl_ref(struct acl *a);
void acl_unref(struct acl *a); /* takes NULL; atomic */

/* Errors: SNAP_ECORRUPT naming the line. A missing file is an empty list. */
int acl_load(const char *path, struct acl **ret, struct err *reterr) SNAP_WUR;
int acl_save(const char *path, const struct acl *a, struct err *reterr) SNAP_WUR;
int acl_parse(const char *text, size_t len, struct acl **ret, struct err *reterr) SNAP_WUR;

/* A copy with one grant set (role ACL_NONE: taken back; SNAP_ENOENT when there was none). */
int acl_with(const struct acl *a, const struct acl_grant *g, struct acl **ret,
             struct err *reterr) SNAP_WUR;
/* A copy without any grant on that volume. */
int acl_without_volume(const struct acl *a, const struct uuid *volume, struct acl **ret,
                       struct err *reterr) SNAP_WUR;

/* The strongest role of identity on volume (its own grants and those on every volume). */
enum acl_role acl_role_of(const struct acl *a, const char *identity, const struct uuid *volume);
/* volume NULL: rights on every volume. */
bool acl_allows(const struct acl *a, const char *identity, const struct uuid *volume,
                enum acl_right right);
size_t acl_count(const struct acl *a);
const struct acl_grant *acl_at(const struct acl *a, size_t i);
const char *acl_role_name(enum acl_role role);
int acl_role_parse(const char *text, enum acl_role *ret, struct err *reterr) SNAP_WUR;

#endif
