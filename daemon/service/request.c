/* SPDX-License-Identifier: Apache-2.0 */
/* A request's life between shards.
 *
 *   home part ──(message)──> volume's part ──> disks ──(message)──> home part ──> answer
 *        └─(message)──> control thread ──(message)──> …
 *
 * It is one allocation that travels with its frame; whoever has it is the only one who
 * touches it, so nothing in it is locked. Its answer is packed where the data is and
 * sent where the connection is. Thread: whichever has it at the moment.
 */
#include "daemon/service/server.h"

#include "common/base/bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void request_arrived(struct loop_msg *msg)
{
    struct request *req = CONTAINER_OF(msg, struct request, msg);
    req->next(req);
}

void request_go(struct request *req, struct part *part, request_fn *fn)
{
    req->at = part;
    if (shard_is_current(part->shard)) {
        fn(req);
        return;
    }
    req->next = fn;
    req->msg.fn = request_arrived;
    shard_post(part->shard, &req->msg);
}

static void request_control_run(struct control_job *job)
{
    struct request *req = CONTAINER_OF(job, struct request, job);
    req->run(req);
}

static void request_control_done(struct control_job *job)
{
    struct request *req = CONTAINER_OF(job, struct request, job);
    req->next(req);
}

void request_control(struct request *req, request_fn *run, request_fn *then)
{
    req->run = run;
    req->next = then;
    req->job = (struct control_job){
        .run = request_control_run, .done = request_control_done, .back = req->at->shard->loop};
    control_submit(req->session->server->control, &req->job);
}

/* -- tours ---------------------------------------------------------------------------- */

static void request_tour_step(struct request *req)
{
    struct server *server = req->session->server;
    unsigned next = req->at->index + 1;
    req->tour(req);
    if (next < server->part_count)
        request_go(req, &server->parts[next], request_tour_step);
    else
        request_go(req, req->session->home, req->tour_then);
}

void request_tour(struct request *req, request_fn *fn, request_fn *then)
{
    req->tour = fn;
    req->tour_then = then;
    request_go(req, &req->session->server->parts[0], request_tour_step);
}

/* -- memory --------------------------------------------------------------------------- */

void *request_alloc(struct request *req, size_t bytes)
{
    struct request_block *b = calloc(1, sizeof *b + bytes);
    if (b == NULL)
        return NULL;
    b->next = req->blocks;
    req->blocks = b;
    return b->data;
}

char *request_strdup(struct request *req, const char *text)
{
    size_t len = strlen(text) + 1;
    char *copy = request_alloc(req, len);
    if (copy != NULL)
        memcpy(copy, text, len);
    return copy;
}

ProtobufCBinaryData request_bytes(struct request *req, const void *data, size_t len)
{
    uint8_t *copy = request_alloc(req, len);
    if (copy != NULL)
        memcpy(copy, data, len);
    return (ProtobufCBinaryData){.data = copy, .len = copy != NULL ? len : 0};
}

void request_set_target(struct request *req, const char *fmt, ...)
{
    char text[3 * (LIMIT_NAME_BYTES + 1)];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    req->target = request_strdup(req, text);
}

void request_free(struct request *req)
{
    struct request_block *b;
    while ((b = req->blocks) != NULL) {
        req->blocks = b->next;
        free(b);
    }
    if (req->in != NULL)
        protobuf_c_message_free_unpacked(req->in, NULL);
    free(req->control);
    free(req->iov);
    free(req);
}

/* -- answers ---------------------------------------------------------------------------- */

static void request_finish(struct request *req)
{
    request_go(req, req->session->home, req->answer != NULL ? req->answer : session_answer);
}

void request_reply(struct request *req, const ProtobufCMessage *answer)
{
    req->control_bytes = protobuf_c_message_get_packed_size(answer);
    if (req->control_bytes > req->session->peer.control_bytes_max) {
        request_failf(req, SNAP_ELIMIT, "the answer has %zu bytes, the asker takes %u",
                      req->control_bytes, req->session->peer.control_bytes_max);
        return;
    }
    req->control = malloc(req->control_bytes + 1);
    if (req->control == NULL) {
        request_no_memory(req);
        return;
    }
    protobuf_c_message_pack(answer, req->control);
    request_finish(req);
}

void request_reply_empty(struct request *req)
{
    req->control_bytes = 0;
    request_finish(req);
}

void request_fail(struct request *req, int code, const struct err *err)
{
    req->code = code;
    if (err != &req->err)
        req->err = err != NULL ? *err : ERR_INIT;
    if (req->err.text[0] == '\0')
        (void)snprintf(req->err.text, sizeof req->err.text, "%s", err_text(code));
    request_finish(req);
}

void request_failf(struct request *req, int code, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)err_set(&req->err, code, "%s", text);
    request_fail(req, code, &req->err);
}

void request_no_memory(struct request *req)
{
    request_failf(req, SNAP_ENOMEM, "no memory for the request");
}

/* -- checks ------------------------------------------------------------------------------ */

bool request_allows(const struct request *req, const struct uuid *volume, enum acl_right right)
{
    const struct session *s = req->session;
    return s->admin || acl_allows(req->at->set.acl, s->peer.identity, volume, right);
}

const char *request_right_roles(enum acl_right right)
{
    static const char *const roles[] = {
        [ACL_RIGHT_SEE] = "append, reader, writer or admin",
        [ACL_RIGHT_READ] = "reader, writer or admin",
        [ACL_RIGHT_APPEND] = "append, writer or admin",
        [ACL_RIGHT_WRITE] = "writer or admin",
        [ACL_RIGHT_ADMIN] = "admin",
    };
    return roles[right];
}

bool request_uuid(struct request *req, const ProtobufCBinaryData *b, const char *what,
                  struct uuid *ret)
{
    if (b->len != UUID_BYTES) {
        request_failf(req, SNAP_EINVAL, "%s: a uuid has %d bytes, this has %zu", what, UUID_BYTES,
                      b->len);
        return false;
    }
    memcpy(ret->b, b->data, UUID_BYTES);
    return true;
}
