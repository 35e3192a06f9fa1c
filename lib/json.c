#include "lib/json.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "lib/str.h"

#define DEPTH_MAX 63u

void json_init(struct json *j, struct buf *out, unsigned indent)
{
	*j = (struct json){.out = out, .indent = indent};
}

static void newline(struct json *j)
{
	if (!j->indent)
		return;
	buf_add_byte(j->out, '\n');
	for (unsigned i = 0; i < j->depth * j->indent; i++)
		buf_add_byte(j->out, ' ');
}

static void quoted(struct json *j, const char *text, size_t size)
{
	bool utf8 = str_is_utf8(text, size);

	buf_add_byte(j->out, '"');
	for (size_t i = 0; i < size; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '"' || c == '\\')
			buf_printf(j->out, "\\%c", c);
		else if (c == '\n')
			buf_add_str(j->out, "\\n");
		else if (c == '\t')
			buf_add_str(j->out, "\\t");
		else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8))
			/* What is no UTF-8 is shown byte by byte (as Latin-1). */
			buf_printf(j->out, "\\u%04x", c);
		else
			buf_add_byte(j->out, c);
	}
	buf_add_byte(j->out, '"');
}

/* What stands before a value: comma, line, key. */
static void begin(struct json *j, const char *key)
{
	uint64_t bit = UINT64_C(1) << j->depth;

	if (j->comma & bit)
		buf_add_byte(j->out, ',');
	j->comma |= bit;
	if (j->depth)
		newline(j);
	/* Inside an object a key must stand, even where the caller forgot it. */
	if (j->object & bit) {
		quoted(j, key ? key : "", key ? strlen(key) : 0);
		buf_add_str(j->out, j->indent ? ": " : ":");
	}
}

static void open_level(struct json *j, const char *key, bool object)
{
	begin(j, key);
	buf_add_byte(j->out, object ? '{' : '[');
	if (j->depth >= DEPTH_MAX) {
		j->out->failed = true;
		return;
	}
	j->depth++;
	j->comma &= ~(UINT64_C(1) << j->depth);
	if (object)
		j->object |= UINT64_C(1) << j->depth;
	else
		j->object &= ~(UINT64_C(1) << j->depth);
}

void json_object(struct json *j, const char *key)
{
	open_level(j, key, true);
}

void json_array(struct json *j, const char *key)
{
	open_level(j, key, false);
}

void json_end(struct json *j)
{
	uint64_t bit = UINT64_C(1) << j->depth;
	bool object = j->object & bit, any = j->comma & bit;

	if (!j->depth) {
		j->out->failed = true;
		return;
	}
	j->depth--;
	if (any)
		newline(j);
	buf_add_byte(j->out, object ? '}' : ']');
}

void json_strn(struct json *j, const char *key, const char *value, size_t size)
{
	begin(j, key);
	quoted(j, value, size);
}

void json_str(struct json *j, const char *key, const char *value)
{
	if (value)
		json_strn(j, key, value, strlen(value));
	else
		json_null(j, key);
}

void json_u64(struct json *j, const char *key, uint64_t value)
{
	begin(j, key);
	buf_printf(j->out, "%" PRIu64, value);
}

void json_i64(struct json *j, const char *key, int64_t value)
{
	begin(j, key);
	buf_printf(j->out, "%" PRId64, value);
}

void json_double(struct json *j, const char *key, double value)
{
	if (!isfinite(value)) {
		json_null(j, key);
		return;
	}
	begin(j, key);
	buf_printf(j->out, "%.6g", value);
}

void json_bool(struct json *j, const char *key, bool value)
{
	begin(j, key);
	buf_add_str(j->out, value ? "true" : "false");
}

void json_null(struct json *j, const char *key)
{
	begin(j, key);
	buf_add_str(j->out, "null");
}
