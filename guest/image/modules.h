/* modules: a kernel's modules as a read-only ext4 image, which umlaut-init mounts at
 * /lib/modules/RELEASE of whatever root image the guest has.
 *
 * FOLDER: the release's folder itself, or one that contains it (/usr/lib/uml/modules,
 * /lib/modules).  modules.dep is made with depmod where it is missing.  The same
 * folder gives the same bytes.  Blocking: about a second for Debian's 100 MB.
 */
#ifndef UMLAUT_GUEST_IMAGE_MODULES_H
#define UMLAUT_GUEST_IMAGE_MODULES_H

#include "lib/err.h"

/* -ENOENT: FOLDER has no modules of RELEASE; the message names those it has. */
int modules_build(const char *folder, const char *release, const char *out, struct err *err);

#endif
