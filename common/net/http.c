/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics endpoint, on libevent's HTTP server, at all addresses that a name stands for.
 *
 * Requests are small and have no body; anything else is refused by evhttp before
 * it is read. An idle connection ends after a few seconds.
 *
 * Must not know: what is measured. Thread: the loop's.
 */
#include "common/net/http.h"

#include "common/net/addr_priv.h"

#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { TIMEOUT_S = 10, HEADERS_BYTES_MAX = 8192 };

struct http_server {
    struct event_base *base;
    struct evhttp *http;
    uint16_t port;
    http_get_fn get;
    void *user;
};

static void free_text(const void *data, size_t len, void *extra)
{
    (void)data;
    (void)len;
    free(extra);
}

/* Send text, which is taken. */
static void answer(struct evhttp_request *req, int status, const char *type, char *text, size_t len)
{
    struct evbuffer *body = evbuffer_new();
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
    if (body == NULL || evhttp_add_header(headers, "Content-Type", type) != 0 ||
        evhttp_add_header(headers, "Cache-Control", "no-store") != 0 ||
        evbuffer_add_reference(body, text, len, free_text, text) != 0) {
        free(text);
        evhttp_send_error(req, HTTP_INTERNAL, NULL);
    } else {
        evhttp_send_reply(req, status, NULL, body);
    }
    if (body != NULL)
        evbuffer_free(body);
}

static void requested(struct evhttp_request *req, void *arg)
{
    const struct http_server *h = arg;
    struct http_reply reply = {.content_type = "text/plain; charset=utf-8"};
    struct err e = ERR_INIT;
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri != NULL ? evhttp_uri_get_path(uri) : NULL;
    if (path == NULL || path[0] != '/') {
        evhttp_send_error(req, HTTP_BADREQUEST, NULL);
        return;
    }
    const int r = h->get(h->user, path, &reply, &e);
    if (r == 0) {
        answer(req, HTTP_OK, reply.content_type, reply.text, reply.len);
        return;
    }
    char *text;
    const int len = asprintf(&text, "%s\n", e.text[0] != 0 ? e.text : err_text(r));
    if (len < 0)
        evhttp_send_error(req, HTTP_INTERNAL, NULL);
    else
        answer(req, err_http_status(r), "text/plain; charset=utf-8", text, (size_t)len);
}

/* Own fd from here on, also on error. */
static int http_accept(void *user, int fd, struct err *reterr)
{
    struct http_server *h = user;
    struct evconnlistener *ls = evconnlistener_new(
        h->base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (ls != NULL && evhttp_bind_listener(h->http, ls) != NULL)
        return 0;
    if (ls != NULL)
        evconnlistener_free(ls);
    else
        (void)close(fd);
    return err_set(reterr, SNAP_ENOMEM, "out of memory");
}

int http_server_new(struct loop *l, const struct addr *a, http_get_fn get, void *user,
                    struct http_server **ret, struct err *reterr)
{
    char text[sizeof a->host + 16];
    if (a->unix_socket)
        return err_set(reterr, SNAP_EINVAL, "HTTP is served on TCP only, not on unix:%s", a->host);
    struct http_server *h = calloc(1, sizeof *h);
    if (h == NULL)
        return err_set(reterr, SNAP_ENOMEM, "HTTP: out of memory");
    h->get = get;
    h->user = user;
    h->base = loop_base(l);
    h->http = evhttp_new(h->base);
    if (h->http == NULL) {
        free(h);
        return err_set(reterr, SNAP_ENOMEM, "HTTP: out of memory");
    }
    evhttp_set_allowed_methods(h->http, EVHTTP_REQ_GET);
    evhttp_set_max_body_size(h->http, 0);
    evhttp_set_max_headers_size(h->http, HEADERS_BYTES_MAX);
    evhttp_set_timeout(h->http, TIMEOUT_S);
    evhttp_set_gencb(h->http, requested, h);
    const int r = addr_listen_tcp(a, http_accept, h, &h->port, reterr);
    if (r < 0) {
        (void)err_prefix(reterr, "serve HTTP on %s", addr_format(a, text, sizeof text));
        http_server_free(h);
        return r;
    }
    *ret = h;
    return 0;
}

void http_server_free(struct http_server *h)
{
    if (h == NULL)
        return;
    evhttp_free(h->http);
    free(h);
}

uint16_t http_server_port(const struct http_server *h)
{
    return h->port;
}
