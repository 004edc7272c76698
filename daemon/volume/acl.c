/* SPDX-License-Identifier: Apache-2.0 */
/* Grants: a sorted array behind a reference count.
 *
 * A published list never changes, so every shard reads it without a lock; a
 * change makes a copy. Lists are short (people and machines, not files): a
 * binary search for the identity and a scan of its grants is all there is.
 *
 * It must not know who asks or what a volume is: identities are text, volumes
 * are uuids.
 */
#include "daemon/volume/acl.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/name.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ACL_GRANTS_MAX = 65536 };

struct acl {
    atomic_uint refs;
    size_t count;
    struct acl_grant *grants; /* sorted by identity, then volume */
};

static const char *const role_names[] = {
    [ACL_NONE] = "none",     [ACL_APPEND] = "append", [ACL_READER] = "reader",
    [ACL_WRITER] = "writer", [ACL_ADMIN] = "admin",
};

/* Which roles hold a right: one bit a role. */
#define ROLE_BIT(r) (1U << (r))
static const unsigned holders[] = {
    [ACL_RIGHT_SEE] =
        ROLE_BIT(ACL_APPEND) | ROLE_BIT(ACL_READER) | ROLE_BIT(ACL_WRITER) | ROLE_BIT(ACL_ADMIN),
    [ACL_RIGHT_READ] = ROLE_BIT(ACL_READER) | ROLE_BIT(ACL_WRITER) | ROLE_BIT(ACL_ADMIN),
    [ACL_RIGHT_APPEND] = ROLE_BIT(ACL_APPEND) | ROLE_BIT(ACL_WRITER) | ROLE_BIT(ACL_ADMIN),
    [ACL_RIGHT_WRITE] = ROLE_BIT(ACL_WRITER) | ROLE_BIT(ACL_ADMIN),
    [ACL_RIGHT_ADMIN] = ROLE_BIT(ACL_ADMIN),
};

const char *acl_role_name(enum acl_role role)
{
    return (size_t)role < sizeof role_names / sizeof role_names[0] ? role_names[role] : "none";
}

int acl_role_parse(const char *text, enum acl_role *ret, struct err *reterr)
{
    for (unsigned r = ACL_APPEND; r <= ACL_ADMIN; r++)
        if (strcmp(text, role_names[r]) == 0) {
            *ret = (enum acl_role)r;
            return 0;
        }
    return err_set(reterr, SNAP_EINVAL, "no role '%.40s'; there are append, reader, writer, admin",
                   text);
}

static struct acl *acl_alloc(size_t capacity)
{
    struct acl *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->grants = calloc(capacity ? capacity : 1, sizeof *a->grants);
    if (!a->grants) {
        free(a);
        return NULL;
    }
    atomic_init(&a->refs, 1);
    return a;
}

struct acl *acl_new_empty(void)
{
    return acl_alloc(0);
}

struct acl *acl_ref(struct acl *a)
{
    atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed);
    return a;
}

void acl_unref(struct acl *a)
{
    if (!a || atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(a->grants);
    free(a);
}

static int grant_compare(const void *pa, const void *pb)
{
    const struct acl_grant *a = pa, *b = pb;
    int by_identity = strcmp(a->identity, b->identity);
    return by_identity ? by_identity : memcmp(a->volume.b, b->volume.b, UUID_BYTES);
}

/* The first grant of identity, or where it would stand. */
static size_t first_of(const struct acl *a, const char *identity)
{
    size_t lo = 0, hi = a->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(a->grants[mid].identity, identity) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* "ROLE IDENTITY VOLUME", in place. */
static int parse_line(char *line, struct acl_grant *ret, struct err *reterr)
{
    char *save = NULL;
    const char *role = strtok_r(line, " \t", &save);
    const char *identity = strtok_r(NULL, " \t", &save);
    const char *volume = strtok_r(NULL, " \t", &save);
    if (!role || !identity || !volume || strtok_r(NULL, " \t", &save))
        return err_set(reterr, SNAP_ECORRUPT, "expected: ROLE IDENTITY VOLUME-UUID|*");
    *ret = (struct acl_grant){0};
    if (acl_role_parse(role, &ret->role, reterr) < 0 ||
        name_check(identity, "identity", reterr) < 0 ||
        (strcmp(volume, "*") != 0 && uuid_parse_text(volume, &ret->volume, reterr) < 0)) {
        if (reterr)
            reterr->code = SNAP_ECORRUPT;
        return SNAP_ECORRUPT;
    }
    (void)snprintf(ret->identity, sizeof ret->identity, "%s", identity);
    return 0;
}

/* How many grants a text may hold: its lines that are neither empty nor a remark. */
static size_t count_grants(const char *text, size_t len)
{
    size_t n = 0;
    bool fresh = true; /* at the start of a line, or in the blanks there */
    for (size_t i = 0; i < len; i++) {
        n += fresh && !strchr(" \t\n#", text[i]);
        fresh = text[i] == '\n' || (fresh && strchr(" \t", text[i]));
    }
    return n;
}

/* Every line of text into a->grants, which has room for them. */
static int parse_lines(char *text, struct acl *a, struct err *reterr)
{
    unsigned line_no = 0;
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        line_no++;
        line += strspn(line, " \t");
        if (*line == '\0' || *line == '#')
            continue;
        if (parse_line(line, &a->grants[a->count], reterr) < 0)
            return err_prefix(reterr, "line %u", line_no);
        a->count++;
    }
    qsort(a->grants, a->count, sizeof *a->grants, grant_compare);
    for (size_t i = 1; i < a->count; i++)
        if (grant_compare(&a->grants[i - 1], &a->grants[i]) == 0)
            return err_set(reterr, SNAP_ECORRUPT, "'%s' has two grants on the same volume",
                           a->grants[i].identity);
    return 0;
}

int acl_parse(const char *text, size_t len, struct acl **ret, struct err *reterr)
{
    if (memchr(text, '\0', len))
        return err_set(reterr, SNAP_ECORRUPT, "a zero byte in the text");
    size_t grants = count_grants(text, len);
    if (grants > ACL_GRANTS_MAX)
        return err_set(reterr, SNAP_ELIMIT, "more than %d grants", ACL_GRANTS_MAX);
    CLEANUP_FREE char *copy = strndup(text, len);
    struct acl *a = acl_alloc(grants);
    int rc = copy && a ? parse_lines(copy, a, reterr) : err_set(reterr, SNAP_ENOMEM, "grants");
    if (rc < 0) {
        acl_unref(a);
        return rc;
    }
    *ret = a;
    return 0;
}

int acl_load(const char *path, struct acl **ret, struct err *reterr)
{
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    struct err why = ERR_INIT;
    int rc = file_read_all(path, LIMIT_RECORD_BYTES, &text, &len, &why);
    if (rc == SNAP_ENOENT) {
        *ret = acl_new_empty();
        return *ret ? 0 : err_set(reterr, SNAP_ENOMEM, "grants");
    }
    if (rc < 0)
        return err_copy(reterr, &why);
    rc = acl_parse(text, len, ret, reterr);
    return rc < 0 ? (err_prefix(reterr, "%s", path), rc) : 0;
}

int acl_save(const char *path, const struct acl *a, struct err *reterr)
{
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return err_set(reterr, SNAP_ENOMEM, "grants");
    (void)fputs("# role identity volume; written by snapwired\n", f);
    for (size_t i = 0; i < a->count; i++) {
        const struct acl_grant *g = &a->grants[i];
        char id[UUID_TEXT_BYTES];
        (void)fprintf(f, "%s %s %s\n", role_names[g->role], g->identity,
                      uuid_is_zero(&g->volume) ? "*" : uuid_format(&g->volume, id));
    }
    bool whole = ferror(f) == 0;
    if (fclose(f) != 0 || !whole)
        return err_set(reterr, SNAP_ENOMEM, "grants");
    return file_replace(path, text, len, 0600, reterr);
}

int acl_with(const struct acl *a, const struct acl_grant *g, struct acl **ret, struct err *reterr)
{
    int rc = name_check(g->identity, "identity", reterr);
    if (rc < 0)
        return rc;
    struct acl *b = acl_alloc(a->count + 1);
    if (!b)
        return err_set(reterr, SNAP_ENOMEM, "grants");
    bool found = false;
    for (size_t i = 0; i < a->count; i++) {
        bool same = grant_compare(&a->grants[i], g) == 0;
        found |= same;
        if (!same)
            b->grants[b->count++] = a->grants[i];
    }
    if (g->role == ACL_NONE && !found) {
        acl_unref(b);
        return err_set(reterr, SNAP_ENOENT, "'%s' has no such grant", g->identity);
    }
    if (g->role != ACL_NONE && b->count >= ACL_GRANTS_MAX) {
        acl_unref(b);
        return err_set(reterr, SNAP_ELIMIT, "there are %d grants already; take one back first",
                       ACL_GRANTS_MAX);
    }
    if (g->role != ACL_NONE)
        b->grants[b->count++] = *g;
    qsort(b->grants, b->count, sizeof *b->grants, grant_compare);
    *ret = b;
    return 0;
}

int acl_without_volume(const struct acl *a, const struct uuid *volume, struct acl **ret,
                       struct err *reterr)
{
    CHECK(!uuid_is_zero(volume));
    struct acl *b = acl_alloc(a->count);
    if (!b)
        return err_set(reterr, SNAP_ENOMEM, "grants");
    for (size_t i = 0; i < a->count; i++)
        if (!uuid_equal(&a->grants[i].volume, volume))
            b->grants[b->count++] = a->grants[i];
    *ret = b;
    return 0;
}

/* One bit a role that identity has on volume (NULL: by grants on every volume only). */
static unsigned roles_of(const struct acl *a, const char *identity, const struct uuid *volume)
{
    unsigned roles = 0;
    for (size_t i = first_of(a, identity);
         i < a->count && strcmp(a->grants[i].identity, identity) == 0; i++) {
        const struct acl_grant *g = &a->grants[i];
        if (uuid_is_zero(&g->volume) || (volume && uuid_equal(&g->volume, volume)))
            roles |= ROLE_BIT(g->role);
    }
    return roles;
}

enum acl_role acl_role_of(const struct acl *a, const char *identity, const struct uuid *volume)
{
    unsigned roles = roles_of(a, identity, volume);
    for (unsigned r = ACL_ADMIN; r > ACL_NONE; r--)
        if (roles & ROLE_BIT(r))
            return (enum acl_role)r;
    return ACL_NONE;
}

bool acl_allows(const struct acl *a, const char *identity, const struct uuid *volume,
                enum acl_right right)
{
    return (roles_of(a, identity, volume) & holders[right]) != 0;
}

size_t acl_count(const struct acl *a)
{
    return a->count;
}

const struct acl_grant *acl_at(const struct acl *a, size_t i)
{
    CHECK(i < a->count);
    return &a->grants[i];
}
