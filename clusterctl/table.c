#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clusterctl/ctl.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "lib/units.h"

struct table {
	const char *const *columns;
	size_t count;
	char **cells;
	size_t used, room;
	size_t *widths; /* kept from print to print: a watch stays aligned */
};

struct table *table_new(const char *const *columns, size_t count)
{
	struct table *t = calloc(1, sizeof(*t));

	if (t)
		t->widths = calloc(count + 1, sizeof(*t->widths));
	if (!t || !t->widths)
		abort();
	t->columns = columns;
	t->count = count;
	return t;
}

void table_add(struct table *t, const char *text)
{
	if (t->used == t->room) {
		t->room = t->room ? t->room * 2 : 256;
		t->cells = realloc(t->cells, t->room * sizeof(*t->cells));
		if (!t->cells)
			abort();
	}
	t->cells[t->used] = str_dup(*text ? text : "-");
	if (!t->cells[t->used++])
		abort();
}

void table_addf(struct table *t, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	table_add(t, text);
}

/* Columns on the screen: code points, which is right for all but wide scripts. */
static size_t width(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

/* Words that say at a glance how something is. */
static const char *colour_of(const char *text)
{
	static const struct {
		const char *word, *colour;
	} words[] = {{"failed", "\033[31m"}, {"lost", "\033[31m"}, {"warning", "\033[33m"},
		{"pending", "\033[33m"}, {"suspect", "\033[33m"}, {"deleting", "\033[33m"},
		{"changing", "\033[33m"}, {"yes", "\033[32m"}, {"up", "\033[32m"},
		{"ready", "\033[32m"}};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(text, words[i].word) == 0)
			return words[i].colour;
	return NULL;
}

static void print_cell(const char *text, size_t to, bool last, bool colour)
{
	const char *paint = colour ? colour_of(text) : NULL;

	if (paint)
		(void)fputs(paint, stdout);
	/* What comes from guests must not steer the terminal. */
	for (const char *p = text; *p; p++)
		(void)putchar((unsigned char)*p < ' ' || *p == 127 ? '?' : *p);
	if (paint)
		(void)fputs("\033[0m", stdout);
	if (last)
		(void)putchar('\n');
	else
		(void)printf("%*s", (int)(to - width(text) + 2), "");
}

void table_print(struct table *t, bool header)
{
	size_t *widths = t->widths;
	size_t rows = t->used / t->count;
	bool colour = out_colour(1);

	for (size_t c = 0; c < t->count; c++) {
		if (header && width(t->columns[c]) > widths[c])
			widths[c] = width(t->columns[c]);
		for (size_t r = 0; r < rows; r++) {
			size_t w = width(t->cells[r * t->count + c]);

			if (w > widths[c])
				widths[c] = w;
		}
	}
	for (size_t c = 0; header && c < t->count; c++)
		print_cell(t->columns[c], widths[c], c + 1 == t->count, false);
	for (size_t r = 0; r < rows; r++)
		for (size_t c = 0; c < t->count; c++)
			print_cell(
				t->cells[r * t->count + c], widths[c], c + 1 == t->count, colour);
}

void table_clear(struct table *t)
{
	for (size_t i = 0; i < t->used; i++)
		free(t->cells[i]);
	t->used = 0;
}

void table_free(struct table *t)
{
	table_clear(t);
	free(t->cells);
	free(t->widths);
	free(t);
}

bool out_colour(int fd)
{
	const char *no = getenv("NO_COLOR"); /* NOLINT: one thread */

	return isatty(fd) && !(no && *no);
}

const char *out_age(char buf[32], uint64_t when_ms)
{
	uint64_t now = proc_wall_ms();
	char text[UNITS_TEXT];

	if (!when_ms)
		(void)str_copy(buf, 32, "-");
	else /* a clock that went back is an age of 0 */
		(void)str_copy(buf, 32,
			now < when_ms + 1000 ? "0s"
					     : units_duration(text, (now - when_ms) / 1000 * 1000));
	return buf;
}

const char *out_time(char buf[40], uint64_t when_ms)
{
	time_t s = (time_t)(when_ms / 1000);
	struct tm tm;
	char text[32];

	(void)gmtime_r(&s, &tm);
	(void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	(void)str_format(buf, 40, "%s.%03uZ", text, (unsigned)(when_ms % 1000));
	return buf;
}
