/* Bugs that are planted on purpose (sim --bug NAME), to show that the simulator finds
 * them.  Each takes the place of a function of the programs, by the linker's --wrap. */
#include <string.h>

#include "tests/sim/sim.h"

static const struct bug_text bugs[] = {
	{"store-lies", "one commit in twenty is not durable although the store says so"},
};

const struct bug_text *bug_list(size_t *count)
{
	*count = sizeof(bugs) / sizeof(*bugs);
	return bugs;
}

bool bug(const char *name)
{
	return sim && sim->options.bug && strcmp(sim->options.bug, name) == 0;
}
