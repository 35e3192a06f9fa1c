/* files: what the configuration puts into the root file system: the given files,
 * host name, machine id, and the managed block of /etc/hosts.
 *
 * Used once the root is "/", so the image's symbolic links cannot lead out of it.
 * Each file is replaced at once (temporary file and rename), never half written.
 */
#ifndef UMLAUT_GUEST_INIT_FILES_H
#define UMLAUT_GUEST_INIT_FILES_H

#include <stddef.h>
#include <sys/types.h>

#include "lib/err.h"
#include "proto/umlaut.pb-c.h"

int files_write(const char *path, const void *data, size_t size, mode_t mode, uid_t uid, gid_t gid,
	struct err *err);
/* All of config->files. */
int files_apply(const Um__GuestConfig *config, struct err *err);
/* sethostname(), /etc/hostname, /etc/machine-id where the image has one. */
int files_identity(const Um__GuestConfig *config, struct err *err);

#endif
