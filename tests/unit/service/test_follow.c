/* SPDX-License-Identifier: Apache-2.0 */
/* Where a connection runs: its first read or write takes it to its volume's shard, once; nothing
 * that was under way is lost. A daemon of two shards within this process, and a client that speaks
 * frames over its Unix socket; the client shares the main loop. */
#include "common/base/bytes.h"
#include "common/base/file.h"
#include "common/net/addr.h"
#include "daemon/service/service_priv.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { SHARDS = 2, SIZE = 1 << 20, BLOCK = 4096 };

struct fixture {
    struct tmpdir dir;
    struct config config;
    struct loop *loop;
    struct service *service;
    struct buf_pool *pool;
    struct chan *chan; /* NULL: down */
    bool up, stopped;
    uint64_t sent, answered;
    int code; /* of the last answer */
};

/* -- the client ------------------------------------------------------------------------- */

static void client_up(struct chan *c, void *user, const struct chan_peer *peer)
{
    struct fixture *f = user;
    (void)c;
    (void)peer;
    f->up = true;
}

static void client_frame(struct chan *c, void *user, struct chan_frame *frame)
{
    struct fixture *f = user;
    (void)c;
    if (frame->header.kind == FRAME_RESPONSE) {
        f->answered++;
        f->code = 0;
        if ((frame->header.flags & FRAME_ERROR) != 0) {
            Snapwire__V1__Error *e =
                snapwire__v1__error__unpack(NULL, frame->header.control_bytes, frame->control);
            assert_non_null(e);
            f->code = -(int)e->code;
            (void)printf("%s\n", e->text);
            snapwire__v1__error__free_unpacked(e, NULL);
        }
    }
    chan_frame_done(frame);
}

static void client_down(struct chan *c, void *user, const struct err *why)
{
    struct fixture *f = user;
    (void)c;
    (void)why;
    f->chan = NULL;
}

static const struct chan_ops client_ops = {
    .up = client_up, .frame = client_frame, .down = client_down};

#define TURN_UNTIL(f, cond)                                               \
    do {                                                                  \
        const uint64_t end_ = clock_now_ns(clock_system()) + 20000000000; \
        while (!(cond) && clock_now_ns(clock_system()) < end_)            \
            loop_turn((f)->loop, 10);                                     \
        assert_true(cond);                                                \
    } while (0)

static void connect_client(struct fixture *f)
{
    struct err err = ERR_INIT;
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int n = snprintf(sun.sun_path, sizeof sun.sun_path, "%s/s", f->dir.path);
    assert_in_range(n, 1, sizeof sun.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&sun, sizeof sun), 0);
    struct chan_config config = {.pool = f->pool, .software = "test", .instance = uuid_make()};
    if (chan_new_client(f->loop, fd, NULL, &config, &client_ops, f, &f->chan, &err) < 0)
        fail_msg("%s", err.text);
    TURN_UNTIL(f, f->up);
}

static void send_request(struct fixture *f, uint16_t method, const ProtobufCMessage *in,
                         const void *payload, size_t payload_bytes)
{
    uint8_t control[1024];
    struct err err = ERR_INIT;
    const struct iovec iov = {(void *)(uintptr_t)payload, payload_bytes};
    assert_true(protobuf_c_message_get_packed_size(in) <= sizeof control);
    const struct chan_out out = {.kind = FRAME_REQUEST,
                                 .method = method,
                                 .id = ++f->sent,
                                 .control = control,
                                 .control_bytes = (uint32_t)protobuf_c_message_pack(in, control),
                                 .iov = &iov,
                                 .iov_count = payload_bytes > 0 ? 1 : 0};
    if (chan_send(f->chan, &out, &err) < 0)
        fail_msg("%s", err.text);
}

static ProtobufCBinaryData bytes_of(struct uuid *id)
{
    return (ProtobufCBinaryData){.len = UUID_BYTES, .data = id->b};
}

/* A hosted volume whose shard is this one. */
static struct uuid make_volume(struct fixture *f, unsigned part, const char *name)
{
    struct server *server = &f->service->server;
    char text[64];
    struct uuid id = uuid_make();
    while (server_part_of(server, &id) != &server->parts[part])
        id = uuid_make();
    (void)snprintf(text, sizeof text, "%s", name);
    Snapwire__V1__VolumeCreate in = SNAPWIRE__V1__VOLUME_CREATE__INIT;
    in.volume = bytes_of(&id);
    in.name = text;
    in.size_bytes = SIZE;
    in.kind = SNAPWIRE__V1__VOLUME_KIND__VOLUME_KIND_HOSTED;
    send_request(f, SNAPWIRE__V1__METHOD__METHOD_VOLUME_CREATE, &in.base, NULL, 0);
    TURN_UNTIL(f, f->answered == f->sent);
    assert_int_equal(f->code, 0);
    return id;
}

static void send_writes(struct fixture *f, struct uuid volume, unsigned count)
{
    static const uint8_t data[BLOCK] = {7};
    for (unsigned i = 0; i < count; i++) {
        Snapwire__V1__WriteRequest in = SNAPWIRE__V1__WRITE_REQUEST__INIT;
        in.volume = bytes_of(&volume);
        in.offset_bytes = (uint64_t)i * BLOCK;
        send_request(f, SNAPWIRE__V1__METHOD__METHOD_WRITE, &in.base, data, sizeof data);
    }
}

static void write_all(struct fixture *f, struct uuid volume, unsigned count)
{
    send_writes(f, volume, count);
    TURN_UNTIL(f, f->answered == f->sent);
    assert_int_equal(f->code, 0);
}

/* -- where is it? --------------------------------------------------------------------------- */

struct look {
    struct loop_msg msg;
    const struct part *part;
    unsigned sessions;
    sem_t done;
};

static void look_run(struct loop_msg *msg)
{
    struct look *l = CONTAINER_OF(msg, struct look, msg);
    const struct session *s;
    TAILQ_FOREACH (s, &l->part->sessions, link)
        l->sessions++;
    sem_post(&l->done);
}

static unsigned sessions_of(struct fixture *f, unsigned part)
{
    struct look l = {.msg = {.fn = look_run}, .part = &f->service->server.parts[part]};
    sem_init(&l.done, 0, 0);
    shard_post(l.part->shard, &l.msg);
    while (sem_wait(&l.done) < 0)
        ;
    sem_destroy(&l.done);
    return l.sessions;
}

static unsigned home_of(struct fixture *f)
{
    TURN_UNTIL(f, sessions_of(f, 0) + sessions_of(f, 1) == 1);
    return sessions_of(f, 0) == 1 ? 0 : 1;
}

/* -- who runs first ------------------------------------------------------------------------- */

struct placing {
    struct loop_msg msg;
    int cpu; /* < 0: where it runs now */
    bool yields;
    sem_t done;
};

static void placing_run(struct loop_msg *msg)
{
    struct placing *p = CONTAINER_OF(msg, struct placing, msg);
    const struct sched_param none = {0};
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (p->cpu < 0)
        p->cpu = sched_getcpu();
    CPU_SET((unsigned)p->cpu, &cpus);
    (void)sched_setaffinity(0, sizeof cpus, &cpus);
    if (p->yields)
        (void)sched_setscheduler(0, SCHED_IDLE, &none);
    sem_post(&p->done);
}

static int place_shard(struct fixture *f, unsigned part, int cpu, bool yields)
{
    struct placing p = {.msg = {.fn = placing_run}, .cpu = cpu, .yields = yields};
    sem_init(&p.done, 0, 0);
    shard_post(f->service->server.parts[part].shard, &p.msg);
    while (sem_wait(&p.done) < 0)
        ;
    sem_destroy(&p.done);
    return p.cpu;
}

/* Both on one processor, where the one gives way to the other whenever that has something to do:
 * what it posts is over before it goes on. */
static void let_go_first(struct fixture *f, unsigned first, unsigned yielding)
{
    place_shard(f, yielding, place_shard(f, first, -1, false), true);
}

/* -- the daemon ---------------------------------------------------------------------------- */

static void stopped(void *user, bool clean)
{
    struct fixture *f = user;
    assert_true(clean);
    f->stopped = true;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err err = ERR_INIT;
    tmpdir_make(&f->dir);
    config_defaults(&f->config);
    (void)snprintf(f->config.state_dir, sizeof f->config.state_dir, "%s/state", f->dir.path);
    (void)snprintf(f->config.listen[0], sizeof f->config.listen[0], "unix:%s/s", f->dir.path);
    (void)snprintf(f->config.io_engine, sizeof f->config.io_engine, "threads");
    f->config.listen_count = 1;
    f->config.shards = SHARDS;
    f->config.log_level = LOG_LEVEL_ERROR;
    log_set_level(f->config.log_level);
    f->pool = buf_pool_new(0);
    assert_non_null(f->pool);
    if (file_make_dir(f->config.state_dir, 0700, &err) < 0 || loop_new(&f->loop, &err) < 0 ||
        service_new(&f->config, f->loop, &f->service, &err) < 0 ||
        service_open_state(f->service, false, &err) < 0 ||
        service_start_shards(f->service, &err) < 0 || service_open_volumes(f->service, &err) < 0 ||
        service_listen(f->service, &err) < 0)
        fail_msg("%s", err.text);
    connect_client(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->chan != NULL)
        chan_abort(f->chan, NULL);
    TURN_UNTIL(f, f->chan == NULL);
    service_stop(f->service, stopped, f);
    TURN_UNTIL(f, f->stopped);
    service_free(f->service);
    buf_pool_free(f->pool);
    loop_free(f->loop);
    tmpdir_remove(&f->dir);
    free(f);
    return 0;
}

/* -- cases --------------------------------------------------------------------------------- */

static void write__first_one_takes_the_connection_to_its_volumes_shard(void **state)
{
    struct fixture *f = *state;
    unsigned home = home_of(f), other = 1 - home;
    struct uuid volume = make_volume(f, other, "v");
    assert_int_equal(home_of(f), home); /* making one does not */
    write_all(f, volume, 1);
    TURN_UNTIL(f, sessions_of(f, other) == 1);
    assert_int_equal(sessions_of(f, home), 0);
    write_all(f, volume, 3);
    assert_int_equal(home_of(f), other);
}

static void write__burst_is_answered_whole_though_the_connection_moves(void **state)
{
    struct fixture *f = *state;
    enum { BURST = 64 };
    unsigned home = home_of(f), other = 1 - home;
    struct uuid volume = make_volume(f, other, "v");
    write_all(f, volume, BURST);
    TURN_UNTIL(f, sessions_of(f, other) == 1);
    write_all(f, volume, BURST);
    assert_int_equal(f->answered, f->sent);
}

static void write__to_another_volume_later_does_not_move_it_again(void **state)
{
    struct fixture *f = *state;
    unsigned home = home_of(f), other = 1 - home;
    struct uuid far = make_volume(f, other, "far"), near = make_volume(f, home, "near");
    write_all(f, far, 1);
    TURN_UNTIL(f, sessions_of(f, other) == 1);
    for (int i = 0; i < 5; i++) {
        write_all(f, near, 2);
        write_all(f, far, 1);
    }
    assert_int_equal(home_of(f), other);
}

static void write__to_a_volume_at_home_leaves_it_there(void **state)
{
    struct fixture *f = *state;
    unsigned home = home_of(f);
    struct uuid near = make_volume(f, home, "near"), far = make_volume(f, 1 - home, "far");
    write_all(f, near, 1);
    write_all(f, far, 4);
    assert_int_equal(home_of(f), home);
}

/* The connection moves with the answer, finds that its client has hung up, and is gone before the
 * shard that it comes from takes its next step. */
static void write__the_client_hangs_up_behind_it_and_the_session_ends_where_it_went(void **state)
{
    struct fixture *f = *state;
    enum { ROUNDS = 10 };
    unsigned home = home_of(f), other = 1 - home;
    struct uuid far = make_volume(f, other, "far");
    let_go_first(f, other, home);
    for (int rounds = 0; rounds < ROUNDS;) {
        if (home_of(f) == home) {
            send_writes(f, far, 1);
            rounds++;
        }
        chan_close(f->chan);
        TURN_UNTIL(f, f->chan == NULL && sessions_of(f, 0) + sessions_of(f, 1) == 0);
        f->up = false;
        connect_client(f);
    }
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(write__first_one_takes_the_connection_to_its_volumes_shard),
        CASE(write__burst_is_answered_whole_though_the_connection_moves),
        CASE(write__to_another_volume_later_does_not_move_it_again),
        CASE(write__to_a_volume_at_home_leaves_it_there),
        CASE(write__the_client_hangs_up_behind_it_and_the_session_ends_where_it_went),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
