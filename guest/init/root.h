/* root: mounts the guest's root file system and makes it "/", as switch_root(8)
 * does: the initramfs is emptied (its memory is the guest's), the root moved over
 * it.  Then the mounts that every image expects, and the kernel's modules.
 */
#ifndef UMLAUT_GUEST_INIT_ROOT_H
#define UMLAUT_GUEST_INIT_ROOT_H

#include "lib/err.h"
#include "proto/umlaut.pb-c.h"

/* The caller's root and working folder are the guest's afterwards. */
int root_enter(const Um__GuestConfig *config, struct err *err);

#endif
