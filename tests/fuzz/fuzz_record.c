/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz the volume record's text: what is taken is written, taken again and written the same;
 * its look-ups find each snapshot. What is refused says why. */
#include "common/base/check.h"
#include "daemon/volume/record.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void check_lookups(struct volume_record *r)
{
    for (uint32_t i = 0; i < r->snapshot_count; i++) {
        struct record_snapshot *s = &r->snapshots[i];
        CHECK(volume_record_find(r, &s->id) == s);
        CHECK(volume_record_find_seq(r, s->seq) == s);
        CHECK(s->hidden || s->undo || volume_record_find_name(r, s->name) == s);
    }
    const struct record_snapshot *head = volume_record_head(r);
    CHECK(head == NULL || (!head->hidden && !head->undo && !head->clone));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct volume_record r, back;
    struct err e = ERR_INIT;
    if (volume_record_parse((const char *)data, size, &r, &e) < 0) {
        CHECK(e.code < 0 && e.text[0] != '\0');
        return 0;
    }
    char *first = NULL, *second = NULL;
    size_t first_len = 0, second_len = 0;
    CHECK(volume_record_check(&r, &e) == 0);
    check_lookups(&r);
    CHECK(volume_record_format(&r, &first, &first_len, &e) == 0);
    CHECK(volume_record_parse(first, first_len, &back, &e) == 0);
    CHECK(volume_record_format(&back, &second, &second_len, &e) == 0);
    CHECK(first_len == second_len && memcmp(first, second, first_len) == 0);
    volume_record_done(&r);
    volume_record_done(&back);
    free(first);
    free(second);
    return 0;
}
