/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz the control messages: every message of the protocol is unpacked from the input.
 *
 * The first byte picks the message, the second how much memory there is. What was
 * unpacked is packed and unpacked again and must come out the same; memory stays
 * within a fixed multiple of what was sent, whatever was sent.
 */
#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "proto/snapwire.pb-c.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

enum {
    /* An empty element of a repeated message is two bytes on the wire, and a struct, two
     * pointers and an allocation in memory. */
    BYTES_FOR_A_BYTE = 256,
    BYTES_FOR_NOTHING = 4096,
};

/* All that the protocol has; make-corpus says what is missing. */
static const ProtobufCMessageDescriptor *const messages[] = {
    &snapwire__v1__hello__descriptor,
    &snapwire__v1__error__descriptor,
    &snapwire__v1__empty__descriptor,
    &snapwire__v1__ping_request__descriptor,
    &snapwire__v1__volume_ref__descriptor,
    &snapwire__v1__snapshot_ref__descriptor,
    &snapwire__v1__volume_create__descriptor,
    &snapwire__v1__volume_list_request__descriptor,
    &snapwire__v1__resolve_request__descriptor,
    &snapwire__v1__snapshot_create__descriptor,
    &snapwire__v1__delete_request__descriptor,
    &snapwire__v1__accept_request__descriptor,
    &snapwire__v1__read_request__descriptor,
    &snapwire__v1__run_list_request__descriptor,
    &snapwire__v1__grant__descriptor,
    &snapwire__v1__lease_acquire__descriptor,
    &snapwire__v1__lease_ref__descriptor,
    &snapwire__v1__cow_put__descriptor,
    &snapwire__v1__merge_begin__descriptor,
    &snapwire__v1__merge_ref__descriptor,
    &snapwire__v1__merge_commit__descriptor,
    &snapwire__v1__write_request__descriptor,
    &snapwire__v1__zero_request__descriptor,
    &snapwire__v1__flush_request__descriptor,
    &snapwire__v1__extent_list_request__descriptor,
    &snapwire__v1__diff_request__descriptor,
    &snapwire__v1__clone_create__descriptor,
    &snapwire__v1__group_create__descriptor,
    &snapwire__v1__rollback_request__descriptor,
    &snapwire__v1__verify_request__descriptor,
    &snapwire__v1__job_ref__descriptor,
    /* answers: a client must bear a bad daemon */
    &snapwire__v1__ping_response__descriptor,
    &snapwire__v1__server_status__descriptor,
    &snapwire__v1__volume__descriptor,
    &snapwire__v1__volume_list_response__descriptor,
    &snapwire__v1__resolve_response__descriptor,
    &snapwire__v1__snapshot__descriptor,
    &snapwire__v1__check_response__descriptor,
    &snapwire__v1__read_response__descriptor,
    &snapwire__v1__run_list_response__descriptor,
    &snapwire__v1__grant_list_response__descriptor,
    &snapwire__v1__lease__descriptor,
    &snapwire__v1__cow_put_response__descriptor,
    &snapwire__v1__merge_state__descriptor,
    &snapwire__v1__merge_run__descriptor,
    &snapwire__v1__extent_list_response__descriptor,
    &snapwire__v1__group_create_response__descriptor,
    &snapwire__v1__job__descriptor,
    &snapwire__v1__job_list_response__descriptor,
    /* parts of these */
    &snapwire__v1__fault__descriptor,
    &snapwire__v1__extent__descriptor,
    &snapwire__v1__group_member__descriptor,
};

/* Memory with a cap; each block remembers its size. */
struct meter {
    size_t used, most, cap;
};

union block {
    size_t size;
    max_align_t align;
};

static void *meter_alloc(void *data, size_t size)
{
    struct meter *m = data;
    if (size > m->cap || m->used > m->cap - size)
        return NULL;
    union block *b = malloc(sizeof *b + size);
    if (b == NULL)
        return NULL;
    b->size = size;
    m->used += size;
    m->most = m->used > m->most ? m->used : m->most;
    return b + 1;
}

static void meter_free(void *data, void *p)
{
    struct meter *m = data;
    if (p == NULL)
        return;
    union block *b = (union block *)p - 1;
    m->used -= b->size;
    free(b);
}

/* Packed, unpacked and packed once more: the same bytes. (protobuf-c takes an unknown field of
 * number 0 when it is written in two bytes, and refuses what it makes of it itself.) */
static void check_stable(const ProtobufCMessageDescriptor *d, const ProtobufCMessage *m)
{
    const size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *first = malloc(len + 1), *second = malloc(len + 1);
    CHECK(first != NULL && second != NULL);
    CHECK(protobuf_c_message_pack(m, first) == len);
    ProtobufCMessage *again = protobuf_c_message_unpack(d, NULL, len, first);
    if (again != NULL) {
        CHECK(protobuf_c_message_get_packed_size(again) == len);
        CHECK(protobuf_c_message_pack(again, second) == len);
        CHECK(memcmp(first, second, len) == 0);
        protobuf_c_message_free_unpacked(again, NULL);
    }
    free(first);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size - 2 > LIMIT_FRAME_CONTROL_BYTES)
        return 0;
    const ProtobufCMessageDescriptor *d = messages[data[0] % ARRAY_LEN(messages)];
    struct meter meter = {.cap = SIZE_MAX / 2};
    if (data[1] != 0)
        meter.cap = (size_t)data[1] * 64;
    ProtobufCAllocator allocator = {meter_alloc, meter_free, &meter};
    ProtobufCMessage *m = protobuf_c_message_unpack(d, &allocator, size - 2, data + 2);
    CHECK(meter.most <= BYTES_FOR_NOTHING + (size - 2) * BYTES_FOR_A_BYTE);
    if (m != NULL) {
        CHECK(protobuf_c_message_check(m));
        check_stable(d, m);
        protobuf_c_message_free_unpacked(m, &allocator);
    }
    CHECK(meter.used == 0);
    return 0;
}
