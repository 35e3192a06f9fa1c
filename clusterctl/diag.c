#include "clusterctl/diag.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/err.h"
#include "lib/str.h"

void diags_init(struct diags *diags)
{
	memset(diags, 0, sizeof(*diags));
}

void diags_free(struct diags *diags)
{
	for (size_t i = 0; i < diags->count; i++) {
		free(diags->items[i].file);
		free(diags->items[i].message);
	}
	free(diags->items);
	diags_init(diags);
}

static bool known(const struct diags *diags, const char *file, struct mark mark, const char *text)
{
	for (size_t i = 0; i < diags->count; i++) {
		const struct diag *d = &diags->items[i];

		if (d->mark.line == mark.line && d->mark.column == mark.column &&
			strcmp(d->message, text) == 0 && strcmp(d->file, file) == 0)
			return true;
	}
	return false;
}

void diag_add(struct diags *diags, const char *file, struct mark mark, const char *fmt, ...)
{
	char text[ERR_MSG_SIZE];
	struct diag d = {.mark = mark, .order = diags->file_order};
	va_list ap;
	bool utf8;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* What comes from a file goes to a terminal: no control bytes. */
	utf8 = str_is_utf8(text, strlen(text));
	for (unsigned char *p = (unsigned char *)text; *p; p++)
		if (*p < ' ' || *p == 0x7f || (*p >= 0x80 && !utf8))
			*p = '?';
	if (known(diags, file, mark, text))
		return;
	if (diags->count >= DIAG_MAX) {
		diags->dropped++;
		return;
	}
	if (diags->count == diags->capacity) {
		size_t capacity = diags->capacity ? 2 * diags->capacity : 16;
		struct diag *items = realloc(diags->items, capacity * sizeof(*items));

		if (!items) {
			diags->failed = true;
			return;
		}
		diags->items = items;
		diags->capacity = capacity;
	}
	d.file = str_dup(file);
	d.message = str_dup(text);
	if (!d.file || !d.message) {
		free(d.file);
		free(d.message);
		diags->failed = true;
		return;
	}
	diags->items[diags->count++] = d;
}

void diags_next_file(struct diags *diags)
{
	diags->file_order++;
}

static int by_place(const void *a, const void *b)
{
	const struct diag *x = a, *y = b;

	if (x->order != y->order)
		return x->order < y->order ? -1 : 1;
	if (x->mark.line != y->mark.line)
		return x->mark.line < y->mark.line ? -1 : 1;
	if (x->mark.column != y->mark.column)
		return x->mark.column < y->mark.column ? -1 : 1;
	return strcmp(x->message, y->message);
}

void diags_text(struct diags *diags, struct buf *out)
{
	if (diags->count)
		qsort(diags->items, diags->count, sizeof(*diags->items), by_place);
	for (size_t i = 0; i < diags->count; i++) {
		const struct diag *d = &diags->items[i];

		if (d->mark.line)
			buf_printf(out, "%s:%u:%u: %s\n", d->file, d->mark.line, d->mark.column,
				d->message);
		else
			buf_printf(out, "%s: %s\n", d->file, d->message);
	}
	if (diags->dropped)
		buf_printf(out, "and %zu more errors\n", diags->dropped);
	if (diags->failed)
		buf_add_str(out, "memory is short: not all errors are shown\n");
}
