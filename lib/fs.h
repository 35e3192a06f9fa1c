/* fs: files, done durably and with bounds.  Blocking: for start-up, the thread
 * pool and small local files. */
#ifndef UMLAUT_LIB_FS_H
#define UMLAUT_LIB_FS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/buf.h"
#include "lib/err.h"

/* Appends the whole of PATH to OUT; -EFBIG when larger than LIMIT bytes. */
int fs_read(const char *path, size_t limit, struct buf *out, struct err *err);
/* Writes PATH.tmp, fsyncs, renames over PATH, fsyncs the folder. */
int fs_write_atomic(const char *path, const void *data, size_t size, mode_t mode, struct err *err);
/* The same without fsync: whole or not there for as long as the machine runs; after a
 * power loss it may be empty. */
int fs_write_quick(const char *path, const void *data, size_t size, mode_t mode, struct err *err);
/* Several files of one folder, in this order, as fs_write_atomic() but with one fsync of
 * the folder for all.  After a failure the first ones may have been written. */
struct fs_file {
	const char *name;
	const void *data;
	size_t size;
};
int fs_write_files(
	const char *dir, const struct fs_file *files, size_t count, mode_t mode, struct err *err);
/* Creates PATH and its missing parents with MODE. */
int fs_mkdirs(const char *path, mode_t mode, struct err *err);
/* Removes a file or a whole tree, without following links or crossing mounts.
 * A missing path is success. */
int fs_remove_tree(const char *path, struct err *err);
int fs_sync_dir(const char *path, struct err *err);
/* "A/B" into BUF of PATH_MAX; -ENAMETOOLONG. */
int fs_join(char *buf, size_t size, const char *dir, const char *name, struct err *err);

#endif
