/* SPDX-License-Identifier: Apache-2.0 */
/* One line of progress on a terminal's stderr, from the second second on. It is cut where the
 * terminal ends: of one that takes two lines the next one wipes only the second. */
#include "client/snapctl/cli.h"
#include "common/base/clock.h"
#include "common/base/size.h"

#include <inttypes.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define QUIET_NS UINT64_C(2000000000)
#define REFRESH_NS UINT64_C(200000000)

void progress_start(struct progress *p, const struct cli *cli, const char *what, uint64_t total)
{
    *p = (struct progress){
        .what = what,
        .total = total,
        .on = !cli->quiet && isatty(STDERR_FILENO),
        .start_ns = clock_now_ns(clock_system()),
    };
}

static void amount(const struct progress *p, uint64_t n, char *buf, size_t buf_bytes)
{
    if (p->unit == PROGRESS_BYTES)
        (void)size_format(n, buf, buf_bytes);
    else
        (void)snprintf(buf, buf_bytes, "%" PRIu64, n);
}

static void show(const char *text)
{
    struct winsize size;
    int room =
        ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col - 1 : INT_MAX;
    (void)fprintf(stderr, "\r\033[K%.*s", room, text);
    (void)fflush(stderr);
}

void progress_add(struct progress *p, uint64_t done)
{
    p->done += done;
    if (!p->on)
        return;
    uint64_t now = clock_now_ns(clock_system());
    if (now - p->start_ns < QUIET_NS || now - p->shown_ns < REFRESH_NS)
        return;
    p->shown_ns = now;
    uint64_t elapsed_ms = (now - p->start_ns) / 1000000;
    char has[24], all[24], rate[24], text[160];
    amount(p, p->done, has, sizeof has);
    amount(p, p->total, all, sizeof all);
    amount(p, p->done * 1000 / elapsed_ms, rate, sizeof rate);
    if (p->total == 0 || p->done > p->total) {
        (void)snprintf(text, sizeof text, "%s: %s, %s/s", p->what, has, rate);
    } else {
        uint64_t left_s = p->done ? (p->total - p->done) * elapsed_ms / p->done / 1000 : 0;
        (void)snprintf(text, sizeof text, "%s: %s of %s, %u%%, %s/s, %" PRIu64 ":%02u left",
                       p->what, has, all, (unsigned)((double)p->done * 100 / (double)p->total),
                       rate, left_s / 60, (unsigned)(left_s % 60));
    }
    show(text);
}

void progress_end(struct progress *p)
{
    if (p->on && p->shown_ns != 0)
        (void)fputs("\r\033[K", stderr);
    p->on = false;
}
