/* SPDX-License-Identifier: Apache-2.0 */
/* What the service manager is told. Without one these do nothing. */
#ifndef SNAP_SERVICE_NOTIFY_H
#define SNAP_SERVICE_NOTIFY_H

void notify_ready(void);
void notify_reloading(void);
void notify_stopping(void);

#endif
