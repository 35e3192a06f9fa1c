/* report: tells the scheduler what is: guests that changed, artefacts that came or
 * went.  Marks are collected and sent together; while the scheduler is away they
 * are dropped, as everything is told again at the next hello.
 */
#ifndef UMLAUT_NODE_AGENT_REPORT_H
#define UMLAUT_NODE_AGENT_REPORT_H

#include "node-agent/guests.h"

struct report;

int report_open(struct agent *agent, struct report **out, struct err *err);
void report_stop(struct report *report);
void report_free(struct report *report);

/* The guest changed. */
void report_guest(struct guest *g);
/* The same, even if it looks as it was told last. */
void report_again(struct guest *g);
/* Nothing of it is left here; or it cannot be had (PHASE FAILED, and why). */
void report_gone(struct report *report, uint64_t uid, uint64_t epoch);
void report_refused(struct report *report, uint64_t uid, uint64_t epoch, const char *reason);
/* The guest is being freed: no mark of it stays. */
void report_forget(struct guest *g);
/* News of a move; of an orphan. */
void report_moves(struct report *report);
void report_orphans(struct report *report);
void report_blob(struct report *report, const uint8_t id[MANIFEST_HASH], bool added);
/* A hello is made: it tells all that is so now. */
void report_begin(struct report *report);
/* Something came to an end since then that the hello does not tell, before the link was up. */
bool report_missed(const struct report *report);
/* The scheduler was told everything (hello), or is gone: forget the marks. */
void report_clear(struct report *report);

/* How the guest is, for hello and reports.  OUT points to REASON, of GUESTS_REASON
 * bytes. */
void report_observe(struct guest *g, Um__GuestObserved *out, char *reason);
/* Everything was told in a hello. */
void report_told(struct guest *g);

#endif
