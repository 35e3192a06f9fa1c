/* waiting: `apply --wait` and `delete --wait`: watches a deployment, shows how far it
 * is, and ends as soon as the outcome is known.
 *
 *   a guest is   when                                               the wait
 *   UNDER WAY    none of the below                                  goes on
 *   DONE         ready; stopped, and is to be; or has ended well    goes on for the others
 *                and its policy does not start it again
 *   FAILED       the same with a failure; its script or probe has   ends, at the latest
 *                failed; or its kernel failed WAITING_TRIES times   WAITING_GRACE_MS later
 *                since the wait began
 *
 * A stop on the way to a new start is none of these.  After the first failure others of
 * the same cause mostly follow at once: the grace is for them.
 */
#ifndef UMLAUT_CLUSTERCTL_WAITING_H
#define UMLAUT_CLUSTERCTL_WAITING_H

#include "clusterctl/ctl.h"

#define WAITING_TRIES 3u
#define WAITING_GRACE_MS 2000u

/* Until all guests of DEPLOYMENT are DONE.  The exit code: EXIT_OK, EXIT_FAILED (which
 * failed, why, the end of their consoles and what to do are printed), EXIT_TIMEOUT, 130
 * after Ctrl-C (the lab goes on, and that is said). */
int waiting_ready(struct ctl *ctl, const char *deployment, uint64_t timeout_ms);
/* Until nothing of DEPLOYMENT is left. */
int waiting_gone(struct ctl *ctl, const char *deployment, uint64_t timeout_ms);

#endif
