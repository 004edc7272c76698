/* SPDX-License-Identifier: Apache-2.0 */
/* What every fuzz target defines; libFuzzer's main or replay_main.c calls it. */
#ifndef SNAP_TESTS_FUZZ_FUZZ_H
#define SNAP_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
