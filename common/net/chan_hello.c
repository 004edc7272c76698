/* SPDX-License-Identifier: Apache-2.0 */
/* The two messages of the channel's own that have a body: HELLO and GOAWAY.
 *
 * Both sides send HELLO without waiting for the other's and reckon the version
 * alike: the highest that both speak. Limits that a peer names are believed only
 * downward: nobody gets more from us than limits.h allows.
 *
 * Thread: the channel's.
 */
#include "common/net/chan_priv.h"

#include "common/base/bytes.h"
#include "common/net/unpack.h"
#include "proto/snapwire.pb-c.h"

#include <ctype.h>
#include <string.h>

enum {
    PROTOCOL_MIN = 1,
    PROTOCOL_MAX = 1,
    PEER_CONTROL_BYTES_MIN = 1024, /* below these no useful frame would fit */
    PEER_PAYLOAD_BYTES_MIN = 512,
};

/* Text for or from a peer: printable ASCII, and no longer than it may be. */
static void take_text(char *ret, size_t ret_bytes, const char *text)
{
    size_t n = 0;
    for (; text[n] != 0 && n < ret_bytes - 1; n++)
        ret[n] = isprint((unsigned char)text[n]) ? text[n] : '?';
    ret[n] = 0;
}

bool chan_stage_hello(struct chan *c)
{
    uint8_t control[512];
    Snapwire__V1__Hello hello = SNAPWIRE__V1__HELLO__INIT;
    hello.version_min = PROTOCOL_MIN;
    hello.version_max = PROTOCOL_MAX;
    hello.software = c->software;
    hello.control_bytes_max = c->config.control_bytes_max;
    hello.payload_bytes_max = c->config.payload_bytes_max;
    hello.requests_max = c->config.requests_max;
    hello.window_bytes = c->config.window_bytes;
    hello.keepalive_ms = c->config.keepalive_ms;
    hello.instance.data = c->config.instance.b;
    hello.instance.len = UUID_BYTES;
    hello.boot.data = c->config.boot.b;
    hello.boot.len = uuid_is_zero(&c->config.boot) ? 0 : UUID_BYTES;
    const size_t len = snapwire__v1__hello__pack(&hello, control);
    const struct frame_header h = {
        .version = FRAME_VERSION, .kind = FRAME_HELLO, .control_bytes = (uint32_t)len};
    return chan_stage_frame(c, &h, control);
}

static int check_hello(const Snapwire__V1__Hello *hello, struct err *reterr)
{
    if (hello->version_min > PROTOCOL_MAX || hello->version_max < PROTOCOL_MIN ||
        hello->version_min > hello->version_max)
        return err_set(reterr, SNAP_EPROTO,
                       "no common protocol version: we speak %d to %d, the peer %u to %u (%.64s)",
                       PROTOCOL_MIN, PROTOCOL_MAX, hello->version_min, hello->version_max,
                       hello->software);
    if (hello->control_bytes_max < PEER_CONTROL_BYTES_MIN ||
        hello->payload_bytes_max < PEER_PAYLOAD_BYTES_MIN || hello->requests_max == 0 ||
        hello->window_bytes < LIMIT_WINDOW_BYTES_MIN)
        return err_set(reterr, SNAP_EPROTO,
                       "hello: limits too small: control %u, payload %u, requests %u, window %llu",
                       hello->control_bytes_max, hello->payload_bytes_max, hello->requests_max,
                       (unsigned long long)hello->window_bytes);
    if (hello->boot.len != 0 && hello->boot.len != UUID_BYTES)
        return err_set(reterr, SNAP_EPROTO, "hello: boot has %zu bytes, not %d", hello->boot.len,
                       UUID_BYTES);
    if (hello->instance.len != 0 && hello->instance.len != UUID_BYTES)
        return err_set(reterr, SNAP_EPROTO, "hello: instance has %zu bytes, not %d",
                       hello->instance.len, UUID_BYTES);
    return 0;
}

static void adopt_hello(struct chan *c, const Snapwire__V1__Hello *hello)
{
    struct chan_peer *p = &c->peer;
    c->peer_window_bytes = hello->window_bytes;
    c->tx.credit = hello->window_bytes;
    p->control_bytes_max =
        (uint32_t)u64_min(hello->control_bytes_max, (uint64_t)LIMIT_FRAME_CONTROL_BYTES);
    p->payload_bytes_max = (uint32_t)u64_min(u64_min(hello->payload_bytes_max, hello->window_bytes),
                                             LIMIT_FRAME_PAYLOAD_BYTES);
    p->requests_max = hello->requests_max;
    if (hello->boot.len == UUID_BYTES)
        memcpy(p->boot.b, hello->boot.data, UUID_BYTES);
    if (hello->instance.len == UUID_BYTES)
        memcpy(p->instance.b, hello->instance.data, UUID_BYTES);
    take_text(p->software, sizeof p->software, hello->software);
}

int chan_take_hello(struct chan *c, const uint8_t *control, size_t len, struct err *reterr)
{
    ProtobufCMessage *message = NULL;
    int r = unpack_message(&snapwire__v1__hello__descriptor, control, len, &message);
    if (r == SNAP_ENOMEM)
        return err_set(reterr, r, "hello: out of memory");
    if (r < 0)
        return err_set(reterr, r, "hello: %zu bytes are no Hello message", len);
    Snapwire__V1__Hello *hello = (Snapwire__V1__Hello *)message;
    r = check_hello(hello, reterr);
    if (r == 0)
        adopt_hello(c, hello);
    snapwire__v1__hello__free_unpacked(hello, NULL);
    return r;
}

bool chan_stage_goaway(struct chan *c, const struct err *why)
{
    uint8_t control[CHAN_HELLO_CONTROL_BYTES];
    char text[ERR_TEXT_BYTES];
    Snapwire__V1__Error error = SNAPWIRE__V1__ERROR__INIT;
    take_text(text, sizeof text, why->text);
    error.code = (uint32_t)-why->code;
    error.text = text;
    const size_t len = snapwire__v1__error__pack(&error, control);
    const struct frame_header h = {
        .version = FRAME_VERSION, .kind = FRAME_GOAWAY, .control_bytes = (uint32_t)len};
    return chan_stage_frame(c, &h, control);
}

void chan_take_goaway(struct chan *c, const uint8_t *control, size_t len)
{
    char text[LIMIT_TEXT_BYTES] = "no reason given";
    int code = SNAP_ECONN;
    Snapwire__V1__Error *error = snapwire__v1__error__unpack(NULL, len, control);
    if (error != NULL) {
        if (error->text[0] != 0)
            take_text(text, sizeof text, error->text);
        if (error->code > 0 && strcmp(err_name(-(int)u64_min(error->code, 1000)), "EUNKNOWN") != 0)
            code = -(int)error->code;
        snapwire__v1__error__free_unpacked(error, NULL);
    }
    (void)err_set(&c->goaway, code, "the %s closed the connection: %s",
                  c->server ? "client" : "daemon", text);
}
