/* cow: User-Mode Linux's copy-on-write disk files.
 *
 * A COW file holds the blocks of a disk that differ from a read-only backing
 * file: header, bitmap (one bit per block, least significant bit first, 1: the
 * block is in this file), data (a block lies at data_offset + its offset on the
 * disk, so the file is sparse and as long as the disk).  The disk has exactly
 * the backing file's size; a larger disk needs a larger backing file (a sparse
 * copy that was extended).
 *
 * Layouts (arch/um/drivers/cow_user.c of the kernel; cow_sizes() for the
 * offsets).  Offsets in bytes:
 *
 *   field         v1         v2           v3           v3 "broken" (64-bit, before 2006)
 *   byte order    host's     big-endian   big-endian   big-endian
 *   magic         0          0            0            0     "OOOM" (v1 of a little-endian
 *   version       4          4            4            4      host: "MOOO")
 *   mtime u32     264        4104         8            8 (4 bytes of padding follow)
 *   size u64      268        4108         12           16
 *   block u32     276        4116         20           24
 *   align u32     = block    = block      24           28
 *   format u32    -          -            28           32    always 0
 *   path          8, 256     8, 4096      32, 4096     36, 4096  NUL-terminated, garbage after
 *   header size   280        4120         4128         4136
 *   bitmap at     280        4120         header size rounded up to align (4096: 8192)
 *   bitmap size   floor((size + block - 1) / (8 * block))   ceil(ceil(size / block) / 8)
 *   data at       bitmap's end rounded up to align
 *
 * The short bitmap of v1 and v2 (a rounding bug) is real: blocks beyond it count
 * as not set.  The kernel itself works in blocks of 512 bytes whatever the header
 * says; it makes v3 with block 512 and align 4096, as cow_create() does.  When the
 * kernel opens a COW whose backing file has another size or mtime (whole seconds)
 * than the header says it refuses; when only the path on its command line differs,
 * it rewrites the header itself.
 *
 * Everything in a file is untrusted and checked.  Blocking; safe in any thread,
 * one thread at a time per `struct cow`.  Nothing is cached but the header, so a
 * file may be read while its guest writes to it (then of course the result is
 * no consistent disk; stop or flush the guest for that).
 */
#ifndef UMLAUT_GUEST_COW_H
#define UMLAUT_GUEST_COW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

#define COW_PATH_MAX 4096 /* with the NUL */
#define COW_BLOCK 512	  /* of files we make */
#define COW_ALIGN 4096
/* Limits of what is accepted; the kernel keeps offsets in a 32-bit int. */
#define COW_SIZE_MIN (64u * 1024)	     /* smaller ones trip over a kernel bug */
#define COW_SIZE_MAX (UINT64_C(1) << 42)     /* 4 TiB */
#define COW_OFFSET_MAX ((uint64_t)INT32_MAX) /* of bitmap and data */
#define COW_HEADER_MAX 4136		     /* bytes cow_parse() wants to see */

struct cow_info {
	uint32_t version; /* 1, 2 or 3 */
	bool padded;	  /* v3 in the "broken" layout */
	uint32_t mtime;	  /* of the backing file, seconds since 1970 */
	uint64_t size;	  /* of the disk and of the backing file, bytes */
	uint32_t block;	  /* bytes a bit stands for: a power of two, 512 .. 1 MiB */
	uint32_t align;	  /* a power of two, 512 .. 1 MiB; v1, v2: = block */
	uint64_t bitmap_offset, bitmap_size, data_offset;
	char backing[COW_PATH_MAX];
};

/* Decodes and checks a header.  DATA: the first SIZE bytes of a file of FILE_SIZE
 * bytes (at least COW_HEADER_MAX of them, or the whole file).  Pure.
 * -EBADMSG: no COW file (no magic); -EPROTO: one that breaks the rules. */
int cow_parse(
	const void *data, size_t size, uint64_t file_size, struct cow_info *out, struct err *err);

struct cow_spec {
	const char *backing; /* absolute path, as the guest's kernel will see it (in its jail) */
	uint64_t size;	     /* the backing file's, a multiple of 512 */
	uint32_t mtime;	     /* the backing file's */
	mode_t mode;
	uid_t uid; /* owner of the new file; (uid_t)-1: the caller */
	gid_t gid;
};

/* Makes PATH (which must not exist), empty, durably: after a crash it is there
 * whole or not at all. */
int cow_create(const char *path, const struct cow_spec *spec, struct err *err);

struct cow;

/* Opens and checks.  WRITE for cow_write() and cow_rewrite_backing(): takes the
 * lock the kernel takes, -EBUSY while a guest has the file open. */
int cow_open(const char *path, bool write, struct cow **out, struct err *err);
void cow_close(struct cow *cow); /* NULL is fine */
const struct cow_info *cow_info(const struct cow *cow);
int cow_fd(const struct cow *cow); /* borrowed */

/* Does the open file BASE_FD fit as the backing file: a regular file of the size
 * and mtime the header says?  -ESTALE with what differs otherwise. */
int cow_check_backing(const struct cow *cow, int base_fd, struct err *err);

/* The whole check: header, file length, and that no bit stands for a block past
 * the end of the disk.  cow_open() has done all but the last. */
int cow_check(struct cow *cow, struct err *err);

/* Changes the backing file's path and mtime in the header of a v3 file, durably
 * (-EOPNOTSUPP for older layouts). */
int cow_rewrite_backing(struct cow *cow, const char *backing, uint32_t mtime, struct err *err);

/* A run of set blocks of the disk.  HOLE: the file has no data there, so all of
 * it reads as zeroes. */
struct cow_extent {
	uint64_t offset, size; /* on the disk, bytes; whole blocks but at the disk's end */
	bool hole;
};

/* Calls FN for each extent with offset in [FROM, TO), in ascending order, until
 * it returns not 0 (which is returned).  Work is proportional to the allocated
 * part of bitmap and data, not to the size of the disk. */
typedef int cow_extent_fn(void *arg, const struct cow_extent *extent);
int cow_map(
	struct cow *cow, uint64_t from, uint64_t to, cow_extent_fn *fn, void *arg, struct err *err);

struct cow_count {
	uint64_t set_bytes;  /* in set blocks */
	uint64_t data_bytes; /* of those, not in holes: what a move must send */
	uint64_t extents;
};
int cow_count(struct cow *cow, struct cow_count *out, struct err *err);

/* Is the block at disk offset OFFSET set?  1, 0 or negative errno. */
int cow_is_set(struct cow *cow, uint64_t offset, struct err *err);

/* Reads SIZE bytes of the disk: from the file where set, from BASE_FD elsewhere
 * (-1: zeroes; bytes past the end of the backing file are zeroes). */
int cow_read(
	struct cow *cow, int base_fd, uint64_t offset, void *data, size_t size, struct err *err);

/* Writes whole blocks and sets their bits, data first (not durable until fsync of
 * cow_fd()).  For receiving a moved disk.  -EOPNOTSUPP when no bit could say so
 * (end of a v1, v2 disk). */
int cow_write(struct cow *cow, uint64_t offset, const void *data, size_t size, struct err *err);

/* The same for zeroes: a hole in the file where the file system has them, which reads
 * as zeroes because the bits are set. */
int cow_zero(struct cow *cow, uint64_t offset, size_t size, struct err *err);

/* The disk as one raw file: BASE_FD with the set blocks over it, sparse, into
 * OUT_FD (an empty regular file, becomes the disk's size; not synced).
 * DATA_BYTES (may be NULL): bytes written. */
int cow_merge(struct cow *cow, int base_fd, int out_fd, uint64_t *data_bytes, struct err *err);

#endif
