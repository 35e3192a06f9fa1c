/* serve: answers ManifestGet and ChunkGet of peers from a store.
 *
 * Reading and compressing (zstd, when it makes a chunk smaller) happen in the
 * loop's pool.  At most IMGSERVE_PEER_MAX requests of a peer and IMGSERVE_MAX in
 * all are under way: more are refused with UNAVAILABLE, so a peer cannot eat our
 * memory.  An answer that a peer's queue has no room for is dropped: the peer's
 * timeout mends it.
 */
#ifndef UMLAUT_IMAGE_SERVE_H
#define UMLAUT_IMAGE_SERVE_H

#include "image/store.h"
#include "lib/zsock.h"

#define IMGSERVE_PEER_MAX 64
#define IMGSERVE_MAX 512

struct imgserve;

struct imgserve_stats {
	uint64_t manifests, chunks, bytes, refused; /* bytes as sent */
};

int imgserve_new(struct loop *loop, struct imgstore *store, struct imgserve **out, struct err *err);
/* True when ENV is one of its requests: the answer goes, now or later, to PEER on
 * SOCK (a ROUTER). */
bool imgserve_message(struct imgserve *serve, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env);
const struct imgserve_stats *imgserve_stats(const struct imgserve *serve);
/* No answer is sent any more: call it before SOCK is closed. */
void imgserve_free(struct imgserve *serve);

/* The answer to a ChunkGet: ENV's body becomes a ChunkData for these bytes, in
 * BULK either as they are or compressed.  Also the sending side of an upload.
 * Blocking.  BULK must hold MANIFEST_CHUNK bytes; returns the bytes used. */
size_t imgserve_pack(const void *data, size_t size, void *bulk, bool *zstd);
/* And back: checks the sizes, decompresses into OUT (MANIFEST_CHUNK bytes).
 * Returns the size, -EBADMSG. */
int imgserve_unpack(
	const Um__ChunkData *head, const void *bulk, size_t bulk_size, void *out, struct err *err);

#endif
