/* crash: named points at which a test ends the program as by SIGKILL.
 *
 * In builds with DEBUG=1, crash_point("move-seal") ends the process when the
 * environment has UMLAUT_CRASH=move-seal, or the N-th time with UMLAUT_CRASH=move-seal:N.
 * In other builds nothing of it is compiled.  The names are in docs/migration.md. */
#ifndef UMLAUT_LIB_CRASH_H
#define UMLAUT_LIB_CRASH_H

#ifdef UMLAUT_DEBUG
void crash_point(const char *name);
#else
static inline void crash_point(const char *name)
{
	(void)name;
}
#endif

#endif
