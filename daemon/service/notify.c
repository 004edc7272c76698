/* SPDX-License-Identifier: Apache-2.0 */
/* systemd readiness, in one place. */
#include "daemon/service/notify.h"

#include "common/base/clock.h"

#include <systemd/sd-daemon.h>

void notify_ready(void)
{
    (void)sd_notify(0, "READY=1");
}

/* Type=notify-reload wants the moment at which the reload began. */
void notify_reloading(void)
{
    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
                     (unsigned long long)(clock_now_ns(clock_system()) / 1000));
}

void notify_stopping(void)
{
    (void)sd_notify(0, "STOPPING=1");
}
