/* Expressions over the hosts' labels and tolerations as texts. */
#include "spec/spec.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "spec/spec_int.h"

#define VALUE_ROOM (SPEC_HOST_LABEL_MAX + 1)

struct parse {
	const char *text, *p;
	size_t *at; /* of a mistake, bytes from the beginning */
	struct err *err;
};

static int fail_at(struct parse *s, const char *p)
{
	*s->at = (size_t)(p - s->text);
	return -EINVAL;
}

static void skip(struct parse *s)
{
	s->p += strspn(s->p, " \t\r\n");
}

/* What no word has in it. */
static size_t word_size(const char *p)
{
	return strcspn(p, " \t\r\n(),\"'=!<>");
}

static bool word_is(const char *p, const char *word)
{
	size_t n = word_size(p);

	return n == strlen(word) && strncmp(p, word, n) == 0;
}

bool spec_is_label_key(const char *key)
{
	size_t n = strlen(key);

	return n > 0 && n <= SPEC_LABEL_KEY_MAX && strspn(key, LABEL_CHARS) == n;
}

static int parse_key(struct parse *s, char out[VALUE_ROOM])
{
	const char *p = s->p;
	size_t n = word_size(p), good = strspn(p, LABEL_CHARS);

	if (!n) {
		err_set(s->err, -EINVAL,
			*p ? "a label's name must stand before '%.20s'" : "the expression is empty",
			p);
		return fail_at(s, p);
	}
	if (good < n || n > SPEC_LABEL_KEY_MAX) {
		err_set(s->err, -EINVAL,
			"label '%.*s' must be 1 to %d letters, digits, '.', '_', '/' or '-'",
			n > 80 ? 80 : (int)n, p, SPEC_LABEL_KEY_MAX);
		return fail_at(s, good < n ? p + good : p);
	}
	memcpy(out, p, n);
	out[n] = 0;
	s->p = p + n;
	skip(s);
	return 0;
}

static int parse_value(struct parse *s, char out[VALUE_ROOM])
{
	const char *p = s->p, *from = p;
	bool quoted = *p == '"' || *p == '\'';
	size_t n;

	if (quoted) {
		from = p + 1;
		n = strcspn(from, *p == '"' ? "\"" : "'");
		if (!from[n]) {
			err_set(s->err, -EINVAL, "the closing %c is missing", *p);
			return fail_at(s, p);
		}
	} else {
		n = word_size(p);
		if (!n) {
			err_set(s->err, -EINVAL,
				*p ? "a value must stand before '%.20s'"
				   : "a value is missing at the end",
				p);
			return fail_at(s, p);
		}
	}
	if (n > SPEC_HOST_LABEL_MAX) {
		err_set(s->err, -EINVAL, "a value is at most %d bytes long", SPEC_HOST_LABEL_MAX);
		return fail_at(s, p);
	}
	memcpy(out, from, n);
	out[n] = 0;
	s->p = from + n + quoted;
	skip(s);
	return 0;
}

static int add_value(Um__LabelExpr *e, const char *value, struct err *err)
{
	char **list = realloc(e->values, (e->n_values + 1) * sizeof(*list));
	char *copy = str_dup(value);

	if (list)
		e->values = list;
	if (!list || !copy) {
		free(copy);
		return err_set(err, -ENOMEM, "memory is short");
	}
	list[e->n_values++] = copy;
	return 0;
}

static int parse_one(struct parse *s, Um__LabelExpr *e)
{
	char value[VALUE_ROOM];
	int rc = parse_value(s, value);

	return rc < 0 ? rc : add_value(e, value, s->err);
}

/* "(a, b)" */
static int parse_list(struct parse *s, Um__LabelExpr *e)
{
	const char *open = s->p;
	int rc;

	if (*open != '(') {
		err_set(s->err, -EINVAL, "the values must stand in ( ), as in '%s %s (a, b)'",
			e->key, e->op == UM__LABEL_OP__LABEL_IN ? "in" : "not in");
		return fail_at(s, open);
	}
	do {
		s->p++;
		skip(s);
		if (*s->p == ')' && !e->n_values) {
			err_set(s->err, -EINVAL, "the list of values is empty");
			return fail_at(s, open);
		}
		if (e->n_values == SPEC_VALUES_MAX) {
			err_set(s->err, -EINVAL, "more than %d values", SPEC_VALUES_MAX);
			return fail_at(s, s->p);
		}
		if (!*s->p)
			break;
		rc = parse_one(s, e);
		if (rc < 0)
			return rc;
	} while (*s->p == ',');
	if (*s->p != ')') {
		err_set(s->err, -EINVAL,
			*s->p ? "expected ',' or ')' before '%.20s'" : "the ')' is missing", s->p);
		return fail_at(s, s->p);
	}
	s->p++;
	return 0;
}

static int parse_number(struct parse *s, Um__LabelExpr *e)
{
	const char *p = s->p;
	char value[VALUE_ROOM];
	int rc = parse_value(s, value);

	if (rc < 0)
		return rc;
	rc = str_i64(value, INT64_MIN, INT64_MAX, &e->number);
	if (rc < 0) {
		err_set(s->err, -EINVAL, "'%s' is not a whole number%s", value,
			rc == -ERANGE ? " of 64 bits" : "");
		return fail_at(s, p);
	}
	return 0;
}

static const struct op {
	const char *text;
	Um__LabelOp op;
	int (*rest)(struct parse *s, Um__LabelExpr *e);
} symbols[] = {
	/* The longer ones first. */
	{">=", UM__LABEL_OP__LABEL_AT_LEAST, parse_number},
	{"<=", UM__LABEL_OP__LABEL_AT_MOST, parse_number},
	{"!=", UM__LABEL_OP__LABEL_NOT_IN, parse_one},
	{"==", UM__LABEL_OP__LABEL_IN, parse_one},
	{"=", UM__LABEL_OP__LABEL_IN, parse_one},
};

static int unknown_operator(struct parse *s)
{
	static const char *const words[] = {"in", "not in"};
	size_t n = word_size(s->p);
	char word[16] = "";
	const char *near = NULL;

	if (n && n < sizeof(word)) {
		memcpy(word, s->p, n);
		near = str_nearest(word, words, 2);
	}
	if (*s->p == '<' || *s->p == '>')
		err_set(s->err, -EINVAL, "write %c= for whole numbers, '%c' alone is unknown",
			*s->p, *s->p);
	else
		err_set(s->err, -EINVAL,
			"'%.*s' is unknown%s%s%s (one of =, !=, in, not in, >=, <=)",
			n ? (n > 40 ? 40 : (int)n) : 1, s->p, near ? "; did you mean '" : "",
			near ? near : "", near ? "'?" : "");
	return fail_at(s, s->p);
}

static int parse_rest(struct parse *s, Um__LabelExpr *e)
{
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		if (!str_starts(s->p, symbols[i].text))
			continue;
		s->p += strlen(symbols[i].text);
		skip(s);
		e->op = symbols[i].op;
		return symbols[i].rest(s, e);
	}
	e->op = UM__LABEL_OP__LABEL_IN;
	if (word_is(s->p, "not")) {
		const char *after = s->p + 3 + strspn(s->p + 3, " \t\r\n");

		if (!word_is(after, "in")) {
			err_set(s->err, -EINVAL, "expected 'in' after 'not'");
			return fail_at(s, after);
		}
		s->p = after;
		e->op = UM__LABEL_OP__LABEL_NOT_IN;
	}
	if (!word_is(s->p, "in"))
		return unknown_operator(s);
	s->p += 2;
	skip(s);
	return parse_list(s, e);
}

static int parse_expr(struct parse *s, Um__LabelExpr *e)
{
	char key[VALUE_ROOM];
	bool absent = *s->p == '!';
	int rc;

	if (absent) {
		s->p++;
	} else if (word_is(s->p, "not")) {
		/* A label may be called that too. */
		const char *after = s->p + 3 + strspn(s->p + 3, " \t\r\n");

		absent = word_size(after) && !word_is(after, "in") && !word_is(after, "not");
		if (absent)
			s->p = after;
	}
	skip(s);
	rc = parse_key(s, key);
	if (rc < 0)
		return rc;
	e->key = str_dup(key);
	if (!e->key) {
		e->key = (char *)(uintptr_t)protobuf_c_empty_string;
		return err_set(s->err, -ENOMEM, "memory is short");
	}
	e->op = absent ? UM__LABEL_OP__LABEL_ABSENT : UM__LABEL_OP__LABEL_EXISTS;
	if (*s->p && !absent)
		rc = parse_rest(s, e);
	skip(s);
	if (rc == 0 && *s->p) {
		size_t before = (size_t)(s->p - s->text);

		while (before && strchr(" \t\r\n", s->text[before - 1]))
			before--;
		err_set(s->err, -EINVAL, "'%.40s' is too much after '%.*s'", s->p,
			before > 80 ? 80 : (int)before, s->text);
		return fail_at(s, s->p);
	}
	return rc;
}

int spec_expr_parse(const char *text, Um__LabelExpr *out, size_t *at, struct err *err)
{
	struct parse s = {text, text, at, err};

	*at = 0;
	skip(&s);
	return parse_expr(&s, out);
}

/* A value as it stands in an expression: quoted where a word would not do. */
static void value_text(struct buf *out, const char *value)
{
	size_t n = strlen(value);
	const char *quote = n && word_size(value) == n ? "" : strchr(value, '"') ? "'" : "\"";

	buf_printf(out, "%s%s%s", quote, value, quote);
}

void spec_expr_text(const Um__LabelExpr *e, struct buf *out)
{
	bool many = e->n_values > 1;

	switch (e->op) {
	case UM__LABEL_OP__LABEL_IN:
	case UM__LABEL_OP__LABEL_NOT_IN:
		buf_add_str(out, e->key);
		if (e->op == UM__LABEL_OP__LABEL_IN)
			buf_add_str(out, many ? " in (" : " = ");
		else
			buf_add_str(out, many ? " not in (" : " != ");
		for (size_t i = 0; i < e->n_values; i++) {
			buf_add_str(out, i ? ", " : "");
			value_text(out, e->values[i]);
		}
		buf_add_str(out, many ? ")" : "");
		break;
	case UM__LABEL_OP__LABEL_AT_LEAST:
		buf_printf(out, "%s >= %" PRId64, e->key, e->number);
		break;
	case UM__LABEL_OP__LABEL_AT_MOST:
		buf_printf(out, "%s <= %" PRId64, e->key, e->number);
		break;
	case UM__LABEL_OP__LABEL_ABSENT:
		buf_printf(out, "!%s", e->key);
		break;
	default:
		buf_add_str(out, e->key);
		break;
	}
}

int spec_toleration_parse(const char *text, Um__Toleration *out, size_t *at, struct err *err)
{
	const char *eq = strchr(text, '=');
	bool all = strcmp(text, "*") == 0;
	size_t n = eq ? (size_t)(eq - text) : strlen(text), good = strspn(text, LABEL_CHARS);
	char *key, *value;

	*at = 0;
	if (!all && (!n || n > SPEC_LABEL_KEY_MAX || good != n)) {
		*at = good < n ? good : 0;
		return err_set(err, -EINVAL,
			"'%.80s' is not KEY, KEY=VALUE or '*' (a key is 1 to %d letters, digits, "
			"'.', '_', '/' or '-')",
			text, SPEC_LABEL_KEY_MAX);
	}
	if (eq && strlen(eq + 1) > SPEC_HOST_LABEL_MAX) {
		*at = n + 1;
		return err_set(
			err, -EINVAL, "a value is at most %d bytes long", SPEC_HOST_LABEL_MAX);
	}
	key = strndup(text, all ? 0 : n);
	value = str_dup(eq ? eq + 1 : "");
	if (!key || !value) {
		free(key);
		free(value);
		return err_set(err, -ENOMEM, "memory is short");
	}
	out->key = key;
	out->value = value;
	out->any_value = !eq;
	return 0;
}

void spec_toleration_text(const Um__Toleration *t, struct buf *out)
{
	if (!given(t->key))
		buf_add_str(out, "*");
	else
		buf_printf(out, "%s%s%s", t->key, t->any_value ? "" : "=",
			t->any_value ? "" : t->value);
}
