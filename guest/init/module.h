/* module: loads kernel modules of the guest's kernel from /lib/modules/RELEASE,
 * with what they need, by modules.dep (depmod(8)).  Enough for what the network's
 * configuration needs; everything else is the image's modprobe. */
#ifndef UMLAUT_GUEST_INIT_MODULE_H
#define UMLAUT_GUEST_INIT_MODULE_H

#include "lib/err.h"

/* NAME as in "ipv6".  0 also when it is loaded already.  -ENOENT: there is none. */
int module_load(const char *name, struct err *err);

#endif
