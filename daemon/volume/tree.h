/* SPDX-License-Identifier: Apache-2.0 */
/* Who reads through whom, see docs/design.md, "The tree". Pure look-up, no I/O.
 *
 * A place in the tree is a node, or NULL: the origin. Thread: the shard's. */
#ifndef SNAP_VOLUME_TREE_H
#define SNAP_VOLUME_TREE_H

#include "common/cow/cow_view.h"
#include "daemon/volume/volume.h"

enum { TREE_DEPTH_MAX = 16 }; /* clones of clones */

/* -- the tree itself -- */
/* All nodes of the record are in v->chain and v->clones: find what each clone reads through, and
 * who is hidden. Once. */
void tree_index(struct volume *v);
/* Put a new node in: a chain node as the newest, a clone below parent (NULL: the origin). */
void tree_add(struct snapshot *s, struct snapshot *parent);
/* Take one out that has been folded; its clones go to what it read through. */
void tree_remove(struct snapshot *s);
/* The record says otherwise than before. A hidden one is leaving for good. */
void tree_set_hidden(struct snapshot *s, bool hidden);

/* What s reads through: the next newer of the chain, a clone's parent; NULL: the origin. */
struct snapshot *tree_parent(const struct snapshot *s);
/* How many read through it directly. */
unsigned tree_children(const struct volume *v, const struct snapshot *s);
/* The only one; NULL: none or several. */
struct snapshot *tree_only_child(const struct volume *v, const struct snapshot *s);
/* Hidden, and with one dependant at most: it is being handed down, and takes nothing more. */
bool tree_folds(const struct snapshot *s);
/* Clones from s up to the chain or the origin, itself included. */
unsigned tree_depth(const struct snapshot *s);

/* Layers of the view of s (NULL: the origin alone, 0 layers). Returns their number. */
unsigned tree_layers(const struct snapshot *s, struct cow_layer layers[TREE_DEPTH_MAX + 1]);
/* The node that an extent of such a view stands in; NULL: the origin. */
struct snapshot *tree_extent_node(const struct snapshot *s, const struct cow_extent *x);

/* Nodes that must hold the old content of `place` before it is changed: each visible or shared
 * direct dependant, and what reads through a hidden one that is being handed down. Invalid ones,
 * which have nothing to lose, are left out. A hidden one whose store is not open is told itself:
 * nobody knows what it has. Calls fn for each, until it returns false. */
void tree_each_dependant(struct volume *v, struct snapshot *place,
                         bool (*fn)(struct snapshot *s, void *user), void *user);
/* Does `dependant` have old_chunk without reading `place`? */
bool tree_has(const struct snapshot *dependant, const struct snapshot *place, uint64_t old_chunk);

#endif
