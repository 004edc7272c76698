/* SPDX-License-Identifier: Apache-2.0 */
/* Sorting entries for the exception map. Private to cow_map*.c. */
#ifndef SNAP_COW_MAP_SORT_H
#define SNAP_COW_MAP_SORT_H

#include "common/cow/cow_map.h"

/* By (old, seq), in place; the order of equal keys is left open. */
void cow_entries_sort(struct cow_entry *x, size_t count);

#endif
