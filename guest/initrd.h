/* initrd: the initial RAM disk in front of every guest's root image: umlaut-init as
 * /init and the few nodes and folders it needs, as an uncompressed cpio archive of
 * the "newc" format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
 *
 * The same program gives the same bytes.  The agent makes it once at its start and
 * hands its path to every runner; a file is named by its content, so that one that a
 * running guest was booted from (and may restart from) never changes under it.
 * Blocking: a few milliseconds.
 */
#ifndef UMLAUT_GUEST_INITRD_H
#define UMLAUT_GUEST_INITRD_H

#include <stddef.h>

#include "lib/buf.h"
#include "lib/err.h"

/* Appends the archive with INIT (size bytes) as /init to OUT. */
int initrd_archive(const void *init, size_t size, struct buf *out, struct err *err);

/* Makes DIR/initrd-HASH (HASH: 16 hex digits of the archive's SHA-256; mode 0644)
 * from the program at INIT, a static executable, unless it is there.  PATH of SIZE
 * bytes gets its path. */
int initrd_make(const char *init, const char *dir, char *path, size_t size, struct err *err);

#endif
