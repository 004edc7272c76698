/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's answers: packed before, they are sent, counted, told to the log, and their
 * requests freed, when their payload has left. Thread: the home part's.
 */
#include "daemon/service/session_priv.h"

#include "common/base/check.h"
#include "common/base/log.h"

#define TOLD_AGAIN_NS (UINT64_C(10) * 1000 * 1000 * 1000)

static void session_release_buf(struct request *req)
{
    buf_give(req->buf);
    request_free(req);
}

/* The answer's payload left, or will not leave any more. */
static void session_released(void *user)
{
    struct request *req = user;
    if (req->buf != NULL)
        request_go(req, req->buf_part, session_release_buf);
    else
        request_free(req);
}

static int session_send_answer(struct session *s, struct request *req, struct err *reterr)
{
    struct chan_out out = {.kind = FRAME_RESPONSE,
                           .method = req->frame->header.method,
                           .id = req->frame->header.id,
                           .control = req->control,
                           .control_bytes = (uint32_t)req->control_bytes,
                           .iov = req->iov,
                           .iov_count = req->iov_count};
    uint8_t packed[LIMIT_TEXT_BYTES + 64];
    if (req->code < 0) {
        Snapwire__V1__Error e = SNAPWIRE__V1__ERROR__INIT;
        e.code = (uint32_t)-req->code;
        e.text = req->err.text;
        e.loss = req->loss;
        out.flags = FRAME_ERROR;
        out.iov_count = 0;
        out.control = packed;
        out.control_bytes = (uint32_t)protobuf_c_message_get_packed_size(&e.base);
        CHECK(out.control_bytes <= sizeof packed);
        (void)protobuf_c_message_pack(&e.base, packed);
    }
    if (out.iov_count > 0) {
        out.released = session_released;
        out.user = req;
        for (unsigned i = 0; i < out.iov_count; i++)
            metrics_add(&s->home->metrics.payload_out_bytes, out.iov[i].iov_len);
    }
    return chan_send(s->chan, &out, reterr) < 0 ? -1 : out.iov_count > 0 ? 1 : 0;
}

/* A client that goes on against a wall fills the log with one line a request: of refusals of the
 * same kind the first is told, then one in a while, and how many there were. */
static bool session_tells(struct session *s, const struct request *req, uint64_t now_ns)
{
    bool same = s->told.method == req->method && s->told.code == req->code;
    if (same && now_ns - s->told.at_ns < TOLD_AGAIN_NS) {
        s->told.more++;
        return false;
    }
    s->told.method = req->method;
    s->told.code = req->code;
    s->told.at_ns = now_ns;
    return true;
}

/* Told to the log: what changes something, and what is refused. */
static void session_log_request(struct session *s, const struct request *req, uint64_t now_ns)
{
    const struct method *m = req->method;
    bool mutates = m != NULL && m->mutates, failed = false;
    const char *msg = "request done";
    enum log_level level = mutates ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG;
    struct log_field fields[16] = {F_STR("method", m != NULL ? m->name : "?")};
    size_t n = 1;
    if (req->code < 0) {
        failed = req->code == SNAP_EINTERNAL || req->code == SNAP_EIO ||
                 req->code == SNAP_ECORRUPT || req->code == SNAP_ENOMEM;
        msg = failed ? "request failed" : "request refused";
        level = failed ? LOG_LEVEL_WARN : LOG_LEVEL_INFO;
        if (!mutates && !session_tells(s, req, now_ns))
            level = LOG_LEVEL_DEBUG;
    }
    if (req->target != NULL)
        fields[n++] = F_STR("target", req->target);
    fields[n++] = F_STR("client", s->peer.identity);
    fields[n++] = F_U64("session", s->id);
    fields[n++] = F_U64("id", req->frame->header.id);
    if (!uuid_is_zero(&req->volume_id))
        fields[n++] = F_UUID("volume_id", &req->volume_id);
    fields[n++] = F_U64("us", (now_ns - req->started_ns) / 1000);
    if (req->code < 0) {
        fields[n++] = F_STR("code", err_name(req->err.code));
        fields[n++] = F_STR("error", req->err.text);
        if (level != LOG_LEVEL_DEBUG && s->told.more > 0 && !mutates) {
            fields[n++] = F_U64("more", s->told.more);
            s->told.more = 0;
        }
    }
    log_write(level, msg, fields, n);
}

void session_answer(struct request *req)
{
    struct session *s = req->session;
    uint64_t now_ns = clock_now_ns(s->server->env.clock);
    metrics_request(&s->home->metrics, req->frame->header.method, req->code,
                    now_ns - req->started_ns);
    session_log_request(s, req, now_ns);
    struct err err = ERR_INIT;
    int sent = s->chan == NULL ? -1 : session_send_answer(s, req, &err);
    if (sent < 0 && s->chan != NULL)
        chan_abort(s->chan, &err); /* an answer that cannot be sent must not be lost silently */
    CHECK(s->outstanding > 0);
    s->outstanding--;
    atomic_fetch_sub_explicit(&s->home->under_way, 1, memory_order_relaxed);
    struct chan_frame *frame = req->frame;
    req->frame = NULL;
    if (sent <= 0)
        session_released(req);
    chan_frame_done(frame);
    if (s->follows != NULL && s->outstanding == 0 && session_go(s))
        return; /* it may have ended over there already */
    session_free_if_idle(s);
}
