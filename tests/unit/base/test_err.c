/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: texts that grow prefixes, errno and the one table of codes. */
#include "common/base/err.h"

#include "tests/lib/cm.h"

#include <errno.h>
#include <string.h>

static void err_set__fills_code_and_text(void **state)
{
    (void)state;
    struct err e = {.sys_errno = 99};
    assert_int_equal(err_set(&e, SNAP_EBUSY, "volume %s", "db"), SNAP_EBUSY);
    assert_int_equal(e.code, SNAP_EBUSY);
    assert_int_equal(e.sys_errno, 0);
    assert_string_equal(e.text, "volume db");
}

static void err_set__null_drops_the_text(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, SNAP_EIO, "x"), SNAP_EIO);
    assert_int_equal(err_set_errno(NULL, SNAP_EIO, EIO, "x"), SNAP_EIO);
    assert_int_equal(err_prefix(NULL, "x"), SNAP_EINTERNAL);
    err_clear(NULL);
}

static void err_set__code_that_is_no_error_becomes_internal(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    assert_int_equal(err_set(&e, 0, "x"), SNAP_EINTERNAL);
    assert_int_equal(e.code, SNAP_EINTERNAL);
    assert_int_equal(err_set_errno(&e, 7, EIO, "x"), SNAP_EINTERNAL);
    assert_int_equal(err_set(NULL, 0, "x"), SNAP_EINTERNAL);
}

static void err_set__arguments_may_point_into_the_error(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    err_set(&e, SNAP_EIO, "inner");
    err_set(&e, SNAP_ECORRUPT, "outer (%s)", e.text);
    assert_string_equal(e.text, "outer (inner)");
    err_prefix(&e, "%s", e.text);
    assert_string_equal(e.text, "outer (inner): outer (inner)");
}

static void err_set_errno__appends_the_system_text(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    assert_int_equal(err_set_errno(&e, SNAP_ENOSPC, ENOSPC, "write chunk %d", 771), SNAP_ENOSPC);
    assert_int_equal(e.sys_errno, ENOSPC);
    assert_string_equal(e.text, "write chunk 771: No space left on device");
}

static void err_set_errno__says_what_limits_a_file(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    int code = err_code_of_errno(EFBIG);
    assert_int_equal(err_set_errno(&e, code, EFBIG, "grow x.cow"), SNAP_ENOSPC);
    assert_non_null(strstr(e.text, "grow x.cow: File too large: "));
    assert_non_null(strstr(e.text, "LimitFSIZE="));
    code = err_code_of_errno(EMFILE);
    assert_int_equal(err_set_errno(&e, code, EMFILE, "open x.cow"), SNAP_ELIMIT);
    assert_non_null(strstr(e.text, "open x.cow: Too many open files: "));
    assert_non_null(strstr(e.text, "LimitNOFILE="));
}

static void err_prefix__layers_read_from_outside_in(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    err_set_errno(&e, SNAP_ENOSPC, ENOSPC, "write chunk 771");
    assert_int_equal(err_prefix(&e, "commit area %d", 3), SNAP_ENOSPC);
    assert_string_equal(e.text, "commit area 3: write chunk 771: No space left on device");
    assert_int_equal(e.sys_errno, ENOSPC);
}

static void err_text__too_long_loses_its_end(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char longer[2 * ERR_TEXT_BYTES];
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = '\0';

    err_set(&e, SNAP_EIO, "%s", longer);
    assert_int_equal(strlen(e.text), ERR_TEXT_BYTES - 1);
    err_prefix(&e, "outer");
    assert_int_equal(strlen(e.text), ERR_TEXT_BYTES - 1);
    assert_memory_equal(e.text, "outer: aaa", 10);
    err_prefix(&e, "%s", longer);
    assert_int_equal(strlen(e.text), ERR_TEXT_BYTES - 1);
    assert_memory_equal(e.text, "aaaa", 4);
    err_set_errno(&e, SNAP_EIO, EIO, "%.477s", longer);
    assert_string_equal(e.text + 477, ": ");
    err_set_errno(&e, SNAP_EIO, EIO, "%s", longer);
    assert_int_equal(strlen(e.text), ERR_TEXT_BYTES - 1);
}

static void err_copy__copies_all_and_takes_null(void **state)
{
    (void)state;
    struct err a = ERR_INIT, b = ERR_INIT;
    err_set_errno(&a, SNAP_EIO, EIO, "read");
    assert_int_equal(err_copy(&b, &a), SNAP_EIO);
    assert_string_equal(b.text, a.text);
    assert_int_equal(b.sys_errno, EIO);
    assert_int_equal(err_copy(NULL, &a), SNAP_EIO);
    assert_int_equal(err_copy(&a, &a), SNAP_EIO);
    assert_string_equal(b.text, a.text);
    err_clear(&a);
    assert_int_equal(a.code, 0);
    assert_string_equal(a.text, "");
}

static void err_table__each_code_has_names_of_its_own(void **state)
{
    (void)state;
    static const int codes[] = {
#define SNAP_X_(name, num, text, exit_code, http, grpc) SNAP_##name,
        SNAP_ERRORS(SNAP_X_)
#undef SNAP_X_
    };
    enum { COUNT = sizeof codes / sizeof codes[0] };
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(codes[i], -(i + 1));
        assert_int_equal(err_name(codes[i])[0], 'E');
        assert_true(strlen(err_text(codes[i])) > 0);
        assert_in_range((unsigned)err_exit_code(codes[i]), 2, 125);
        assert_in_range((unsigned)err_http_status(codes[i]), 400, 599);
        assert_in_range((unsigned)err_grpc_status(codes[i]), 1, 16);
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(err_name(codes[i]), err_name(codes[j]));
            assert_int_not_equal(err_exit_code(codes[i]), err_exit_code(codes[j]));
        }
    }
    assert_string_equal(err_name(SNAP_ENOSPC), "ENOSPC");
    assert_string_equal(err_text(SNAP_ENOSPC), "no space left");
    assert_int_equal(err_exit_code(SNAP_EINTERNAL), 70);
}

static void err_table__any_number_is_taken(void **state)
{
    (void)state;
    static const int strange[] = {-25, -1000, 1, 24, 2147483647, -2147483647 - 1};
    for (size_t i = 0; i < sizeof strange / sizeof strange[0]; i++) {
        assert_string_equal(err_name(strange[i]), "EUNKNOWN");
        assert_int_equal(err_http_status(strange[i]), 500);
        assert_int_not_equal(err_exit_code(strange[i]), 0);
    }
    assert_string_equal(err_name(0), "OK");
    assert_int_equal(err_exit_code(0), 0);
}

static void err_code_of_errno__each_kind_has_its_code(void **state)
{
    (void)state;
    static const struct {
        int sys_errno, code;
    } want[] = {
        {ENOSPC, SNAP_ENOSPC},    {EDQUOT, SNAP_ENOSPC},
        {EFBIG, SNAP_ENOSPC},     {ENOMEM, SNAP_ENOMEM},
        {ENOENT, SNAP_ENOENT},    {EEXIST, SNAP_EEXIST},
        {EACCES, SNAP_EPERM},     {EROFS, SNAP_EPERM},
        {EINVAL, SNAP_EINVAL},    {EBUSY, SNAP_EBUSY},
        {EMFILE, SNAP_ELIMIT},    {ETIMEDOUT, SNAP_ETIMEDOUT},
        {ECONNRESET, SNAP_ECONN}, {EPIPE, SNAP_ECONN},
        {ENOSYS, SNAP_ENOTSUP},   {ECANCELED, SNAP_ECANCELED},
        {EIO, SNAP_EIO},          {0, SNAP_EIO},
        {-5, SNAP_EIO},           {100000, SNAP_EIO},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        assert_int_equal(err_code_of_errno(want[i].sys_errno), want[i].code);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_set__fills_code_and_text),
        cmocka_unit_test(err_set__null_drops_the_text),
        cmocka_unit_test(err_set__code_that_is_no_error_becomes_internal),
        cmocka_unit_test(err_set__arguments_may_point_into_the_error),
        cmocka_unit_test(err_set_errno__appends_the_system_text),
        cmocka_unit_test(err_set_errno__says_what_limits_a_file),
        cmocka_unit_test(err_prefix__layers_read_from_outside_in),
        cmocka_unit_test(err_text__too_long_loses_its_end),
        cmocka_unit_test(err_copy__copies_all_and_takes_null),
        cmocka_unit_test(err_table__each_code_has_names_of_its_own),
        cmocka_unit_test(err_table__any_number_is_taken),
        cmocka_unit_test(err_code_of_errno__each_kind_has_its_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
