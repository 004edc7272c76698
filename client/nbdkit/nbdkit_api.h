/* SPDX-License-Identifier: Apache-2.0 */
/* nbdkit's header, in the version that both plugins are written for. */
#ifndef SNAP_NBDKIT_API_H
#define SNAP_NBDKIT_API_H

#define NBDKIT_API_VERSION 2
/* so that the compiler checks what nbdkit_error() is given */
#define HAVE_VFPRINTF_PERCENT_M 1
#include <nbdkit-plugin.h>

#endif
