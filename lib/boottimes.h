/* boottimes: when a guest's boot passed each step (proto: BootStep), carried along
 * from the scheduler through agent and runner and back.  Wall clock, microseconds;
 * 0: not passed.
 */
#ifndef UMLAUT_LIB_BOOTTIMES_H
#define UMLAUT_LIB_BOOTTIMES_H

#include "lib/wire.h"

#define BOOTTIMES_STEPS ((size_t)UM__BOOT_STEP__BOOT_READY + 1)

struct boottimes {
	uint64_t at[BOOTTIMES_STEPS];
};

/* Now, unless the step was passed before. */
void boottimes_mark(struct boottimes *times, Um__BootStep step);
/* Takes the steps that FROM (may be NULL) has; what it does not have stays. */
void boottimes_add(struct boottimes *times, const Um__BootTimes *from);
/* TO borrows TIMES. */
void boottimes_fill(const struct boottimes *times, Um__BootTimes *to);
bool boottimes_empty(const struct boottimes *times);

#endif
