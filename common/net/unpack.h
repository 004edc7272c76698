/* SPDX-License-Identifier: Apache-2.0 */
/* A message off the wire. */
#ifndef SNAP_NET_UNPACK_H
#define SNAP_NET_UNPACK_H

#include "common/base/err.h"

#include <stddef.h>
#include <stdint.h>

struct ProtobufCMessage;
struct ProtobufCMessageDescriptor;

/* protobuf-c does not say why it could not unpack one; who has no memory may try again, who is
 * sent nonsense need not.
 * Owns: *ret is freed as one unpacked without an allocator. Errors: SNAP_ENOMEM, SNAP_EPROTO. */
int unpack_message(const struct ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len,
                   struct ProtobufCMessage **ret) SNAP_WUR;

#endif
