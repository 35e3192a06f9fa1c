/* upload: sends a file as an artefact (ArtefactAdd, ChunkData, ArtefactCommit).
 *
 *   state     meaning                                      left by
 *   HASH      the manifest is made (pool)                  -> ADD
 *   ADD       ArtefactAdd sent; ArtefactNeed lists chunks  all listed: SEND
 *   SEND      up to IMGUPLOAD_WINDOW chunks in flight      all Ok: COMMIT
 *   COMMIT    ArtefactCommit sent, checked over there      Ok: DONE
 *   DONE      on_done was called
 *
 * The other side: receive.h.  Broken off and started again, only what is missing
 * there is sent.
 */
#ifndef UMLAUT_IMAGE_UPLOAD_H
#define UMLAUT_IMAGE_UPLOAD_H

#include "image/manifest.h"
#include "image/via.h"

#define IMGUPLOAD_WINDOW 8
#define IMGUPLOAD_TIMEOUT_MS 30000

struct imgupload;

struct imgupload_ops {
	/* STEP: "hashing", "sending", "storing".  Bytes.  May be NULL. */
	void (*on_progress)(
		void *arg, struct imgupload *up, const char *step, uint64_t done, uint64_t total);
	/* Once; ERR NULL: it is in the catalogue.  imgupload_close() is safe inside. */
	void (*on_done)(void *arg, struct imgupload *up, const struct err *err);
};

/* Sends the file PATH.  INFO (copied; id and size are filled in) goes with the
 * commit: its name, kind, meta, modules.  INFO NULL: no commit under a name (the
 * bytes stay over there as an upload under way).  REPLACE: a name that is taken is
 * given to this one. */
int imgupload_start(struct loop *loop, const struct imgvia *via, const char *path,
	const Um__ArtefactInfo *info, bool replace, const struct imgupload_ops *ops, void *arg,
	struct imgupload **out, struct err *err);
void imgupload_close(struct imgupload *up);
/* Known once hashing is over, else all zero. */
const uint8_t *imgupload_id(const struct imgupload *up);
/* Bytes of chunks sent (compressed). */
uint64_t imgupload_sent(const struct imgupload *up);

#endif
