/* units: sizes, durations and CPU counts as people write them.  Pure. */
#ifndef UMLAUT_LIB_UNITS_H
#define UMLAUT_LIB_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

/* "64M", "1G", "512MiB", "1.5G", "65536": binary units (K = 1024), bytes
 * without a unit.  -EINVAL with what is accepted; -ERANGE when over 2^63. */
int units_parse_size(const char *text, uint64_t *bytes, struct err *err);
/* "500ms", "10s", "5m", "2h", "1d"; a bare number is seconds. */
int units_parse_duration(const char *text, uint64_t *ms, struct err *err);
/* "0.5", "2", "250m" (milli-CPUs). */
int units_parse_cpus(const char *text, uint32_t *milli, struct err *err);

#define UNITS_TEXT 24
/* Shortest exact or 3-digit form: "64M", "1.5G".  Returns BUF. */
const char *units_size(char buf[UNITS_TEXT], uint64_t bytes);
/* "210ms", "1.4s" (tenths below 10 s), "34s", "2m10s", "5h", "3d4h". */
const char *units_duration(char buf[UNITS_TEXT], uint64_t ms);
const char *units_cpus(char buf[UNITS_TEXT], uint32_t milli);

#endif
