/* SPDX-License-Identifier: Apache-2.0 */
/* 16-byte identities. On the wire and in records a volume or snapshot is one of these. */
#ifndef SNAP_BASE_UUID_H
#define SNAP_BASE_UUID_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { UUID_BYTES = 16, UUID_TEXT_BYTES = 37 };

struct uuid {
    uint8_t b[UUID_BYTES];
};

struct uuid uuid_make(void); /* random, version 4 */
bool uuid_is_zero(const struct uuid *u);
bool uuid_equal(const struct uuid *a, const struct uuid *b);
/* A stable hash, equal on every run and machine. */
uint64_t uuid_hash(const struct uuid *u);
/* Lower case, 36 characters; buf of UUID_TEXT_BYTES. Returns buf. */
char *uuid_format(const struct uuid *u, char *buf);
int uuid_parse_text(const char *text, struct uuid *ret, struct err *reterr) SNAP_WUR;

#endif
