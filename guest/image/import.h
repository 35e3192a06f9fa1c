/* import: a root image from what a user has: a folder, a tar archive (also
 * compressed, as tar can read it), or a raw file system image.
 *
 *   source   becomes
 *   folder   ext4 with its content (ext4.h); an ordinary user's files become root's
 *   tar      unpacked into a temporary folder first; owners are kept when root does
 *            it, else all is root's; device nodes are left out when not root
 *   raw      copied as it is, holes kept
 */
#ifndef UMLAUT_GUEST_IMAGE_IMPORT_H
#define UMLAUT_GUEST_IMAGE_IMPORT_H

#include <stdint.h>

#include "lib/err.h"

#define IMPORT_FREE (64u << 20) /* free space in an image whose size is not given */

enum import_kind { IMPORT_FOLDER, IMPORT_TAR, IMPORT_RAW };

/* By what it is: a folder, a tar or compressed file by its first bytes, else raw. */
int import_kind(const char *from, enum import_kind *kind, struct err *err);

/* SIZE in bytes, 0: what is needed and IMPORT_FREE.  Not for raw.  OUT is replaced.
 * LABEL (may be NULL): the file system's, cut at 16 bytes.  Blocking. */
int import_image(
	const char *from, uint64_t size, const char *label, const char *out, struct err *err);

#endif
