/* SPDX-License-Identifier: Apache-2.0 */
/* One table: what an error of the library is to an NBD client, and what helps against it.
 *
 * NBD knows few errors, and nbdkit makes EINVAL of those that it does not know: a client would
 * take a daemon that is away for its own mistake. What has no place in NBD is EIO. ESHUTDOWN is
 * said when nothing will go here any more: the client may as well disconnect.
 *
 * Thread: any.
 */
#include "client/nbdkit/fault.h"

#include "client/nbdkit/nbdkit_api.h"
#include "common/base/bytes.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static const struct fault {
    int code, nbd_errno;
    const char *remedy; /* NULL: the text says all */
} faults[] = {
    {SNAPWIRE_EINVAL, EINVAL, NULL},
    {SNAPWIRE_ENOMEM, ENOMEM, NULL},
    {SNAPWIRE_ENOSPC, ENOSPC, "make room on the daemon's host, or delete snapshots"},
    {SNAPWIRE_EOVERFLOW, ENOSPC, "it has reached its limit; delete it"},
    {SNAPWIRE_ENOENT, EIO, "snapctl remote ls shows what there is; it may have been deleted"},
    {SNAPWIRE_EPERM, EPERM,
     "an admin of the daemon gives rights with snapctl remote grant IDENTITY ROLE VOLUME"},
    {SNAPWIRE_EAUTH, EPERM, "see ca=, certificate= and key="},
    {SNAPWIRE_ENOTSUP, ENOTSUP, NULL},
    {SNAPWIRE_EBUSY, EIO, "snapctl remote jobs shows when it is over"},
    {SNAPWIRE_EINVALID, EIO, "what it held is lost; delete it"},
    {SNAPWIRE_EUNVERIFIED, EIO, "its writer must vouch for it, or snapctl remote accept"},
    {SNAPWIRE_ECORRUPT, EIO, "snapctl remote verify shows what is damaged"},
    {SNAPWIRE_EPOISONED, EIO, "see the daemon's log and its disk, then start it anew"},
    {SNAPWIRE_ETIMEDOUT, EIO, "timeout= says how long the daemon is waited for"},
    {SNAPWIRE_ECONN, EIO, "is the daemon running, and can it be reached?"},
    {SNAPWIRE_ESHUTDOWN, ESHUTDOWN, NULL},
    {SNAPWIRE_ECANCELED, ESHUTDOWN, NULL},
};

static const struct fault *fault_of(int code)
{
    static const struct fault other = {.nbd_errno = EIO};
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        if (faults[i].code == code)
            return &faults[i];
    return &other;
}

int fault_errno(int code, bool failed)
{
    return failed ? ESHUTDOWN : fault_of(code)->nbd_errno;
}

int fault_say(const struct link *l, const struct snapwire_error *error, const char *where, ...)
{
    const bool failed = link_has_failed(l);
    const char *remedy =
        failed ? "start nbdkit anew when that is mended" : fault_of(error->code)->remedy;
    char place[700];
    va_list args;
    va_start(args, where);
    (void)vsnprintf(place, sizeof place, where, args);
    va_end(args);
    nbdkit_error("%s: %s%s%s%s", place,
                 error->text[0] ? error->text : snapwire_error_text(error->code),
                 remedy ? " (" : "", remedy ? remedy : "", remedy ? ")" : "");
    nbdkit_set_error(fault_errno(error->code, failed));
    return -1;
}
