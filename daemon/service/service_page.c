/* SPDX-License-Identifier: Apache-2.0 */
/* Pages: insertion into a short sorted array. It must not know what is listed. */
#include "daemon/service/service_page.h"

#include "common/base/check.h"

#include <string.h>

enum { PAGE_MARGIN_BYTES = 512 }; /* for `next` and what else is around the entries */

struct page_key page_key_of(const void *a, size_t a_len, const void *b, size_t b_len)
{
    struct page_key key = {.len = a_len + b_len};
    CHECK(key.len <= sizeof key.b);
    memcpy(key.b, a, a_len);
    if (b_len > 0)
        memcpy(key.b + a_len, b, b_len);
    return key;
}

static int key_order(const struct page_key *a, const struct page_key *b)
{
    int order = memcmp(a->b, b->b, a->len < b->len ? a->len : b->len);
    if (order != 0)
        return order;
    return a->len < b->len ? -1 : a->len > b->len;
}

bool page_init(struct page *p, struct request *req, const ProtobufCBinaryData *after,
               uint32_t asked, uint32_t cap)
{
    *p = (struct page){.max = asked < cap ? asked : cap};
    if (after->len > PAGE_KEY_BYTES) {
        request_failf(req, SNAP_EINVAL, "after: %zu bytes, no answer gave so many", after->len);
        return false;
    }
    if (after->len > 0)
        p->after = page_key_of(after->data, after->len, NULL, 0);
    p->entries = request_alloc(req, ((size_t)p->max + 1) * sizeof *p->entries);
    if (p->entries != NULL)
        return true;
    request_no_memory(req); /* which frees p, too, where the request's memory holds it */
    return false;
}

bool page_is_new(const struct page *p, const struct page_key *key)
{
    return key_order(key, &p->after) > 0;
}

bool page_wants(const struct page *p, const struct page_key *key)
{
    return page_is_new(p, key) &&
           (p->count <= p->max || key_order(key, &p->entries[p->count - 1].key) < 0);
}

void page_put(struct page *p, const struct page_key *key, void *item)
{
    uint32_t low = 0, high = p->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (key_order(&p->entries[mid].key, key) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    if (p->count <= p->max)
        p->count++;
    memmove(&p->entries[low + 1], &p->entries[low], (p->count - 1 - low) * sizeof *p->entries);
    p->entries[low] = (struct page_entry){.key = *key, .item = item};
}

size_t page_room(const struct request *req)
{
    size_t most = req->session->peer.control_bytes_max;
    return most > PAGE_MARGIN_BYTES ? most - PAGE_MARGIN_BYTES : 0;
}

ProtobufCBinaryData page_next(const struct page *p, uint32_t given)
{
    if (given == 0 || given >= p->count)
        return (ProtobufCBinaryData){.len = 0};
    return (ProtobufCBinaryData){.data = p->entries[given - 1].key.b,
                                 .len = p->entries[given - 1].key.len};
}
