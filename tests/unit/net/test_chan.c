/* SPDX-License-Identifier: Apache-2.0 */
/* Channels over a socket pair, without TLS. */
#include "tests/unit/net/chan_pair.h"

static void chan__hello_goes_both_ways_and_frames_follow(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p);
    pair_up(&p);
    assert_string_equal(p.server.peer.software, "test client");
    assert_string_equal(p.client.peer.software, "test daemon");
    assert_true(p.server.peer.local);
    assert_int_equal(p.server.peer.uid, getuid());
    p.server.keep = true;
    static uint8_t payload[100000];
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 5, 33, payload, sizeof payload, NULL), 0);
    PUMP_UNTIL(&p, p.server.frames == 1);
    const struct chan_frame *f = p.server.kept[0];
    assert_int_equal(f->header.id, 5);
    assert_int_equal(f->header.control_bytes, 33);
    assert_int_equal(f->control[32], 5 + 32);
    assert_int_equal(f->payload->len_bytes, sizeof payload);
    assert_memory_equal(f->payload->data, payload, sizeof payload);
    assert_int_equal(p.client.released, 1);
    assert_int_equal(end_send(&p.server, FRAME_RESPONSE, 5, 0, NULL, 0, NULL), 0);
    PUMP_UNTIL(&p, p.client.frames == 1);
    chan_close(p.client.c);
    PUMP_UNTIL(&p, p.client.down == 1 && p.server.down == 1);
    assert_int_equal(p.client.why.code, 0);
    assert_int_equal(p.server.why.code, SNAP_ECONN);
    pair_done(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chan__hello_goes_both_ways_and_frames_follow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
