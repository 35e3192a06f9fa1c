/* busybox: the default image: a whole small Linux user space from one static
 * program, on ext4.
 *
 * /bin/busybox and a link for each of its applets; /etc with root, the usual system
 * users, services and protocols; busybox init, which runs /etc/init.d/rcS and then
 * /etc/init.d/S*, and gives a root shell on the console without a login.  Nothing is
 * asked of the network: umlaut-init has configured it.  Works with any init: auto,
 * image, umlaut.
 */
#ifndef UMLAUT_GUEST_IMAGE_BUSYBOX_H
#define UMLAUT_GUEST_IMAGE_BUSYBOX_H

#include <stdint.h>

#include "lib/err.h"

#define BUSYBOX_PROGRAM "/bin/busybox"
#define BUSYBOX_SIZE (64u << 20)

/* PROGRAM: a static busybox, NULL: BUSYBOX_PROGRAM.  SIZE in bytes, 0: BUSYBOX_SIZE.
 * OUT is replaced.  Under a second, without root. */
int busybox_build(const char *program, uint64_t size, const char *out, struct err *err);

/* The tree alone, into an existing empty folder. */
int busybox_tree(const char *program, const char *path, struct err *err);

#endif
