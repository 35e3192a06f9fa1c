#include "scheduler/core/index.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

#define SHARE_ONE (1ull << 20)

/* ---------------------------------------------------------------- room */

static uint64_t scaled(uint64_t what, uint32_t host_ratio, uint32_t ratio)
{
	uint64_t r = host_ratio ? host_ratio : ratio;

	/* 1 TiB of memory times 1000 is far from 2^64. */
	return r == 1000 ? what : what / 1000 * r + what % 1000 * r / 1000;
}

struct index_need index_total(const struct core *core, const struct core_host *host)
{
	const struct core_overcommit *o = &core->config.overcommit;

	return (struct index_need){
		.memory = scaled(host->memory, host->overcommit.memory, o->memory),
		.disk = scaled(host->disk, host->overcommit.disk, o->disk),
		.cpu = scaled(host->cpu, host->overcommit.cpu, o->cpu),
	};
}

static uint64_t left_of(uint64_t total, uint64_t used)
{
	return total > used ? total - used : 0;
}

struct index_need index_free(const struct core *core, const struct core_host *host)
{
	struct index_need total = index_total(core, host);

	return (struct index_need){
		.memory = left_of(total.memory, host->memory_reserved),
		.disk = left_of(total.disk, host->disk_reserved),
		.cpu = left_of(total.cpu, host->cpu_reserved),
	};
}

/* ---------------------------------------------------------------- treap */

/* BY_SHARE is walked from its end: of equals the first that joined comes first in
 * both orders. */
static bool before(const struct core_hostnode *a, const struct core_hostnode *b, bool by_share)
{
	if (a->key != b->key)
		return a->key < b->key;
	return by_share ? a->host->order > b->host->order : a->host->order < b->host->order;
}

static void pull_up(struct core_hostnode *n)
{
	n->memory = n->host->free_memory;
	n->disk = n->host->free_disk;
	n->cpu = n->host->free_cpu;
	for (int i = 0; i < 2; i++) {
		const struct core_hostnode *c = i ? n->right : n->left;

		if (!c)
			continue;
		n->memory = c->memory > n->memory ? c->memory : n->memory;
		n->disk = c->disk > n->disk ? c->disk : n->disk;
		n->cpu = c->cpu > n->cpu ? c->cpu : n->cpu;
	}
}

/* Those before AT to *LEFT, the others to *RIGHT. */
static void split(struct core_hostnode *n, const struct core_hostnode *at, bool by_share,
	struct core_hostnode **left, struct core_hostnode **right)
{
	if (!n) {
		*left = *right = NULL;
	} else if (before(n, at, by_share)) {
		split(n->right, at, by_share, &n->right, right);
		*left = n;
		pull_up(n);
	} else {
		split(n->left, at, by_share, left, &n->left);
		*right = n;
		pull_up(n);
	}
}

static struct core_hostnode *join(struct core_hostnode *a, struct core_hostnode *b)
{
	if (!a || !b)
		return a ? a : b;
	if (a->weight > b->weight) {
		a->right = join(a->right, b);
		pull_up(a);
		return a;
	}
	b->left = join(a, b->left);
	pull_up(b);
	return b;
}

static void insert(struct core_hostnode **root, struct core_hostnode *n, bool by_share)
{
	if (!*root || n->weight > (*root)->weight) {
		split(*root, n, by_share, &n->left, &n->right);
		*root = n;
	} else if (before(n, *root, by_share)) {
		insert(&(*root)->left, n, by_share);
	} else {
		insert(&(*root)->right, n, by_share);
	}
	pull_up(*root);
}

static void erase(struct core_hostnode **root, struct core_hostnode *n, bool by_share)
{
	if (!*root)
		return;
	if (*root == n) {
		*root = join(n->left, n->right);
		n->left = n->right = NULL;
		return;
	}
	erase(before(n, *root, by_share) ? &(*root)->left : &(*root)->right, n, by_share);
	pull_up(*root);
}

static bool may_fit(const struct core_hostnode *n, const struct index_need *need)
{
	return n && n->memory >= need->memory && n->disk >= need->disk && n->cpu >= need->cpu;
}

static bool fits(const struct core_host *h, const struct index_need *need)
{
	return h->free_memory >= need->memory && h->free_disk >= need->disk &&
	       h->free_cpu >= need->cpu;
}

/* The last one before AT (NULL: of all) that fits. */
static struct core_hostnode *last_before(
	struct core_hostnode *n, const struct core_hostnode *at, const struct index_need *need)
{
	struct core_hostnode *found;

	if (!may_fit(n, need))
		return NULL;
	if (at && !before(n, at, true))
		return last_before(n->left, at, need);
	found = last_before(n->right, at, need);
	if (!found && fits(n->host, need))
		found = n;
	return found ? found : last_before(n->left, at, need);
}

static struct core_hostnode *first_after(
	struct core_hostnode *n, const struct core_hostnode *at, const struct index_need *need)
{
	struct core_hostnode *found;

	if (!may_fit(n, need))
		return NULL;
	/* Its key is its free memory: those left of one too small are too small. */
	if ((at && !before(at, n, false)) || n->key < need->memory)
		return first_after(n->right, at, need);
	found = first_after(n->left, at, need);
	if (!found && fits(n->host, need))
		found = n;
	return found ? found : first_after(n->right, at, need);
}

struct core_host *index_next_spread(const struct index_class *class, const struct index_need *need,
	const struct core_host *after)
{
	struct core_hostnode *n =
		last_before(class->by_share, after ? &after->by_share : NULL, need);

	return n ? n->host : NULL;
}

struct core_host *index_next_pack(const struct index_class *class, const struct index_need *need,
	const struct core_host *after)
{
	struct core_hostnode *n = first_after(class->by_free, after ? &after->by_free : NULL, need);

	return n ? n->host : NULL;
}

struct index_need index_most(const struct index_class *class)
{
	const struct core_hostnode *n = class->by_free;

	return n ? (struct index_need){.memory = n->memory, .disk = n->disk, .cpu = n->cpu}
		 : (struct index_need){0};
}

/* ---------------------------------------------------------------- classes */

static uint32_t scatter(uint32_t x)
{
	/* The finisher of MurmurHash3: weights look random, and are always the same. */
	x ^= x >> 16;
	x *= 0x85ebca6bu;
	x ^= x >> 13;
	x *= 0xc2b2ae35u;
	return x ^ x >> 16;
}

const char *index_label(const struct core_host *host, const char *key)
{
	if (strcmp(key, "host") == 0)
		return host->name;
	for (size_t i = 0; i < host->labels.count; i++)
		if (strcmp(host->labels.items[i].key, key) == 0)
			return host->labels.items[i].value;
	return NULL;
}

const struct index_domain *index_value(const struct index_class *class, const char *key)
{
	for (size_t i = 0; i < class->domain_count; i++)
		if (strcmp(class->domains[i]->key, key) == 0)
			return class->domains[i];
	return NULL;
}

static struct index_domain *domain_get(struct core *core, const char *key, const char *value)
{
	char name[2 * CORE_NAME];
	struct index_domain *domain;
	size_t size = CORE_NAME + strlen(value) + 1;

	memset(name, 0, sizeof(name));
	(void)str_copy(name, CORE_NAME, key);
	(void)str_copy(name + CORE_NAME, CORE_NAME, value);
	HASH_FIND(hh, core->index.domains, name, size, domain);
	if (domain)
		return domain;
	domain = calloc(1, sizeof(*domain));
	if (!domain)
		return NULL;
	memcpy(domain->key, name, sizeof(domain->key) + sizeof(domain->value));
	domain->id = HASH_COUNT(core->index.domains) + 1;
	HASH_ADD_KEYPTR(hh, core->index.domains, domain->key, size, domain);
	return domain;
}

static void count_domains(struct core *core, struct core_host *host, int by)
{
	struct core_guest *guest;

	DL_FOREACH2(host->guests, guest, host_next)
	if (guest->group)
		for (size_t i = 0; i < host->domain_count; i++)
			(void)counts_add(&guest->group->on_domains, host->domains[i]->id, by);
	move_count_domains(core, host, by);
}

/* The host's values of the used keys, as its labels are now. */
static int renew_domains(struct core *core, struct core_host *host)
{
	size_t keys = HASH_COUNT(core->index.keys), n = 0;
	struct index_domain **domains = calloc(keys + 1, sizeof(struct index_domain *));

	if (!domains)
		return -ENOMEM;
	for (const struct index_key *k = core->index.keys; k; k = k->hh.next) {
		const char *value = index_label(host, k->key);

		if (!value)
			continue;
		domains[n] = domain_get(core, k->key, value);
		if (!domains[n++]) {
			free(domains);
			return -ENOMEM;
		}
	}
	count_domains(core, host, -1);
	free(host->domains);
	host->domains = domains;
	host->domain_count = n;
	count_domains(core, host, 1);
	return 0;
}

static void class_free(struct core *core, struct index_class *class)
{
	HASH_DEL(core->index.classes, class);
	free(class->domains);
	free(class->taints.items);
	free(class->name);
	free(class);
}

/* The name of HOST's class: what its hosts have in common, in one text. */
static char *class_name(const struct core_host *host)
{
	size_t room = (host->domain_count + host->taints.count) * (2 * CORE_NAME + 4) + 1;
	char *name = malloc(room);
	size_t n = 0;

	if (!name)
		return NULL;
	name[0] = 0;
	for (size_t i = 0; i < host->domain_count; i++)
		n += (size_t)snprintf(name + n, room - n, "%s=%s,", host->domains[i]->key,
			host->domains[i]->value);
	for (size_t i = 0; i < host->taints.count; i++) {
		const struct core_taint *t = &host->taints.items[i];

		n += (size_t)snprintf(
			name + n, room - n, "%c%s=%s,", t->preferred ? '~' : '!', t->key, t->value);
	}
	return name;
}

static struct index_class *class_make(struct core *core, const struct core_host *host, char *name)
{
	struct index_class *class = calloc(1, sizeof(*class));

	if (!class)
		return NULL;
	class->domains = calloc(host->domain_count + 1, sizeof(struct index_domain *));
	class->taints.items = calloc(host->taints.count + 1, sizeof(struct core_taint));
	if (!class->domains || !class->taints.items)
		goto fail;
	for (size_t i = 0; i < host->domain_count; i++)
		class->domains[class->domain_count++] = host->domains[i];
	if (host->taints.count)
		memcpy(class->taints.items, host->taints.items,
			host->taints.count * sizeof(struct core_taint));
	class->taints.count = host->taints.count;
	class->name = name;
	HASH_ADD_KEYPTR(hh, core->index.classes, class->name, strlen(name), class);
	return class;
fail:
	free(class->domains);
	free(class->taints.items);
	free(class);
	return NULL;
}

static void enter(struct core *core, struct core_host *host, struct index_class *class)
{
	struct index_need total = index_total(core, host), left = index_free(core, host);

	host->free_memory = left.memory;
	host->free_disk = left.disk;
	host->free_cpu = left.cpu;
	host->by_free.key = left.memory;
	/* Memory is below 2^44 (16 TiB), so this does not run over. */
	host->by_share.key = total.memory ? left.memory * SHARE_ONE / total.memory : 0;
	insert(&class->by_share, &host->by_share, true);
	insert(&class->by_free, &host->by_free, false);
}

static void leave(struct core_host *host, struct index_class *class)
{
	erase(&class->by_share, &host->by_share, true);
	erase(&class->by_free, &host->by_free, false);
}

void index_moved(struct core *core, struct core_host *host)
{
	struct index_class *class = host->index_class;

	if (!class)
		return;
	leave(host, class);
	enter(core, host, class);
}

void index_take(struct core *core, struct core_host *host)
{
	struct index_class *class = host->index_class;

	if (!class)
		return;
	leave(host, class);
	host->index_class = NULL;
	if (--class->host_count == 0)
		class_free(core, class);
}

int index_put(struct core *core, struct core_host *host, struct err *err)
{
	struct index_class *class;
	char *name;

	index_take(core, host);
	if (renew_domains(core, host) < 0)
		return err_set(err, -ENOMEM, "memory is short for host %s", host->name);
	if (host->state != CORE_HOST_UP || host->cordoned || host->avoid_until)
		return 0;
	name = class_name(host);
	if (!name)
		return err_set(err, -ENOMEM, "memory is short for host %s", host->name);
	HASH_FIND_STR(core->index.classes, name, class);
	if (class)
		free(name);
	else
		class = class_make(core, host, name);
	if (!class) {
		free(name);
		return err_set(err, -ENOMEM, "memory is short for host %s", host->name);
	}
	host->by_share.host = host->by_free.host = host;
	host->by_share.weight = host->by_free.weight = scatter(host->order + 1);
	host->index_class = class;
	class->host_count++;
	enter(core, host, class);
	return 0;
}

int index_use(struct core *core, const char *key, struct err *err)
{
	struct index_key *k;
	int rc = 0;

	HASH_FIND_STR(core->index.keys, key, k);
	if (k || strcmp(key, "host") == 0)
		return 0;
	k = calloc(1, sizeof(*k));
	if (!k)
		return err_set(err, -ENOMEM, "memory is short");
	(void)str_copy(k->key, sizeof(k->key), key);
	HASH_ADD_STR(core->index.keys, key, k);
	for (struct core_host *h = core->hosts; rc == 0 && h; h = h->hh.next)
		rc = index_put(core, h, err);
	return rc;
}

void index_free_all(struct core *core)
{
	struct index_class *class, *next_class;
	struct index_domain *domain, *next_domain;
	struct index_key *key, *next_key;

	HASH_ITER (hh, core->index.classes, class, next_class)
		class_free(core, class);
	HASH_ITER (hh, core->index.domains, domain, next_domain) {
		HASH_DEL(core->index.domains, domain);
		free(domain);
	}
	HASH_ITER (hh, core->index.keys, key, next_key) {
		HASH_DEL(core->index.keys, key);
		free(key);
	}
}

/* ---------------------------------------------------------------- check */

static uint32_t check_tree(
	const struct core_hostnode *n, const struct index_class *class, bool by_share, bool *good)
{
	if (!n)
		return 0;
	struct core_hostnode seen = *n;

	if (n->host->index_class != class || (n->left && !before(n->left, n, by_share)) ||
		(n->right && !before(n, n->right, by_share)) ||
		(n->left && n->left->weight > n->weight) ||
		(n->right && n->right->weight > n->weight))
		*good = false;
	pull_up(&seen);
	if (seen.memory != n->memory || seen.disk != n->disk || seen.cpu != n->cpu)
		*good = false;
	return 1 + check_tree(n->left, class, by_share, good) +
	       check_tree(n->right, class, by_share, good);
}

int index_check(const struct core *core, struct err *err)
{
	for (const struct core_host *h = core->hosts; h; h = h->hh.next) {
		struct index_need left = index_free(core, h);
		bool takes = h->state == CORE_HOST_UP && !h->cordoned && !h->avoid_until;

		if (takes != (h->index_class != NULL))
			return err_set(err, -EPROTO,
				"invariant 12: host %s is %s the index, but %s, %s", h->name,
				h->index_class ? "in" : "not in", core_host_state_name(h->state),
				h->cordoned	 ? "cordoned"
				: h->avoid_until ? "avoided"
						 : "not cordoned");
		if (takes && (h->free_memory != left.memory || h->free_disk != left.disk ||
				     h->free_cpu != left.cpu || h->by_free.key != left.memory))
			return err_set(err, -EPROTO,
				"invariant 12: the index has old sums of host %s", h->name);
	}
	for (const struct index_class *c = core->index.classes; c; c = c->hh.next) {
		bool good = true;

		if (check_tree(c->by_share, c, true, &good) != c->host_count ||
			check_tree(c->by_free, c, false, &good) != c->host_count || !good)
			return err_set(err, -EPROTO,
				"invariant 12: the orders of class '%s' are damaged", c->name);
	}
	return 0;
}
