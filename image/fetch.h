/* fetch: brings one artefact into a store, from a list of sources.
 *
 *   state     meaning                                       left by
 *   LOOK      is it there, or partly there? (pool)          partial: CHUNKS; whole: DONE; else
 * MANIFEST MANIFEST  ManifestGet asked of the source               -> BEGIN BEGIN     transfer
 * begun, local chunks copied (pool)    -> CHUNKS CHUNKS    up to IMGFETCH_WINDOW ChunkGet in flight
 * all in: COMMIT COMMIT    verified, synced, renamed (pool)              damaged: CHUNKS; else DONE
 *   DONE      on_done was called
 *
 * A source that does not answer, refuses, or sends a wrong chunk is left for the
 * next one; chunks that came stay.  After the last source on_done gets its error;
 * what was received stays for the next try.
 */
#ifndef UMLAUT_IMAGE_FETCH_H
#define UMLAUT_IMAGE_FETCH_H

#include "image/store.h"
#include "image/via.h"

#define IMGFETCH_WINDOW 8
#define IMGFETCH_TIMEOUT_MS 5000 /* for one answer */
#define IMGFETCH_SOURCES_MAX 16

struct imgfetch;

/* Either VIA, or ENDPOINT with the key of the ROUTER there. */
struct imgfetch_source {
	const struct imgvia *via;
	const char *endpoint;
	const uint8_t *pubkey; /* 32 bytes, NULL: no CURVE (ipc) */
};

struct imgfetch_config {
	struct loop *loop;
	struct imgstore *store;
	struct zctx *zctx;	       /* for endpoints */
	const struct curve_pair *keys; /* ours, for endpoints */
	uint8_t id[MANIFEST_HASH];
	uint64_t size;			       /* expected, 0: any */
	const struct imgfetch_source *sources; /* copied; what VIA points to is borrowed */
	size_t source_count;
	uint64_t timeout_ms; /* 0: IMGFETCH_TIMEOUT_MS */
};

struct imgfetch_ops {
	/* Bytes here of bytes in all (holes not counted).  May be NULL. */
	void (*on_progress)(void *arg, struct imgfetch *f, uint64_t done, uint64_t total);
	/* Once; ERR NULL: the artefact is whole in the store.  imgfetch_close() is safe
	 * inside. */
	void (*on_done)(void *arg, struct imgfetch *f, const struct err *err);
};

int imgfetch_start(const struct imgfetch_config *config, const struct imgfetch_ops *ops, void *arg,
	struct imgfetch **out, struct err *err);
/* Cancels when it is not done; no callback any more.  NULL is fine. */
void imgfetch_close(struct imgfetch *f);
/* Bytes of chunk data received so far (as sent, so compressed). */
uint64_t imgfetch_received(const struct imgfetch *f);

#endif
