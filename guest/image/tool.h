/* tool: runs one external program to its end (mke2fs, debugfs, tar, depmod), without
 * a shell.  Blocking: for commands and the thread pool, not for an event loop.
 *
 * Output is kept quiet; the last line that the program wrote on standard error
 * becomes the message of a failure.
 */
#ifndef UMLAUT_GUEST_IMAGE_TOOL_H
#define UMLAUT_GUEST_IMAGE_TOOL_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"

struct tool {
	/* argv[0] is searched in PATH and in the sbin folders. */
	const char *const *argv;
	/* "A=b" entries added to PATH and LC_ALL=C; NULL: none. */
	const char *const *env;
	const char *input; /* text on standard input, or NULL */
	/* In a user namespace where the caller is root, unless it is root already:
	 * the files it owns are root's for the program. */
	bool as_root;
};

/* -ENOENT: there is no such program (the message names the Debian package of those
 * used here); -EIO: it ended with another status than 0. */
int tool_run(const struct tool *tool, struct err *err);
/* The program's path; -ENOENT. */
int tool_find(const char *name, char *path, size_t size, struct err *err);

#endif
