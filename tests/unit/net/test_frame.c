/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/bytes.h"
#include "common/base/rng.h"
#include "common/net/frame.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"

#include <string.h>

static const struct frame_limits limits = {.control_bytes_max = 1000, .payload_bytes_max = 70000};

static const struct frame_header request = {
    .version = FRAME_VERSION,
    .kind = FRAME_REQUEST,
    .method = 0x3c,
    .control_bytes = 0x0102,
    .id = 0x1122334455667788,
    .payload_bytes = 0x010203,
};

static void frame_encode__golden_bytes(void **state)
{
    static const uint8_t golden[FRAME_HEADER_BYTES] = {
        'S',  'n',  'p',  'W',  1,    2,    0,    0,    0x3c, 0,    0, 0, 0x02, 0x01, 0, 0,
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x03, 0x02, 1, 0, 0,    0,    0, 0,
    };
    uint8_t out[FRAME_HEADER_BYTES];
    (void)state;
    frame_encode(&request, out);
    assert_memory_equal(out, golden, sizeof out);
}

static void frame_decode__returns_what_was_encoded(void **state)
{
    uint8_t bytes[FRAME_HEADER_BYTES];
    struct frame_header h;
    struct rng rng;
    (void)state;
    seed_init_rng(&rng);
    for (int i = 0; i < 10000; i++) {
        const struct frame_header in = {
            .version = FRAME_VERSION,
            .kind = FRAME_RESPONSE,
            .flags = rng_chance(&rng, 50) ? FRAME_ERROR : 0,
            .method = (uint16_t)rng_u64(&rng),
            .control_bytes = (uint32_t)rng_below(&rng, limits.control_bytes_max + 1),
            .id = rng_u64(&rng),
            .payload_bytes = (uint32_t)rng_below(&rng, limits.payload_bytes_max + 1),
        };
        frame_encode(&in, bytes);
        assert_int_equal(frame_decode(bytes, &limits, &h, NULL), 0);
        assert_int_equal(h.kind, in.kind);
        assert_int_equal(h.flags, in.flags);
        assert_int_equal(h.method, in.method);
        assert_int_equal(h.control_bytes, in.control_bytes);
        assert_true(h.id == in.id);
        assert_int_equal(h.payload_bytes, in.payload_bytes);
        assert_int_equal(h.credit, 0);
    }
}

/* One field changed: refused, and the text names it. */
static void refuse(const struct frame_header *h, unsigned at, uint8_t value, const char *word)
{
    uint8_t bytes[FRAME_HEADER_BYTES];
    struct frame_header got = {.id = 99};
    struct err e = ERR_INIT;
    frame_encode(h, bytes);
    assert_int_equal(frame_decode(bytes, &limits, &got, NULL), 0);
    got.id = 99;
    bytes[at] = value;
    assert_int_equal(frame_decode(bytes, &limits, &got, &e), SNAP_EPROTO);
    if (strstr(e.text, word) == NULL)
        fail_msg("expected '%s' in: %s", word, e.text);
    assert_int_equal(got.id, 99); /* set only on success */
}

static void frame_decode__refuses_wrong_fields_by_name(void **state)
{
    const struct frame_header ping = {.version = 1, .kind = FRAME_PING, .id = 7};
    const struct frame_header window = {.version = 1, .kind = FRAME_WINDOW, .credit = 5};
    const struct frame_header hello = {.version = 1, .kind = FRAME_HELLO, .control_bytes = 9};
    (void)state;
    for (unsigned i = 0; i < 4; i++)
        refuse(&request, i, 'x', "magic");
    refuse(&request, 4, 2, "version");
    refuse(&request, 5, 0, "unknown kind");
    refuse(&request, 5, 9, "unknown kind");
    refuse(&request, 5, 255, "unknown kind");
    refuse(&request, 6, 1, "flags");
    refuse(&request, 7, 0x80, "flags");
    refuse(&request, 10, 1, "reserved");
    refuse(&request, 11, 1, "reserved");
    refuse(&request, 13, 4, "control length");
    refuse(&request, 15, 0xff, "control length");
    refuse(&request, 26, 2, "payload length");
    refuse(&request, 27, 0xff, "payload length");
    refuse(&request, 28, 1, "credit");
    refuse(&ping, 8, 1, "method");
    refuse(&ping, 12, 1, "control length");
    refuse(&ping, 24, 1, "payload length");
    refuse(&window, 16, 1, "id");
    refuse(&window, 28, 0, "credit");
    refuse(&hello, 24, 1, "payload length");
    refuse(&hello, 16, 1, "id");
}

static void frame_decode__limits_are_inclusive(void **state)
{
    uint8_t bytes[FRAME_HEADER_BYTES];
    struct frame_header h = request, got;
    (void)state;
    h.control_bytes = limits.control_bytes_max;
    h.payload_bytes = limits.payload_bytes_max;
    frame_encode(&h, bytes);
    assert_int_equal(frame_decode(bytes, &limits, &got, NULL), 0);
    le32_store(bytes + 24, limits.payload_bytes_max + 1);
    assert_int_equal(frame_decode(bytes, &limits, &got, NULL), SNAP_EPROTO);
    le32_store(bytes + 24, 0);
    le32_store(bytes + 12, limits.control_bytes_max + 1);
    assert_int_equal(frame_decode(bytes, &limits, &got, NULL), SNAP_EPROTO);
}

static void frame_decode__random_bytes_never_pass_the_limits(void **state)
{
    uint8_t bytes[FRAME_HEADER_BYTES];
    struct frame_header h;
    struct rng rng;
    unsigned taken = 0;
    (void)state;
    seed_init_rng(&rng);
    for (int i = 0; i < 200000; i++) {
        frame_encode(&request, bytes);
        for (uint64_t n = rng_below(&rng, 4); n > 0; n--)
            bytes[rng_below(&rng, sizeof bytes)] = (uint8_t)rng_u64(&rng);
        if (frame_decode(bytes, &limits, &h, NULL) < 0)
            continue;
        taken++;
        assert_true(h.control_bytes <= limits.control_bytes_max);
        assert_true(h.payload_bytes <= limits.payload_bytes_max);
        assert_string_not_equal(frame_kind_name(h.kind), "unknown");
    }
    assert_true(taken > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame_encode__golden_bytes),
        cmocka_unit_test(frame_decode__returns_what_was_encoded),
        cmocka_unit_test(frame_decode__refuses_wrong_fields_by_name),
        cmocka_unit_test(frame_decode__limits_are_inclusive),
        cmocka_unit_test(frame_decode__random_bytes_never_pass_the_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
