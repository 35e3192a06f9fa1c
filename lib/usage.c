#include "lib/usage.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/str.h"

#define NAMES_MAX 64

int usage_wrong(const char *who, const char *fmt, ...)
{
	va_list ap;

	(void)fprintf(stderr, "%s: ", who);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, "\nTry '%s --help'.\n", who);
	return USAGE_WRONG;
}

int usage_unknown(const char *who, const char *arg, const char *const *names, size_t count)
{
	const char *near = NULL;
	char name[64];

	if (str_starts(arg, "--")) {
		(void)str_format(
			name, sizeof(name), "%.*s", (int)strcspn(arg + 2, "=") % 60, arg + 2);
		near = str_nearest(name, names, count);
	}
	return usage_wrong(who, "unknown option '%.60s'%s%s%s", arg,
		near ? " (did you mean --" : "", near ? near : "", near ? "?)" : "");
}

int usage_getopt(const char *who, int c, char **argv, const struct option *longs)
{
	const char *names[NAMES_MAX], *arg = argv[optind - 1];
	char brief[3] = {'-', (char)optopt, 0};
	size_t n = 0;

	if (c == ':')
		return usage_wrong(who, "%s needs a value", arg);
	if (optopt && !str_starts(arg, "--"))
		return usage_unknown(who, brief, names, 0);
	if (optopt)
		return usage_wrong(who, "%.*s takes no value", (int)strcspn(arg, "=") % 60, arg);
	while (n < NAMES_MAX && longs[n].name) {
		names[n] = longs[n].name;
		n++;
	}
	return usage_unknown(who, arg, names, n);
}
