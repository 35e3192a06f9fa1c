/* ext4: makes an ext4 file system image from a folder, with mke2fs -d: no root, no
 * loop device, no mount.
 *
 * The same folder gives the same bytes: UUID, directory hash seed, block layout and
 * the times of creation are fixed, the system's mke2fs.conf is not used, and the
 * access and change times that mke2fs takes from the folder's files are set to
 * EXT4_TIME (with debugfs).  Modification times, modes, owners, links and extended
 * attributes are the folder's.  For an ordinary user the files it owns are root's in
 * the image (a user namespace), other owners become "nobody".
 *
 * The file is sparse; tables and journal are initialised, so that a guest writes
 * nothing for them at its first boot.  Blocking: seconds for hundreds of megabytes.
 */
#ifndef UMLAUT_GUEST_IMAGE_EXT4_H
#define UMLAUT_GUEST_IMAGE_EXT4_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

#define EXT4_TIME 1u /* seconds since the epoch */
#define EXT4_SIZE_MIN (8u << 20)

struct ext4_spec {
	const char *tree;
	const char *out;   /* replaced; removed again on failure */
	uint64_t size;	   /* multiple of 4096; 0: what the folder needs, and free space as below */
	uint64_t free;	   /* with size 0 */
	const char *label; /* at most 16 bytes */
	bool read_only;	   /* no journal, nothing reserved */
};

/* -ENOSPC: the folder does not fit into `size`. */
int ext4_build(const struct ext4_spec *spec, struct err *err);

#endif
