/* What turns one guest spec into another, field by field, for plans. */
#include "spec/spec.h"

#include <string.h>

#include "lib/buf.h"
#include "lib/units.h"
#include "spec/spec_int.h"

struct diff {
	const Um__GuestSpec *old, *new;
	spec_change_fn *fn;
	void *arg;
	enum spec_effect effect;
};

static void note(struct diff *d, enum spec_effect effect, const char *text)
{
	if (effect > d->effect)
		d->effect = effect;
	if (d->fn)
		d->fn(d->arg, effect, text);
}

static void change(
	struct diff *d, enum spec_effect effect, const char *field, const char *a, const char *b)
{
	char text[256];

	if (str_format(text, sizeof(text), "%s: %s -> %s", field, *a ? a : "none",
		    *b ? b : "none") < 0)
		(void)str_format(text, sizeof(text), "%s changed", field);
	note(d, effect, text);
}

static void diff_text(
	struct diff *d, enum spec_effect effect, const char *field, const char *a, const char *b)
{
	if (strcmp(a, b) != 0)
		change(d, effect, field, a, b);
}

/* The hash of one part of a spec: of a spec that has nothing but this part. */
#define PART_DIFFERS(d, hash, assign)                                               \
	({                                                                          \
		Um__GuestSpec x_ = UM__GUEST_SPEC__INIT, y_ = UM__GUEST_SPEC__INIT; \
		{                                                                   \
			const Um__GuestSpec *from = (d)->old;                       \
			Um__GuestSpec *to = &x_;                                    \
			assign;                                                     \
		}                                                                   \
		{                                                                   \
			const Um__GuestSpec *from = (d)->new;                       \
			Um__GuestSpec *to = &y_;                                    \
			assign;                                                     \
		}                                                                   \
		hash(&x_) != hash(&y_);                                             \
	})

static void nics_text(struct buf *b, const Um__GuestSpec *g)
{
	for (size_t i = 0; i < g->n_nics; i++) {
		buf_add_str(b, i ? ", " : "");
		buf_add_str(b, g->nics[i]->network);
		if (given(g->nics[i]->address))
			buf_printf(b, " %s", g->nics[i]->address);
		if (given(g->nics[i]->address6))
			buf_printf(b, " %s", g->nics[i]->address6);
		if (given(g->nics[i]->mac))
			buf_printf(b, " %s", g->nics[i]->mac);
	}
}

static void diff_nics(struct diff *d)
{
	struct buf a, b;

	if (!PART_DIFFERS(d, spec_boot_hash, (to->n_nics = from->n_nics, to->nics = from->nics)))
		return;
	buf_init(&a);
	buf_init(&b);
	nics_text(&a, d->old);
	nics_text(&b, d->new);
	change(d, SPEC_RESTART, "networks", buf_text(&a), buf_text(&b));
	buf_free(&a);
	buf_free(&b);
}

static void diff_env(struct diff *d)
{
	const Um__GuestSpec *a = d->old, *b = d->new;
	struct buf text;
	size_t n = 0;

	if (!PART_DIFFERS(d, spec_boot_hash, (to->n_env = from->n_env, to->env = from->env)))
		return;
	/* Values may be secrets: only the names are told. */
	buf_init(&text);
	buf_add_str(&text, "env:");
	for (int side = 0; side < 2; side++) {
		const Um__GuestSpec *x = side ? a : b, *y = side ? b : a;

		for (size_t i = 0; i < x->n_env; i++) {
			size_t k = 0;

			while (k < y->n_env && strcmp(x->env[i]->key, y->env[k]->key) != 0)
				k++;
			if (k < y->n_env &&
				(side || strcmp(x->env[i]->value, y->env[k]->value) == 0))
				continue;
			if (++n <= 4)
				buf_printf(&text, "%s %c%s", n > 1 ? "," : "",
					k < y->n_env ? '~'
					: side	     ? '-'
						     : '+',
					x->env[i]->key);
		}
	}
	if (n > 4)
		buf_printf(&text, ", and %zu more", n - 4);
	note(d, SPEC_RESTART, buf_text(&text));
	buf_free(&text);
}

static void diff_sizes(struct diff *d)
{
	const Um__GuestSpec *a = d->old, *b = d->new;
	char x[UNITS_TEXT], y[UNITS_TEXT];

	if (a->memory_bytes != b->memory_bytes)
		change(d, SPEC_RESTART, "memory", units_size(x, a->memory_bytes),
			units_size(y, b->memory_bytes));
	if (a->cpu_milli != b->cpu_milli)
		change(d, SPEC_RESTART, "cpus", units_cpus(x, a->cpu_milli),
			units_cpus(y, b->cpu_milli));
	if (a->disk_bytes != b->disk_bytes)
		change(d, SPEC_DISK, "disk",
			a->disk_bytes ? units_size(x, a->disk_bytes) : "the image's",
			b->disk_bytes ? units_size(y, b->disk_bytes) : "the image's");
}

static void diff_boot_parts(struct diff *d)
{
	if (PART_DIFFERS(d, spec_boot_hash, (to->n_files = from->n_files, to->files = from->files)))
		note(d, SPEC_RESTART, "files changed");
	if (PART_DIFFERS(
		    d, spec_boot_hash, (to->n_routes = from->n_routes, to->routes = from->routes)))
		note(d, SPEC_RESTART, "routes changed");
	if (PART_DIFFERS(d, spec_boot_hash, (to->ready = from->ready)))
		note(d, SPEC_RESTART, "ready changed");
	if (strcmp(d->old->run, d->new->run) != 0)
		note(d, SPEC_RESTART, "run changed");
}

/* ---- placement, as the YAML has it ---- */

typedef void place_fn(const Um__Placement *p, struct buf *out);

static void exprs_text(const Um__Placement *p, bool preferred, struct buf *out)
{
	for (size_t i = 0; i < p->n_where; i++) {
		if (p->where[i]->preferred != preferred)
			continue;
		buf_add_str(out, out->size ? ", " : "");
		spec_expr_text(p->where[i], out);
	}
}

static void where_text(const Um__Placement *p, struct buf *out)
{
	exprs_text(p, false, out);
}

static void prefer_text(const Um__Placement *p, struct buf *out)
{
	exprs_text(p, true, out);
}

static void tolerate_text(const Um__Placement *p, struct buf *out)
{
	for (size_t i = 0; i < p->n_tolerate; i++) {
		buf_add_str(out, i ? ", " : "");
		spec_toleration_text(p->tolerate[i], out);
	}
}

static void affinity_text(const Um__Placement *p, bool apart, struct buf *out)
{
	for (size_t i = 0; i < p->n_affinity; i++) {
		const Um__Affinity *a = p->affinity[i];

		if (a->apart == apart)
			buf_printf(out, "%s%s%s%s%s", out->size ? ", " : "", a->guest,
				given(a->over) ? " over " : "", given(a->over) ? a->over : "",
				a->preferred ? " preferred" : "");
	}
}

static void with_text(const Um__Placement *p, struct buf *out)
{
	affinity_text(p, false, out);
}

static void apart_text(const Um__Placement *p, struct buf *out)
{
	affinity_text(p, true, out);
}

static void spread_text(const Um__Placement *p, struct buf *out)
{
	for (size_t i = 0; i < p->n_spread; i++)
		buf_printf(out, "%s%s by %u%s", i ? ", " : "", p->spread[i]->over,
			p->spread[i]->max_skew, p->spread[i]->preferred ? " preferred" : "");
}

static void numbers_text(const Um__Placement *p, struct buf *out)
{
	static const char *const names[] = {"", "spread", "pack"};

	if (p->strategy != UM__STRATEGY__STRATEGY_DEFAULT)
		buf_printf(out, "%s%s", out->size ? ", " : "",
			(unsigned)p->strategy < 3 ? names[(unsigned)p->strategy] : "?");
	if (given(p->host))
		buf_printf(out, "%shost %s", out->size ? ", " : "", p->host);
	if (p->exclusive)
		buf_printf(out, "%sexclusive", out->size ? ", " : "");
	if (p->max_per_host)
		buf_printf(out, "%s%u per host", out->size ? ", " : "", p->max_per_host);
	if (p->priority)
		buf_printf(out, "%spriority %d", out->size ? ", " : "", p->priority);
}

static void host_labels_text(const Um__Placement *p, struct buf *out)
{
	for (size_t i = 0; i < p->n_host_labels; i++)
		buf_printf(out, "%s%s = %s", i ? ", " : "", p->host_labels[i]->key,
			p->host_labels[i]->value);
}

static const struct {
	const char *name;
	place_fn *text;
} parts[] = {{"placement", numbers_text}, {"host_labels", host_labels_text}, {"where", where_text},
	{"prefer", prefer_text}, {"tolerate", tolerate_text}, {"with", with_text},
	{"apart", apart_text}, {"spread", spread_text}};

#define PARTS (sizeof(parts) / sizeof(parts[0]))

void spec_placement_text(const Um__Placement *p, struct buf *out)
{
	for (size_t i = 0; p && i < PARTS; i++) {
		struct buf text;

		buf_init(&text);
		parts[i].text(p, &text);
		if (text.size)
			buf_printf(out, "%s: %s\n", parts[i].name, buf_text(&text));
		buf_free(&text);
	}
}

static void diff_placement(struct diff *d)
{
	static const Um__Placement nothing = UM__PLACEMENT__INIT;
	const Um__Placement *old = d->old->placement ? d->old->placement : &nothing;
	const Um__Placement *new = d->new->placement ? d->new->placement : &nothing;
	bool told = false;

	if (!PART_DIFFERS(d, spec_live_hash, (to->placement = from->placement)))
		return;
	for (size_t i = 0; i < PARTS; i++) {
		struct buf a, b;

		buf_init(&a);
		buf_init(&b);
		parts[i].text(old, &a);
		parts[i].text(new, &b);
		if (strcmp(buf_text(&a), buf_text(&b)) != 0) {
			change(d, SPEC_LIVE, parts[i].name, buf_text(&a), buf_text(&b));
			told = true;
		}
		buf_free(&a);
		buf_free(&b);
	}
	if (!told)
		note(d, SPEC_LIVE, "placement changed");
}

static void diff_live_parts(struct diff *d)
{
	static const char *const policy[] = {"always", "on-failure", "never"};
	unsigned a = (unsigned)d->old->restart, b = (unsigned)d->new->restart;

	if (a != b)
		change(d, SPEC_LIVE, "restart", a < 3 ? policy[a] : "?", b < 3 ? policy[b] : "?");
	diff_placement(d);
	if (PART_DIFFERS(
		    d, spec_live_hash, (to->n_labels = from->n_labels, to->labels = from->labels)))
		note(d, SPEC_LIVE, "labels changed");
	if (PART_DIFFERS(d, spec_live_hash, (to->stop_timeout_ms = from->stop_timeout_ms)))
		note(d, SPEC_LIVE, "stop_timeout changed");
	if (!d->old->persistent != !d->new->persistent)
		change(d, SPEC_LIVE, "persistent", d->old->persistent ? "true" : "false",
			d->new->persistent ? "true" : "false");
}

enum spec_effect spec_guest_diff(
	const Um__GuestSpec *old, const Um__GuestSpec *new, spec_change_fn *fn, void *arg)
{
	struct diff d = {.old = old, .new = new, .fn = fn, .arg = arg};

	diff_text(&d, SPEC_DISK, "image", old->image, new->image);
	diff_text(&d, SPEC_RESTART, "kernel", old->kernel, new->kernel);
	diff_sizes(&d);
	diff_nics(&d);
	diff_env(&d);
	diff_boot_parts(&d);
	diff_text(&d, SPEC_RESTART, "hostname", old->hostname, new->hostname);
	diff_text(&d, SPEC_RESTART, "init", given(old->init) ? old->init : "auto",
		given(new->init) ? new->init : "auto");
	if (spec_on_loss(old) != spec_on_loss(new))
		note(&d, SPEC_RESTART, "on_host_loss changed");
	if (PART_DIFFERS(&d, spec_boot_hash,
		    (to->n_kernel_features = from->n_kernel_features,
			    to->kernel_features = from->kernel_features)))
		note(&d, SPEC_RESTART, "kernel_features changed");
	diff_text(&d, SPEC_RESTART, "kernel_args", old->kernel_args, new->kernel_args);
	diff_live_parts(&d);
	return d.effect;
}
