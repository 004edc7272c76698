/* SPDX-License-Identifier: Apache-2.0 */
/* Loaded into a program before the C library: allocations fail as the file $FAILING_MEMORY says,
 * which the test and the program map both. Its 64-bit words:
 *
 *   0 mode      0 all succeed, and none counts; 1 all succeed; 2 the one of word 2 fails; 3 that
 * one and all after it 1 seen      how many were asked for since the test set it to zero 2 at which
 * one fails, from 1 on 3 failed    how many failed 4 whose     0: what the program itself asks for;
 * 1: what it and its libraries do 5 base      where the program is loaded 6 hurry     timers of
 * exactly so many milliseconds, or of one second, go off at once: what is tried again later is 8 …
 * who asked for the first one that failed, and who called that: SITE_WORDS
 *
 * The program is the executable, or the shared object whose name has $FAILING_MEMORY_IN in it.
 * Nothing here allocates. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    MODE,
    SEEN,
    AT,
    FAILED,
    WHOSE,
    BASE,
    HURRY,
    SITE = 8,
    SITE_WORDS = 24,
    WORDS = SITE + SITE_WORDS
};
enum { OFF, COUNT, ONE, ALL_FROM };

static _Atomic uint64_t *words;
static _Atomic uintptr_t text_begin, text_end;
static char before[1 << 20]; /* for whoever allocates before look_up() */
static atomic_size_t before_used;
static __thread int inside;

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
static char *(*real_strdup)(const char *);
static char *(*real_strndup)(const char *, size_t);
static int (*real_vasprintf)(char **, const char *, va_list);
static void (*real_free)(void *);
static int (*real_event_add)(void *, const struct timeval *); /* libevent's; NULL: not loaded */

static void *early(size_t size)
{
    const size_t at = atomic_fetch_add(&before_used, (size + 31) / 16 * 16);
    if (at + size + 16 > sizeof before)
        abort();
    return before + (at + 15) / 16 * 16;
}

static int is_early(const void *p)
{
    return (const char *)p >= before && (const char *)p < before + sizeof before;
}

static int find_text(struct dl_phdr_info *info, size_t size, void *user)
{
    const char *name = user;
    (void)size;
    if (name != NULL ? strstr(info->dlpi_name, name) == NULL : info->dlpi_name[0] != '\0')
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        if (h->p_type == PT_LOAD && (h->p_flags & PF_X) != 0) {
            atomic_store(&text_end, info->dlpi_addr + h->p_vaddr + h->p_memsz);
            atomic_store(&text_begin, info->dlpi_addr + h->p_vaddr);
            atomic_store(&words[BASE], info->dlpi_addr);
        }
    }
    return 1;
}

#define LOOK_UP(name) (*(void **)&real_##name = dlsym(RTLD_NEXT, #name))

/* Runs after the sanitizers have made ready what is looked up. */
__attribute__((constructor)) static void look_up(void)
{
    LOOK_UP(calloc);
    LOOK_UP(realloc);
    LOOK_UP(aligned_alloc);
    LOOK_UP(posix_memalign);
    LOOK_UP(mmap);
    LOOK_UP(strdup);
    LOOK_UP(strndup);
    LOOK_UP(vasprintf);
    LOOK_UP(free);
    LOOK_UP(event_add);
    const char *path = getenv("FAILING_MEMORY");
    const int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *p = real_mmap(NULL, WORDS * sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p != MAP_FAILED)
            words = p;
        (void)close(fd);
    }
    LOOK_UP(malloc);
}

static int in_text(uintptr_t at)
{
    if (atomic_load(&text_begin) == 0)
        (void)dl_iterate_phdr(find_text, getenv("FAILING_MEMORY_IN"));
    return at >= atomic_load(&text_begin) && at < atomic_load(&text_end);
}

/* Who called whom, by the frame pointers, as far as they lead up the thread's own stack. */
static void record(uintptr_t caller, const uintptr_t *frame)
{
    size_t n = 0;
    atomic_store(&words[SITE + n++], caller);
    while (n < SITE_WORDS) {
        const uintptr_t *next = (const uintptr_t *)frame[0];
        if (next <= frame || (uintptr_t)next - (uintptr_t)frame > 65536 || (uintptr_t)next % 8 != 0)
            break;
        frame = next;
        atomic_store(&words[SITE + n++], frame[1]);
    }
    while (n < SITE_WORDS)
        atomic_store(&words[SITE + n++], 0);
}

static int fails(uintptr_t caller, const void *frame)
{
    if (words == NULL || inside)
        return 0;
    const uint64_t mode = atomic_load(&words[MODE]);
    if (mode == OFF)
        return 0;
    inside = 1;
    int yes = 0;
    if (atomic_load(&words[WHOSE]) != 0 || in_text(caller)) {
        const uint64_t n = atomic_fetch_add(&words[SEEN], 1) + 1;
        const uint64_t at = atomic_load(&words[AT]);
        yes = (mode == ONE && n == at) || (mode == ALL_FROM && n >= at);
        if (yes && atomic_fetch_add(&words[FAILED], 1) == 0)
            record(caller, frame);
    }
    inside = 0;
    if (yes)
        errno = ENOMEM;
    return yes;
}

#define FAILS() fails((uintptr_t)__builtin_return_address(0), __builtin_frame_address(0))

void *malloc(size_t size)
{
    if (real_malloc == NULL)
        return early(size);
    return FAILS() ? NULL : real_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    if (real_malloc == NULL)
        return early(count * size);
    return FAILS() ? NULL : real_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
    if (real_malloc == NULL || is_early(p)) {
        void *moved = real_malloc != NULL ? real_malloc(size) : early(size);
        if (p != NULL && moved != NULL) {
            const size_t room = (size_t)(before + sizeof before - (char *)p);
            memcpy(moved, p, size < room ? size : room);
        }
        return moved;
    }
    return FAILS() ? NULL : real_realloc(p, size);
}

void *reallocarray(void *p, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || FAILS()) {
        errno = ENOMEM;
        return NULL;
    }
    return real_realloc(p, bytes);
}

void free(void *p)
{
    if (real_malloc != NULL && !is_early(p))
        real_free(p);
}

void *aligned_alloc(size_t align, size_t size)
{
    return FAILS() ? NULL : real_aligned_alloc(align, size);
}

int posix_memalign(void **ret, size_t align, size_t size)
{
    return FAILS() ? ENOMEM : real_posix_memalign(ret, align, size);
}

void *mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
    if (real_malloc == NULL)
        return (void *)syscall(SYS_mmap, at, size, prot, flags, fd, offset);
    return fd < 0 && FAILS() ? MAP_FAILED : real_mmap(at, size, prot, flags, fd, offset);
}

char *strdup(const char *s)
{
    if (real_malloc == NULL)
        return strcpy(early(strlen(s) + 1), s);
    return FAILS() ? NULL : real_strdup(s);
}

char *strndup(const char *s, size_t max)
{
    return FAILS() ? NULL : real_strndup(s, max);
}

int vasprintf(char **ret, const char *format, va_list args)
{
    return FAILS() ? -1 : real_vasprintf(ret, format, args);
}

int asprintf(char **ret, const char *format, ...)
{
    if (FAILS())
        return -1;
    va_list args;
    va_start(args, format);
    const int n = real_vasprintf(ret, format, args);
    va_end(args);
    return n;
}

int event_add(void *event, const struct timeval *after)
{
    static const struct timeval soon = {.tv_usec = 400000};
    const uint64_t ms = words != NULL ? atomic_load(&words[HURRY]) : 0;
    const int same = ms != 0 && after != NULL && after->tv_usec == 0 &&
                     (after->tv_sec == 1 || (uint64_t)after->tv_sec * 1000 == ms);
    return real_event_add(event, same ? &soon : after);
}
