/* manifest: what an artefact (image, kernel, modules, initrd) consists of.
 *
 * An artefact is a file cut into chunks of 256 KiB (the last may be shorter).
 * Its manifest lists the SHA-256 of each chunk; a chunk of zeroes only is a
 * hole, has the all-zero hash, and is never stored nor sent.  The artefact's id
 * is the SHA-256 of the manifest, so equal content has an equal id everywhere.
 *
 *   offset  bytes  field (big-endian)
 *   0       4      magic "UMLM"
 *   4       4      version, 1
 *   8       8      size of the file, 1 .. MANIFEST_SIZE_MAX
 *   16      4      chunk size, 262144
 *   20      4      count of chunks, size / chunk size rounded up
 *   24      32*n   hashes
 *
 * There is one encoding of a content only: anything else is refused.
 * Values never change once made, and may be read from any thread.
 */
#ifndef UMLAUT_IMAGE_MANIFEST_H
#define UMLAUT_IMAGE_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/loop.h"

#define MANIFEST_HASH 32
#define MANIFEST_TEXT (2 * MANIFEST_HASH + 1) /* an id in hex, with the NUL */
#define MANIFEST_CHUNK (256u << 10)
#define MANIFEST_HEADER 24u
/* So that a manifest fits into one message (lib/wire.h). */
#define MANIFEST_COUNT_MAX 491520u
#define MANIFEST_SIZE_MAX ((uint64_t)MANIFEST_COUNT_MAX * MANIFEST_CHUNK) /* 120 GiB */
#define MANIFEST_BYTES_MAX (MANIFEST_HEADER + (size_t)MANIFEST_COUNT_MAX * MANIFEST_HASH)

struct manifest {
	uint8_t id[MANIFEST_HASH];
	uint64_t size; /* of the artefact */
	uint32_t count;
	uint8_t *bytes; /* encoded */
	size_t bytes_size;
};

/* Decodes and checks; copies DATA.  -EBADMSG with what is wrong. */
int manifest_parse(const void *data, size_t size, struct manifest **out, struct err *err);
struct manifest *manifest_clone(const struct manifest *m); /* NULL when memory is short */
void manifest_free(struct manifest *m);

const uint8_t *manifest_hash(const struct manifest *m, uint32_t index);
bool manifest_is_hole(const struct manifest *m, uint32_t index);
/* MANIFEST_CHUNK but for the last. */
uint32_t manifest_chunk_size(const struct manifest *m, uint32_t index);
/* Bytes in chunks that are no holes. */
uint64_t manifest_data_size(const struct manifest *m);
/* Does DATA belong at INDEX?  -EBADMSG otherwise. */
int manifest_check_chunk(
	const struct manifest *m, uint32_t index, const void *data, size_t size, struct err *err);

/* The id in hex, and back ("sha256:HEX" too). */
void manifest_id_text(char out[MANIFEST_TEXT], const uint8_t id[MANIFEST_HASH]);
int manifest_id_parse(const char *text, uint8_t id[MANIFEST_HASH], struct err *err);
void manifest_sha256(const void *data, size_t size, uint8_t out[MANIFEST_HASH]);

/* Reads the regular file FD and makes its manifest.  Skips holes by SEEK_DATA.
 * Blocking: for the pool or a tool.  PROGRESS (may be NULL) runs after each
 * chunk in the same thread; not 0 ends with -ECANCELED. */
typedef int manifest_progress_fn(void *arg, uint64_t done, uint64_t total);
int manifest_build(
	int fd, manifest_progress_fn *progress, void *arg, struct manifest **out, struct err *err);

/* The same for PATH in the loop's pool.  FN runs once on the loop; M is its to
 * keep (NULL when ERR is set). */
typedef void manifest_fn(void *arg, struct manifest *m, const struct err *err);
int manifest_start(
	struct loop *loop, const char *path, manifest_fn *fn, void *arg, struct err *err);

#endif
