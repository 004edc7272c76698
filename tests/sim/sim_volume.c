/* SPDX-License-Identifier: Apache-2.0 */
/* Hosted volumes against a model: writes, snapshots, clones, groups, rollbacks, merges, deletions,
 * verifications, full disks, failing disks, power losses.
 *
 * Two volumes live on one simulated machine. A scenario is drawn from a seed: what is begun, which
 * disk request ends next, when the plug is pulled. Several things are under way at any time. After
 * each power loss the volumes are made from their records again, and every node is read whole.
 *
 * A snapshot's content never changes, whatever goes on around it: it is read again and again, by
 * the daemon, and at times without it from the files alone. At the end all jobs are let run out,
 * and files that nobody owns are looked for.
 *
 * SEED=N plays scenario N alone; SIM_RUNS says how many, SIM_SCALE how many percent of that,
 * SIM_SECONDS how long instead, with seeds that no run had before; a failure names its seed.
 */
#include "common/base/check.h"
#include "common/base/clock.h"
#include "daemon/volume/origin.h"
#include "tests/sim/volume/sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RUNS_DEFAULT = 500, LIVES_MAX = 6, LIFE_STEPS = 900 };

/* -- what is begun ------------------------------------------------------------------------ */

static bool begin_settling(struct sim *s, struct subject *u)
{
    for (unsigned i = 1; i < SIM_NODES; i++) {
        struct node *n = &u->nodes[i];
        if (n->again && sim_pick(s, 8) == 0) {
            again_start(s, u, n);
            return true;
        }
        if (n->state == NODE_SETTLING && n->busy == 0) {
            read_start(s, u, n, true);
            return true;
        }
    }
    return false;
}

static void begin_rare(struct sim *s, struct subject *u, struct node *any)
{
    switch (sim_pick(s, s->faults ? 13 : 9)) {
    case 0:
    case 1:
        rollback_start(s, u);
        break;
    case 2:
        cancel_start(s, u);
        break;
    case 3:
        group_start(s);
        break;
    case 4:
        again_start(s, u, &u->nodes[1 + sim_pick(s, SIM_NODES - 1)]);
        break;
    case 5:
        rollback_again(s, u);
        break;
    case 6:
        if (any != NULL)
            check_start(s, u, any);
        break;
    case 7:
        verify_start(s, u);
        break;
    case 8:
        verify_cancel(s);
        break;
    default:
        if (s->faults)
            fault_lay(s, u);
        break;
    }
}

static void begin_something(struct sim *s)
{
    struct subject *u = &s->subjects[sim_pick(s, SIM_VOLUMES)];
    struct node *clone = node_pick(s, u, true), *any = node_pick(s, u, false);
    bool writable = u->rollback == ROLLBACK_NONE || u->rollback == ROLLBACK_ASKED;
    bool steady = rollback_is_steady(u);
    unsigned what = sim_pick(s, 100);
    bool rolls = u->rollback == ROLLBACK_ON || u->rollback == ROLLBACK_BACK;
    if (begin_settling(s, u))
        return;
    if (rolls && s->faults && sim_pick(s, 8) == 0) {
        fault_lay(s, u);
        return;
    }
    if (u->volume->job != NULL && clone != NULL && sim_pick(s, 2) == 0) {
        write_start(s, u, clone); /* beside what is handed down to it, perhaps */
        return;
    }
    if (what < 39 && writable)
        write_start(s, u, &u->nodes[0]);
    else if (what < 49 && clone != NULL)
        write_start(s, u, clone);
    else if (what < 53 && steady)
        flush_start(s, u, &u->nodes[0]);
    else if (what < 56 && clone != NULL)
        flush_start(s, u, clone);
    else if (what < 67 && any != NULL)
        read_start(s, u, any, sim_pick(s, 3) == 0);
    else if (what < 73 && steady)
        read_start(s, u, &u->nodes[0], sim_pick(s, 3) == 0);
    else if (what < 81 && steady)
        snapshot_start(s, u);
    else if (what < 85)
        clone_start(s, u);
    else if (what < 91)
        delete_start(s, u);
    else
        begin_rare(s, u, any);
}

/* -- scenarios ------------------------------------------------------------------------------ */

static void live(struct sim *s)
{
    unsigned steps = 20 + sim_pick(s, LIFE_STEPS);
    unsigned hurry = 1 + sim_pick(s, 6);
    for (s->step = 0; s->step < steps; s->step++) {
        if (op_is_free(s, 1) && sim_pick(s, hurry) == 0)
            begin_something(s);
        else
            (void)world_step(s->world);
        world_turn(s->world);
        for (unsigned i = 0; i < SIM_OPS; i++)
            verify_poll(&s->ops[i]);
        for (unsigned i = 0; i < SIM_VOLUMES; i++)
            rollback_poll(s, &s->subjects[i]);
    }
}

/* Everything ends first; or what is under way is stopped; or the plug is pulled. True: in order. */
static bool life_ends(struct sim *s)
{
    unsigned how = s->faulty ? 0 : sim_pick(s, 8);
    sim_say(s, how < 5 ? "power loss" : how < 6 ? "stop" : "restart");
    if (how < 5) {
        world_power_loss(s->world);
        forget_ops(s);
        s->losses++;
        return false;
    }
    if (how >= 6) {
        drain(s, true);
        audit_running(s);
    } else if (sim_pick(s, 2) == 0) {
        drain(s, false);
    }
    shut_down(s);
    for (unsigned i = 0; i < SIM_OPS; i++)
        verify_poll(&s->ops[i]);
    if (op_any(s))
        sim_fail(s, "the daemon has stopped, and operations have not ended");
    if (how >= 6) {
        audit_offline(s);
        audit_files(s);
    }
    return true;
}

static void subject_make(struct sim *s, struct subject *u, unsigned i)
{
    struct volume_record r;
    volume_record_init(&r);
    r.id = u->id = sim_uuid(s);
    (void)snprintf(r.name, sizeof r.name, "v%u", i);
    r.size_bytes = VOLUME_BYTES;
    r.kind = VOLUME_HOSTED;
    r.chunk_size_sectors = 8;
    u->limits = sim_pick(s, 4) == 0;
    u->clone_limits = u->limits && sim_pick(s, 2) == 0;
    u->invalidates = sim_pick(s, 2) == 0;
    r.full_policy = u->invalidates ? FULL_INVALIDATE : FULL_REFUSE;
    (void)snprintf(r.origin_path, sizeof r.origin_path, "origin");
    struct volume_env *env = (struct volume_env *)(uintptr_t)world_set(s->world)->env;
    char dir[LIMIT_PATH_BYTES];
    CHECK(volume_dir_format(env->state_dir, &r.id, dir, sizeof dir, NULL) == 0);
    CHECK(origin_create(env, dir, &r, NULL) == 0);
    world_save_record(s->world, &r);
    volume_record_done(&r);
    u->nodes[0].state = NODE_THERE;
    content_init(&u->nodes[0].content);
}

static void sim_free(struct sim *s)
{
    world_free(s->world);
    for (unsigned i = 0; i < SIM_VOLUMES; i++)
        free(s->subjects[i].log);
    for (size_t i = 0; i < s->orphan_count; i++)
        free(s->orphans[i]);
    free(s->orphans);
    free(s);
}

static struct sim *sim_new(uint64_t seed, bool verbose)
{
    struct sim *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->seed = seed;
    s->verbose = verbose;
    s->next_version = 2;
    rng_init(&s->rng, seed);
    s->world = world_new(seed, sim_pick(s, 3) == 0 ? 4096 : 512, MIB);
    s->checksums = sim_pick(s, 3) > 0;
    s->faults = sim_pick(s, 3) == 0;
    s->span = sim_pick(s, 2) == 0 ? GRAINS : 32 * (1 + sim_pick(s, 6));
    world_boot(s->world, s->checksums);
    for (unsigned i = 0; i < SIM_VOLUMES; i++)
        subject_make(s, &s->subjects[i], i);
    return s;
}

struct totals {
    uint64_t steps, losses, ops, refusals, faults, invalids;
};

static void run(uint64_t seed, bool verbose, struct totals *totals)
{
    struct sim *s = sim_new(seed, verbose);
    boot(s);
    unsigned lives = 1 + sim_pick(s, LIVES_MAX);
    for (s->life = 0; s->life < lives; s->life++) {
        live(s);
        totals->steps += s->step;
        bool clean = life_ends(s);
        boot(s);
        audit_remember_orphans(s);
        recover(s, clean);
    }
    drain(s, true);
    audit_running(s);
    shut_down(s);
    audit_offline(s);
    audit_files(s);
    totals->losses += s->losses;
    totals->refusals += s->refusals;
    totals->faults += s->faults_laid;
    totals->invalids += s->invalids;
    for (unsigned k = 0; k < OP_KINDS; k++)
        totals->ops += s->counts[k];
    sim_free(s);
}

static uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtoull(text, NULL, 0) : otherwise;
}

/* Of the sanitizers, if there are any: what a machine that lost its power had in memory is not
 * freed, and no leak. */
void __lsan_disable(void) __attribute__((weak));

/* In a process of its own, which takes with it what lost machines had in memory. */
static void run_apart(uint64_t seed, struct totals *t)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        run(seed, false, t);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (status != 0) /* it has said why */
        exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

/* Scenarios from first on: so many, or for so long. Returns how many. */
static uint64_t run_many(uint64_t first, uint64_t runs, uint64_t seconds, struct totals *ret)
{
    const struct clock *clock = clock_system();
    uint64_t end = clock_now_ns(clock) + seconds * UINT64_C(1000000000), i;
    struct totals *t =
        mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(t != MAP_FAILED);
    for (i = 0; seconds > 0 ? clock_now_ns(clock) < end : i < runs; i++)
        run_apart(first + i, t);
    *ret = *t;
    (void)munmap(t, sizeof *t);
    return i;
}

int main(void)
{
    struct totals t = {0};
    uint64_t seconds = env_number("SIM_SECONDS", 0);
    uint64_t runs = env_number("SIM_RUNS", RUNS_DEFAULT) * env_number("SIM_SCALE", 100) / 100;
    uint64_t first = env_number("SIM_FIRST", seconds > 0 ? (uint64_t)clock_wall_s() << 20 : 1);
    const char *one = getenv("SEED");
    if (__lsan_disable != NULL)
        __lsan_disable();
    if (one != NULL && *one != '\0') {
        run(strtoull(one, NULL, 0), getenv("SIM_VERBOSE") != NULL, &t);
        runs = 1;
    } else {
        runs = run_many(first, runs, seconds, &t);
    }
    (void)printf("sim_volume: %" PRIu64 " scenarios, %" PRIu64 " steps, %" PRIu64
                 " operations (%" PRIu64 " refused), %" PRIu64 " power losses, %" PRIu64
                 " disk faults, %" PRIu64 " made invalid\n",
                 runs, t.steps, t.ops, t.refusals, t.losses, t.faults, t.invalids);
    return 0;
}
