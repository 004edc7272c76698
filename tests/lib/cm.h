/* SPDX-License-Identifier: Apache-2.0 */
/* cmocka with the headers it wants before it, in their order. */
#ifndef SNAP_TESTS_LIB_CM_H
#define SNAP_TESTS_LIB_CM_H

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
/* clang-format on */

#endif
