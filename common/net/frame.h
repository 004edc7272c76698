/* SPDX-License-Identifier: Apache-2.0 */
/* The frame header: 32 bytes, little-endian, before every message.
 *
 *   0      4      5      6      8       10      12       16       24        28        32
 *   magic  ver    kind   flags  method  zero    ctl_len  id       pay_len   credit
 *   u32    u8     u8     u16    u16     u16     u32      u64      u32       u32
 *
 * Then ctl_len bytes of a protobuf message, then pay_len bytes of payload.
 * Pure encode and decode. Source: docs/protocol.md.
 */
#ifndef SNAP_NET_FRAME_H
#define SNAP_NET_FRAME_H

#include "common/base/err.h"

#include <stdint.h>

enum { FRAME_HEADER_BYTES = 32, FRAME_MAGIC = 0x57706e53 /* "SnpW" */, FRAME_VERSION = 1 };

enum frame_kind {
    FRAME_HELLO = 1, /* first frame of either side */
    FRAME_REQUEST = 2,
    FRAME_RESPONSE = 3, /* id of its request */
    FRAME_EVENT = 4,    /* from the daemon, unanswered */
    FRAME_WINDOW = 5,   /* credit: so many payload bytes more may be sent */
    FRAME_PING = 6,     /* keepalive; answered with PONG, same id */
    FRAME_PONG = 7,
    FRAME_GOAWAY = 8, /* no new requests, please; control: Error saying why */
};

enum frame_flags {
    FRAME_ERROR = 1 << 0, /* on RESPONSE: control is an Error */
};

struct frame_header {
    uint8_t version;
    uint8_t kind;
    uint16_t flags;
    uint16_t method;
    uint32_t control_bytes;
    uint64_t id;
    uint32_t payload_bytes;
    uint32_t credit; /* WINDOW: bytes granted; else 0 */
};

struct frame_limits {
    uint32_t control_bytes_max;
    uint32_t payload_bytes_max;
};

/* "REQUEST" …, "unknown". */
const char *frame_kind_name(uint8_t kind);

void frame_encode(const struct frame_header *h, uint8_t out[FRAME_HEADER_BYTES]);
/* Errors: SNAP_EPROTO naming the field, for a wrong magic, version, kind, reserved bits, or
 * a length above limits. */
int frame_decode(const uint8_t in[FRAME_HEADER_BYTES], const struct frame_limits *limits,
                 struct frame_header *ret, struct err *reterr) SNAP_WUR;

#endif
