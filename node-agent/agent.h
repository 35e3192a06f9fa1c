/* agent: the context of a node agent; owns every part below.
 *
 * A part is opened with the agent (which it borrows) and reaches the others
 * through it.  What calls what:
 *
 *   link      the scheduler's words: Desired to desired, streams to relay
 *   desired   what is wanted, checked, into guests and nets
 *   guests    the table of guests; life works on those that are marked
 *   fence     ends guests when the lease does
 *   life      one guest's steps: blobs, disk, network, runner
 *   moves     guests that come from, or go to, other hosts
 *   orphans   disks of guests that went on elsewhere while this host was lost
 *   report    tells the scheduler what changed
 *   pressure  has guests give up caches when the host is short of memory
 *   inventory at the start: what is on disk and running already
 *
 * Life: agent_open() (blocking: scans the state folder), the loop runs,
 * agent_stop() closes all that is on the loop, loop_free() waits for the pool,
 * agent_free().
 */
#ifndef UMLAUT_NODE_AGENT_AGENT_H
#define UMLAUT_NODE_AGENT_AGENT_H

#include "image/store.h"
#include "lib/curve.h"
#include "lib/loop.h"
#include "lib/zsock.h"
#include "node-agent/config.h"
#include "node-agent/driver.h"

struct blobs;
struct fence;
struct guests;
struct hosts;
struct link;
struct moves;
struct nets;
struct orphans;
struct peers;
struct pressure;
struct report;
struct relay;

struct agent {
	struct agentconf config;
	struct loop *loop;
	struct zctx *zctx;
	struct driver driver;
	struct curve_pair keys;
	uint64_t instance; /* random for each process */
	uint8_t boot_id[16];
	char initrd[AGENTCONF_PATH];
	char cgroup[128]; /* the agent's own, below umlaut's */
	struct imgstore *store;
	struct guests *guests;
	struct blobs *blobs;
	struct nets *nets;
	struct hosts *hosts;
	struct moves *moves;
	struct orphans *orphans;
	struct report *report;
	struct fence *fence;
	struct link *link;
	struct peers *peers;
	struct relay *relay;
	struct pressure *pressure; /* NULL: the host does not tell */
	bool stopping;
};

/* Makes and locks the state folder: -EBUSY when an agent has it.  The caller closes
 * *FD at its end. */
int agent_lock(const struct agentconf *config, int *fd, struct err *err);
/* Fills in config->vtep, by the route to the scheduler, when it was not given. */
int agent_find_vtep(struct agentconf *config, struct err *err);

/* CONFIG is copied; LOOP, ZCTX and DRIVER are borrowed.  On failure *OUT may be set
 * all the same: for agent_free(), after the loop. */
int agent_open(const struct agentconf *config, struct loop *loop, struct zctx *zctx,
	const struct driver *driver, struct agent **out, struct err *err);
/* Guests go on.  NULL is fine. */
void agent_stop(struct agent *agent);
void agent_free(struct agent *agent);

/* The name of the agent's control group: unique for its state folder. */
void agent_cgroup(const struct agentconf *config, char out[128]);
/* <state>/NAME. */
int agent_path(const struct agent *agent, const char *name, char path[PATH_MAX], struct err *err);

#endif
