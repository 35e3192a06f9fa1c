#include "lib/units.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct unit {
	const char *name;
	uint64_t factor;
};

/* Parses "12", "1.5" or ".5" times SCALE, exactly; at most 9 fraction digits.
 * Returns what follows the number, or NULL. */
static const char *number(const char *text, uint64_t *whole, uint64_t *billionths)
{
	uint64_t w = 0, f = 0, place = 100000000;
	const char *p = text;
	bool digits = false;

	for (; *p >= '0' && *p <= '9'; p++, digits = true)
		if (__builtin_mul_overflow(w, 10u, &w) ||
			__builtin_add_overflow(w, (uint64_t)(*p - '0'), &w))
			return NULL;
	if (*p == '.') {
		for (p++; *p >= '0' && *p <= '9'; p++, digits = true) {
			f += (uint64_t)(*p - '0') * place;
			place /= 10;
		}
	}
	if (!digits)
		return NULL;
	*whole = w;
	*billionths = f;
	return p;
}

/* NUMBER UNIT in multiples of the table's factors, at most 2^63 - 1. */
static int parse(const char *text, const struct unit *units, uint64_t *out)
{
	uint64_t whole, part, value;
	const char *rest = number(text, &whole, &part);

	if (!rest)
		return -EINVAL;
	while (*rest == ' ')
		rest++;
	for (const struct unit *u = units; u->name; u++) {
		if (strcasecmp(rest, u->name) != 0)
			continue;
		/* The fraction first: factor * part may need more than 64 bits. */
		uint64_t extra = (uint64_t)((unsigned __int128)u->factor * part / 1000000000u);

		if (__builtin_mul_overflow(whole, u->factor, &value) ||
			__builtin_add_overflow(value, extra, &value) || value > INT64_MAX)
			return -ERANGE;
		*out = value;
		return 0;
	}
	return -EINVAL;
}

#define KI 1024ull

int units_parse_size(const char *text, uint64_t *bytes, struct err *err)
{
	static const struct unit units[] = {{"", 1}, {"B", 1}, {"K", KI}, {"KB", KI}, {"KiB", KI},
		{"M", KI * KI}, {"MB", KI * KI}, {"MiB", KI * KI}, {"G", KI * KI * KI},
		{"GB", KI * KI * KI}, {"GiB", KI * KI * KI}, {"T", KI * KI * KI * KI},
		{"TB", KI * KI * KI * KI}, {"TiB", KI * KI * KI * KI}, {NULL, 0}};
	int rc = parse(text, units, bytes);

	if (rc == -ERANGE)
		return err_set(err, rc, "'%.40s' is too large a size", text);
	if (rc < 0)
		return err_set(err, rc,
			"'%.40s' is not a size (write 64M, 1.5G, 512K or a number of bytes)", text);
	return 0;
}

int units_parse_duration(const char *text, uint64_t *ms, struct err *err)
{
	static const struct unit units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000},
		{"min", 60000}, {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
	int rc = parse(text, units, ms);

	if (rc == -ERANGE)
		return err_set(err, rc, "'%.40s' is too long a duration", text);
	if (rc < 0)
		return err_set(err, rc,
			"'%.40s' is not a duration (write 500ms, 10s, 5m, 2h or 1d)", text);
	return 0;
}

int units_parse_cpus(const char *text, uint32_t *milli, struct err *err)
{
	static const struct unit units[] = {{"", 1000}, {"m", 1}, {NULL, 0}};
	uint64_t v;
	int rc = parse(text, units, &v);

	if (rc == 0 && v > UINT32_MAX)
		rc = -ERANGE;
	if (rc == -ERANGE)
		return err_set(err, rc, "'%.40s' is too many CPUs", text);
	if (rc < 0)
		return err_set(
			err, rc, "'%.40s' is not a number of CPUs (write 2, 0.5 or 250m)", text);
	*milli = (uint32_t)v;
	return 0;
}

const char *units_size(char buf[UNITS_TEXT], uint64_t bytes)
{
	static const char letters[] = "BKMGTPE";
	unsigned i = 0;
	uint64_t unit = 1;

	while (letters[i + 1] && bytes / unit >= 1024) {
		unit *= 1024;
		i++;
	}
	if (i == 0)
		(void)snprintf(buf, UNITS_TEXT, "%" PRIu64, bytes);
	else if (bytes % unit == 0 || bytes / unit >= 100)
		(void)snprintf(buf, UNITS_TEXT, "%" PRIu64 "%c", bytes / unit, letters[i]);
	else
		(void)snprintf(buf, UNITS_TEXT, "%.1f%c", (double)bytes / (double)unit, letters[i]);
	return buf;
}

const char *units_duration(char buf[UNITS_TEXT], uint64_t ms)
{
	static const struct {
		uint64_t s;
		const char *name;
	} parts[] = {{86400, "d"}, {3600, "h"}, {60, "m"}, {1, "s"}};
	uint64_t s = ms / 1000;

	if (ms < 1000) {
		(void)snprintf(buf, UNITS_TEXT, "%" PRIu64 "ms", ms);
		return buf;
	}
	if (ms < 10000 && ms % 1000 >= 100) {
		(void)snprintf(buf, UNITS_TEXT, "%" PRIu64 ".%" PRIu64 "s", s, ms % 1000 / 100);
		return buf;
	}
	for (size_t i = 0; i < 4; i++) {
		uint64_t n = s / parts[i].s, rest = s % parts[i].s;

		if (!n)
			continue;
		/* Two units are enough for a person. */
		unsigned second = i < 3 ? (unsigned)(rest / parts[i + 1].s) % 100 : 0;

		if (second)
			(void)snprintf(buf, UNITS_TEXT, "%" PRIu64 "%s%u%s", n, parts[i].name,
				second, parts[i + 1].name);
		else
			(void)snprintf(buf, UNITS_TEXT, "%" PRIu64 "%s", n, parts[i].name);
		break;
	}
	return buf;
}

const char *units_cpus(char buf[UNITS_TEXT], uint32_t milli)
{
	if (milli % 1000 == 0)
		(void)snprintf(buf, UNITS_TEXT, "%u", milli / 1000);
	else if (milli % 100 == 0)
		(void)snprintf(buf, UNITS_TEXT, "%u.%u", milli / 1000, milli % 1000 / 100);
	else if (milli % 10 == 0)
		(void)snprintf(buf, UNITS_TEXT, "%u.%02u", milli / 1000, milli % 1000 / 10);
	else
		(void)snprintf(buf, UNITS_TEXT, "%u.%03u", milli / 1000, milli % 1000);
	return buf;
}
