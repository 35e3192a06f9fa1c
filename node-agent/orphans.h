/* orphans: disks of guests that were started elsewhere, from their images, while this host
 * was lost.  When it is back its guest is ended, and the disk kept for a person to look
 * into, until it is pruned.
 *
 * On disk <state>/orphans/<epoch, 16 hex digits>/, once the guest's own folder:
 *
 *   orphan.pb   Um__OrphanDisk
 *   cow         the disk, over the base image that the record names
 *   console.log, console.log.1
 *
 *   step                                        a crash after it
 *   the removal is noted (local.pb), the        the removal goes on
 *   runner has ended, the epoch is fenced
 *   orphan.pb is written into the guest's       likewise; it is written again
 *   folder
 *   the folder is renamed                       found at the next start, reported
 *   what else was in it is removed              removed at the next start
 *
 * The base image is held in the store for as long as its orphan is there.  No guest ever
 * takes an orphan's disk: it is in no guest's folder.
 */
#ifndef UMLAUT_NODE_AGENT_ORPHANS_H
#define UMLAUT_NODE_AGENT_ORPHANS_H

#include "node-agent/guests.h"

struct orphans;

/* Reads what is on disk: after the store, the blobs and the report. */
int orphans_open(struct agent *agent, struct orphans **out, struct err *err);
/* Before the loop is freed. */
void orphans_stop(struct orphans *orphans);
void orphans_free(struct orphans *orphans);

/* What is to be kept of the guest, packed and malloc'd: 1.  0: nothing, as it was never
 * started on its disk, or goes with it. */
int orphans_record(const struct guest *g, uint8_t **record, size_t *size, struct err *err);
/* Makes the guest's folder DIR the orphan of RECORD.  1: done; 0: it has no disk.
 * -EEXIST: that epoch has one.  Pool. */
int orphans_keep(
	struct agent *agent, const char *dir, const uint8_t *record, size_t size, struct err *err);
/* The same on the loop's thread, when that is done. */
void orphans_kept(struct orphans *orphans, const uint8_t *record, size_t size);

/* It is wanted no more.  One that is not here is reported gone, unless the guest still is
 * on its way to become it. */
void orphans_prune(struct orphans *orphans, const Um__GuestRemove *which);

/* Those with news, or all; free() the list. */
size_t orphans_observe(struct orphans *orphans, bool all, Um__OrphanDisk ***list);
/* They were told. */
void orphans_told(struct orphans *orphans);

#endif
