/* SPDX-License-Identifier: Apache-2.0 */
/* Labels of one key, told apart in a record's text before it is read.
 *
 * Older releases took a label that was given twice, and wrote both. No reader of JSON keeps two of
 * one key, so the later one gets another in the text: "site" and "site.2". Where the labels begin
 * is found without reading what is before them: a line's end inside quotes would be an escape.
 *
 * Thread: plain data, no globals.
 */
#include "daemon/volume/record_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pair {
    char key[RECORD_LABEL_BYTES];
    const char *value; /* with its quotes */
    size_t value_len;
};

struct pairs {
    struct pair all[LIMIT_LABELS];
    unsigned count;
    const char *begin, *end; /* in the text */
};

static bool take_word(const char **at, const char *end, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(end - *at) < len || memcmp(*at, word, len) != 0)
        return false;
    *at += len;
    return true;
}

static bool take_quoted(const char **at, const char *end, const char **ret, size_t *ret_len)
{
    const char *p = *at;
    *ret = p;
    if (!take_word(&p, end, "\""))
        return false;
    while (p < end && *p != '"')
        p += *p == '\\' ? 2 : 1;
    if (p >= end)
        return false;
    *ret_len = (size_t)(p + 1 - *at);
    *at = p + 1;
    return true;
}

/* A key is a name: there is no escape in it. */
static bool take_pair(const char **at, const char *end, struct pairs *p)
{
    const char *key = NULL;
    size_t len = 0;
    if (p->count == LIMIT_LABELS || !take_quoted(at, end, &key, &len) || len - 2 > LIMIT_NAME_BYTES)
        return false;
    struct pair *one = &p->all[p->count++];
    (void)snprintf(one->key, sizeof one->key, "%.*s", (int)len - 2, key + 1);
    return take_word(at, end, ": ") && take_quoted(at, end, &one->value, &one->value_len);
}

static bool find_pairs(const char *text, size_t len, struct pairs *ret)
{
    static const char before[] = "\n \"labels\": {";
    const char *end = text + len, *at = memmem(text, len, before, sizeof before - 1);
    *ret = (struct pairs){.count = 0};
    if (at == NULL)
        return false;
    at += sizeof before - 1;
    ret->begin = at;
    do {
        if (!take_pair(&at, end, ret))
            return false;
    } while (take_word(&at, end, ", "));
    ret->end = at;
    return true;
}

static bool has_key(const struct pairs *p, unsigned count, const char *key)
{
    for (unsigned i = 0; i < count; i++)
        if (strcmp(p->all[i].key, key) == 0)
            return true;
    return false;
}

/* How many had a key of an earlier one. ret: the first's new key. */
static unsigned rename_pairs(struct pairs *p, char ret[RECORD_LABEL_BYTES])
{
    unsigned renamed = 0;
    for (unsigned i = 1; i < p->count; i++) {
        struct pair *one = &p->all[i];
        char other[sizeof one->key];
        if (!has_key(p, i, one->key))
            continue;
        for (unsigned n = 2; n == 2 || has_key(p, p->count, other); n++)
            (void)snprintf(other, sizeof other, "%.*s.%u", (int)LIMIT_NAME_BYTES, one->key, n);
        memcpy(one->key, other, sizeof other);
        if (renamed++ == 0)
            (void)snprintf(ret, RECORD_LABEL_BYTES, "%s", other);
    }
    return renamed;
}

int record_labels_tell_apart(const char *text, size_t len, char **ret_text, size_t *ret_len,
                             char ret_key[RECORD_LABEL_BYTES])
{
    struct pairs p;
    *ret_text = NULL;
    if (!find_pairs(text, len, &p) || rename_pairs(&p, ret_key) == 0)
        return SNAP_ENOENT;
    FILE *f = open_memstream(ret_text, ret_len);
    if (f == NULL)
        return SNAP_ENOMEM;
    (void)fwrite(text, 1, (size_t)(p.begin - text), f);
    for (unsigned i = 0; i < p.count; i++)
        (void)fprintf(f, "%s\"%s\": %.*s", i > 0 ? ", " : "", p.all[i].key, (int)p.all[i].value_len,
                      p.all[i].value);
    (void)fwrite(p.end, 1, (size_t)(text + len - p.end), f);
    const bool bad = ferror(f) != 0;
    if (fclose(f) == 0 && !bad)
        return 0;
    free(*ret_text);
    *ret_text = NULL;
    return SNAP_ENOMEM;
}
