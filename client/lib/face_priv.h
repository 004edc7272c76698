/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of public functions share: their two faces in a line each. */
#ifndef SNAP_CLIENT_FACE_PRIV_H
#define SNAP_CLIENT_FACE_PRIV_H

#include "client/lib/client_priv.h"

#define M(name) SNAPWIRE__V1__METHOD__METHOD_##name

/* The library's own text where the caller gave none. protobuf-c never writes to it. */
static inline char *text_of(const char *text)
{
    return (char *)(uintptr_t)(text != NULL ? text : "");
}

/* The two faces of a function whose inner one is INNER(client, ARGS…, to, reterr). */
#define FACE_ASYNC(inner_call) \
    struct err err = ERR_INIT; \
    return public_error(reterr, inner_call, &err)

#define FACE_SYNC(inner_call)    \
    struct err err = ERR_INIT;   \
    struct sync_wait wait = {0}; \
    void *result = NULL;         \
    int r = sync_check(c, &err); \
    if (r == 0)                  \
    r = sync_finish(c, inner_call, &wait, &result, &err)

#define FACE_SYNC_RESULT(inner_call) \
    FACE_SYNC(inner_call);           \
    if (r == 0)                      \
        *ret = result;               \
    return public_error(reterr, r, &err)

#define FACE_SYNC_DONE(inner_call) \
    FACE_SYNC(inner_call);         \
    return public_error(reterr, r, &err)

#endif
