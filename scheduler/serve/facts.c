/* What a host says of itself, as far as it decides which guests it is given. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/serve/serve_int.h"

#define LABELS_MAX 256
#define TAINTS_MAX 64

void facts_free(struct core_hostfacts *facts)
{
	free(facts->labels.items);
	free(facts->taints.items);
}

/* "key", "key=value", either with ":prefer". */
static int convert_taint(const char *text, struct core_taint *out, struct err *err)
{
	const char *end = text + strlen(text), *equals = strchr(text, '=');
	static const char prefer[] = ":prefer";
	size_t tail = sizeof(prefer) - 1;

	if ((size_t)(end - text) >= tail && strcmp(end - tail, prefer) == 0) {
		out->preferred = true;
		end -= tail;
	}
	if (!equals)
		equals = end;
	if (equals == text || equals - text >= CORE_NAME || end - equals > CORE_NAME)
		return err_set(err, -EINVAL, "facts.taints: '%.80s' is no taint", text);
	memcpy(out->key, text, (size_t)(equals - text));
	if (equals < end)
		memcpy(out->value, equals + 1, (size_t)(end - equals - 1));
	return 0;
}

static int convert_taints(const Um__HostFacts *f, struct core_hostfacts *out, struct err *err)
{
	int rc = 0;

	if (f->n_taints > TAINTS_MAX)
		return err_set(err, -EINVAL, "facts.taints: more than %d", TAINTS_MAX);
	out->taints.items = calloc(f->n_taints + 1, sizeof(*out->taints.items));
	if (!out->taints.items)
		return err_set(err, -ENOMEM, "memory is short");
	for (size_t i = 0; rc == 0 && i < f->n_taints; i++)
		rc = convert_taint(f->taints[i], &out->taints.items[out->taints.count++], err);
	return rc;
}

static int convert_labels(const Um__HostFacts *f, struct core_hostfacts *out, struct err *err)
{
	struct core_label *list;

	if (f->n_labels > LABELS_MAX)
		return err_set(err, -EINVAL, "facts.labels: more than %d", LABELS_MAX);
	list = out->labels.items = calloc(f->n_labels + 1, sizeof(*list));
	if (!list)
		return err_set(err, -ENOMEM, "memory is short");
	for (size_t i = 0; i < f->n_labels; i++) {
		if (str_copy(list[i].key, CORE_NAME, f->labels[i]->key) < 0 ||
			str_copy(list[i].value, CORE_NAME, f->labels[i]->value) < 0) {
			return err_set(err, -EINVAL, "facts.labels: '%.40s' is too long",
				f->labels[i]->key);
		}
	}
	out->labels.count = f->n_labels;
	return 0;
}

int facts_convert(const Um__HostFacts *f, struct core_hostfacts *out, struct err *err)
{
	int rc = convert_labels(f, out, err);

	if (rc < 0)
		return rc;
	if (f->memory_overcommit > 100000 || f->cpu_overcommit > 1000000 ||
		f->disk_overcommit > 100000)
		return err_set(err, -EINVAL, "facts.overcommit: out of range");
	out->overcommit = (struct core_overcommit){.memory = f->memory_overcommit,
		.cpu = f->cpu_overcommit,
		.disk = f->disk_overcommit};
	return convert_taints(f, out, err);
}

void facts_taint_text(const struct core_taint *t, char out[FACTS_TAINT])
{
	(void)str_format(out, FACTS_TAINT, "%s%s%s%s", t->key, *t->value ? "=" : "", t->value,
		t->preferred ? ":prefer" : "");
}

void facts_of(const struct core_host *h, Um__HostFacts *out, struct arena *a)
{
	char text[NET_ADDR_TEXT], taint[FACTS_TAINT];

	out->memory_bytes = h->memory;
	out->cpu_milli = h->cpu;
	out->disk_bytes = h->disk;
	out->disk_free_bytes = h->disk_free;
	out->vtep = arena_str(a, net_addr_text(text, &h->vtep));
	out->underlay_mtu = h->underlay_mtu;
	out->memory_overcommit = h->overcommit.memory;
	out->cpu_overcommit = h->overcommit.cpu;
	out->disk_overcommit = h->overcommit.disk;
	out->labels = (Um__HostFacts__LabelsEntry **)arena_list(a, h->labels.count);
	for (size_t i = 0; i < h->labels.count; i++) {
		Um__HostFacts__LabelsEntry *e = arena_get(a, sizeof(*e));

		um__host_facts__labels_entry__init(e);
		e->key = arena_str(a, h->labels.items[i].key);
		e->value = arena_str(a, h->labels.items[i].value);
		out->labels[out->n_labels++] = e;
	}
	out->taints = (char **)arena_list(a, h->taints.count);
	for (size_t i = 0; i < h->taints.count; i++) {
		facts_taint_text(&h->taints.items[i], taint);
		out->taints[out->n_taints++] = arena_str(a, taint);
	}
}
