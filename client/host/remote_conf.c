/* SPDX-License-Identifier: Apache-2.0 */
/* The file of known daemons, read by libconfuse and written by us.
 *
 * What is read is checked entry by entry while libconfuse knows the line, so that an
 * error names file and line. What is written stands in single quotes, in which only
 * \ and ' mean something: a path with ${…} in it stays as it is.
 *
 * It must not know what a daemon is asked. Thread: main's (libconfuse's call-backs
 * have no user pointer, so what is being loaded is a global, `loading`).
 */
#include "client/host/remote_conf.h"

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/name.h"
#include "common/net/addr.h"

#include <confuse.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* -- where ----------------------------------------------------------------------------- */

static int path_format(char buf[LIMIT_PATH_BYTES], const char *folder, const char *rest,
                       struct err *reterr)
{
    if (snprintf(buf, LIMIT_PATH_BYTES, "%s%s", folder, rest) >= LIMIT_PATH_BYTES)
        return err_set(reterr, SNAP_EINVAL, "the path of the file of remotes is too long");
    return 0;
}

int remote_conf_path(char buf[LIMIT_PATH_BYTES], struct err *reterr)
{
    const char *path = getenv("SNAPWIRE_CONFIG");
    if (path && *path)
        return path_format(buf, path, "", reterr);
    const char *folder = getenv("XDG_CONFIG_HOME");
    if (folder && *folder == '/') /* as its specification says, others are ignored */
        return path_format(buf, folder, "/snapwire/remotes.conf", reterr);
    const char *home = getenv("HOME");
    if (!home || !*home) {
        const struct passwd *pw = getpwuid(getuid());
        home = pw ? pw->pw_dir : NULL;
    }
    if (!home || !*home)
        return err_set(reterr, SNAP_EINVAL,
                       "no home folder to keep the remotes in; set SNAPWIRE_CONFIG to a file");
    return path_format(buf, home, "/.config/snapwire/remotes.conf", reterr);
}

/* -- entries ----------------------------------------------------------------------------- */

static void entry_done(struct remote_entry *e)
{
    free(e->name);
    free(e->address);
    free(e->ca);
    free(e->certificate);
    free(e->key);
    free(e->crl);
    free(e->server_name);
    *e = (struct remote_entry){0};
}

void remote_conf_done(struct remote_conf *conf)
{
    for (size_t i = 0; i < conf->count; i++)
        entry_done(&conf->entries[i]);
    free(conf->entries);
    free(conf->current);
    *conf = REMOTE_CONF_INIT;
}

const struct remote_entry *remote_conf_find(const struct remote_conf *conf, const char *name)
{
    for (size_t i = 0; i < conf->count; i++)
        if (strcmp(conf->entries[i].name, name) == 0)
            return &conf->entries[i];
    return NULL;
}

/* Does every address parse? Commas separate them; blanks may stand around those, but an address
 * with one in it is a slip and not two. *ret_tls: one of them is no Unix socket. */
static int addresses_check(const char *text, bool *ret_tls, struct err *reterr)
{
    unsigned count = 0;
    *ret_tls = false;
    for (const char *at = text; *(at += strspn(at, ", \t")) != '\0'; count++) {
        char one[LIMIT_PATH_BYTES];
        struct addr a;
        const size_t piece = strcspn(at, ",");
        size_t len = piece;
        while (at[len - 1] == ' ' || at[len - 1] == '\t')
            len--; /* the first one is none */
        if (len >= sizeof one)
            return err_set(reterr, SNAP_EINVAL, "an address is too long");
        memcpy(one, at, len);
        one[len] = '\0';
        int rc = addr_parse(one, &a, reterr);
        if (rc < 0)
            return rc;
        *ret_tls = *ret_tls || !a.unix_socket;
        at += piece;
    }
    return count > 0 ? 0 : err_set(reterr, SNAP_EINVAL, "the address is empty");
}

static int value_check(const char *what, const char *value, struct err *reterr)
{
    if (!value)
        return 0;
    if (strlen(value) >= LIMIT_PATH_BYTES)
        return err_set(reterr, SNAP_EINVAL, "%s is longer than %d bytes", what,
                       LIMIT_PATH_BYTES - 1);
    for (const char *p = value; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return err_set(reterr, SNAP_EINVAL, "%s has a control character in it", what);
    return 0;
}

int remote_entry_check(const struct remote_entry *e, struct err *reterr)
{
    const struct {
        const char *what, *value;
    } values[] = {{"address", e->address}, {"ca", e->ca},   {"certificate", e->certificate},
                  {"key", e->key},         {"crl", e->crl}, {"server_name", e->server_name}};
    bool tls = false;
    int rc = name_check(e->name, "remote", reterr);
    if (rc == 0 && !e->address)
        rc = err_set(reterr, SNAP_EINVAL, "remote '%s' has no address", e->name);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(values); i++)
        rc = value_check(values[i].what, values[i].value, reterr);
    if (rc == 0)
        rc = addresses_check(e->address, &tls, reterr);
    if (rc < 0 || !tls)
        return rc;
    for (size_t i = 1; i <= 3; i++)
        if (!values[i].value || !*values[i].value)
            return err_set(reterr, SNAP_EINVAL,
                           "remote '%s' has no %s; an address that is no Unix socket needs ca, "
                           "certificate and key",
                           e->name, values[i].what);
    return 0;
}

static bool copy_text(const char *text, char **ret)
{
    *ret = text ? strdup(text) : NULL;
    return !text || *ret;
}

static int entry_copy(const struct remote_entry *from, struct remote_entry *ret, struct err *reterr)
{
    struct remote_entry e = {0};
    if (copy_text(from->name, &e.name) && copy_text(from->address, &e.address) &&
        copy_text(from->ca, &e.ca) && copy_text(from->certificate, &e.certificate) &&
        copy_text(from->key, &e.key) && copy_text(from->crl, &e.crl) &&
        copy_text(from->server_name, &e.server_name)) {
        *ret = e;
        return 0;
    }
    entry_done(&e);
    return err_set(reterr, SNAP_ENOMEM, "remote");
}

int remote_conf_add(struct remote_conf *conf, const struct remote_entry *entry, struct err *reterr)
{
    struct remote_entry copy;
    int rc = remote_entry_check(entry, reterr);
    if (rc < 0)
        return rc;
    if (remote_conf_find(conf, entry->name))
        return err_set(reterr, SNAP_EEXIST, "there is a remote '%s' already", entry->name);
    if (conf->count >= REMOTES_MAX)
        return err_set(reterr, SNAP_ELIMIT, "more than %d remotes", REMOTES_MAX);
    struct remote_entry *grown = realloc(conf->entries, (conf->count + 1) * sizeof *grown);
    if (!grown)
        return err_set(reterr, SNAP_ENOMEM, "remote");
    conf->entries = grown;
    rc = entry_copy(entry, &copy, reterr);
    if (rc == 0)
        conf->entries[conf->count++] = copy;
    return rc;
}

static int none_of_that_name(const char *name, struct err *reterr)
{
    return err_set(reterr, SNAP_ENOENT, "no remote '%.128s'; see snapctl remote list", name);
}

int remote_conf_remove(struct remote_conf *conf, const char *name, struct err *reterr)
{
    const struct remote_entry *e = remote_conf_find(conf, name);
    if (!e)
        return none_of_that_name(name, reterr);
    if (conf->current && strcmp(conf->current, name) == 0) {
        free(conf->current);
        conf->current = NULL;
    }
    size_t i = (size_t)(e - conf->entries);
    entry_done(&conf->entries[i]);
    conf->count--;
    memmove(&conf->entries[i], &conf->entries[i + 1], (conf->count - i) * sizeof *conf->entries);
    return 0;
}

int remote_conf_choose(struct remote_conf *conf, const char *name, struct err *reterr)
{
    if (!remote_conf_find(conf, name))
        return none_of_that_name(name, reterr);
    char *copy = strdup(name);
    if (!copy)
        return err_set(reterr, SNAP_ENOMEM, "remote");
    free(conf->current);
    conf->current = copy;
    return 0;
}

/* -- reading ------------------------------------------------------------------------------- */

static struct {
    const char *path;
    const cfg_t *top;
    struct err *reterr;
    int rc;
} loading;

static void SNAP_PRINTF(2, 0) on_error(cfg_t *cfg, const char *fmt, va_list ap)
{
    char text[ERR_TEXT_BYTES];
    if (loading.rc < 0)
        return; /* the first one names the cause */
    (void)vsnprintf(text, sizeof text, fmt, ap);
    loading.rc =
        err_set(loading.reterr, SNAP_EINVAL, "%s:%d: %s", loading.path, cfg ? cfg->line : 0, text);
}

static struct remote_entry entry_of(cfg_t *section)
{
    return (struct remote_entry){
        .name = (char *)(uintptr_t)cfg_title(section),
        .address = cfg_getstr(section, "address"),
        .ca = cfg_getstr(section, "ca"),
        .certificate = cfg_getstr(section, "certificate"),
        .key = cfg_getstr(section, "key"),
        .crl = cfg_getstr(section, "crl"),
        .server_name = cfg_getstr(section, "server_name"),
    };
}

static int check_section(cfg_t *cfg, cfg_opt_t *opt)
{
    cfg_t *section = cfg_opt_getnsec(opt, cfg_opt_size(opt) - 1);
    struct err why = ERR_INIT;
    struct remote_entry e = entry_of(section);
    if (remote_entry_check(&e, &why) == 0)
        return 0;
    cfg_error(cfg, "%s", why.text);
    return -1;
}

static int take_over(cfg_t *cfg, struct remote_conf *ret, struct err *reterr)
{
    for (unsigned i = 0; i < cfg_size(cfg, "remote"); i++) {
        struct remote_entry e = entry_of(cfg_getnsec(cfg, "remote", i));
        int rc = remote_conf_add(ret, &e, reterr);
        if (rc < 0)
            return rc;
    }
    const char *current = cfg_getstr(cfg, "current");
    if (!copy_text(current && *current ? current : NULL, &ret->current))
        return err_set(reterr, SNAP_ENOMEM, "remote");
    return 0;
}

static cfg_t *new_cfg(void)
{
    cfg_opt_t remote_opts[] = {
        CFG_STR("address", NULL, CFGF_NONE),
        CFG_STR("ca", NULL, CFGF_NONE),
        CFG_STR("certificate", NULL, CFGF_NONE),
        CFG_STR("key", NULL, CFGF_NONE),
        CFG_STR("crl", NULL, CFGF_NONE),
        CFG_STR("server_name", NULL, CFGF_NONE),
        CFG_END(),
    };
    cfg_opt_t opts[] = {
        CFG_STR("current", NULL, CFGF_NONE),
        CFG_SEC("remote", remote_opts, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
        CFG_END(),
    };
    return cfg_init(opts, CFGF_NONE);
}

static void SNAP_PRINTF(2, 0) ignore_error(cfg_t *cfg, const char *fmt, va_list ap)
{
    (void)cfg;
    (void)fmt;
    (void)ap;
}

/* libconfuse's scanner is one for all: where a text has left it, inside a comment or a string,
 * there the next one would begin. These are three remarks, or the end of one of those. */
static int parse_text(cfg_t *cfg, const char *text, cfg_errfunc_t on_fault)
{
    (void)cfg_set_error_function(cfg, on_fault);
    int rc = cfg_parse_buf(cfg, text);
    (void)cfg_set_error_function(cfg, ignore_error);
    (void)cfg_parse_buf(cfg, "\n#*/\n#\"\n#'\n");
    return rc;
}

/* The outer object's line stands still while a section is read. */
static void SNAP_PRINTF(2, 0) on_open_section(cfg_t *cfg, const char *fmt, va_list ap)
{
    (void)fmt;
    (void)ap;
    if (loading.rc == 0)
        loading.rc = err_set(loading.reterr, SNAP_EINVAL,
                             "%s:%d: remote '%s' is not closed, its '}' is missing", loading.path,
                             loading.top->line, cfg_title(cfg));
}

/* libconfuse takes the end of the text for the end of all sections and comments. So a line is put
 * behind what it took that has a meaning outside of them only, and looked for. */
static int check_whole(const char *path, const char *text, const char *current, struct err *reterr)
{
    const char *other = current && strcmp(current, "1") == 0 ? "2" : "1";
    CLEANUP_FREE char *longer = NULL;
    cfg_t *cfg = new_cfg();
    if (!cfg || asprintf(&longer, "%s\ncurrent = %s\n", text, other) < 0) {
        longer = NULL;
        (void)cfg_free(cfg);
        return err_set(reterr, SNAP_ENOMEM, "%s", path);
    }
    loading.top = cfg;
    if (parse_text(cfg, longer, on_open_section) == CFG_SUCCESS) {
        const char *now = cfg_getstr(cfg, "current");
        if (!now || strcmp(now, other) != 0)
            loading.rc = err_set(reterr, SNAP_EINVAL, "%s: a comment is not closed", path);
    }
    loading.top = NULL;
    (void)cfg_free(cfg);
    return loading.rc;
}

static int parse(cfg_t *cfg, const char *path, const char *text, struct err *reterr)
{
    loading.path = path;
    loading.reterr = reterr;
    loading.rc = 0;
    (void)cfg_set_validate_func(cfg, "remote", check_section);
    if (parse_text(cfg, text, on_error) != CFG_SUCCESS && loading.rc == 0)
        loading.rc = err_set(reterr, SNAP_EINVAL, "%s: cannot be understood", path);
    if (loading.rc == 0)
        loading.rc = check_whole(path, text, cfg_getstr(cfg, "current"), reterr);
    loading.reterr = NULL;
    return loading.rc;
}

int remote_conf_load(const char *path, struct remote_conf *ret, struct err *reterr)
{
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    int rc = file_read_all(path, LIMIT_CONFIG_BYTES, &text, &len, reterr);
    if (rc == SNAP_ENOENT)
        return 0;
    if (rc < 0)
        return rc;
    if (strlen(text) != len)
        return err_set(reterr, SNAP_EINVAL, "%s: is no text file", path);
    cfg_t *cfg = new_cfg();
    if (!cfg)
        return err_set(reterr, SNAP_ENOMEM, "%s", path);
    rc = parse(cfg, path, text, reterr);
    if (rc == 0) {
        rc = take_over(cfg, ret, reterr);
        if (rc < 0)
            (void)err_prefix(reterr, "%s", path);
    }
    (void)cfg_free(cfg);
    return rc;
}

/* -- writing --------------------------------------------------------------------------------- */

static void write_quoted(FILE *f, const char *value)
{
    (void)fputc('\'', f);
    for (const char *p = value; *p; p++) {
        if (*p == '\'' || *p == '\\')
            (void)fputc('\\', f);
        (void)fputc(*p, f);
    }
    (void)fputc('\'', f);
}

static void write_value(FILE *f, const char *key, const char *value)
{
    if (!value)
        return;
    (void)fprintf(f, "    %s = ", key);
    write_quoted(f, value);
    (void)fputc('\n', f);
}

static void write_entry(FILE *f, const struct remote_entry *e)
{
    (void)fputs("\nremote ", f);
    write_quoted(f, e->name);
    (void)fputs(" {\n", f);
    write_value(f, "address", e->address);
    write_value(f, "ca", e->ca);
    write_value(f, "certificate", e->certificate);
    write_value(f, "key", e->key);
    write_value(f, "crl", e->crl);
    write_value(f, "server_name", e->server_name);
    (void)fputs("}\n", f);
}

int remote_conf_format(const struct remote_conf *conf, char **ret_text, size_t *ret_len,
                       struct err *reterr)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return err_set(reterr, SNAP_ENOMEM, "list of remotes");
    (void)fputs("# The daemons that snapctl knows; see snapctl remote --help.\n"
                "# `snapctl remote add`, `use` and `remove` write this file anew.\n",
                f);
    if (conf->current) {
        (void)fputs("current = ", f);
        write_quoted(f, conf->current);
        (void)fputc('\n', f);
    }
    for (size_t i = 0; i < conf->count; i++)
        write_entry(f, &conf->entries[i]);
    bool bad = ferror(f) != 0;
    if (fclose(f) != 0 || bad) {
        free(text);
        return err_set(reterr, SNAP_ENOMEM, "list of remotes");
    }
    *ret_text = text;
    *ret_len = len;
    return 0;
}

/* The lock is on the folder, as the file is replaced. */
int remote_conf_lock(const char *path, int *ret_fd, struct err *reterr)
{
    char folder[LIMIT_PATH_BYTES];
    const char *slash = strrchr(path, '/');
    int rc = file_make_parents(path, 0700, reterr);
    if (rc < 0)
        return rc;
    (void)snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1,
                   slash ? path : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd >= 0 && flock(fd, LOCK_EX) != 0) {
        if (errno == EINTR)
            continue;
        rc = errno;
        (void)close(fd);
        errno = rc;
        fd = -1;
    }
    if (fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "lock %s", folder);
    *ret_fd = fd;
    return 0;
}

/* Where the file is, or will be, that path leads to over symbolic links: it is the user's to say
 * where it stands, and a link that leads nowhere yet says so too. */
static int follow_links(const char *path, char ret[LIMIT_PATH_BYTES], struct err *reterr)
{
    enum { LINKS_MAX = 40 };
    char to[LIMIT_PATH_BYTES], next[LIMIT_PATH_BYTES];
    int n = snprintf(ret, LIMIT_PATH_BYTES, "%s", path);
    for (int i = 0; i < LINKS_MAX && n < LIMIT_PATH_BYTES; i++) {
        ssize_t len = readlink(ret, to, sizeof to - 1);
        if (len < 0) /* no link, or not there */
            return 0;
        to[len] = '\0';
        const char *slash = *to == '/' ? NULL : strrchr(ret, '/');
        n = snprintf(next, sizeof next, "%.*s%s", slash ? (int)(slash - ret) + 1 : 0, ret, to);
        memcpy(ret, next, sizeof next);
    }
    return err_set(reterr, SNAP_EINVAL, "%s: too many symbolic links, or too long ones", path);
}

int remote_conf_save(const char *path, const struct remote_conf *conf, struct err *reterr)
{
    CLEANUP_FREE char *text = NULL;
    char real[LIMIT_PATH_BYTES];
    size_t len = 0;
    int rc = remote_conf_format(conf, &text, &len, reterr);
    if (rc == 0)
        rc = follow_links(path, real, reterr);
    if (rc == 0)
        rc = file_make_parents(real, 0700, reterr);
    if (rc == 0)
        rc = file_replace(real, text, len, 0600, reterr);
    return rc;
}
