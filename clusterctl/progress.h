/* progress: a line on a terminal that tells how far a copy is; nothing where standard
 * error is no terminal, or the copy takes no time.
 *
 *   12.3M of 64M, 19%, 34.1M/s, 2s left
 */
#ifndef UMLAUT_CLUSTERCTL_PROGRESS_H
#define UMLAUT_CLUSTERCTL_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/loop.h"

#define PROGRESS_MS 250u /* between two looks; nothing is shown before the first */

struct progress {
	struct loop_timer *timer; /* NULL: nothing is shown */
	uint64_t whole;		  /* bytes in all, 0: not known */
	uint64_t done, began;
	bool shown;
};

void progress_begin(struct progress *p, struct loop *loop, uint64_t whole);
void progress_add(struct progress *p, size_t size);
/* Takes the line away; also before something else is printed. */
void progress_end(struct progress *p);

/* The line, of what was done within MS. */
void progress_text(const struct progress *p, uint64_t ms, char *out, size_t size);

#endif
