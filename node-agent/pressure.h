/* pressure: guests give up their caches when the host is short of memory.
 *
 * The host's kernel says so (PSI, Documentation/accounting/psi.rst: a trigger on
 * /proc/pressure/memory): somebody stood still for want of memory for PRESSURE_STALL_US
 * within PRESSURE_WINDOW_US. Then each guest that runs is told to drop its page cache and
 * what it can do without (GuestTrim), a few at a time; its kernel gives the pages back. At
 * most once in PRESSURE_REST_MS: a host that stays short has other troubles.
 *
 * An event of the host's: nothing is looked at meanwhile. A host whose kernel has no PSI, or
 * has it switched off, does without.
 */
#ifndef UMLAUT_NODE_AGENT_PRESSURE_H
#define UMLAUT_NODE_AGENT_PRESSURE_H

#include "lib/err.h"

#define PRESSURE_STALL_US 150000u
#define PRESSURE_WINDOW_US 2000000u /* what a caller without privileges may ask for */
#define PRESSURE_REST_MS 30000u

struct agent;
struct pressure;

/* *OUT is NULL where the host does not tell, and for pretended guests. */
int pressure_open(struct agent *agent, struct pressure **out, struct err *err);
/* What is on the loop. NULL is fine. */
void pressure_stop(struct pressure *p);
void pressure_free(struct pressure *p);

#endif
