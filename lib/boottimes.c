#include "lib/boottimes.h"

#include "lib/proc.h"

void boottimes_mark(struct boottimes *times, Um__BootStep step)
{
	if ((size_t)step < BOOTTIMES_STEPS && !times->at[step])
		times->at[step] = proc_wall_us();
}

void boottimes_add(struct boottimes *times, const Um__BootTimes *from)
{
	for (size_t i = 0; from && i < from->n_at_us && i < BOOTTIMES_STEPS; i++)
		if (from->at_us[i])
			times->at[i] = from->at_us[i];
}

void boottimes_fill(const struct boottimes *times, Um__BootTimes *to)
{
	um__boot_times__init(to);
	to->at_us = (uint64_t *)(uintptr_t)times->at;
	to->n_at_us = BOOTTIMES_STEPS;
}

bool boottimes_empty(const struct boottimes *times)
{
	for (size_t i = 0; i < BOOTTIMES_STEPS; i++)
		if (times->at[i])
			return false;
	return true;
}
