/* SPDX-License-Identifier: Apache-2.0 */
/* One page of a list: of all entries behind a key, the first few in the order of their keys.
 *
 * Entries come in any order, from one part after another; no more are kept than an answer
 * takes. Memory is the request's. Thread: where the request is. */
#ifndef SNAP_SERVICE_SERVICE_PAGE_H
#define SNAP_SERVICE_SERVICE_PAGE_H

#include "daemon/service/server.h"

enum { PAGE_KEY_BYTES = 160 };

struct page_key {
    size_t len;
    uint8_t b[PAGE_KEY_BYTES];
};

struct page_entry {
    struct page_key key;
    void *item;
};

struct page {
    struct page_key after;
    struct page_entry *entries; /* ascending */
    uint32_t count;             /* up to max and one more, which says that there are more */
    uint32_t max;
};

/* a and b one behind the other; len 0: nothing. */
struct page_key page_key_of(const void *a, size_t a_len, const void *b, size_t b_len);
/* asked: entries that the asker wants, capped to cap. False: the request has been answered. */
bool page_init(struct page *p, struct request *req, const ProtobufCBinaryData *after,
               uint32_t asked, uint32_t cap);
/* Is it behind what earlier pages had? */
bool page_is_new(const struct page *p, const struct page_key *key);
/* Would it be on the page, as far as is known yet? */
bool page_wants(const struct page *p, const struct page_key *key);
/* Put one in that it wants. */
void page_put(struct page *p, const struct page_key *key, void *item);
/* Bytes of entries that an answer to this request takes; an entry takes its packed size and
 * PAGE_ENTRY_BYTES. */
enum { PAGE_ENTRY_BYTES = 8 };
size_t page_room(const struct request *req);
/* What to ask with for those behind the first `given` entries; empty: there are none. */
ProtobufCBinaryData page_next(const struct page *p, uint32_t given);

#endif
