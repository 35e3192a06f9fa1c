/* Where a guest goes: filters first, then the best of those left. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "lib/units.h"
#include "scheduler/core/core_int.h"

/* Why a host refuses, the first that applies. */
enum refusal {
	FITS,
	NOT_UP,
	IS_CORDONED,
	OTHER_HOST,
	LABELS,
	MAX_PER_HOST,
	MTU,
	NO_MEMORY,
	NO_CPU,
	NO_DISK,
	REFUSALS,
};

static const char *const refusal_text[REFUSALS] = {
	[FITS] = "fits",
	[NOT_UP] = "not up",
	[IS_CORDONED] = "cordoned",
	[OTHER_HOST] = "not the host asked for",
	[LABELS] = "labels do not match",
	[MAX_PER_HOST] = "max_per_host reached",
	[MTU] = "underlay MTU too small",
	[NO_MEMORY] = "not enough memory",
	[NO_CPU] = "not enough CPU",
	[NO_DISK] = "not enough disk",
};

static uint64_t free_of(uint64_t total, uint64_t used)
{
	return total > used ? total - used : 0;
}

static bool labels_match(const struct core_host *host, const struct core_groupspec *spec)
{
	for (size_t i = 0; i < spec->host_label_count; i++) {
		const struct core_label *want = &spec->host_labels[i];
		bool found = false;

		for (size_t j = 0; j < host->labels.count && !found; j++)
			found = strcmp(host->labels.items[j].key, want->key) == 0 &&
				strcmp(host->labels.items[j].value, want->value) == 0;
		if (!found)
			return false;
	}
	return true;
}

/* Guests of GROUP on HOST: the shorter of the two lists is walked. */
static uint32_t of_group(const struct core_group *group, const struct core_host *host)
{
	const struct core_guest *guest;
	uint32_t n = 0;

	if (!group)
		return 0;
	if (group->guest_count < host->guest_count) {
		DL_FOREACH2(group->guests, guest, group_next)
		n += guest->host == host;
	} else {
		DL_FOREACH2(host->guests, guest, host_next)
		n += guest->group == group;
	}
	return n;
}

/* What is promised beyond what is recorded: for dry runs. */
struct extra {
	uint64_t memory, disk;
	uint32_t cpu, group;
};

static bool mtu_fits(const struct core_host *host, const struct place_need *need)
{
	uint32_t overhead = host->vtep.family == 6 ? 70 : 50;

	for (size_t i = 0; need->group && i < need->spec->nic_count; i++) {
		struct core_network *network =
			deployment_network(need->group->deployment, need->spec->nics[i].network);

		if (network && host->underlay_mtu && network->mtu + overhead > host->underlay_mtu)
			return false;
	}
	return true;
}

static enum refusal judge(const struct core *core, const struct core_host *host,
	const struct place_need *need, const struct extra *extra)
{
	const struct core_groupspec *spec = need->spec;
	uint64_t cpu = (uint64_t)host->cpu * core->config.cpu_overcommit;

	if (host->state != CORE_HOST_UP)
		return NOT_UP;
	if (host->cordoned)
		return IS_CORDONED;
	if (*spec->host && strcmp(spec->host, host->name) != 0)
		return OTHER_HOST;
	if (!labels_match(host, spec))
		return LABELS;
	if (spec->max_per_host && of_group(need->group, host) + extra->group >= spec->max_per_host)
		return MAX_PER_HOST;
	if (!mtu_fits(host, need))
		return MTU;
	if (free_of(host->memory, host->memory_reserved + extra->memory) < spec->memory)
		return NO_MEMORY;
	if (free_of(cpu, (uint64_t)host->cpu_reserved + extra->cpu) < spec->cpu)
		return NO_CPU;
	if (free_of(host->disk, host->disk_reserved + extra->disk) < spec->disk)
		return NO_DISK;
	return FITS;
}

/* Smaller is better.  Spread: few of the same group, then the emptiest; pack:
 * the fullest that still has room. */
struct score {
	uint32_t group;
	uint64_t used; /* thousandths of the memory */
};

static struct score score_of(
	const struct core_host *host, const struct place_need *need, const struct extra *extra)
{
	uint64_t used = host->memory_reserved + extra->memory;
	struct score s = {.used = host->memory ? used * 1000 / host->memory : 1000};

	if (need->spec->strategy == CORE_PACK)
		s.used = 1000 - (s.used > 1000 ? 1000 : s.used);
	else
		s.group = of_group(need->group, host) + extra->group;
	return s;
}

static bool better(const struct score *a, const struct score *b)
{
	return a->group != b->group ? a->group < b->group : a->used < b->used;
}

static void explain(const struct core *core, const struct place_need *need,
	const uint32_t count[REFUSALS], char because[CORE_REASON])
{
	uint64_t most = 0;
	char need_text[UNITS_TEXT], most_text[UNITS_TEXT];
	size_t used = 0;

	for (const struct core_host *h = core->hosts; h; h = h->hh.next)
		if (h->state == CORE_HOST_UP && !h->cordoned &&
			free_of(h->memory, h->memory_reserved) > most)
			most = free_of(h->memory, h->memory_reserved);
	if (!core->hosts) {
		(void)snprintf(because, CORE_REASON, "no host has joined the cluster");
		return;
	}
	because[0] = 0;
	for (int r = NOT_UP; r < REFUSALS; r++) {
		int n;

		if (!count[r] || used >= CORE_REASON)
			continue;
		n = snprintf(because + used, CORE_REASON - used, "%s%u host%s: %s",
			used ? "; " : "no host: ", count[r], count[r] == 1 ? "" : "s",
			refusal_text[r]);
		used += n > 0 ? (size_t)n : 0;
		if (r == NO_MEMORY && used < CORE_REASON) {
			n = snprintf(because + used, CORE_REASON - used,
				" (needs %s, most free %s)",
				units_size(need_text, need->spec->memory),
				units_size(most_text, most));
			used += n > 0 ? (size_t)n : 0;
		}
	}
}

struct core_host *place_choose(
	struct core *core, const struct place_need *need, char because[CORE_REASON])
{
	static const struct extra none;
	uint32_t count[REFUSALS] = {0};
	struct core_host *best = NULL;
	struct score best_score = {0};

	for (struct core_host *h = core->hosts; h; h = h->hh.next) {
		enum refusal r = judge(core, h, need, &none);
		struct score s;

		count[r]++;
		if (r != FITS)
			continue;
		s = score_of(h, need, &none);
		if (!best || better(&s, &best_score)) {
			best = h;
			best_score = s;
		}
	}
	if (!best)
		explain(core, need, count, because);
	else if (*need->spec->host)
		(void)snprintf(because, CORE_REASON, "the lab asks for this host");
	else if (need->spec->strategy == CORE_PACK)
		(void)snprintf(because, CORE_REASON, "pack: the fullest of %u hosts that have room",
			count[FITS]);
	else
		(void)snprintf(because, CORE_REASON,
			"spread: %u of its group here, %" PRIu64 ".%" PRIu64
			" %% of the memory reserved, the least of %u hosts that fit",
			best_score.group, best_score.used / 10, best_score.used % 10, count[FITS]);
	return best;
}

static void put(
	struct core *core, struct core_guest *guest, struct core_host *host, struct core_out *out)
{
	guest_unpend(core, guest);
	guest_attach_host(guest, host);
	guest->epoch = ++core->meta.next_epoch;
	guest_set_phase(guest, CORE_PLACED, "waits for its host to take it");
	out_dirty(out, CORE_KIND_META, "meta");
	out_dirty_guest(out, guest);
	netplan_placed(guest, out);
	out_tell_guest(out, guest);
	out_log(out, "guest", guest->name, "Placed", false, host->name, "on %s: %s", host->name,
		guest->placed_because);
}

void place_pending(struct core *core, uint64_t now, struct core_out *out)
{
	struct core_guest *guest, *next;
	const struct core_group *failed = NULL;
	char because[CORE_REASON] = "";

	(void)now;
	if (!core->place_due)
		return;
	core->place_due = false;
	DL_FOREACH_SAFE2(core->pending, guest, next, pending_next)
	{
		struct core_host *host = NULL;

		/* Guests of one group are alike: what one does not get, no other does. */
		if (guest->group != failed) {
			const struct place_need need = {
				.spec = &guest->group->spec, .group = guest->group};

			host = place_choose(core, &need, because);
		}
		if (host) {
			(void)str_copy(
				guest->placed_because, sizeof(guest->placed_because), because);
			put(core, guest, host, out);
			continue;
		}
		failed = guest->group;
		if (strcmp(guest->placed_because, because) == 0)
			continue;
		(void)str_copy(guest->placed_because, sizeof(guest->placed_because), because);
		(void)str_copy(guest->reason, sizeof(guest->reason), because);
		out_dirty_guest(out, guest);
		out_log(out, "guest", guest->name, "Unplaceable", true, "", "%s", because);
	}
}

/* How many more guests the plan makes of SPEC. */
static uint32_t to_create(
	const struct core *core, const char *deployment, const struct core_groupspec *spec)
{
	struct core_deployment *have;
	struct core_group *group = NULL;
	uint32_t want = spec->count_set ? spec->count : 1;

	HASH_FIND_STR(core->deployments, deployment, have);
	if (have)
		group = deployment_group(have, spec->name);
	if (!group || group->spec.count_set != spec->count_set)
		return want;
	return want > group->guest_count ? want - group->guest_count : 0;
}

void place_fit(struct core *core, const struct core_apply *apply, char warning[CORE_REASON * 2])
{
	size_t hosts = HASH_COUNT(core->hosts);
	struct extra *extra = calloc(hosts ? hosts : 1, sizeof(*extra));
	uint32_t short_of = 0, wanted = 0;
	char because[CORE_REASON] = "";

	warning[0] = 0;
	if (!extra)
		return;
	for (size_t g = 0; g < apply->group_count; g++) {
		const struct core_groupspec *spec = &apply->groups[g];
		const struct place_need need = {.spec = spec};
		uint32_t n = to_create(core, apply->name, spec);

		wanted += n;
		for (size_t i = 0; i < hosts; i++)
			extra[i].group = 0;
		for (uint32_t k = 0; k < n; k++) {
			struct core_host *h;
			struct extra *best = NULL, *x = extra;
			struct score best_score = {0};
			uint32_t count[REFUSALS] = {0};

			for (h = core->hosts; h; h = h->hh.next, x++) {
				enum refusal r = judge(core, h, &need, x);
				struct score s;

				count[r]++;
				if (r != FITS)
					continue;
				s = score_of(h, &need, x);
				if (!best || better(&s, &best_score)) {
					best = x;
					best_score = s;
				}
			}
			if (!best) {
				short_of += n - k;
				explain(core, &need, count, because);
				break;
			}
			best->memory += spec->memory;
			best->disk += spec->disk;
			best->cpu += spec->cpu;
			best->group++;
		}
	}
	free(extra);
	if (short_of)
		(void)snprintf(warning, CORE_REASON * 2, "%u of %u new guests do not fit now: %s",
			short_of, wanted, because);
}
