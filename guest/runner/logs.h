/* logs: reads the console's log from some line on, over a rotation, and along as
 * it grows.  Files only; the console (same process) says when it rotated.
 */
#ifndef UMLAUT_GUEST_RUNNER_LOGS_H
#define UMLAUT_GUEST_RUNNER_LOGS_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

struct logs;

/* The last TAIL lines of console.log.1 and console.log in DIR together; 0: all.
 * A last line without its end counts as a line.  No files: an empty log.
 * GENERATION: console_generation() now. */
int logs_open(
	const char *dir, uint32_t tail, uint64_t generation, struct logs **out, struct err *err);
/* Up to SIZE bytes; 0 at the end as it is now. */
int logs_read(struct logs *logs, uint64_t generation, void *data, size_t size, struct err *err);
void logs_close(struct logs *logs);

#endif
