/* blobs: which artefacts this host needs, and getting them.
 *
 * Each artefact is fetched once, however many guests wait for it; at most
 * BLOBS_FETCHES at a time, the others in order.  Sources: other agents as the
 * scheduler names them, then the scheduler itself.  A fetch that failed is tried
 * again after a while, for as long as a guest waits.  What a guest has is held in
 * the store until the guest lets go.
 */
#ifndef UMLAUT_NODE_AGENT_BLOBS_H
#define UMLAUT_NODE_AGENT_BLOBS_H

#include "lib/wire.h"
#include "node-agent/guests.h"

#define BLOBS_FETCHES 4

struct blobs;

int blobs_open(struct agent *agent, struct blobs **out, struct err *err);
void blobs_stop(struct blobs *blobs);
void blobs_free(struct blobs *blobs);

/* The guest's image, kernel and modules: those that are there are held; the others
 * are fetched, and the guest is touched whenever one has come.  True when all are
 * held.  Cheap to call again. */
bool blobs_get(struct guest *g);
/* What is missing, for a person: "image 34 %", or why it cannot be had. */
void blobs_explain(const struct guest *g, char *out, size_t size);
/* The guest needs none any more (or others: call blobs_get() again). */
void blobs_let_go(struct guest *g);

/* Gives back what imgstore_hold() took, without a guest. */
void blobs_release(struct blobs *blobs, const uint8_t id[MANIFEST_HASH]);
/* The same for a move, by its number: fetched until it is there or blobs_unwait(), and
 * moves_blob() is called when there is news.  Cheap to call again. */
void blobs_wait(struct blobs *blobs, const Um__BlobRef *ref, uint64_t move);
/* It needs it no more: what nobody else waits for is not fetched on. */
void blobs_unwait(struct blobs *blobs, const uint8_t id[MANIFEST_HASH], uint64_t move);
/* As blobs_explain(), of one: KIND 0 image, 1 kernel, 2 modules.  Returns how often in a row
 * it could not be had; CODE: why the last time, 0 while it is tried. */
unsigned blobs_explain_one(const struct blobs *blobs, const uint8_t id[MANIFEST_HASH], size_t kind,
	char *out, size_t size, int *code);
/* Fetches without a guest. */
void blobs_prefetch(struct blobs *blobs, const Um__BlobRef *ref);
/* Not in the catalogue any more: removed as soon as nobody holds it. */
void blobs_discard(struct blobs *blobs, const uint8_t id[MANIFEST_HASH]);
/* The scheduler can be reached (again): what failed is tried at once. */
void blobs_kick(struct blobs *blobs);

#endif
