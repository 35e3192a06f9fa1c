#include "clusterctl/sorted.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/buf.h"
#include "lib/str.h"

struct sorted_row {
	const Um__GetReply *reply;
	size_t i, order;
	char *text; /* of the field; NULL: absent */
	bool number;
	double value;
};

void sorted_init(struct sorted *s, Um__Kind kind, const char *by)
{
	*s = (struct sorted){.kind = kind, .backwards = *by == '-'};
	s->field = by + s->backwards;
}

void sorted_free(struct sorted *s)
{
	for (size_t i = 0; i < s->count; i++)
		free(s->rows[i].text);
	for (size_t i = 0; i < s->reply_count; i++)
		um__get_reply__free_unpacked(s->replies[i], NULL);
	free(s->rows);
	free(s->replies);
}

/* ---------------------------------------------------------------- fields of a row */

/* Behind the string that begins at P. */
static const char *skip_string(const char *p)
{
	for (p++; *p && *p != '"'; p++)
		if (*p == '\\' && p[1])
			p++;
	return *p ? p + 1 : p;
}

/* Behind the value that begins at P. */
static const char *skip_value(const char *p)
{
	int depth = 0;

	while (*p) {
		if (*p == '"') {
			p = skip_string(p);
			continue;
		}
		if (*p == '{' || *p == '[')
			depth++;
		else if ((*p == '}' || *p == ']' || *p == ',') && depth == 0)
			break;
		else if (*p == '}' || *p == ']')
			depth--;
		p++;
	}
	return p;
}

/* The next field of our own compact JSON; *P moves on.  False: no more. */
static bool next_field(
	const char **p, const char **key, size_t *key_size, const char **value, size_t *size)
{
	const char *end;

	if (**p != '{' && **p != ',')
		return false;
	*key = *p + 2;
	end = skip_string(*p + 1);
	*key_size = (size_t)(end - *key) - 1;
	*value = end + 1;
	*p = skip_value(*value);
	*size = (size_t)(*p - *value);
	return true;
}

static int take_value(struct sorted_row *row, const char *value, size_t size)
{
	char *end;

	if (size == 4 && strncmp(value, "null", 4) == 0)
		return 0;
	row->text = *value == '"' ? strndup(value + 1, size - 2) : strndup(value, size);
	if (!row->text)
		return -ENOMEM;
	row->value = strtod(row->text, &end);
	row->number = *value != '"' && !*end && end != row->text;
	return 0;
}

static int find_field(
	const struct sorted *s, const char *json, struct sorted_row *row, struct err *err)
{
	const char *p = json, *key, *value;
	size_t key_size, size;
	struct buf names;
	int rc;

	while (next_field(&p, &key, &key_size, &value, &size))
		if (key_size == strlen(s->field) && strncmp(key, s->field, key_size) == 0)
			return take_value(row, value, size);
	buf_init(&names);
	p = json;
	while (next_field(&p, &key, &key_size, &value, &size))
		buf_printf(&names, "%s%.*s", names.size ? ", " : "", (int)key_size, key);
	rc = err_set(err, -EINVAL, "--sort '%.40s' is none of %s", s->field, buf_text(&names));
	buf_free(&names);
	return rc;
}

/* ---------------------------------------------------------------- rows */

static int keep_reply(struct sorted *s, const Um__GetReply *r, Um__GetReply **copy)
{
	Um__GetReply **more =
		reallocarray(s->replies, s->reply_count + 1, sizeof(struct Um__GetReply *));

	if (!more)
		return -ENOMEM;
	s->replies = more;
	*copy = wire_copy(&r->base);
	if (!*copy)
		return -ENOMEM;
	s->replies[s->reply_count++] = *copy;
	return 0;
}

static int add_row(struct sorted *s, const Um__GetReply *r, size_t i, struct err *err)
{
	struct sorted_row *row;
	struct json json;
	struct buf text;
	int rc;

	if (s->count == s->room) {
		size_t room = s->room ? s->room * 2 : 64;
		struct sorted_row *more = reallocarray(s->rows, room, sizeof(*more));

		if (!more)
			return err_set(err, -ENOMEM, "memory is short");
		s->rows = more;
		s->room = room;
	}
	row = &s->rows[s->count];
	*row = (struct sorted_row){.reply = r, .i = i, .order = s->count};
	buf_init(&text);
	json_init(&json, &text, 0);
	(void)show_json(r, s->kind, i, &json);
	rc = text.failed ? err_set(err, -ENOMEM, "memory is short")
			 : find_field(s, buf_text(&text), row, err);
	buf_free(&text);
	s->count += rc == 0;
	return rc;
}

int sorted_add(struct sorted *s, const Um__GetReply *r, struct err *err)
{
	size_t n = show_count(r, s->kind);
	Um__GetReply *copy;
	int rc = 0;

	if (!n)
		return 0;
	if (keep_reply(s, r, &copy) < 0)
		return err_set(err, -ENOMEM, "memory is short");
	for (size_t i = 0; i < n && rc == 0; i++)
		rc = add_row(s, copy, i, err);
	return rc;
}

static int compare(const struct sorted_row *a, const struct sorted_row *b)
{
	if (!a->text || !b->text)
		return (a->text != NULL) - (b->text != NULL);
	if (a->number && b->number)
		return (a->value > b->value) - (a->value < b->value);
	return strverscmp(a->text, b->text);
}

static int forwards(const void *a, const void *b)
{
	const struct sorted_row *x = a, *y = b;
	int rc = compare(x, y);

	return rc ? rc : (x->order > y->order) - (x->order < y->order);
}

static int backwards(const void *a, const void *b)
{
	const struct sorted_row *x = a, *y = b;
	int rc = compare(y, x);

	return rc ? rc : (x->order > y->order) - (x->order < y->order);
}

int sorted_each(struct sorted *s, sorted_fn *fn, void *arg)
{
	int rc = 0;

	if (s->count)
		qsort(s->rows, s->count, sizeof(*s->rows), s->backwards ? backwards : forwards);
	for (size_t i = 0; i < s->count && rc >= 0; i++)
		rc = fn(arg, s->rows[i].reply, s->rows[i].i);
	return rc;
}
