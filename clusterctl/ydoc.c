#include "clusterctl/ydoc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <yaml.h>

#include "clusterctl/ydoc_int.h"
#include "lib/str.h"

struct anchor {
	struct ynode *node;
	UT_hash_handle hh;
	char name[];
};

/* ---- building ---- */

struct level {
	struct ynode *node;
	size_t first; /* its children in `pending` begin here */
};

struct build {
	struct ydoc *doc;
	struct anchor *anchors;
	struct level levels[YDOC_DEPTH_MAX];
	size_t depth;
	struct ynode **pending; /* children of the open containers, in order */
	size_t pending_count, pending_capacity;
	uint64_t nodes;
	struct mark *mark;
	struct err *err;
};

static struct mark mark_of(yaml_mark_t m)
{
	return (struct mark){(uint32_t)m.line + 1, (uint32_t)m.column + 1};
}

static int refuse(struct build *b, struct mark mark, int code)
{
	*b->mark = mark;
	return code;
}

static int no_memory(struct build *b)
{
	*b->mark = (struct mark){0, 0};
	return err_set(b->err, -ENOMEM, "memory is short");
}

static int count_nodes(struct build *b, uint64_t more, struct mark mark)
{
	b->nodes += more;
	if (b->nodes > YDOC_NODES_MAX)
		return refuse(b, mark,
			err_set(b->err, -E2BIG,
				"more than %d values (aliases count as what they stand for)",
				YDOC_NODES_MAX));
	return 0;
}

/* Hands NODE to the container that is open, or makes it a document's root. */
static int deliver(struct build *b, struct ynode *node)
{
	struct ydoc *doc = b->doc;

	if (b->depth) {
		if (b->pending_count == b->pending_capacity) {
			size_t capacity = b->pending_capacity ? 2 * b->pending_capacity : 256;
			struct ynode **p = realloc(b->pending, capacity * sizeof(void *));

			if (!p)
				return no_memory(b);
			b->pending = p;
			b->pending_capacity = capacity;
		}
		b->pending[b->pending_count++] = node;
		return 0;
	}
	if (ynode_is_null(node))
		return 0;
	if (doc->count >= YDOC_DOCUMENTS_MAX)
		return refuse(b, node->mark,
			err_set(b->err, -E2BIG, "more than %d documents", YDOC_DOCUMENTS_MAX));
	if (doc->count == doc->capacity) {
		size_t capacity = doc->capacity ? 2 * doc->capacity : 4;
		struct ynode **p = realloc(doc->roots, capacity * sizeof(void *));

		if (!p)
			return no_memory(b);
		doc->roots = p;
		doc->capacity = capacity;
	}
	doc->roots[doc->count++] = node;
	return 0;
}

static struct ynode *new_node(struct build *b, enum ynode_kind kind, struct mark mark)
{
	struct ynode *node = ydoc_take(b->doc, sizeof(*node));

	if (node)
		*node = (struct ynode){.kind = kind, .mark = mark, .weight = 1};
	return node;
}

static int remember(struct build *b, const yaml_char_t *name, struct ynode *node)
{
	const char *key = (const char *)name;
	struct anchor *a;
	size_t n;

	if (!name)
		return 0;
	n = strlen(key);
	HASH_FIND(hh, b->anchors, key, n, a);
	if (a) { /* the last definition holds */
		a->node = node;
		return 0;
	}
	a = malloc(sizeof(*a) + n + 1);
	if (!a)
		return no_memory(b);
	memcpy(a->name, key, n + 1);
	a->node = node;
	HASH_ADD_KEYPTR(hh, b->anchors, a->name, n, a);
	return 0;
}

static int check_tag(struct build *b, const yaml_char_t *tag, struct mark mark)
{
	static const char *const known[] = {YAML_STR_TAG, YAML_INT_TAG, YAML_FLOAT_TAG,
		YAML_BOOL_TAG, YAML_NULL_TAG, YAML_SEQ_TAG, YAML_MAP_TAG, YAML_TIMESTAMP_TAG, "!"};

	for (size_t i = 0; tag && i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp((const char *)tag, known[i]) == 0)
			return 0;
	if (!tag)
		return 0;
	return refuse(b, mark,
		err_set(b->err, -EINVAL,
			"the tag '%.60s' is not supported (a text that starts with '!' needs "
			"quotes)",
			(const char *)tag));
}

/* Where the text begins, when it stands in its line as it is: the columns from
 * start to end are then its own, and those of two quotes. */
static uint32_t text_column(const yaml_event_t *e, const struct ynode *node)
{
	yaml_scalar_style_t style = e->data.scalar.style;
	uint32_t quote = style == YAML_PLAIN_SCALAR_STYLE ? 0 : 1;

	if (style == YAML_LITERAL_SCALAR_STYLE || style == YAML_FOLDED_SCALAR_STYLE ||
		e->start_mark.line != e->end_mark.line ||
		e->end_mark.column - e->start_mark.column !=
			ynode_columns(node->text, node->size) + 2 * (size_t)quote)
		return 0;
	return node->mark.column + quote;
}

static int on_scalar(struct build *b, const yaml_event_t *e)
{
	struct mark mark = mark_of(e->start_mark);
	size_t size = e->data.scalar.length;
	struct ynode *node;
	char *text;
	int rc = check_tag(b, e->data.scalar.tag, mark);

	if (rc == 0)
		rc = count_nodes(b, 1, mark);
	if (rc < 0)
		return rc;
	if (memchr(e->data.scalar.value, 0, size))
		return refuse(b, mark, err_set(b->err, -EINVAL, "a text must not hold a NUL"));
	node = new_node(b, YNODE_SCALAR, mark);
	text = ydoc_take(b->doc, size + 1);
	if (!node || !text)
		return no_memory(b);
	memcpy(text, e->data.scalar.value, size);
	text[size] = 0;
	node->text = text;
	node->size = size;
	node->column = text_column(e, node);
	node->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
		      (!e->data.scalar.tag ||
			      strcmp((const char *)e->data.scalar.tag, YAML_STR_TAG) != 0);
	rc = remember(b, e->data.scalar.anchor, node);
	return rc < 0 ? rc : deliver(b, node);
}

static int on_alias(struct build *b, const yaml_event_t *e)
{
	const char *name = (const char *)e->data.alias.anchor;
	struct mark mark = mark_of(e->start_mark);
	struct anchor *a;
	int rc;

	HASH_FIND_STR(b->anchors, name, a);
	if (!a)
		return refuse(b, mark,
			err_set(b->err, -EINVAL, "there is no anchor '&%.60s' before this alias",
				name));
	if (a->node->open)
		return refuse(b, mark,
			err_set(b->err, -EINVAL, "the alias '*%.60s' stands inside of itself",
				name));
	rc = count_nodes(b, a->node->weight, mark);
	return rc < 0 ? rc : deliver(b, a->node);
}

static int on_start(struct build *b, enum ynode_kind kind, const yaml_event_t *e)
{
	bool list = kind == YNODE_LIST;
	struct mark mark = mark_of(e->start_mark);
	struct ynode *node;
	int rc;

	if (b->depth == YDOC_DEPTH_MAX)
		return refuse(b, mark,
			err_set(b->err, -E2BIG, "nested more than %d levels deep", YDOC_DEPTH_MAX));
	rc = check_tag(b, list ? e->data.sequence_start.tag : e->data.mapping_start.tag, mark);
	if (rc == 0)
		rc = count_nodes(b, 1, mark);
	if (rc < 0)
		return rc;
	node = new_node(b, kind, mark);
	if (!node)
		return no_memory(b);
	node->open = true;
	b->levels[b->depth++] = (struct level){node, b->pending_count};
	return remember(
		b, list ? e->data.sequence_start.anchor : e->data.mapping_start.anchor, node);
}

/* ---- maps ---- */

static int check_twice(struct build *b, const struct ynode *map)
{
	const struct ypair **list = ypairs_sorted(map->pairs, map->count);
	const struct ynode *worst = NULL, *before = NULL;

	if (!list)
		return no_memory(b);
	for (size_t i = 1; i < map->count; i++) {
		const struct ynode *x = list[i - 1]->key, *y = list[i]->key;

		if (strcmp(x->text, y->text) != 0)
			continue;
		/* qsort is not stable: the later one is the repetition. */
		if (x->mark.line > y->mark.line ||
			(x->mark.line == y->mark.line && x->mark.column > y->mark.column)) {
			const struct ynode *t = x;

			x = y;
			y = t;
		}
		if (!worst || y->mark.line < worst->mark.line) {
			worst = y;
			before = x;
		}
	}
	free(list);
	if (!worst)
		return 0;
	return refuse(b, worst->mark,
		err_set(b->err, -EINVAL, "the key '%.60s' is there twice (first in line %u)",
			worst->text, before->mark.line));
}

static bool is_merge(const struct ynode *key)
{
	return key->plain && strcmp(key->text, "<<") == 0;
}

struct merge {
	struct ynode *const *maps;
	size_t count;
};

static int merge_list(struct build *b, struct ynode *const *slot, struct merge *m)
{
	const struct ynode *v = *slot;

	*m = v->kind == YNODE_LIST ? (struct merge){v->items, v->count} : (struct merge){slot, 1};
	for (size_t i = 0; i < m->count; i++)
		if (m->maps[i]->kind != YNODE_MAP)
			return refuse(b, v->mark,
				err_set(b->err, -EINVAL,
					"'<<' takes a map, or a list of maps, to merge"));
	return 0;
}

static int do_merge(struct build *b, struct ynode *map, struct ynode *const *slot)
{
	struct merge m;
	struct ypair *pairs;
	uint64_t room = map->count, weight = 0;
	size_t n = map->count;
	int rc = merge_list(b, slot, &m);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < m.count; i++) {
		room += m.maps[i]->count;
		weight += m.maps[i]->weight;
	}
	rc = count_nodes(b, weight, (*slot)->mark);
	if (rc < 0)
		return rc;
	pairs = ydoc_take(b->doc, (size_t)(room + 1) * sizeof(*pairs));
	if (!pairs)
		return no_memory(b);
	if (n)
		memcpy(pairs, map->pairs, n * sizeof(*pairs));
	for (size_t i = 0; i < m.count; i++) {
		n = ypairs_add(pairs, n, m.maps[i]);
		if (n == SIZE_MAX)
			return no_memory(b);
	}
	map->pairs = pairs;
	map->count = n;
	map->weight += (uint32_t)weight;
	return 0;
}

static int end_map(struct build *b, struct ynode *map, struct ynode **children, size_t count)
{
	struct ynode **merged = NULL;
	int rc;

	map->pairs = ydoc_take(b->doc, (count / 2 + 1) * sizeof(*map->pairs));
	if (!map->pairs)
		return no_memory(b);
	for (size_t i = 0; i + 1 < count; i += 2) {
		struct ynode *key = children[i];

		if (key->kind != YNODE_SCALAR)
			return refuse(b, key->mark,
				err_set(b->err, -EINVAL,
					"a key must be a text, not %s (is a quote or a space after "
					"':' "
					"missing?)",
					ynode_kind_text(key)));
		if (!is_merge(key)) {
			map->pairs[map->count++] = (struct ypair){key, children[i + 1]};
			continue;
		}
		if (merged)
			return refuse(b, key->mark,
				err_set(b->err, -EINVAL,
					"the key '<<' is there twice; give it a list"));
		merged = &children[i + 1];
	}
	rc = check_twice(b, map);
	return rc < 0 || !merged ? rc : do_merge(b, map, merged);
}

static int on_end(struct build *b)
{
	struct level *l = &b->levels[b->depth ? b->depth - 1 : 0];
	/* Nothing is pending at all where every level so far is empty. */
	struct ynode *node = l->node, **children = b->pending ? b->pending + l->first : NULL;
	size_t count = b->pending_count - l->first;
	uint64_t weight = 1;
	int rc = 0;

	if (!b->depth || !node || (count && !children)) /* libyaml pairs starts and ends */
		return no_memory(b);
	/* Bounded by `nodes`, which counts the same. */
	for (size_t i = 0; i < count; i++)
		weight += children[i]->weight;
	node->weight = (uint32_t)weight;
	if (node->kind == YNODE_MAP) {
		rc = end_map(b, node, children, count);
	} else if (count) {
		node->items = ydoc_take(b->doc, count * sizeof(void *));
		if (!node->items)
			return no_memory(b);
		memcpy(node->items, children, count * sizeof(void *));
		node->count = count;
	}
	if (rc < 0)
		return rc;
	node->open = false;
	b->pending_count = l->first;
	b->depth--;
	return deliver(b, node);
}

static void forget_anchors(struct build *b)
{
	struct anchor *a, *next;

	HASH_ITER (hh, b->anchors, a, next) {
		HASH_DEL(b->anchors, a); /* NOLINT: uthash unlinks it */
		free(a);
	}
}

static int on_event(struct build *b, const yaml_event_t *e)
{
	switch (e->type) {
	case YAML_SCALAR_EVENT:
		return on_scalar(b, e);
	case YAML_ALIAS_EVENT:
		return on_alias(b, e);
	case YAML_SEQUENCE_START_EVENT:
		return on_start(b, YNODE_LIST, e);
	case YAML_MAPPING_START_EVENT:
		return on_start(b, YNODE_MAP, e);
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		return on_end(b);
	case YAML_DOCUMENT_END_EVENT:
		forget_anchors(b);
		return 0;
	case YAML_NO_EVENT:
	case YAML_STREAM_START_EVENT:
	case YAML_STREAM_END_EVENT:
	case YAML_DOCUMENT_START_EVENT:
		return 0;
	}
	return 0;
}

/* What libyaml says, in the words of someone who wrote the file. */
static int syntax_error(struct build *b, const yaml_parser_t *p, const char *data, size_t size)
{
	const char *problem = p->problem ? p->problem : "unknown error", *hint = "";
	size_t at = p->problem_mark.index;

	if (p->error == YAML_MEMORY_ERROR)
		return no_memory(b);
	if (p->error == YAML_READER_ERROR) {
		uint32_t line = 1;
		size_t end = p->problem_offset < size ? p->problem_offset : size;

		for (size_t i = 0; i < end; i++)
			line += data[i] == '\n';
		return refuse(b, (struct mark){line, 1},
			err_set(b->err, -EINVAL, "not UTF-8 text: %s (byte %zu of the file)",
				problem, p->problem_offset + 1));
	}
	if (at < size && data[at] == '\t')
		hint = "; YAML is indented with spaces, not tabs";
	else if (strstr(problem, "mapping values are not allowed"))
		hint = "; a text with ': ' in it must be quoted";
	else if (at < size && (data[at] == '@' || data[at] == '`' || data[at] == '%'))
		hint = "; a text that starts with this character must be quoted";
	return refuse(b, mark_of(p->problem_mark),
		err_set(b->err, -EINVAL, "not valid YAML: %s%s%s%s", p->context ? p->context : "",
			p->context ? ", " : "", problem, hint));
}

static int run(struct build *b, yaml_parser_t *parser, const void *data, size_t size)
{
	yaml_event_type_t type = YAML_NO_EVENT;
	int rc = 0;

	while (rc == 0 && type != YAML_STREAM_END_EVENT) {
		yaml_event_t event;

		if (!yaml_parser_parse(parser, &event))
			return syntax_error(b, parser, data, size);
		type = event.type;
		rc = on_event(b, &event);
		yaml_event_delete(&event);
	}
	return rc;
}

int ydoc_parse(const void *data, size_t size, struct ydoc **out, struct mark *mark, struct err *err)
{
	struct build b = {.mark = mark, .err = err};
	yaml_parser_t parser;
	int rc;

	*mark = (struct mark){0, 0};
	if (size > YDOC_SIZE_MAX)
		return err_set(err, -E2BIG, "larger than %u MiB", YDOC_SIZE_MAX >> 20);
	b.doc = calloc(1, sizeof(*b.doc));
	if (!b.doc || !yaml_parser_initialize(&parser)) {
		free(b.doc);
		return err_set(err, -ENOMEM, "memory is short");
	}
	yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&parser, data ? data : (const unsigned char *)"", size);
	rc = run(&b, &parser, data ? data : "", size);
	yaml_parser_delete(&parser);
	forget_anchors(&b);
	free(b.pending);
	if (rc < 0) {
		ydoc_free(b.doc);
		return rc;
	}
	*out = b.doc;
	return 0;
}
