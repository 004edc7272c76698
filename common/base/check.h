/* SPDX-License-Identifier: Apache-2.0 */
/* Assertions for our own bugs; they stay on in production. Never for what came
 * from disk, wire, file or user. */
#ifndef SNAP_BASE_CHECK_H
#define SNAP_BASE_CHECK_H

_Noreturn void check_failed(const char *expr, const char *file, int line, const char *func);

#define CHECK(expr) ((expr) ? (void)0 : check_failed(#expr, __FILE__, __LINE__, __func__))

#endif
