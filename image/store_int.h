/* Inside of the store: what the store_*.c share. */
#ifndef UMLAUT_IMAGE_STORE_INT_H
#define UMLAUT_IMAGE_STORE_INT_H

#include <pthread.h>
#include <sys/types.h>
#include <time.h>

#include "image/store.h"

/* uthash expands to code that is not ours to keep clean. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#include <uthash.h>
#pragma GCC diagnostic pop

#define PARTIAL "partial"
#define TRASH ".trash-"

struct artefact {
	uint8_t id[MANIFEST_HASH];
	struct manifest *m;
	uint64_t data_size;
	uint32_t slot; /* in chunkindex */
	uint32_t holds;
	UT_hash_handle hh;
};

/* Which whole artefacts have a chunk: open addressing; every occurrence has an
 * entry.  Slots name artefacts and are not used again before a rebuild, so that
 * the entries of a removed one simply lead nowhere. */
struct chunkindex {
	struct chunkindex_entry {
		uint32_t key;  /* first bytes of the hash */
		uint32_t slot; /* + 1; 0: empty */
		uint32_t chunk;
	} * entries;
	size_t capacity, used;
	struct artefact **slots; /* NULL: removed */
	size_t slot_count, slot_capacity;
};

/* A file that was read whole and found good, and has not been changed since. */
struct known_file {
	dev_t dev;
	ino_t inode;
	off_t size;
	struct timespec ctime;
	time_t at;
};
#define IMGSTORE_KNOWN 32 /* the newest */

struct imgstore {
	char dir[PATH_MAX - 128]; /* room for what is appended */
	int lock_fd;
	pthread_mutex_t lock;	    /* everything below; never held over I/O but rename */
	pthread_mutex_t sized_lock; /* one file is made longer at a time */
	struct known_file known[IMGSTORE_KNOWN];
	size_t known_next;
	struct artefact *all;
	struct chunkindex index;
	struct imgstore_transfer *transfers;
	uint32_t damaged;
	uint64_t trash; /* for unique names */
};

struct imgstore_transfer {
	struct imgstore *store;
	uint8_t id[MANIFEST_HASH];
	struct manifest *m;
	char path[PATH_MAX - 64];
	pthread_mutex_t busy; /* opening, committing */
	bool ready;	      /* opened; else it failed */
	bool whole;	      /* committed */
	int data_fd, have_fd;
	/* Under `lock` of the store: */
	unsigned refs;
	bool abort;
	uint8_t *have;	 /* bit per chunk, holes are set */
	uint32_t *twins; /* next chunk with the same content; 0: none */
	uint8_t *second; /* bit: a chunk that comes with an earlier twin */
	uint32_t missing;
	uint64_t have_bytes;
	UT_hash_handle hh;
};

/* store.c */
/* `data`, to be read. */
int imgstore_open_data(
	const struct imgstore *store, const uint8_t id[MANIFEST_HASH], struct err *err);
struct artefact *imgstore_find(struct imgstore *store, const uint8_t id[MANIFEST_HASH]);
/* Takes M.  Locked by the caller. */
int imgstore_enter(struct imgstore *store, struct manifest *m, struct err *err);
int imgstore_id_path(const struct imgstore *store, const uint8_t id[MANIFEST_HASH], bool partial,
	const char *name, char path[PATH_MAX], struct err *err);
/* Renames PATH into the trash (locked by the caller), and the second half: removes
 * it (not locked).  TRASH_PATH: PATH_MAX bytes. */
int imgstore_trash(struct imgstore *store, const char *path, char *trash_path, struct err *err);

/* store_transfer.c */
size_t transfer_have_size(const struct manifest *m);
void transfer_free(struct imgstore_transfer *t);
/* Counts anew from `have`; holes are there. */
void transfer_count(struct imgstore_transfer *t);
/* Notes chunk I as there.  Locked by the caller. */
void transfer_note(struct imgstore_transfer *t, uint32_t i);

/* store_index.c */
int chunkindex_add(struct chunkindex *ix, struct artefact *a, struct err *err);
void chunkindex_remove(struct chunkindex *ix, const struct artefact *a);
/* An artefact with a chunk of this hash and size, and where. */
struct artefact *chunkindex_find(const struct chunkindex *ix, const uint8_t hash[MANIFEST_HASH],
	uint32_t size, uint32_t *chunk);
void chunkindex_free(struct chunkindex *ix);

/* store_file.c: blocking file work. */
int imgfile_read_at(int fd, void *data, size_t size, uint64_t offset, struct err *err);
int imgfile_write_at(int fd, const void *data, size_t size, uint64_t offset, struct err *err);
/* SIZE bytes from IN at FROM to OUT at TO: by reflink, in the kernel, or by hand. */
int imgfile_copy(int in, uint64_t from, int out, uint64_t to, uint64_t size, struct err *err);
/* The same for a whole sparse file; OUT is empty. */
int imgfile_copy_sparse(int in, int out, uint64_t size, struct err *err);
/* Mode, fixed mtime, fsync. */
int imgfile_seal(int fd, struct err *err);

static inline bool bit_get(const uint8_t *bits, uint32_t i)
{
	return bits[i / 8] & (1u << (i % 8));
}

static inline void bit_set(uint8_t *bits, uint32_t i)
{
	bits[i / 8] = (uint8_t)(bits[i / 8] | (1u << (i % 8)));
}

static inline void bit_clear(uint8_t *bits, uint32_t i)
{
	bits[i / 8] = (uint8_t)(bits[i / 8] & ~(1u << (i % 8)));
}

#endif
