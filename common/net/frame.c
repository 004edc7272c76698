/* SPDX-License-Identifier: Apache-2.0 */
/* The frame header, to bytes and back.
 *
 * Which fields a kind may use; anything else must be zero, so that a field can be
 * given a meaning later without old peers taking it for something else:
 *
 *     kind       flags   method  control  id   payload  credit
 *     HELLO        -       -       yes     -      -        -
 *     REQUEST      -      yes      yes    yes    yes       -
 *     RESPONSE   ERROR    yes      yes    yes    yes       -
 *     EVENT        -      yes      yes    yes    yes       -
 *     WINDOW       -       -        -      -      -       > 0
 *     PING, PONG   -       -        -     yes     -        -
 *     GOAWAY       -       -       yes     -      -        -
 *
 * Pure: no memory, no system calls. Thread: any.
 */
#include "common/net/frame.h"

#include "common/base/bytes.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_KIND = 5,
    AT_FLAGS = 6,
    AT_METHOD = 8,
    AT_RESERVED = 10,
    AT_CONTROL = 12,
    AT_ID = 16,
    AT_PAYLOAD = 24,
    AT_CREDIT = 28,
};

struct kind_rule {
    const char *name;
    uint16_t flags;
    bool method, control, id, payload, credit;
};

static const struct kind_rule rules[] = {
    [FRAME_HELLO] = {.name = "HELLO", .control = true},
    [FRAME_REQUEST] =
        {.name = "REQUEST", .method = true, .control = true, .id = true, .payload = true},
    [FRAME_RESPONSE] = {.name = "RESPONSE",
                        .flags = FRAME_ERROR,
                        .method = true,
                        .control = true,
                        .id = true,
                        .payload = true},
    [FRAME_EVENT] = {.name = "EVENT", .method = true, .control = true, .id = true, .payload = true},
    [FRAME_WINDOW] = {.name = "WINDOW", .credit = true},
    [FRAME_PING] = {.name = "PING", .id = true},
    [FRAME_PONG] = {.name = "PONG", .id = true},
    [FRAME_GOAWAY] = {.name = "GOAWAY", .control = true},
};

const char *frame_kind_name(uint8_t kind)
{
    return kind < ARRAY_LEN(rules) && rules[kind].name != NULL ? rules[kind].name : "unknown";
}

void frame_encode(const struct frame_header *h, uint8_t out[FRAME_HEADER_BYTES])
{
    le32_store(out + AT_MAGIC, FRAME_MAGIC);
    out[AT_VERSION] = h->version;
    out[AT_KIND] = h->kind;
    le16_store(out + AT_FLAGS, h->flags);
    le16_store(out + AT_METHOD, h->method);
    le16_store(out + AT_RESERVED, 0);
    le32_store(out + AT_CONTROL, h->control_bytes);
    le64_store(out + AT_ID, h->id);
    le32_store(out + AT_PAYLOAD, h->payload_bytes);
    le32_store(out + AT_CREDIT, h->credit);
}

/* Fields that the kind does not use must be zero. */
static int check_rule(const struct frame_header *h, const struct kind_rule *rule,
                      struct err *reterr)
{
    if ((h->flags & ~rule->flags) != 0)
        return err_set(reterr, SNAP_EPROTO, "frame %s: flags 0x%04x are not its own", rule->name,
                       h->flags);
    const struct {
        bool used;
        uint64_t value;
        const char *field;
    } fields[] = {
        {rule->method, h->method, "method"},
        {rule->control, h->control_bytes, "control length"},
        {rule->id, h->id, "id"},
        {rule->payload, h->payload_bytes, "payload length"},
        {rule->credit, h->credit, "credit"},
    };
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if (!fields[i].used && fields[i].value != 0)
            return err_set(reterr, SNAP_EPROTO, "frame %s: %s is %llu where it must be 0",
                           rule->name, fields[i].field, (unsigned long long)fields[i].value);
    if (rule->credit && h->credit == 0)
        return err_set(reterr, SNAP_EPROTO, "frame %s: credit is 0", rule->name);
    return 0;
}

int frame_decode(const uint8_t in[FRAME_HEADER_BYTES], const struct frame_limits *limits,
                 struct frame_header *ret, struct err *reterr)
{
    if (le32_load(in + AT_MAGIC) != FRAME_MAGIC)
        return err_set(reterr, SNAP_EPROTO, "frame: magic is 0x%08x, not 0x%08x: not Snapwire",
                       le32_load(in + AT_MAGIC), (unsigned)FRAME_MAGIC);
    const struct frame_header h = {
        .version = in[AT_VERSION],
        .kind = in[AT_KIND],
        .flags = le16_load(in + AT_FLAGS),
        .method = le16_load(in + AT_METHOD),
        .control_bytes = le32_load(in + AT_CONTROL),
        .id = le64_load(in + AT_ID),
        .payload_bytes = le32_load(in + AT_PAYLOAD),
        .credit = le32_load(in + AT_CREDIT),
    };
    if (h.version != FRAME_VERSION)
        return err_set(reterr, SNAP_EPROTO, "frame: header version %u, not %d", h.version,
                       FRAME_VERSION);
    if (h.kind >= ARRAY_LEN(rules) || rules[h.kind].name == NULL)
        return err_set(reterr, SNAP_EPROTO, "frame: unknown kind %u", h.kind);
    if (le16_load(in + AT_RESERVED) != 0)
        return err_set(reterr, SNAP_EPROTO, "frame %s: reserved bytes are 0x%04x, not 0",
                       rules[h.kind].name, le16_load(in + AT_RESERVED));
    const int r = check_rule(&h, &rules[h.kind], reterr);
    if (r < 0)
        return r;
    if (h.control_bytes > limits->control_bytes_max)
        return err_set(reterr, SNAP_EPROTO, "frame %s: control length %u is above the limit %u",
                       rules[h.kind].name, h.control_bytes, limits->control_bytes_max);
    if (h.payload_bytes > limits->payload_bytes_max)
        return err_set(reterr, SNAP_EPROTO, "frame %s: payload length %u is above the limit %u",
                       rules[h.kind].name, h.payload_bytes, limits->payload_bytes_max);
    *ret = h;
    return 0;
}
