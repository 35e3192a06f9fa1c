/* The keys of `placement`. */
#include "clusterctl/lab_schema.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(message, member) offsetof(Um__##message, member)

/* A list, or a text that stands for a list of it. */
typedef void item_fn(struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p);

static void each_item(struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p, item_fn *fn)
{
	for (size_t i = 0; i < node->count && !ctx->failed; i++)
		fn(ctx, node->items[i], p);
}

static void each(struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p, item_fn *fn)
{
	if (node->kind == YNODE_SCALAR)
		fn(ctx, node, p);
	else if (lab_expect(ctx, node, YNODE_LIST))
		each_item(ctx, node, p, fn);
}

/* ---- where, prefer ---- */

static void read_expr(
	struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p, bool preferred)
{
	Um__LabelExpr *e = lab_append(ctx, &p->n_where, &um__label_expr__descriptor);
	struct err err = ERR_INIT;
	size_t at;
	int rc;

	if (!e)
		return;
	e->preferred = preferred;
	if (node->kind == YNODE_MAP && node->count == 1 &&
		node->pairs[0].value->kind == YNODE_SCALAR) {
		lab_complain(ctx, node, "expected a text, not a map (write %.60s = %.60s)",
			node->pairs[0].key->text, node->pairs[0].value->text);
		return;
	}
	if (!lab_expect(ctx, node, YNODE_SCALAR))
		return;
	rc = spec_expr_parse(node->text, e, &at, &err);
	if (rc == -ENOMEM)
		ctx->failed = true;
	else if (rc < 0)
		/* A comma ends an item of a [list], also between parentheses. */
		lab_complain_at(ctx, node, at, "%s%s", err_msg(&err),
			node->plain && !node->text[at] && strchr(node->text, '(')
				? " (within [ ] an expression with commas needs quotes)"
				: "");
}

static void read_where_item(struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p)
{
	read_expr(ctx, node, p, false);
}

static void read_prefer_item(struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p)
{
	read_expr(ctx, node, p, true);
}

static void read_where(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	each(ctx, node, msg, read_where_item);
}

static void read_prefer(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	each(ctx, node, msg, read_prefer_item);
}

/* ---- tolerate ---- */

static void read_toleration(struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p)
{
	Um__Toleration *t = lab_append(ctx, &p->n_tolerate, &um__toleration__descriptor);
	struct err err = ERR_INIT;
	size_t at;
	int rc;

	if (!t || !lab_expect(ctx, node, YNODE_SCALAR))
		return;
	rc = spec_toleration_parse(node->text, t, &at, &err);
	if (rc == -ENOMEM)
		ctx->failed = true;
	else if (rc < 0)
		lab_complain_at(ctx, node, at, "%s", err_msg(&err));
}

static void read_tolerate(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	each(ctx, node, msg, read_toleration);
}

/* ---- with, apart ---- */

static const struct lab_field neighbour_fields[] = {
	{"guest", LAB_TEXT, FIELD(Affinity, guest), NULL, NULL, NULL},
	{"over", LAB_TEXT, FIELD(Affinity, over), NULL, NULL, NULL},
	{"preferred", LAB_BOOL, FIELD(Affinity, preferred), NULL, NULL, NULL},
};

static void read_affinity(
	struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p, bool apart)
{
	Um__Affinity *a = lab_append(ctx, &p->n_affinity, &um__affinity__descriptor);

	if (!a)
		return;
	a->apart = apart;
	if (node->kind == YNODE_SCALAR)
		(void)lab_read_text(ctx, node, &a->guest);
	else
		lab_read(ctx, node, &lab_neighbour, a);
}

static void read_with_item(struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p)
{
	read_affinity(ctx, node, p, false);
}

static void read_apart_item(struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p)
{
	read_affinity(ctx, node, p, true);
}

static void read_with(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	each(ctx, node, msg, read_with_item);
}

static void read_apart(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	each(ctx, node, msg, read_apart_item);
}

/* ---- spread ---- */

static const struct lab_field spread_fields[] = {
	{"over", LAB_TEXT, FIELD(SpreadOver, over), NULL, NULL, NULL},
	{"max_skew", LAB_U32, FIELD(SpreadOver, max_skew), NULL, NULL, NULL},
	{"preferred", LAB_BOOL, FIELD(SpreadOver, preferred), NULL, NULL, NULL},
};

static void read_spread_item(struct lab_ctx *ctx, const struct ynode *node, Um__Placement *p)
{
	Um__SpreadOver *o = lab_append(ctx, &p->n_spread, &um__spread_over__descriptor);

	if (!o)
		return;
	o->max_skew = 1; /* unless it says otherwise */
	if (node->kind == YNODE_SCALAR)
		(void)lab_read_text(ctx, node, &o->over);
	else
		lab_read(ctx, node, &lab_spread, o);
}

static void read_spread(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	each(ctx, node, msg, read_spread_item);
}

/* ---- the whole ---- */

static const char *const strategies[] = {"default", "spread", "pack", NULL};

static const struct lab_field placement_fields[] = {
	{"strategy", LAB_ENUM, FIELD(Placement, strategy), strategies, NULL, NULL},
	{"host", LAB_TEXT, FIELD(Placement, host), NULL, NULL, NULL},
	{"host_labels", LAB_MAP, FIELD(Placement, n_host_labels), NULL,
		&um__placement__host_labels_entry__descriptor, NULL},
	{"where", LAB_OTHER, 0, NULL, NULL, read_where},
	{"prefer", LAB_OTHER, 0, NULL, NULL, read_prefer},
	{"tolerate", LAB_OTHER, 0, NULL, NULL, read_tolerate},
	{"with", LAB_OTHER, 0, NULL, NULL, read_with},
	{"apart", LAB_OTHER, 0, NULL, NULL, read_apart},
	{"spread", LAB_OTHER, 0, NULL, NULL, read_spread},
	{"exclusive", LAB_BOOL, FIELD(Placement, exclusive), NULL, NULL, NULL},
	{"max_per_host", LAB_U32, FIELD(Placement, max_per_host), NULL, NULL, NULL},
	{"priority", LAB_I32, FIELD(Placement, priority), NULL, NULL, NULL},
};

void lab_read_placement(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	Um__GuestSpec *guest = msg;

	guest->placement = malloc(sizeof(*guest->placement));
	if (!guest->placement) {
		ctx->failed = true;
		return;
	}
	um__placement__init(guest->placement);
	lab_read(ctx, node, &lab_placement, guest->placement);
}

const struct lab_table lab_placement = LAB_TABLE("placement", placement_fields);
const struct lab_table lab_neighbour = LAB_TABLE("a neighbour", neighbour_fields);
const struct lab_table lab_spread = LAB_TABLE("a spread", spread_fields);
