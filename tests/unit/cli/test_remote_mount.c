/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of snapctl remote mount that need no root: states of mounts, partitions of a disk,
 * and that the servers of a mount are stopped, whatever they are doing. */
#include "client/snapctl/remote_mount.h"
#include "common/base/bytes.h"
#include "common/base/file.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct tmpdir dir;

static int setup(void **state)
{
    char runtime[TMPDIR_FILE_BYTES];
    (void)state;
    tmpdir_make(&dir);
    return setenv("SNAPWIRE_RUNTIME", tmpdir_file(&dir, "run", runtime), 1);
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&dir);
    return unsetenv("SNAPWIRE_RUNTIME");
}

static void nap_ms(long ms)
{
    (void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static long now_ms(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &t), 0);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* -- states --------------------------------------------------------------------------------- */

static struct mount_state made(const char *target, const char *directory)
{
    struct mount_state s;
    struct err e = ERR_INIT;
    if (mount_state_make(target, directory, &s, &e) < 0)
        fail_msg("%s", e.text);
    return s;
}

static void ended(struct mount_state *s)
{
    struct err e = ERR_INIT;
    if (mount_state_remove(s, &e) < 0)
        fail_msg("%s", e.text);
    mount_state_done(s);
}

static void state__what_is_saved_is_found_by_its_directory(void **state)
{
    (void)state;
    struct mount_state s = made("disk1@mon", "/mnt/\"a\" b"), other = made("disk2", "/mnt/c");
    struct mount_state found;
    s.nbdkit = 17;
    s.nbdfuse = 18;
    s.read_only = true;
    assert_int_equal(mount_state_save(&s, NULL), 0);
    mount_state_done(&s);
    mount_state_done(&other);
    assert_int_equal(mount_state_find("/mnt/\"a\" b", &found, NULL), 0);
    assert_string_equal(found.folder, s.folder);
    assert_string_equal(found.target, "disk1@mon");
    assert_int_equal(found.nbdkit, 17);
    assert_int_equal(found.nbdfuse, 18);
    assert_true(found.read_only);
    ended(&found);
    assert_int_equal(mount_state_find("/mnt/\"a\" b", &found, NULL), SNAP_ENOENT);
    assert_int_equal(mount_state_find("/mnt/c", &found, NULL), 0);
    ended(&found);
}

static void state__a_directory_has_one_mount(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a"), second;
    struct err e = ERR_INIT;
    (void)state;
    assert_int_equal(mount_state_make("disk2", "/mnt/a", &second, &e), SNAP_EBUSY);
    assert_non_null(strstr(e.text, "disk1 is on /mnt/a"));
    ended(&s);
}

/* What is in the file is what somebody may have put there. */
static void state__a_file_that_is_none_is_no_mount(void **state)
{
    static const char *const texts[] = {
        "", "{", "[]", "{\"target\": \"disk1\"}", "{\"target\": 1, \"directory\": \"/mnt/a\"}",
    };
    char path[MOUNT_FILE_BYTES];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct mount_state s = made("disk1", "/mnt/a"), found;
        mount_state_file(&s, "state", path);
        assert_int_equal(file_replace(path, texts[i], strlen(texts[i]), 0600, NULL), 0);
        mount_state_done(&s);
        assert_int_equal(mount_state_find("/mnt/a", &found, NULL), SNAP_ENOENT);
        ended(&s);
    }
}

static void state__a_runtime_folder_open_to_others_is_refused(void **state)
{
    struct mount_state s;
    char path[TMPDIR_FILE_BYTES];
    (void)state;
    (void)tmpdir_file(&dir, "run", path);
    assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
    assert_int_equal(chmod(path, 0755), 0);
    assert_int_equal(mount_state_make("disk1", "/mnt/a", &s, NULL), SNAP_EPERM);
    assert_int_equal(chmod(path, 0700), 0);
}

static void *unlock_later(void *fd)
{
    nap_ms(200);
    assert_int_equal(close(*(int *)fd), 0);
    return NULL;
}

static void find__waits_a_moment_for_one_who_is_ending(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a"), found;
    pthread_t thread;
    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, unlock_later, &s.lock_fd), 0);
    assert_int_equal(mount_state_find("/mnt/a", &found, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    ended(&found);
}

static void find__does_not_wait_for_long(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a"), found;
    struct err e = ERR_INIT;
    long begun = now_ms();
    (void)state;
    assert_int_equal(mount_state_find("/mnt/a", &found, &e), SNAP_EBUSY);
    assert_non_null(strstr(e.text, "another snapctl"));
    assert_in_range(now_ms() - begun, 1000, 20000);
    ended(&s);
}

/* -- servers ---------------------------------------------------------------------------------- */

/* A program of that name which does as the script says, for this mount; when it runs it has made
 * a file "ready" in the mount's folder. */
static pid_t program(const struct mount_state *s, const char *name, const char *script)
{
    char path[TMPDIR_FILE_BYTES], ready[MOUNT_FILE_BYTES], text[1024];
    pid_t pid;
    mount_state_file(s, "ready", ready);
    (void)tmpdir_file(&dir, name, path);
    int n = snprintf(text, sizeof text, "#!/bin/sh\n%s\n", script);
    assert_int_equal(file_replace(path, text, (size_t)n, 0700, NULL), 0);
    char *argv[] = {path, ready, NULL};
    assert_int_equal(posix_spawn(&pid, path, NULL, NULL, argv, environ), 0);
    for (int i = 0; access(ready, F_OK) != 0; i++) {
        assert_true(i < 2000);
        nap_ms(10);
    }
    assert_int_equal(unlink(ready), 0);
    return pid;
}

/* One that has ended has no command line, even if nobody has taken note. */
static bool runs(pid_t pid)
{
    char path[32], byte;
    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool any = fd >= 0 && read(fd, &byte, 1) == 1;
    if (fd >= 0)
        assert_int_equal(close(fd), 0);
    return any;
}

static void stop(struct mount_state *s)
{
    struct err e = ERR_INIT;
    if (mount_nbdkit_stop(s, &e) < 0)
        fail_msg("%s", e.text);
}

#define FOREVER "while :; do sleep 0.02; done"

static void stop__ends_one_that_serves(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a");
    (void)state;
    s.nbdkit = program(&s, "nbdkit", ": >\"$1\"; " FOREVER);
    long begun = now_ms();
    stop(&s);
    assert_true(now_ms() - begun < 4000);
    assert_true(waitpid(s.nbdkit, NULL, WNOHANG) != 0);
    ended(&s);
}

static void stop__ends_one_whose_pid_is_not_known(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a");
    (void)state;
    pid_t pid = program(&s, "nbdkit", ": >\"$1\"; " FOREVER);
    s.nbdkit = getpid(); /* somebody else has got that number */
    stop(&s);
    assert_true(waitpid(pid, NULL, WNOHANG) != 0);
    ended(&s);
}

/* It forks in the moment in which it is told to end. */
static void stop__ends_what_goes_to_the_background_meanwhile(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a");
    char path[MOUNT_FILE_BYTES];
    (void)state;
    mount_state_file(&s, "nbdkit.pid", path);
    s.nbdkit = program(&s, "nbdkit",
                       "trap '(trap - TERM; " FOREVER ") & echo $! >\"${1%ready}nbdkit.pid\"; "
                       "exit 0' TERM; : >\"$1\"; " FOREVER);
    stop(&s);
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(file_read_all(path, 100, &text, &len, NULL), 0);
    pid_t child = (pid_t)strtol(text, NULL, 10);
    free(text);
    assert_true(child > 1);
    if (runs(child)) {
        (void)kill(child, SIGKILL);
        fail_msg("process %d was left", (int)child);
    }
    ended(&s);
}

static void stop__kills_one_that_does_not_listen(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a");
    int status;
    (void)state;
    pid_t pid = program(&s, "nbdkit", "trap '' TERM; : >\"$1\"; " FOREVER);
    s.nbdkit = pid;
    long begun = now_ms();
    stop(&s);
    assert_in_range(now_ms() - begun, 1000, 30000);
    assert_true(waitpid(pid, &status, 0) < 0 || WIFSIGNALED(status));
    ended(&s);
}

/* Not of this mount: another folder is in its command line. */
static void stop__leaves_others_alone(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a"), other = made("disk2", "/mnt/b");
    (void)state;
    pid_t pid = program(&other, "nbdkit", ": >\"$1\"; " FOREVER);
    s.nbdkit = pid;
    stop(&s);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    ended(&s);
    ended(&other);
}

/* Start nbdkit, where that is a script. It gets the folder as $D; the background's own programs
 * are of that name too. */
static int start_script(struct mount_state *s, const char *script, struct err *reterr)
{
    char path[TMPDIR_FILE_BYTES], text[1024], log[MOUNT_FILE_BYTES];
    const char *old = getenv("PATH");
    char *kept = old ? strdup(old) : NULL;
    assert_non_null(kept);
    mount_state_file(s, "nbdkit.log", log);
    (void)unlink(log);
    (void)tmpdir_file(&dir, "nbdkit", path);
    int n = snprintf(text, sizeof text, "#!/bin/sh\nD=%s\n%s\n", s->folder, script);
    assert_int_equal(file_replace(path, text, (size_t)n, 0700, NULL), 0);
    *strrchr(path, '/') = '\0';
    n = snprintf(text, sizeof text, "%s:%s", path, kept);
    assert_true(n > 0 && n < (int)sizeof text);
    assert_int_equal(setenv("PATH", text, 1), 0);
    int rc = mount_nbdkit_start(s, "/c", "here", reterr);
    assert_int_equal(setenv("PATH", kept, 1), 0);
    free(kept);
    return rc;
}

static void start__one_that_ends_is_told_at_once_in_its_words(void **state)
{
    static const struct {
        const char *script, *says;
    } cases[] = {
        {"echo hm >&2; echo 'nbdkit: error: no luck' >&2; exit 1", "nbdkit: error: no luck"},
        {"kill -SEGV $$", "journalctl -t nbdkit"},
        {"exit 0", "it said nothing here; journalctl -t nbdkit"},
        /* in the background */
        {"(sleep 0.2; echo 'nbdkit: error: late' >&2; exit 1) & exit 0", "nbdkit: error: late"},
        {"(sleep 0.2; kill -KILL $(cut -d' ' -f4 /proc/self/stat)) & exit 0", "journalctl"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct mount_state s = made("disk1", "/mnt/a");
        struct err e = ERR_INIT;
        long begun = now_ms();
        assert_int_equal(start_script(&s, cases[i].script, &e), SNAP_EIO);
        assert_true(now_ms() - begun < 20000);
        if (!strstr(e.text, "start nbdkit: ") || !strstr(e.text, cases[i].says))
            fail_msg("%zu: %s", i, e.text);
        ended(&s);
    }
}

static void start__is_waited_for_in_the_background(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a");
    struct err e = ERR_INIT;
    (void)state;
    if (start_script(&s, "(sleep 0.5; echo 1 >$D/nbdkit.pid) & exit 0", &e) < 0)
        fail_msg("%s", e.text);
    ended(&s);
}

/* -- the disk --------------------------------------------------------------------------------- */

struct entry {
    uint8_t type;
    uint32_t start, sectors;
};

/* A disk of 8 MiB with these partitions in its table, where nbdfuse would show it. */
static struct mount_state disk(const struct entry *entries, size_t count)
{
    struct mount_state s = made("disk1", "/mnt/a");
    char path[MOUNT_FILE_BYTES];
    uint8_t sector[512] = {0};
    mount_state_file(&s, "fuse", path);
    assert_int_equal(mkdir(path, 0700), 0);
    mount_state_file(&s, "fuse/disk", path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 8 << 20), 0);
    for (size_t i = 0; i < count; i++) {
        uint8_t *e = sector + 446 + 16 * i;
        e[4] = entries[i].type;
        le32_store(e + 8, entries[i].start);
        le32_store(e + 12, entries[i].sectors);
    }
    sector[510] = 0x55;
    sector[511] = 0xaa;
    if (count > 0)
        assert_int_equal(pwrite(fd, sector, sizeof sector, 0), (ssize_t)sizeof sector);
    assert_int_equal(close(fd), 0);
    return s;
}

static void disk_done(struct mount_state *s)
{
    char path[MOUNT_FILE_BYTES];
    mount_state_file(s, "fuse/disk", path);
    assert_int_equal(unlink(path), 0);
    ended(s);
}

/* The superblock of an ext2 file system, as far as it is looked at. */
static void put_ext2(const struct mount_state *s, uint64_t start_sectors, const char *label)
{
    uint8_t sb[1024] = {0};
    char path[MOUNT_FILE_BYTES];
    mount_state_file(s, "fuse/disk", path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    le32_store(sb + 4, 1024); /* blocks */
    le32_store(sb + 20, 1);   /* first data block */
    le32_store(sb + 32, 8192);
    sb[56] = 0x53; /* magic */
    sb[57] = 0xef;
    le32_store(sb + 76, 1); /* revision */
    (void)snprintf((char *)sb + 120, 16, "%s", label);
    assert_int_equal(pwrite(fd, sb, sizeof sb, (off_t)(start_sectors * 512 + 1024)),
                     (ssize_t)sizeof sb);
    assert_int_equal(close(fd), 0);
}

static struct mount_parts *parts_of(const struct mount_state *s)
{
    struct mount_parts *p = malloc(sizeof *p);
    struct err e = ERR_INIT;
    assert_non_null(p);
    if (mount_parts_read(s, p, &e) < 0)
        fail_msg("%s", e.text);
    return p;
}

static void parts__a_file_system_without_a_table(void **state)
{
    struct mount_state s = disk(NULL, 0);
    (void)state;
    put_ext2(&s, 0, "whole");
    struct mount_parts *p = parts_of(&s);
    assert_int_equal(p->count, 0);
    assert_int_equal(p->whole.size_bytes, 8 << 20);
    assert_string_equal(p->whole.fs, "ext2");
    assert_string_equal(p->whole.label, "whole");
    assert_true(p->whole.is_fs);
    free(p);
    disk_done(&s);
}

static void parts__are_found_with_number_place_and_content(void **state)
{
    static const struct entry entries[] = {{0x83, 64, 2048}, {0}, {0x83, 4096, 4096}};
    struct mount_state s = disk(entries, ARRAY_LEN(entries));
    (void)state;
    put_ext2(&s, 4096, "third");
    struct mount_parts *p = parts_of(&s);
    assert_int_equal(p->count, 2);
    assert_int_equal(p->part[0].number, 1);
    assert_int_equal(p->part[0].start_bytes, 64 * 512);
    assert_int_equal(p->part[0].size_bytes, 2048 * 512);
    assert_string_equal(p->part[0].fs, "");
    assert_false(p->part[0].is_fs);
    assert_int_equal(p->part[1].number, 3);
    assert_string_equal(p->part[1].fs, "ext2");
    assert_string_equal(p->part[1].label, "third");
    assert_false(p->whole.is_fs);
    free(p);
    disk_done(&s);
}

/* A table's word is not taken. */
static void parts__beyond_the_disk_are_left_out(void **state)
{
    static const struct entry entries[] = {
        {0x83, 64, 0xffffffff}, {0x83, 16384, 1}, {0x83, 16000, 384}, {0x83, 16000, 385}};
    struct mount_state s = disk(entries, ARRAY_LEN(entries));
    (void)state;
    struct mount_parts *p = parts_of(&s);
    for (size_t i = 0; i < p->count; i++)
        assert_true(p->part[i].start_bytes + p->part[i].size_bytes <= 8 << 20);
    free(p);
    disk_done(&s);
}

static void parts__no_disk_is_an_error(void **state)
{
    struct mount_state s = made("disk1", "/mnt/a");
    struct mount_parts *p = malloc(sizeof *p);
    (void)state;
    assert_non_null(p);
    assert_int_equal(mount_parts_read(&s, p, NULL), SNAP_EIO);
    free(p);
    ended(&s);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(state__what_is_saved_is_found_by_its_directory),
        CASE(state__a_directory_has_one_mount),
        CASE(state__a_file_that_is_none_is_no_mount),
        CASE(state__a_runtime_folder_open_to_others_is_refused),
        CASE(find__waits_a_moment_for_one_who_is_ending),
        CASE(find__does_not_wait_for_long),
        CASE(start__one_that_ends_is_told_at_once_in_its_words),
        CASE(start__is_waited_for_in_the_background),
        CASE(stop__ends_one_that_serves),
        CASE(stop__ends_one_whose_pid_is_not_known),
        CASE(stop__ends_what_goes_to_the_background_meanwhile),
        CASE(stop__kills_one_that_does_not_listen),
        CASE(stop__leaves_others_alone),
        CASE(parts__a_file_system_without_a_table),
        CASE(parts__are_found_with_number_place_and_content),
        CASE(parts__beyond_the_disk_are_left_out),
        CASE(parts__no_disk_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
