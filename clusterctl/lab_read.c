/* Reads maps by tables. */
#include "clusterctl/lab_schema.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/units.h"

static void note_bad(struct lab_ctx *ctx, const struct ynode *node, const char *key)
{
	if (ctx->bad_count >= DIAG_MAX)
		return;
	if (ctx->bad_count == ctx->bad_capacity) {
		size_t capacity = ctx->bad_capacity ? 2 * ctx->bad_capacity : 16;
		struct lab_bad *p = realloc(ctx->bad, capacity * sizeof(*p));

		if (!p) {
			ctx->failed = true;
			return;
		}
		ctx->bad = p;
		ctx->bad_capacity = capacity;
	}
	ctx->bad[ctx->bad_count++] = (struct lab_bad){node, key};
}

bool lab_is_bad(const struct lab_ctx *ctx, const struct ynode *node, const char *key)
{
	for (size_t i = 0; i < ctx->bad_count; i++)
		if (ctx->bad[i].node == node &&
			(key ? ctx->bad[i].key && strcmp(ctx->bad[i].key, key) == 0
			     : !ctx->bad[i].key))
			return true;
	return false;
}

static void complain(struct lab_ctx *ctx, const struct ynode *node, struct mark mark,
	const char *fmt, va_list ap)
{
	char text[ERR_MSG_SIZE];

	(void)vsnprintf(text, sizeof(text), fmt, ap);
	diag_add(ctx->diags, ctx->file, mark, "%s%s%s", ctx->key ? ctx->key : "",
		ctx->key ? ": " : "", text);
	note_bad(ctx, node, NULL);
}

void lab_complain(struct lab_ctx *ctx, const struct ynode *node, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(ctx, node, node->mark, fmt, ap);
	va_end(ap);
}

void lab_complain_at(
	struct lab_ctx *ctx, const struct ynode *node, size_t offset, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(ctx, node, ynode_at(node, offset), fmt, ap);
	va_end(ap);
}

bool lab_expect(struct lab_ctx *ctx, const struct ynode *node, enum ynode_kind kind)
{
	static const char *const names[] = {"a text", "a list", "a map"};

	if (node->kind == kind && (kind != YNODE_SCALAR || !ynode_is_null(node)))
		return true;
	lab_complain(ctx, node, "expected %s, not %s", names[kind], ynode_kind_text(node));
	return false;
}

static bool set_text(struct lab_ctx *ctx, char **out, const char *text)
{
	char *copy = str_dup(text);

	if (!copy) {
		ctx->failed = true;
		return false;
	}
	if (*out != protobuf_c_empty_string)
		free(*out);
	*out = copy;
	return true;
}

bool lab_read_text(struct lab_ctx *ctx, const struct ynode *node, char **out)
{
	return lab_expect(ctx, node, YNODE_SCALAR) && set_text(ctx, out, node->text);
}

/* List of anything behind its counter: protobuf-c has `size_t n_x; T **x;`. */
static void ***list_of(size_t *n)
{
	return (void ***)(void *)(n + 1);
}

static bool append(struct lab_ctx *ctx, size_t *n, void *item)
{
	void ***list = list_of(n);

	/* Grown at powers of two, so there is no capacity to keep. */
	if ((*n & (*n - 1)) == 0) {
		void **p = realloc(*list, (*n ? 2 * *n : 1) * sizeof(*p));

		if (!p) {
			ctx->failed = true;
			return false;
		}
		*list = p;
	}
	(*list)[(*n)++] = item;
	return true;
}

void *lab_append(struct lab_ctx *ctx, size_t *n, const ProtobufCMessageDescriptor *type)
{
	void *msg = malloc(type->sizeof_message);

	if (!msg) {
		ctx->failed = true;
		return NULL;
	}
	protobuf_c_message_init(type, msg);
	if (append(ctx, n, msg))
		return msg;
	free(msg);
	return NULL;
}

bool lab_append_text(struct lab_ctx *ctx, size_t *n, const struct ynode *node)
{
	char *text;

	if (!lab_expect(ctx, node, YNODE_SCALAR))
		return false;
	text = str_dup(node->text);
	if (text && append(ctx, n, text))
		return true;
	free(text);
	ctx->failed = true;
	return false;
}

/* ---- one value ---- */

static void read_choice(
	struct lab_ctx *ctx, const struct ynode *node, const struct lab_field *f, void *at)
{
	struct buf all;
	size_t n = 0;
	const char *near;

	if (!lab_expect(ctx, node, YNODE_SCALAR))
		return;
	for (; f->choices[n]; n++) {
		if (strcmp(node->text, f->choices[n]) != 0)
			continue;
		if (f->type == LAB_WORD)
			(void)set_text(ctx, at, node->text);
		else
			*(int *)at = (int)n;
		return;
	}
	buf_init(&all);
	for (size_t i = 0; i < n; i++)
		buf_printf(&all, "%s%s", i ? ", " : "", f->choices[i]);
	near = str_nearest(node->text, f->choices, n);
	if (near)
		lab_complain(ctx, node, "'%.60s' is unknown; did you mean '%s'? (one of %s)",
			node->text, near, buf_text(&all));
	else
		lab_complain(
			ctx, node, "'%.60s' is unknown (one of %s)", node->text, buf_text(&all));
	buf_free(&all);
}

static void read_time(struct lab_ctx *ctx, const struct ynode *node, uint32_t *out)
{
	struct err err = ERR_INIT;
	uint64_t ms;

	if (units_parse_duration(node->text, &ms, &err) < 0)
		lab_complain(ctx, node, "%s", err_msg(&err));
	else if (ms > UINT32_MAX)
		lab_complain(ctx, node, "'%.40s' is too long a duration", node->text);
	else if (!ms)
		lab_complain(ctx, node, "must be more than 0 (leave it out for the default)");
	else
		*out = (uint32_t)ms;
}

static void read_number(struct lab_ctx *ctx, const struct ynode *node, enum lab_type type, void *at)
{
	int64_t min = type == LAB_I32 ? INT32_MIN : 0;
	int64_t max = type == LAB_I32 ? INT32_MAX : UINT32_MAX, v;
	int rc = str_i64(node->text, min, max, &v);

	if (rc == -ERANGE)
		lab_complain(ctx, node, "%.40s is not within %" PRId64 " to %" PRId64, node->text,
			min, max);
	else if (rc < 0)
		lab_complain(ctx, node, "'%.40s' is not a whole number", node->text);
	else if (type == LAB_I32)
		*(int32_t *)at = (int32_t)v;
	else
		*(uint32_t *)at = (uint32_t)v;
}

static void read_bool(struct lab_ctx *ctx, const struct ynode *node, protobuf_c_boolean *out)
{
	if (strcmp(node->text, "true") == 0 || strcmp(node->text, "false") == 0)
		*out = node->text[0] == 't';
	else
		lab_complain(ctx, node, "'%.40s' is neither true nor false", node->text);
}

/* "0755", 0755, 755 and 0o755 are the same: modes are octal. */
static void read_mode(struct lab_ctx *ctx, const struct ynode *node, uint32_t *out)
{
	const char *p = str_starts(node->text, "0o") ? node->text + 2 : node->text;
	uint32_t v = 0;

	for (const char *q = p; *q; q++) {
		if (*q < '0' || *q > '7' || q - p > 5) {
			p = "";
			break;
		}
		v = v << 3 | (uint32_t)(*q - '0');
	}
	if (!*p)
		lab_complain(ctx, node, "'%.40s' is not a file mode (write \"0644\")", node->text);
	else
		*out = v;
}

static void read_map(
	struct lab_ctx *ctx, const struct ynode *node, const struct lab_field *f, size_t *n)
{
	if (!lab_expect(ctx, node, YNODE_MAP))
		return;
	for (size_t i = 0; i < node->count; i++) {
		const struct ypair *p = &node->pairs[i];
		Um__GuestSpec__EnvEntry *entry; /* all map entries are alike */

		if (p->value->kind == YNODE_SCALAR && ynode_is_null(p->value)) {
			lab_complain(ctx, p->key,
				"'%.60s' has no value (write \"\" for an empty one)", p->key->text);
			continue;
		}
		if (!lab_expect(ctx, p->value, YNODE_SCALAR))
			continue;
		entry = lab_append(ctx, n, f->entry);
		if (!entry || !set_text(ctx, &entry->key, p->key->text) ||
			!set_text(ctx, &entry->value, p->value->text))
			return;
	}
}

static void read_scalar(
	struct lab_ctx *ctx, const struct ynode *node, const struct lab_field *f, void *at)
{
	struct err err = ERR_INIT;
	int rc = 0;

	if (!lab_expect(ctx, node, YNODE_SCALAR))
		return;
	switch (f->type) {
	case LAB_TEXT:
		(void)set_text(ctx, at, node->text);
		break;
	case LAB_SIZE:
		rc = units_parse_size(node->text, at, &err);
		break;
	case LAB_CPUS:
		rc = units_parse_cpus(node->text, at, &err);
		break;
	case LAB_TIME:
		read_time(ctx, node, at);
		break;
	case LAB_U32:
	case LAB_I32:
		read_number(ctx, node, f->type, at);
		break;
	case LAB_MODE:
		read_mode(ctx, node, at);
		break;
	case LAB_BOOL:
		read_bool(ctx, node, at);
		break;
	case LAB_WORD:
	case LAB_ENUM:
	case LAB_MAP:
	case LAB_OTHER:
		break;
	}
	if (rc < 0)
		lab_complain(ctx, node, "%s", err_msg(&err));
}

static void unknown_key(struct lab_ctx *ctx, const struct ynode *map, const struct ynode *key,
	const struct lab_table *table)
{
	const char *names[40], *near;
	struct buf all;
	size_t n = 0;

	buf_init(&all);
	for (size_t i = 0; i < table->count && n < sizeof(names) / sizeof(names[0]); i++) {
		names[n++] = table->fields[i].key;
		buf_printf(&all, "%s%s", i ? ", " : "", table->fields[i].key);
	}
	near = str_nearest(key->text, names, n);
	if (near) {
		diag_add(ctx->diags, ctx->file, key->mark,
			"unknown key '%.60s' in %s; did you mean "
			"'%s'?",
			key->text, table->name, near);
		note_bad(ctx, map, near);
	} else {
		diag_add(ctx->diags, ctx->file, key->mark,
			"unknown key '%.60s' in %s; it may have %s", key->text, table->name,
			buf_text(&all));
	}
	buf_free(&all);
}

void lab_read(
	struct lab_ctx *ctx, const struct ynode *node, const struct lab_table *table, void *msg)
{
	const char *outer = ctx->key;

	if (!lab_expect(ctx, node, YNODE_MAP))
		return;
	for (size_t i = 0; i < node->count && !ctx->failed; i++) {
		const struct ypair *p = &node->pairs[i];
		const struct lab_field *f = NULL;
		char *at;

		for (size_t k = 0; k < table->count && !f; k++)
			if (strcmp(table->fields[k].key, p->key->text) == 0)
				f = &table->fields[k];
		if (!f) {
			unknown_key(ctx, node, p->key, table);
			continue;
		}
		if (ynode_is_null(p->value))
			continue; /* not given */
		ctx->key = f->key;
		at = (char *)msg + f->offset;
		if (f->type == LAB_OTHER)
			f->read(ctx, p->value, msg);
		else if (f->type == LAB_WORD || f->type == LAB_ENUM)
			read_choice(ctx, p->value, f, at);
		else if (f->type == LAB_MAP)
			read_map(ctx, p->value, f, (size_t *)(void *)at);
		else
			read_scalar(ctx, p->value, f, at);
		ctx->key = outer;
	}
}
