/* boot: from the kernel's first process to the image's init, in this order, which
 * lets a guest be saved and cloned at the point where it waits:
 *
 *   step      what                                             touches
 *   (start)   /proc, /sys, /dev in the initramfs; the line     nothing of the guest's own
 *   (wait)    GuestHello sent; GuestConfig awaited             nothing
 *   config    checked; clock, random pool                      the kernel's state
 *   root      root mounted and made "/", the initramfs freed   disks
 *   network   devices, addresses, routes                       network devices
 *   files     host name, hosts, files                          the root file system
 *   init      the image's init is process 1, or we stay it
 *
 * Each step is reported as GuestProgress.  A failure up to "init" is final: it is
 * reported and the guest powers off (boot_fail).
 */
#ifndef UMLAUT_GUEST_INIT_BOOT_H
#define UMLAUT_GUEST_INIT_BOOT_H

#include <stdbool.h>

#include "guest/init/hosts.h"
#include "guest/init/line.h"
#include "lib/err.h"

struct boot {
	uint64_t started_us; /* of the kernel's clock, at our first instructions */
	struct line line;
	Um__GuestConfig *config;
	struct hosts hosts;
	const char *step; /* under way, for messages */
	bool pid1;	  /* we stay process 1 */
};

/* File systems of the initramfs and the line. */
int boot_early(struct boot *boot, struct err *err);
/* GuestHello, then the whole GuestConfig. -ECANCELED: asked to shut down instead. */
int boot_await_config(struct boot *boot, struct err *err);
/* config to files. */
int boot_apply(struct boot *boot, struct err *err);
/* Returns in the process that is the agent; the image's init, if any, has begun. */
int boot_handover(struct boot *boot, struct err *err);
/* Reports ERR and powers off. */
void boot_fail(struct boot *boot, const struct err *err) __attribute__((noreturn));

#endif
