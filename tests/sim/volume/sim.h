/* SPDX-License-Identifier: Apache-2.0 */
/* One scenario: volumes, what they must hold, and what is under way.
 *
 * sim_volume.c draws what is begun; op.c keeps what is under way, io.c reads and writes, nodes.c
 * makes and deletes, groups.c and rollback.c do what they say, faults.c breaks disks, lives.c
 * begins and ends lives, audit.c looks at the whole. Thread: one. */
#ifndef SNAP_TESTS_SIM_SIM_H
#define SNAP_TESTS_SIM_SIM_H

#include "daemon/volume/change.h"
#include "daemon/volume/read.h"
#include "daemon/volume/write.h"
#include "tests/sim/volume/model.h"
#include "tests/sim/volume/world.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SIM_VOLUMES = 2,
    SIM_NODES = 14, /* a volume: the origin and its snapshots and clones */
    SIM_OPS = 12,
    SIM_GROUPS = 64,
    SIM_BURIED_MAX = 50, /* a record remembers so many deletions for sure */
    SIM_IDLE_STEPS = 400000,
};

enum node_state { NODE_NONE, NODE_MAKING, NODE_SETTLING, NODE_THERE, NODE_GOING };

struct node {
    enum node_state state;
    struct uuid id;     /* zero: the volume itself; of one that is gone it is kept */
    struct uuid source; /* of a clone */
    char name[16];
    bool clone;
    bool gone;     /* deleted, for good */
    bool again;    /* was being made when the power went: asked for once more */
    bool limited;  /* its COW device may not grow as it needs */
    bool fragile;  /* it may become invalid: it reads through one that is limited */
    bool invalid;  /* seen so; that does not end */
    bool doubtful; /* what was not flushed may have been taken back by a failed flush */
    bool smudged;  /* a write in its place has failed: its checksums may differ */
    unsigned busy; /* operations under way on it */
    unsigned asks; /* of these, creations */
    struct uuid group;
    struct content content;
};

enum rollback_state {
    ROLLBACK_NONE,
    ROLLBACK_ASKED,
    ROLLBACK_ON,
    ROLLBACK_CANCEL_ASKED,
    ROLLBACK_BACK
};

/* A write of the volume itself, since the last power loss or rollback. */
struct logged {
    uint32_t first, count, version;
    uint32_t ended; /* the time; 0: not, or not well */
};

struct subject {
    struct uuid id;
    struct volume *volume;
    struct node nodes[SIM_NODES]; /* the first is the volume itself */
    bool limits, clone_limits;    /* small ones are given */
    bool invalidates;             /* its policy */
    unsigned buried;
    struct record_rollback recorded; /* when this life began */
    bool flush_laid;                 /* a flush of the origin is to fail, in this life */
    bool rebuilt; /* checksums are made anew, in this life: devices are opened again for that */
    enum rollback_state rollback;
    struct rollback_spec rollback_spec;
    unsigned rollback_to;  /* a node */
    unsigned turns;        /* how often its content became another */
    struct content before; /* the rollback */
    unsigned writes;       /* to the volume itself, under way */
    struct logged *log;
    size_t log_count, log_cap;
};

enum op_kind {
    OP_NONE,
    OP_WRITE,
    OP_FLUSH,
    OP_READ,
    OP_CREATE,
    OP_CLONE,
    OP_DELETE,
    OP_ROLLBACK,
    OP_CANCEL,
    OP_GROUP,
    OP_CHECK,
    OP_VERIFY,
    OP_KINDS
};

struct sim;

struct op {
    enum op_kind kind;
    struct sim *sim;
    struct subject *subject;
    struct node *node, *source;
    struct volume_write write;
    struct volume_read read;
    struct volume_check check;
    uint8_t *data;
    uint32_t first, count, version;
    size_t logged;  /* its place in the log */
    unsigned turns; /* of the subject, when it began */
    bool settle;
    bool invalid; /* known to be, when it began */
    bool begun;   /* a verification */
    struct uuid job;
    struct content then; /* of the node, or of the source, when it began */
};

/* A group under way: one member a volume. */
struct group {
    bool on;
    struct uuid id;
    unsigned held, ended, failed, finished;
    struct op *ops[SIM_VOLUMES];
    struct control_job job;
};

struct sim {
    uint64_t seed;
    struct world *world;
    struct rng rng;
    bool checksums, faults;      /* of this scenario: are there any? */
    uint32_t at_first, at_count; /* grains of the write begun last */
    uint32_t span;               /* grains that are written: all, or few, which then meet often */
    struct subject subjects[SIM_VOLUMES];
    struct op ops[SIM_OPS];
    struct group group;
    struct uuid groups_saved[SIM_GROUPS];
    unsigned groups_saved_count;
    uint32_t next_version; /* the time, too */
    unsigned life, step, names;
    bool faulty;  /* a disk fault was laid in this life */
    bool closing; /* the daemon is being stopped */
    bool verbose;
    unsigned counts[OP_KINDS], losses, refusals, faults_laid, invalids;
    char **orphans; /* files that a crash left: nobody's, as the record says */
    size_t orphan_count;
};

/* -- op.c -- */
_Noreturn void sim_fail(const struct sim *s, const char *fmt, ...) SNAP_PRINTF(2, 3);
void sim_say(const struct sim *s, const char *fmt, ...) SNAP_PRINTF(2, 3);
unsigned sim_pick(struct sim *s, unsigned below);
struct uuid sim_uuid(struct sim *s);
struct op *op_new(struct sim *s, enum op_kind kind, struct subject *u, struct node *n);
bool op_is_free(const struct sim *s, unsigned many);
bool op_any(const struct sim *s);
void op_end(struct op *o);
const char *op_who(const struct op *o);
/* Is that an answer that such an operation may get? */
bool op_refused(struct op *o, int code, const struct err *err);
struct node *node_free(struct subject *u);
/* What a clone was made of; the volume itself of a snapshot. NULL: it is not there any more. */
struct node *source_of(struct subject *u, const struct node *n);
struct node *node_pick(struct sim *s, struct subject *u, bool clones_only);
/* As the record has it: shown. */
bool node_is_recorded(const struct subject *u, const struct node *n);
void node_set_invalid(struct sim *s, struct node *n);

/* -- io.c -- */
void read_start(struct sim *s, struct subject *u, struct node *n, bool whole);
void write_start(struct sim *s, struct subject *u, struct node *n);
/* It is under way: its grains may be of its version from now on. */
void write_counts(struct op *o);
void flush_start(struct sim *s, struct subject *u, struct node *n);
/* Read it whole now: what is found counts from then on. */
void node_settle(struct sim *s, struct subject *u, struct node *n);

/* -- nodes.c -- */
void snapshot_start(struct sim *s, struct subject *u);
void clone_start(struct sim *s, struct subject *u);
void delete_start(struct sim *s, struct subject *u);
/* What was asked for is asked for once more. */
void again_start(struct sim *s, struct subject *u, struct node *n);
/* A creation has ended. */
void node_made(void *user, int code, const struct err *err);
void node_make(struct sim *s, struct subject *u, struct node *n, bool clone);
uint64_t node_limit(const struct node *n);

/* -- groups.c -- */
void group_start(struct sim *s);
/* Does what a snapshot holds come with all that had ended before it was begun, in its own volume
 * and in those of its group? */
void order_check(struct sim *s, struct subject *u, struct node *n);
void log_forget(struct subject *u);

/* -- rollback.c -- */
void rollback_start(struct sim *s, struct subject *u);
void cancel_start(struct sim *s, struct subject *u);
void rollback_again(struct sim *s, struct subject *u);
void rollback_poll(struct sim *s, struct subject *u);
void rollback_recover(struct sim *s, struct subject *u);
/* It is known as what the volume reads. */
bool rollback_is_steady(const struct subject *u);

/* -- faults.c -- */
void fault_lay(struct sim *s, struct subject *u);

/* -- lives.c -- */
void boot(struct sim *s);
/* After boot: what is there, and is it right? Jobs go on while that is read. */
void recover(struct sim *s, bool clean);
/* Operations under way at a power loss: what they leave open. */
void forget_ops(struct sim *s);
/* Nothing new is begun: everything under way ends; jobs too, if asked. */
void drain(struct sim *s, bool jobs);
void shut_down(struct sim *s);

/* -- audit.c -- */
void check_start(struct sim *s, struct subject *u, struct node *n);
void verify_start(struct sim *s, struct subject *u);
void verify_poll(struct op *o);
/* All that are under way. */
void verify_cancel(struct sim *s);
/* Nothing is under way: every node's table is sound, every checksum right. */
void audit_running(struct sim *s);
/* The daemon is down: the files alone give the same views. */
void audit_offline(struct sim *s);
/* … and there are no others than the records tell of, or a crash left. */
void audit_files(struct sim *s);
void audit_remember_orphans(struct sim *s);

#endif
