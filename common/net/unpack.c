/* SPDX-License-Identifier: Apache-2.0 */
/* protobuf-c's unpacking, with an allocator that sees whether there was memory. Any thread. */
#include "common/net/unpack.h"

#include "proto/snapwire.pb-c.h"

#include <stdbool.h>
#include <stdlib.h>

static void *unpack_alloc(void *user, size_t bytes)
{
    bool *no_memory = user;
    void *p = malloc(bytes);
    *no_memory = *no_memory || p == NULL;
    return p;
}

static void unpack_free(void *user, void *p)
{
    (void)user;
    free(p);
}

int unpack_message(const struct ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len,
                   struct ProtobufCMessage **ret)
{
    bool no_memory = false;
    ProtobufCAllocator memory = {
        .alloc = unpack_alloc, .free = unpack_free, .allocator_data = &no_memory};
    *ret = protobuf_c_message_unpack(type, &memory, len, data);
    if (*ret != NULL)
        return 0;
    return no_memory ? SNAP_ENOMEM : SNAP_EPROTO;
}
