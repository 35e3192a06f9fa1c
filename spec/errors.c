#include "spec/spec.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void spec_errors_init(struct spec_errors *errors)
{
	memset(errors, 0, sizeof(*errors));
}

void spec_errors_free(struct spec_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++) {
		free(errors->items[i].path);
		free(errors->items[i].message);
	}
	free(errors->items);
	spec_errors_init(errors);
}

/* Texts may hold what a user wrote, cut anywhere: made valid UTF-8 without
 * control bytes, so that they can go into a message and onto a terminal. */
static char *clean(const char *text)
{
	char *copy = str_dup(text);
	size_t n;
	bool utf8;

	if (!copy)
		return NULL;
	n = strlen(copy);
	utf8 = str_is_utf8(copy, n);
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)copy[i];

		if (c < ' ' || c == 0x7f || (c >= 0x80 && !utf8))
			copy[i] = '?';
	}
	return copy;
}

static bool make_room(struct spec_errors *errors)
{
	size_t capacity = errors->capacity ? 2 * errors->capacity : 16;
	struct spec_error *items;

	if (errors->count < errors->capacity)
		return true;
	items = realloc(errors->items, capacity * sizeof(*items));
	if (!items)
		return false;
	errors->items = items;
	errors->capacity = capacity;
	return true;
}

void spec_errors_add(struct spec_errors *errors, const char *path, const char *fmt, ...)
{
	char text[ERR_MSG_SIZE];
	struct spec_error e;
	va_list ap;

	if (errors->count >= SPEC_ERRORS_MAX) {
		errors->dropped++;
		return;
	}
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	e.path = clean(path);
	e.message = clean(text);
	if (!e.path || !e.message || !make_room(errors)) {
		free(e.path);
		free(e.message);
		errors->failed = true;
		return;
	}
	errors->items[errors->count++] = e;
}
