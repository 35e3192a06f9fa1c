/* store: artefacts on disk, content-addressed (functions imgstore_*: store_* is
 * the scheduler's key-value store).
 *
 *   <dir>/<hex id>/data       the whole artefact, sparse, read-only (0444; 0555
 *                             when it is an ELF binary), mtime 1 (1970-01-01T00:00:01Z)
 *   <dir>/<hex id>/manifest
 *   <dir>/<hex id>/data-SIZE  `data` made longer, see imgstore_sized()
 *   <dir>/partial/<hex id>/   a transfer under way: manifest, data, have (one bit
 *                             per chunk, LSB first; no `have`: every chunk is
 *                             claimed)
 *
 * A folder with an id as its name is whole: it gets there by rename(2) after its
 * content was verified and synced.  `have` may say too much after a crash; the
 * commit verifies everything and forgets what is bad.
 *
 * Life of an artefact:
 *   state     meaning                          left by
 *   (none)    unknown                          imgstore_begin() -> partial
 *   partial   some chunks are there; resumed   imgstore_commit() -> whole
 *             by the next imgstore_begin()     imgstore_abort() -> (none)
 *   whole     readable, shared                 imgstore_remove() -> (none); -EBUSY while held
 *
 * Chunks that any whole artefact has are copied from there (shared by FICLONERANGE
 * where the file system can), and so never sent again.
 *
 * Thread-safe: every function may be called from any thread.  Those marked
 * "blocking" do disk I/O or hashing: call them in the loop's pool.
 */
#ifndef UMLAUT_IMAGE_STORE_H
#define UMLAUT_IMAGE_STORE_H

#include <limits.h>

#include "image/manifest.h"

#define IMGSTORE_MTIME 1 /* seconds since 1970, of every `data` */

struct imgstore;
struct imgstore_transfer;

/* Makes DIR if need be, finds what is whole (size, mtime and manifest are
 * checked, content is not; what fails is put back among the partial ones).
 * Blocking, proportional to the manifests.  One program per DIR: takes a lock,
 * -EBUSY when another has it. */
int imgstore_open(const char *dir, struct imgstore **out, struct err *err);
void imgstore_close(struct imgstore *store); /* all transfers must be closed */

/* How many artefacts the scan put aside as damaged. */
uint32_t imgstore_damaged(const struct imgstore *store);

bool imgstore_has(struct imgstore *store, const uint8_t id[MANIFEST_HASH]);
/* Path of `data`.  -ENOENT. */
int imgstore_path(struct imgstore *store, const uint8_t id[MANIFEST_HASH], char path[PATH_MAX],
	struct err *err);
/* A copy of the manifest.  -ENOENT. */
int imgstore_manifest(struct imgstore *store, const uint8_t id[MANIFEST_HASH],
	struct manifest **out, struct err *err);

struct imgstore_info {
	uint8_t id[MANIFEST_HASH];
	uint64_t size;	    /* apparent */
	uint64_t data_size; /* in chunks that are no holes */
	uint32_t holds;
};
int imgstore_info(struct imgstore *store, const uint8_t id[MANIFEST_HASH],
	struct imgstore_info *out, struct err *err);
/* Calls FN for each whole artefact (on a copy of the list), until it returns not
 * 0, which is returned. */
typedef int imgstore_each_fn(void *arg, const struct imgstore_info *info);
int imgstore_each(struct imgstore *store, imgstore_each_fn *fn, void *arg, struct err *err);

struct imgstore_total {
	uint32_t artefacts, partials;
	uint64_t size, data_size;	/* sums over whole artefacts */
	uint64_t disk_bytes, disk_free; /* of the file system */
};
int imgstore_total(struct imgstore *store, struct imgstore_total *out, struct err *err);

/* Reference counts: while held, an artefact cannot be removed.  Not kept over a
 * restart: the owner of the references holds again at its start.  -ENOENT. */
int imgstore_hold(struct imgstore *store, const uint8_t id[MANIFEST_HASH], struct err *err);
void imgstore_drop(struct imgstore *store, const uint8_t id[MANIFEST_HASH]);

/* Removes a whole artefact, and a partial one of that id that is not open.
 * -EBUSY while held or open; success when there is none.  Blocking. */
int imgstore_remove(struct imgstore *store, const uint8_t id[MANIFEST_HASH], struct err *err);
/* Removes partial ones that nobody has open and that were last written more than
 * AGE_S seconds ago.  Blocking. */
int imgstore_sweep(struct imgstore *store, uint64_t age_s, struct err *err);

/* Reads a chunk of a whole artefact into DATA (MANIFEST_CHUNK bytes); returns its
 * size.  A hole reads as zeroes.  -ENOENT, -ERANGE.  Blocking. */
int imgstore_read(struct imgstore *store, const uint8_t id[MANIFEST_HASH], uint32_t index,
	void *data, struct err *err);
/* Hashes all of a whole artefact: 0, or -EBADMSG with the first bad chunk.
 * Blocking, long. */
int imgstore_check(struct imgstore *store, const uint8_t id[MANIFEST_HASH], struct err *err);
/* Path of the artefact made longer to SIZE bytes (a multiple of 512, at least the
 * artefact's own; zeroes follow): the backing file for a larger disk.  Made when
 * it is not there, sharing blocks where the file system can.  Blocking. */
int imgstore_sized(struct imgstore *store, const uint8_t id[MANIFEST_HASH], uint64_t size,
	char path[PATH_MAX], struct err *err);
/* Path of the file for a disk of SIZE bytes (at least the artefact's; 0: just that), after
 * reading all of it: the artefact, then zeroes.  One that was made longer and is not good is
 * made again.  What was found good within the last hour and has not been changed since is
 * not read again.  -EBADMSG: the artefact itself is damaged.  Blocking, long. */
int imgstore_checked(struct imgstore *store, const uint8_t id[MANIFEST_HASH], uint64_t size,
	char path[PATH_MAX], struct err *err);

/* ---------------------------------------------------------------- transfers */

/* Starts or resumes the transfer of M (copied).  Chunks found in whole artefacts
 * are copied at once.  -EEXIST: it is whole already; -ENOSPC: the missing chunks
 * do not fit, nothing was begun.  Several callers may have one transfer open: they
 * share it.  Blocking. */
int imgstore_begin(struct imgstore *store, const struct manifest *m, struct imgstore_transfer **out,
	struct err *err);
/* Resumes the transfer of ID when there is a partial one.  -ENOENT. Blocking. */
int imgstore_resume(struct imgstore *store, const uint8_t id[MANIFEST_HASH],
	struct imgstore_transfer **out, struct err *err);
const struct manifest *imgstore_transfer_manifest(const struct imgstore_transfer *t);
/* The first missing chunk at or after FROM; count when there is none. */
uint32_t imgstore_missing(struct imgstore_transfer *t, uint32_t from);
/* Chunks still missing, and bytes there (holes not counted). */
uint32_t imgstore_missing_count(struct imgstore_transfer *t);
uint64_t imgstore_have_bytes(struct imgstore_transfer *t);
/* Verifies and writes one chunk.  Success when it is there already.  -EBADMSG: not
 * what the manifest says; -ENOSPC: the disk is full, the chunk stays missing.
 * Blocking. */
int imgstore_put(struct imgstore_transfer *t, uint32_t index, const void *data, size_t size,
	struct err *err);
/* Verifies all, syncs, and makes it whole.  Success when another made it whole
 * meanwhile.  -ENODATA: chunks are missing; -EBADMSG: chunks were damaged and are
 * missing now (fetch them again).  The transfer is still to be closed.  Blocking. */
int imgstore_commit(struct imgstore_transfer *t, struct err *err);
/* Closes; what was received stays for a later resume. */
void imgstore_transfer_close(struct imgstore_transfer *t);
/* Closes and forgets what was received (once the last has closed it). */
void imgstore_abort(struct imgstore_transfer *t);

/* Puts the local file PATH into the store (manifest, copy, commit).  Success when
 * it is there already.  Blocking, long. */
int imgstore_add_file(
	struct imgstore *store, const char *path, uint8_t id[MANIFEST_HASH], struct err *err);

#endif
