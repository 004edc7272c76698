/* SPDX-License-Identifier: Apache-2.0 */
/* What nbdkit's server gives its plugins, for tests: it keeps what it was told. To be included by
 * one file of a program. */
#ifndef SNAP_TESTS_FAKE_NBDKIT_H
#define SNAP_TESTS_FAKE_NBDKIT_H

#include "client/nbdkit/nbdkit_api.h"
#include "tests/lib/cm.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    pthread_mutex_t lock; /* over the others */
    unsigned errors;
    int sys_errno;
    char text[1500];    /* of the last error */
    atomic_bool ending; /* to be set by the test: nbdkit was told to end */
} told = {.lock = PTHREAD_MUTEX_INITIALIZER};

void nbdkit_error(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    nbdkit_verror(fmt, args);
    va_end(args);
}

void nbdkit_verror(const char *fmt, va_list args)
{
    assert_int_equal(pthread_mutex_lock(&told.lock), 0);
    told.errors++;
    (void)vsnprintf(told.text, sizeof told.text, fmt, args);
    assert_int_equal(pthread_mutex_unlock(&told.lock), 0);
}

void nbdkit_set_error(int err)
{
    told.sys_errno = err;
}

int nbdkit_nanosleep(unsigned sec, unsigned nsec)
{
    assert_true(sec == 0 && nsec == 0); /* it is only asked whether nbdkit ends */
    errno = ESHUTDOWN;
    return atomic_load(&told.ending) ? -1 : 0;
}

int nbdkit_parse_unsigned(const char *what, const char *str, unsigned *r)
{
    char *end;
    unsigned long n = strtoul(str, &end, 10);
    if (*str == '\0' || *end != '\0' || n > UINT_MAX) {
        nbdkit_error("%s: could not parse number: \"%s\"", what, str);
        return -1;
    }
    *r = (unsigned)n;
    return 0;
}

char *nbdkit_absolute_path(const char *path)
{
    char here[PATH_MAX], *ret;
    if (*path == '/')
        return strdup(path);
    assert_non_null(getcwd(here, sizeof here));
    return asprintf(&ret, "%s/%s", here, path) < 0 ? NULL : ret;
}

#endif
