/* stop: the guest's clean end.
 *
 *   state   meaning                                          left by
 *   NONE    the guest runs                                   a request (line, Ctrl-Alt-Del, signal)
 *   ASKED   the image's init was asked to shut down          it ends everything; or at t_kill
 *   TERM    everything was sent SIGTERM                      all gone -> finish; or at t_kill
 *   KILL    everything was sent SIGKILL                      all gone -> finish; or at t_end
 *
 * finish: sync, file systems unmounted or read-only, then reboot(2) to power off or
 * restart.  t_kill is at four fifths of the time allowed.  As process 1 "all gone" is
 * the end of the last child; beside an image's init it is looked for.
 *
 * busybox's init ends a shutdown with a SIGTERM to all, two sleeps of a second and
 * file systems still mounted; from its SIGTERM to us on, we finish faster and cleanly.
 * The same when it shuts down by itself; then the rest is left to it.
 */
#ifndef UMLAUT_GUEST_INIT_STOP_H
#define UMLAUT_GUEST_INIT_STOP_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/init/line.h"

enum stop_state { STOP_NONE, STOP_ASKED, STOP_TERM, STOP_KILL };

struct stop {
	enum stop_state state;
	struct line *line;
	bool pid1;
	bool reboot;
	bool theirs; /* the image's init does it: it also powers off */
	uint64_t t_kill, t_end, t_look;
};

void stop_init(struct stop *stop, struct line *line, bool pid1);
/* TIMEOUT_MS 0: 10 s.  Again: a shorter deadline counts. */
void stop_begin(struct stop *stop, uint32_t timeout_ms, bool restart);
/* SIGTERM from process 1. */
void stop_from_init(struct stop *stop);
/* A child ended; LAST: none is left. */
void stop_child(struct stop *stop, bool last);
uint64_t stop_wakeup(const struct stop *stop);
void stop_tick(struct stop *stop, uint64_t now);

#endif
