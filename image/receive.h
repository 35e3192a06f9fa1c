/* receive: the receiving side of uploads (see upload.h), for the scheduler.
 *
 * Handles ArtefactAdd (replies ArtefactNeed, in parts with `more`), ChunkData
 * (replies Ok), and the storing half of ArtefactCommit; all work is in the loop's
 * pool, at most IMGRECEIVE_MAX chunks at once (more: UNAVAILABLE).  Several
 * clients may send one artefact at the same time.  An upload that was quiet for
 * IMGRECEIVE_IDLE_MS is closed, what came stays for a resume.
 */
#ifndef UMLAUT_IMAGE_RECEIVE_H
#define UMLAUT_IMAGE_RECEIVE_H

#include "image/store.h"
#include "lib/zsock.h"

#define IMGRECEIVE_MAX 256
#define IMGRECEIVE_OPEN_MAX 64 /* uploads at once */
#define IMGRECEIVE_IDLE_MS 60000
#define IMGRECEIVE_NEED_MAX 4096 /* chunk indexes in one ArtefactNeed */

struct imgreceive;

struct imgreceive_ops {
	/* The artefact of COMMIT->info->id is whole in the store (info->size and
	 * info->allocated are filled in from it): enter it into the catalogue, then answer
	 * PEER's request ID (Ok or Error) on SOCK.  Everything is borrowed for the call. */
	void (*on_commit)(void *arg, struct zsock *sock, const struct zpeer *peer, uint64_t id,
		const Um__ArtefactCommit *commit);
};

int imgreceive_new(struct loop *loop, struct imgstore *store, const struct imgreceive_ops *ops,
	void *arg, struct imgreceive **out, struct err *err);
/* True when ENV is one of its requests. The caller has checked the peer's role. */
bool imgreceive_message(struct imgreceive *rx, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size);
/* No answer is sent any more: call it before SOCK is closed. */
void imgreceive_free(struct imgreceive *rx);

#endif
