#include "lib/crash.h"

#ifdef UMLAUT_DEBUG

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Any thread; the environment is not changed once threads run. */
void crash_point(const char *name)
{
	static atomic_uint passed;
	const char *wanted = getenv("UMLAUT_CRASH");
	size_t length = strlen(name);
	unsigned long nth = 1;

	if (!wanted || strncmp(wanted, name, length) != 0)
		return;
	if (wanted[length] == ':')
		nth = strtoul(wanted + length + 1, NULL, 10);
	else if (wanted[length])
		return;
	if (atomic_fetch_add(&passed, 1) + 1 >= nth)
		(void)raise(SIGKILL);
}

#else

/* An object file with nothing in it is no C. */
extern int crash_none;
int crash_none;

#endif
