/* SPDX-License-Identifier: Apache-2.0 */
/* Run a fuzz target over files and folders of files, without libFuzzer.
 *
 * usage: fuzz_X PATH...
 *
 * What crashed once stays in the corpus and is run by every `make check`. */
#include "common/base/file.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { INPUT_BYTES_MAX = 16 * 1024 * 1024, PATH_BYTES = 4096 };

static unsigned runs;

static int run_file(const char *path)
{
    char *text;
    size_t len;
    struct err e = ERR_INIT;
    if (file_read_all(path, INPUT_BYTES_MAX, &text, &len, &e) < 0) {
        (void)fprintf(stderr, "%s: %s\n", path, e.text);
        return -1;
    }
    /* exactly as long as the input, so that a read behind its end is seen */
    uint8_t *data = malloc(len > 0 ? len : 1);
    if (data == NULL) {
        free(text);
        return -1;
    }
    memcpy(data, text, len);
    free(text);
    (void)LLVMFuzzerTestOneInput(data, len);
    free(data);
    runs++;
    return 0;
}

static int run_folder(const char *path)
{
    char file[PATH_BYTES];
    DIR *dir = opendir(path);
    const struct dirent *entry;
    int r = 0;
    if (dir == NULL) {
        perror(path);
        return -1;
    }
    while (r == 0 && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        if (snprintf(file, sizeof file, "%s/%s", path, entry->d_name) >= (int)sizeof file)
            r = -1;
        else
            r = run_file(file);
    }
    (void)closedir(dir);
    return r;
}

int main(int argc, char **argv)
{
    struct stat st;
    for (int i = 1; i < argc; i++) {
        if (stat(argv[i], &st) < 0) {
            perror(argv[i]);
            return 1;
        }
        if ((S_ISDIR(st.st_mode) ? run_folder(argv[i]) : run_file(argv[i])) < 0)
            return 1;
    }
    (void)printf("  ok      %s (%u inputs)\n", argv[0], runs);
    return runs > 0 ? 0 : 1;
}
