/* usage: how every program says that it was called wrongly: one line of what, one of
 * where help is, on standard error; exit status 2.
 *
 *   umlaut-agent: unknown option '--stat' (did you mean --state?)
 *   Try 'umlaut-agent --help'.
 */
#ifndef UMLAUT_LIB_USAGE_H
#define UMLAUT_LIB_USAGE_H

#include <getopt.h>
#include <stddef.h>

#define USAGE_WRONG 2 /* exit status */

/* WHO: "umlaut-agent", or "clusterctl get".  Returns USAGE_WRONG. */
int usage_wrong(const char *who, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "unknown option 'ARG'", with the one of NAMES that it may have meant (without dashes). */
int usage_unknown(const char *who, const char *arg, const char *const *names, size_t count);

/* What getopt_long() has just returned C for: '?', or ':' of an option string that
 * begins with ':'.  Set opterr to 0 before. */
int usage_getopt(const char *who, int c, char **argv, const struct option *longs);

#endif
