/* run: the start-up script and the ready probe.
 *
 *   state    meaning                                  next
 *   IDLE     not begun                                SCRIPT, or as after it
 *   SCRIPT   the script runs                          ended with 0: PROBE / READY; else FAILED
 *   PROBE    one try of the probe runs                0: READY; else WAIT; too late: FAILED
 *   WAIT     until the next try                       PROBE
 *   READY    reported; final
 *   FAILED   reported with the reason; final: the guest runs on, for a look inside
 *
 * The script's output goes to the console, as fast as that takes it, also after its
 * end for what it left running; its last line becomes the reason of a failure.
 */
#ifndef UMLAUT_GUEST_INIT_RUN_H
#define UMLAUT_GUEST_INIT_RUN_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/init/line.h"

#define RUN_FDS 2

enum run_state { RUN_IDLE, RUN_SCRIPT, RUN_PROBE, RUN_WAIT, RUN_READY, RUN_FAILED };

struct run {
	enum run_state state;
	struct line *line;
	const Um__GuestConfig *config;
	pid_t pid;	    /* of the script or the try */
	int out;	    /* the script's output, or -1 */
	int console;	    /* where it goes, non-blocking, or -1 */
	uint8_t held[4096]; /* read, not yet on the console */
	size_t held_size;
	char last[160]; /* the last whole line that is not empty */
	char part[160]; /* the line under way */
	size_t part_len;
	uint64_t deadline; /* of the probe; 0: none */
	uint64_t next;	   /* WAIT: of the next try; PROBE: when the try is killed */
	int status;	   /* wait status of the last try */
};

void run_start(struct run *run, struct line *line, const Um__GuestConfig *config);
void run_poll(const struct run *run, struct pollfd fds[RUN_FDS]);
void run_ready(struct run *run, const struct pollfd fds[RUN_FDS]);
void run_child(struct run *run, pid_t pid, int wait_status);
/* When run_tick() wants to be called, in uptime ms; 0: never. */
uint64_t run_wakeup(const struct run *run);
void run_tick(struct run *run, uint64_t now);
/* The guest shuts down. */
void run_stop(struct run *run);

#endif
