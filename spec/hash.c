/* Hashes of a spec: SHA-256 over a canonical form, in which each value stands
 * with its field's number and size, and maps are sorted by key. */
#include "spec/spec.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "lib/buf.h"
#include "spec/spec_int.h"

struct form {
	EVP_MD_CTX *md;
	bool failed;
};

static void add(struct form *f, const void *data, size_t size)
{
	if (size && EVP_DigestUpdate(f->md, data, size) != 1)
		f->failed = true;
}

static void add_u64(struct form *f, unsigned field, uint64_t v)
{
	uint8_t bytes[12];
	struct wr w;

	wr_init(&w, bytes, sizeof(bytes));
	wr_u32(&w, field);
	wr_u64(&w, v);
	add(f, bytes, sizeof(bytes));
}

static void add_bytes(struct form *f, unsigned field, const void *data, size_t size)
{
	add_u64(f, field, size);
	add(f, data, size);
}

static void add_str(struct form *f, unsigned field, const char *text)
{
	if (text)
		add_bytes(f, field, text, strlen(text));
	else
		add_u64(f, field, 0);
}

/* All map entries of protobuf-c have this shape. */
typedef Um__GuestSpec__EnvEntry entry;
_Static_assert(sizeof(entry) == sizeof(Um__GuestSpec__LabelsEntry) &&
		       sizeof(entry) == sizeof(Um__Placement__HostLabelsEntry) &&
		       sizeof(entry) == sizeof(Um__DeploymentSpec__LabelsEntry),
	"map entries are alike");

static int by_key(const void *a, const void *b)
{
	const entry *const *x = a, *const *y = b;
	int rc = strcmp((*x)->key, (*y)->key);

	return rc ? rc : strcmp((*x)->value, (*y)->value);
}

static void add_map(struct form *f, unsigned field, const void *entries, size_t count)
{
	const entry **sorted = calloc(count + 1, sizeof(void *));

	if (!sorted) {
		f->failed = true;
		return;
	}
	if (count)
		memcpy(sorted, entries, count * sizeof(void *));
	qsort(sorted, count, sizeof(void *), by_key);
	add_u64(f, field, count);
	for (size_t i = 0; i < count; i++) {
		add_str(f, 1, sorted[i]->key);
		add_str(f, 2, sorted[i]->value);
	}
	free(sorted);
}

static void add_nics(struct form *f, unsigned field, const Um__GuestSpec *g)
{
	add_u64(f, field, g->n_nics);
	for (size_t i = 0; i < g->n_nics; i++) {
		add_str(f, 1, g->nics[i]->network);
		add_str(f, 2, g->nics[i]->address);
		add_str(f, 3, g->nics[i]->address6);
		add_str(f, 4, g->nics[i]->mac);
	}
}

static void add_files(struct form *f, unsigned field, const Um__GuestSpec *g)
{
	add_u64(f, field, g->n_files);
	for (size_t i = 0; i < g->n_files; i++) {
		const Um__FileSpec *file = g->files[i];

		add_str(f, 1, file->path);
		add_bytes(f, 2, file->content.data, file->content.len);
		add_u64(f, 3, file->mode ? file->mode : SPEC_DEFAULT_FILE_MODE);
		add_u64(f, 4, file->uid);
		add_u64(f, 5, file->gid);
	}
}

static void add_routes(struct form *f, unsigned field, const Um__GuestSpec *g)
{
	add_u64(f, field, g->n_routes);
	for (size_t i = 0; i < g->n_routes; i++) {
		add_str(f, 1, g->routes[i]->to);
		add_str(f, 2, g->routes[i]->via);
	}
}

static void add_ready(struct form *f, unsigned field, const Um__ReadyProbe *r)
{
	add_u64(f, field, r ? r->n_exec : 0);
	for (size_t i = 0; r && i < r->n_exec; i++)
		add_str(f, 1, r->exec[i]);
	add_u64(f, 2, r && r->interval_ms ? r->interval_ms : SPEC_DEFAULT_READY_INTERVAL);
	add_u64(f, 3, r ? r->timeout_ms : 0);
}

static void add_boot(struct form *f, const Um__GuestSpec *g)
{
	add_str(f, 2, g->kernel);
	add_u64(f, 3, g->memory_bytes);
	add_u64(f, 4, g->cpu_milli);
	add_nics(f, 5, g);
	add_map(f, 6, g->env, g->n_env);
	add_files(f, 7, g);
	add_str(f, 8, g->run);
	add_routes(f, 12, g);
	add_str(f, 13, g->hostname);
	add_str(f, 14, given(g->init) ? g->init : "auto");
	add_ready(f, 15, g->ready);
	add_str(f, 16, g->kernel_args);
	/* Only when there are some: a guest without is what it was before they existed. */
	if (spec_on_loss(g) != UM__ON_HOST_LOSS__LOSS_WAIT)
		add_u64(f, 19, (uint64_t)spec_on_loss(g));
	for (size_t i = 0; i < g->n_kernel_features; i++)
		add_str(f, 21, g->kernel_features[i]);
}

static void add_disk(struct form *f, const Um__GuestSpec *g)
{
	add_str(f, 1, g->image);
	add_u64(f, 11, g->disk_bytes);
}

static void add_exprs(struct form *f, unsigned field, const Um__Placement *p)
{
	add_u64(f, field, p ? p->n_where : 0);
	for (size_t i = 0; p && i < p->n_where; i++) {
		const Um__LabelExpr *e = p->where[i];

		add_str(f, 1, e->key);
		add_u64(f, 2, (uint64_t)e->op);
		add_u64(f, 3, e->n_values);
		for (size_t k = 0; k < e->n_values; k++)
			add_str(f, 3, e->values[k]);
		add_u64(f, 4, (uint64_t)e->number);
		add_u64(f, 5, e->preferred ? 1 : 0);
	}
}

/* Where a guest is to be beside what its host offers. */
static void add_rules(struct form *f, unsigned field, const Um__Placement *p)
{
	add_exprs(f, field, p);
	add_u64(f, field, p ? p->n_tolerate : 0);
	for (size_t i = 0; p && i < p->n_tolerate; i++) {
		add_str(f, 1, p->tolerate[i]->key);
		add_str(f, 2, p->tolerate[i]->value);
		add_u64(f, 3, p->tolerate[i]->any_value ? 1 : 0);
	}
	add_u64(f, field, p ? p->n_affinity : 0);
	for (size_t i = 0; p && i < p->n_affinity; i++) {
		add_str(f, 1, p->affinity[i]->guest);
		add_str(f, 2, p->affinity[i]->over);
		add_u64(f, 3, p->affinity[i]->apart ? 1 : 0);
		add_u64(f, 4, p->affinity[i]->preferred ? 1 : 0);
	}
	add_u64(f, field, p ? p->n_spread : 0);
	for (size_t i = 0; p && i < p->n_spread; i++) {
		add_str(f, 1, p->spread[i]->over);
		add_u64(f, 2, p->spread[i]->max_skew);
		add_u64(f, 3, p->spread[i]->preferred ? 1 : 0);
	}
	add_u64(f, field, p && p->exclusive ? 1 : 0);
}

static void add_live(struct form *f, const Um__GuestSpec *g)
{
	const Um__Placement *p = g->placement;

	add_u64(f, 9, (uint64_t)g->restart);
	add_u64(f, 10, p ? (uint64_t)p->strategy : 0);
	add_str(f, 10, p ? p->host : "");
	add_map(f, 10, p ? p->host_labels : NULL, p ? p->n_host_labels : 0);
	add_u64(f, 10, p ? (uint64_t)(int64_t)p->priority : 0);
	add_u64(f, 10, p ? p->max_per_host : 0);
	add_rules(f, 10, p);
	add_map(f, 17, g->labels, g->n_labels);
	add_u64(f, 18, g->stop_timeout_ms ? g->stop_timeout_ms : SPEC_DEFAULT_STOP_TIMEOUT);
	if (g->persistent)
		add_u64(f, 20, 1);
}

static void form_begin(struct form *f)
{
	f->md = EVP_MD_CTX_new();
	f->failed = !f->md || EVP_DigestInit_ex(f->md, EVP_sha256(), NULL) != 1;
	/* Only when memory is short; then nothing can be said of the spec, and an
	 * equality that is not there would be worse than the end of the program. */
	if (f->failed)
		abort();
}

static uint64_t form_end(struct form *f)
{
	uint8_t digest[EVP_MAX_MD_SIZE];
	struct rd r;
	uint64_t v;

	if (f->failed || EVP_DigestFinal_ex(f->md, digest, NULL) != 1)
		abort();
	EVP_MD_CTX_free(f->md);
	rd_init(&r, digest, 8);
	v = rd_u64(&r);
	return v ? v : 1;
}

uint64_t spec_boot_hash(const Um__GuestSpec *spec)
{
	struct form f;

	form_begin(&f);
	add_boot(&f, spec);
	return form_end(&f);
}

uint64_t spec_disk_hash(const Um__GuestSpec *spec)
{
	struct form f;

	form_begin(&f);
	add_disk(&f, spec);
	return form_end(&f);
}

uint64_t spec_live_hash(const Um__GuestSpec *spec)
{
	struct form f;

	form_begin(&f);
	add_live(&f, spec);
	return form_end(&f);
}

uint64_t spec_hash(const Um__DeploymentSpec *spec)
{
	struct form f;

	form_begin(&f);
	add_str(&f, 1, spec->name);
	add_u64(&f, 2, spec->n_networks);
	for (size_t i = 0; i < spec->n_networks; i++) {
		const Um__NetworkSpec *n = spec->networks[i];

		add_str(&f, 1, n->name);
		add_str(&f, 2, n->subnet);
		add_str(&f, 3, n->subnet6);
		add_str(&f, 4, n->gateway);
		add_str(&f, 5, n->gateway6);
		add_u64(&f, 6, n->mtu);
		if (n->spoofing)
			add_u64(&f, 7, n->spoofing);
	}
	add_u64(&f, 3, spec->n_groups);
	for (size_t i = 0; i < spec->n_groups; i++) {
		const Um__GroupSpec *g = spec->groups[i];

		add_str(&f, 1, g->name);
		add_u64(&f, 2, g->count_set ? 1 : 0);
		add_u64(&f, 3, spec_group_size(g));
		if (!g->guest)
			continue;
		add_boot(&f, g->guest);
		add_disk(&f, g->guest);
		add_live(&f, g->guest);
	}
	add_map(&f, 4, spec->labels, spec->n_labels);
	add_u64(&f, 5, spec->gang ? 1 : 0);
	return form_end(&f);
}
