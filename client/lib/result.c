/* SPDX-License-Identifier: Apache-2.0 */
/* The public edge: results, errors, argument structs, identities, names.
 *
 * A result is one root struct with everything that hangs from it in blocks of a
 * list before the root, so that snapwire_free() frees all of it, whatever type it
 * is. An argument struct may come from a program built with an older or newer
 * header: its first member says how long it is there.
 *
 * Thread: any; nothing here has state.
 */
#include "client/lib/client_priv.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct snapwire_error) == sizeof(struct err), "the same text fits");
_Static_assert(sizeof(struct snapwire_uuid) == sizeof(struct uuid), "16 bytes");
#define SAME_CODE(name, num, text, exit_code, http, grpc) \
    _Static_assert((int)SNAPWIRE_##name == (int)SNAP_##name, "public and inner codes are one");
SNAP_ERRORS(SAME_CODE)

const char *snapwire_version(void)
{
    return SNAPWIRE_VERSION;
}

/* -- errors -- */

struct snapwire_error public_error_of(const struct err *err)
{
    struct snapwire_error e = {.code = err->code, .sys_errno = err->sys_errno};

    memcpy(e.text, err->text, sizeof e.text);
    return e;
}

struct err private_error_of(const struct snapwire_error *e)
{
    struct err err = {.code = e->code, .sys_errno = e->sys_errno};

    memcpy(err.text, e->text, sizeof err.text);
    return err;
}

int public_error(struct snapwire_error *reterr, int r, const struct err *err)
{
    if (r < 0 && reterr != NULL)
        *reterr = public_error_of(err);
    return r;
}

const char *snapwire_error_name(int code)
{
    return code == SNAPWIRE_WOULD_BLOCK ? "WOULD_BLOCK" : err_name(code);
}

const char *snapwire_error_text(int code)
{
    return code == SNAPWIRE_WOULD_BLOCK ? "would block" : err_text(code);
}

int snapwire_error_exit_code(int code)
{
    return err_exit_code(code);
}

int snapwire_error_http_status(int code)
{
    return err_http_status(code);
}

int snapwire_error_grpc_status(int code)
{
    return err_grpc_status(code);
}

/* -- arguments -- */

int public_args(void *dst, size_t dst_bytes, const void *src, size_t least_bytes,
                struct err *reterr)
{
    size_t size;
    const uint8_t *bytes = src;

    memset(dst, 0, dst_bytes);
    if (src == NULL)
        return err_set(reterr, SNAP_EINVAL, "no arguments given");
    memcpy(&size, src, sizeof size);
    if (size < least_bytes || size > 65536)
        return err_set(reterr, SNAP_EINVAL,
                       "an argument struct's `size` is %zu, at least %zu is needed", size,
                       least_bytes);
    for (size_t i = dst_bytes; i < size; i++) {
        if (bytes[i] != 0)
            return err_set(reterr, SNAP_ENOTSUP,
                           "an argument struct uses members that this library, version %s, "
                           "does not know",
                           SNAPWIRE_VERSION);
    }
    memcpy(dst, src, size < dst_bytes ? size : dst_bytes);
    return 0;
}

/* -- results -- */

/* The root's comes first. */
struct result_block {
    struct result_block *next;
    max_align_t data[];
};

static struct result_block *result_block_of(void *root)
{
    return (struct result_block *)((char *)root - offsetof(struct result_block, data));
}

void *result_new(size_t bytes)
{
    struct result_block *b = calloc(1, sizeof *b + bytes);

    return b != NULL ? b->data : NULL;
}

void *result_alloc(void *root, size_t count, size_t bytes)
{
    struct result_block *first = result_block_of(root);
    size_t total;

    if (__builtin_mul_overflow(count, bytes, &total) ||
        __builtin_add_overflow(total, sizeof(struct result_block), &total))
        return NULL;
    struct result_block *b = calloc(1, total);
    if (b == NULL)
        return NULL;
    b->next = first->next;
    first->next = b;
    return b->data;
}

void result_adopt(void *root, void *other)
{
    struct result_block *first = result_block_of(root), *taken = result_block_of(other);
    struct result_block *last = taken;

    while (last->next != NULL)
        last = last->next;
    last->next = first->next;
    first->next = taken;
}

void snapwire_free(void *result)
{
    struct result_block *b = result != NULL ? result_block_of(result) : NULL;

    while (b != NULL) {
        struct result_block *next = b->next;
        free(b);
        b = next;
    }
}

/* -- identities -- */

struct snapwire_uuid snapwire_uuid_make(void)
{
    const struct uuid u = uuid_make();
    struct snapwire_uuid ret;

    memcpy(ret.b, u.b, sizeof ret.b);
    return ret;
}

bool snapwire_uuid_is_zero(const struct snapwire_uuid *u)
{
    static const struct snapwire_uuid zero;

    return memcmp(u->b, zero.b, sizeof zero.b) == 0;
}

bool snapwire_uuid_equal(const struct snapwire_uuid *a, const struct snapwire_uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}

char *snapwire_uuid_format(const struct snapwire_uuid *u, char *buf)
{
    struct uuid inner;

    memcpy(inner.b, u->b, sizeof inner.b);
    return uuid_format(&inner, buf);
}

int snapwire_uuid_parse(const char *text, struct snapwire_uuid *ret, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct uuid inner;
    const int r = uuid_parse_text(text, &inner, &err);

    if (r == 0)
        memcpy(ret->b, inner.b, sizeof ret->b);
    return public_error(reterr, r, &err);
}

/* -- names of numbers -- */

static const char *const role_names[] = {"none", "append", "reader", "writer", "admin"};
static const char *const state_names[] = {"ok",       "invalid",  "merging",   "damaged",
                                          "poisoned", "deleting", "unverified"};
static const char *const kind_names[] = {"remote", "hosted"};
static const char *const policy_names[] = {"default", "refuse", "invalidate"};

static const char *name_at(const char *const *names, size_t count, int i)
{
    return i >= 0 && (size_t)i < count ? names[i] : "unknown";
}
#define NAME_AT(names, i) name_at(names, sizeof(names) / sizeof((names)[0]), i)

const char *snapwire_snapshot_state_name(int state)
{
    return NAME_AT(state_names, state);
}

const char *snapwire_volume_kind_name(int kind)
{
    return NAME_AT(kind_names, kind);
}

const char *snapwire_full_policy_name(int policy)
{
    return NAME_AT(policy_names, policy);
}

const char *snapwire_role_name(int role)
{
    return NAME_AT(role_names, role);
}

int snapwire_role_parse(const char *text, int *ret, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    for (int i = SNAPWIRE_ROLE_APPEND; i <= SNAPWIRE_ROLE_ADMIN; i++) {
        if (strcmp(text, role_names[i]) == 0) {
            *ret = i;
            return 0;
        }
    }
    const int r = err_set(&err, SNAP_EINVAL,
                          "\"%.64s\" is no role; there are append, reader, writer and admin", text);
    return public_error(reterr, r, &err);
}
