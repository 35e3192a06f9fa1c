/* From a path of spec_check() to a place in the file. */
#include "clusterctl/lab_schema.h"

#include <stdlib.h>
#include <string.h>

struct walk {
	const struct ynode *node; /* reached so far */
	struct mark mark;	  /* of the key or list item that led there */
	const char *rest;	  /* of the path */
};

/* The pair whose key is the longest beginning of PATH that ends where a part of
 * the path ends: keys may have dots and brackets of their own. */
static bool step_map(struct walk *w, const char *path, size_t *index)
{
	const struct ypair *best = NULL;
	size_t length = 0;

	for (size_t i = 0; i < w->node->count; i++) {
		const struct ypair *p = &w->node->pairs[i];
		size_t n = p->key->size;

		if (n < length || strncmp(path, p->key->text, n) != 0 ||
			(path[n] && path[n] != '.' && path[n] != '['))
			continue;
		best = p;
		length = n;
		*index = i;
	}
	if (!best)
		return false;
	w->mark = best->key->mark;
	w->node = best->value;
	w->rest = path + length;
	return true;
}

static bool step_index(struct walk *w, const char *path)
{
	char *end;
	unsigned long i = strtoul(path + 1, &end, 10);

	if (*end != ']')
		return false;
	if (w->node->kind == YNODE_LIST && i < w->node->count) {
		w->node = w->node->items[i];
		w->mark = w->node->mark;
	} else if (w->node->kind == YNODE_MAP && i < w->node->count) {
		w->mark = w->node->pairs[i].key->mark;
		w->node = w->node->pairs[i].value;
	} else if (w->node->kind != YNODE_SCALAR || i) {
		return false;
	} else {
		w->mark = w->node->mark; /* an item that stands for a list of it */
	}
	w->rest = end + 1;
	return true;
}

struct mark lab_where(const struct lab_ctx *ctx, const char *path, bool *bad)
{
	struct walk w = {ctx->root, ctx->root->mark, path};
	unsigned depth = 0;
	bool in_guests = false;

	*bad = false;
	while (*w.rest) {
		const char *part = *w.rest == '.' ? w.rest + 1 : w.rest;
		size_t index = 0;

		if (*part == '[') {
			if (!step_index(&w, part))
				break;
		} else if (w.node->kind != YNODE_MAP || !step_map(&w, part, &index)) {
			*bad = lab_is_bad(ctx, w.node, part);
			break;
		}
		/* What was read of a guest is the guest with the defaults under it. */
		if (depth == 1 && in_guests && ctx->guests && ctx->guests[index])
			w.node = ctx->guests[index];
		in_guests = depth == 0 && str_starts(path, "guests");
		depth++;
	}
	*bad = *bad || lab_is_bad(ctx, w.node, NULL);
	if (!*w.rest && w.node->kind == YNODE_SCALAR && !ynode_is_null(w.node))
		return w.node->mark;
	return w.mark;
}
