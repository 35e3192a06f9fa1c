#include "clusterctl/yamlout.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "clusterctl/ydoc.h"
#include "lib/json.h"

/* A text that is nothing but a text, whoever reads it. */
static bool is_plain(const char *text)
{
	static const char *const words[] = {
		"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
	size_t n = strlen(text);

	if (!n || n > 200 || text[n - 1] == ':')
		return false;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcasecmp(text, words[i]) == 0)
			return false;
	for (size_t i = 0; i < n; i++) {
		char c = text[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
		bool other = (c >= '0' && c <= '9') || strchr("./:-", c);

		/* "a: b" and "a #b" are more than a text; a leading digit may be a number. */
		if (!letter && !(i && (other || (c == ' ' && text[i - 1] != ':'))) &&
			!(c == '/' && !i))
			return false;
	}
	return text[n - 1] != ' ';
}

static void scalar(const struct ynode *node, struct buf *out)
{
	struct json j;

	if (node->plain || is_plain(node->text)) {
		buf_add(out, node->text, node->size);
		return;
	}
	json_init(&j, out, 0);
	json_strn(&j, NULL, node->text, node->size);
}

static void spaces(struct buf *out, unsigned n)
{
	buf_printf(out, "%*s", (int)n, "");
}

/* What comes after "key:" or "-"; ends with a new line. */
static void value(const struct ynode *node, unsigned indent, bool item, struct buf *out)
{
	bool map = node->kind == YNODE_MAP;

	if (node->kind == YNODE_SCALAR || !node->count) {
		buf_add_byte(out, ' ');
		if (node->kind == YNODE_SCALAR)
			scalar(node, out);
		else
			buf_add_str(out, map ? "{}" : "[]");
		buf_add_byte(out, '\n');
		return;
	}
	/* A map or list in a list begins in its line. */
	buf_add_str(out, item ? " " : "\n");
	for (size_t i = 0; i < node->count; i++) {
		if (i || !item)
			spaces(out, indent);
		if (map) {
			scalar(node->pairs[i].key, out);
			buf_add_byte(out, ':');
			value(node->pairs[i].value, indent + 2, false, out);
		} else {
			buf_add_byte(out, '-');
			value(node->items[i], indent + 2, true, out);
		}
	}
}

int yamlout(const char *json, size_t size, bool item, struct buf *out, struct err *err)
{
	struct ydoc *doc;
	struct mark mark;
	int rc = ydoc_parse(json, size, &doc, &mark, err);

	if (rc < 0)
		return rc;
	if (ydoc_count(doc) == 1) {
		const struct ynode *root = ydoc_root(doc, 0);

		if (item) {
			buf_add_byte(out, '-');
			value(root, 2, true, out);
		} else {
			size_t at = out->size;

			value(root, 0, false, out);
			/* without the blank or new line that would follow a key */
			if (!out->failed)
				memmove(out->data + at, out->data + at + 1, --out->size - at);
		}
	}
	ydoc_free(doc);
	return out->failed ? err_set(err, -ENOMEM, "memory is short") : 0;
}
