/* recipe: runs guest/kernel/build, which makes the guest kernel 'fast'.
 *
 * Both return 0 or an exit code; the error has been printed.
 */
#ifndef UMLAUT_CLUSTERCTL_RECIPE_H
#define UMLAUT_CLUSTERCTL_RECIPE_H

#include <limits.h>
#include <stdbool.h>

/* What the user asked for; NULL: the recipe's default. */
struct recipe_options {
	const char *source, *jobs, *out;
	bool newest;
};

/* Fills KERNEL with the path of the kernel that the recipe will have made: in OUT, else in
 * the build folder of the source tree that this program was built in, else in the user's
 * cache.  Fails when there is no recipe. */
int recipe_find(const char *out, char kernel[PATH_MAX]);
/* Runs it, with its progress on this terminal, to its end.  Signals that would end this
 * program end the recipe: 128 and the signal's number then. */
int recipe_run(const struct recipe_options *o, const char *kernel);

#endif
