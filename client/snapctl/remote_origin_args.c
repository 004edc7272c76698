/* SPDX-License-Identifier: Apache-2.0 */
/* --origin, which must be there and the right one, and what a command says that becomes its
 * writer. */
#include "client/snapctl/remote_origin_args.h"

#include <string.h>

error_t remote_parse_origin(int key, char *arg, struct argp_state *state)
{
    struct remote_origin_args *a = state->input;
    switch (key) {
    case 'O':
        a->origin = arg;
        return 0;
    case 'n':
        a->new_origin = true;
        return 0;
    case 't':
        a->steal = true;
        return 0;
    case ARGP_KEY_END:
        if (a->words.count > 0 && !a->origin && !a->may_be_hosted)
            cli_usage_error(state, "--origin is missing: %s", a->origin_is);
        return remote_parse_word(key, arg, state);
    default:
        return remote_parse_word(key, arg, state);
    }
}

int remote_check_origin(const struct remote_origin_args *args, const struct remote_target *target,
                        struct err *reterr)
{
    if (target->hosted && args->origin)
        return err_set(reterr, SNAP_EINVAL,
                       "volume %s is hosted: the daemon has its content; leave --origin away",
                       target->name.volume);
    if (!target->hosted && !args->origin)
        return err_set(reterr, SNAP_EINVAL, "volume %s is remote: --origin is missing: %s",
                       target->name.volume, args->origin_is);
    return 0;
}

int remote_check_same_origin(const struct remote_origin_args *args,
                             const struct remote_target *target, const struct origin *origin,
                             struct err *reterr)
{
    uint8_t own[ORIGIN_FINGERPRINT_BYTES];
    const uint32_t own_bytes = origin_fingerprint(origin, own);
    if (args->new_origin || target->fingerprint_bytes == 0 || own_bytes == 0 ||
        (own_bytes == target->fingerprint_bytes &&
         memcmp(own, target->fingerprint, own_bytes) == 0))
        return 0;
    return err_set(reterr, SNAP_EMISMATCH,
                   "the origin is not the one of volume %s before" REMOTE_NEW_ORIGIN_HINT,
                   target->name.volume);
}

int remote_origin_writer(struct remote_writer *w, struct remote *r,
                         const struct remote_origin_args *args, const struct cli *cli,
                         const struct remote_target *target, const struct origin *origin,
                         struct err *reterr)
{
    uint8_t fingerprint[ORIGIN_FINGERPRINT_BYTES];
    const struct remote_writer_ask ask = {
        .cli = cli,
        .target = target,
        .origin_size_bytes = origin->size_bytes,
        .fingerprint = fingerprint,
        .fingerprint_bytes = origin_fingerprint(origin, fingerprint),
        .sole = true,
        .new_origin = args->new_origin,
        .steal = args->steal,
    };
    return remote_writer_open(w, r, &ask, reterr);
}
