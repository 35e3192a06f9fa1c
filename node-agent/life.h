/* life: carries out the steps of a guest (reconcile.h), one at a time.
 *
 * What a guest is said to be (Phase):
 *
 *   FETCHING   an artefact is on its way
 *   STARTING   disk and ports are made, it waits for a boot slot, its kernel boots
 *   RUNNING    configured; ready once its probe passed
 *   STOPPING   asked to end, or its remains are being removed
 *   STOPPED    wanted stopped, or ended by itself with success and not to run again
 *   MIGRATING  stopped, as its disk is on its way to another host
 *   FAILED     ended, and waits for its back-off, or is not started again by policy
 *
 * A step that fails for reasons of the host (disk full, no such device) is tried
 * again after a while; the reason is shown.
 */
#ifndef UMLAUT_NODE_AGENT_LIFE_H
#define UMLAUT_NODE_AGENT_LIFE_H

#include "node-agent/guests.h"

/* A boot slot is given back after this time even if the guest is not up. */
#define LIFE_BOOT_MS 60000
/* A runner that cannot be told to stop is killed this long after the deadline. */
#define LIFE_KILL_MS 10000
#define LIFE_STOP_MS 10000 /* when the spec names no time */

/* Does what is to be done next.  Called by guests.c for touched ones. */
void life_step(struct guest *g);
/* The guest's timer. */
void life_on_timer(void *arg);
/* What is wanted was changed. */
void life_wanted(struct guest *g);

/* A runner was found at the start: takes it over. */
int life_adopt(struct guest *g, struct err *err);
/* The end of a run, found at the start or told by a runner. */
void life_note_end(struct guest *g, const struct guest_status *status);

/* As a person sees it; REASON of GUESTS_REASON bytes. */
Um__Phase life_phase(struct guest *g, char *reason);
/* It will not become ready by itself: it has ended and its policy does not start it
 * again, or its start-up script or probe has failed. */
bool life_final(const struct guest *g);
/* Under the epoch that is wanted its kernel was started, or may have been: its runner left
 * no word. */
bool life_ran(const struct guest *g);

/* life_jobs.c: work in the pool; GUEST_IDLE again, and touched, when it is done. */
void life_save(struct guest *g);
void life_disk(struct guest *g);
void life_remove(struct guest *g);
/* The records, packed.  Caller frees *DATA. */
int life_pack_local(
	const struct guest *g, bool removing, uint8_t **data, size_t *size, struct err *err);
/* A step failed: shown, and tried again later. */
void life_trouble(struct guest *g, const struct err *err);

/* Starts the runner, its events coming here.  For life_start.c. */
int life_run(struct guest *g, const Um__RunnerSpec *spec, struct err *err);

/* life_start.c: ports, specification, runner. */
int life_start(struct guest *g, struct err *err);
void life_ports_remove(struct guest *g);
uid_t life_uid(const struct guest *g);

#endif
