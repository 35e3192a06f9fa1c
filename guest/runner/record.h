/* record: what a runner keeps in its guest's folder.
 *
 * exit.pb is durable before anybody is told (fs_write_atomic).  hosts.log holds
 * the HostsUpdates that came since the start, as frames for the guest's line, so
 * that a guest that reboots gets them after its configuration; it need not
 * outlive the runner and is not synced.
 */
#ifndef UMLAUT_GUEST_RUNNER_RECORD_H
#define UMLAUT_GUEST_RUNNER_RECORD_H

#include "lib/wire.h"

#define RECORD_HOSTS_MAX (8u << 20) /* bytes of hosts.log */

/* runner.pb; caller: um__runner_spec__free_unpacked(). */
int record_spec(const char *dir, Um__RunnerSpec **out, struct err *err);
int record_exit(const char *dir, const Um__RunnerStatus *status, struct err *err);

/* Appends FRAMES; FULL: they replace what is there.  -EFBIG over the limit. */
int record_hosts(const char *dir, const struct buf *frames, bool full, struct err *err);
/* Appends what was recorded to OUT. */
int record_hosts_read(const char *dir, struct buf *out, struct err *err);
void record_hosts_clear(const char *dir);

/* NAME of DIR is gone. */
void record_remove(const char *dir, const char *name);

#endif
