/* tar: POSIX ustar and pax archives (IEEE Std 1003.1, pax), as a writer of entries
 * and a push parser with bounded memory.  GNU long names ('L', 'K') and base-256
 * numbers are read too; sparse and multi-volume members are refused.
 * Pure but for malloc.
 */
#ifndef UMLAUT_LIB_TAR_H
#define UMLAUT_LIB_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/buf.h"
#include "lib/err.h"

#define TAR_BLOCK 512u
#define TAR_PATH_MAX 4096u	/* with its NUL */
#define TAR_EXT_MAX (64u << 10) /* one pax header or long name */

enum tar_type {
	TAR_FILE = '0',
	TAR_HARDLINK = '1',
	TAR_SYMLINK = '2',
	TAR_CHAR = '3',
	TAR_BLOCKDEV = '4',
	TAR_DIR = '5',
	TAR_FIFO = '6',
};

struct tar_entry {
	enum tar_type type;
	char path[TAR_PATH_MAX]; /* as in the archive, trailing slashes removed */
	char link[TAR_PATH_MAX];
	uint32_t mode, uid, gid;
	uint64_t size; /* 0 unless TAR_FILE */
	int64_t mtime; /* seconds */
};

/* Appends the header block(s) of ENTRY; the caller appends its content and
 * tar_padding() zeros. */
void tar_header(struct buf *out, const struct tar_entry *entry);
size_t tar_padding(uint64_t size);
/* Appends the end of an archive. */
void tar_end(struct buf *out);

struct tar_ops {
	/* A new entry; then `data` until its size is reached, then `done`.  Negative
	 * returns stop the parser with that error. */
	int (*entry)(void *arg, const struct tar_entry *entry, struct err *err);
	int (*data)(void *arg, const uint8_t *data, size_t size, struct err *err);
	int (*done)(void *arg, struct err *err);
};

struct tar_reader {
	const struct tar_ops *ops;
	void *arg;
	struct tar_entry entry;
	uint8_t block[TAR_BLOCK];
	size_t have; /* bytes in block */
	struct buf ext;
	char ext_type; /* 0: the member's own content is being read */
	uint64_t left; /* content bytes to come */
	size_t pad;    /* padding bytes to come */
	bool has_path, has_link, has_size, has_mtime, has_uid, has_gid; /* set by an extension */
	bool ended; /* the end marker came: the rest is ignored */
	bool in_member;
};

void tar_reader_init(struct tar_reader *r, const struct tar_ops *ops, void *arg);
void tar_reader_free(struct tar_reader *r);
int tar_reader_add(struct tar_reader *r, const uint8_t *data, size_t size, struct err *err);
/* The input is over: -EBADMSG when that is in the middle of a member. */
int tar_reader_finish(struct tar_reader *r, struct err *err);

#endif
