#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "lib/units.h"
#include "scheduler/core/run.h"

#define HOSTS_NAMED 5u

struct near {
	const struct core_host *host;
	uint64_t lacks; /* of what is short; 0: cannot be told in numbers */
};

/* How far HOST is from fitting, for what it refuses. */
static uint64_t lacks_of(const struct run *run, const struct core_host *host, enum refusal refusal)
{
	struct index_need left = index_free(run->core, host);

	switch (refusal) {
	case NO_MEMORY:
		return run->need.memory - left.memory;
	case NO_CPU:
		return run->need.cpu - left.cpu;
	case NO_DISK:
		return run->need.disk - left.disk;
	default:
		return 0;
	}
}

static void describe_label(const struct run *run, const struct core_host *host, char *text)
{
	for (size_t i = 0; i < run->rules->expr_count; i++) {
		const struct core_expr *e = &run->rules->exprs[i];
		const char *value = index_label(host, e->key);
		uint32_t penalty = 0;
		struct core_rules one = {.expr_count = 1};
		struct run only = {.rules = &one};
		struct core_host bare = *host;

		one.exprs[0] = *e;
		bare.taints.count = 0;
		if (rules_class(&only, &bare, &penalty) != FITS) {
			(void)snprintf(text, CORE_REASON, "label %.60s is %.60s", e->key,
				value ? value : "not set");
			return;
		}
	}
}

static void describe(const struct run *run, const struct near *near, enum refusal refusal,
	char text[CORE_REASON])
{
	run_describe(run, near->host, refusal, text);
	switch (refusal) {
	case LABELS:
		describe_label(run, near->host, text);
		break;
	case TAINTED:
		for (size_t i = 0; i < near->host->taints.count && !*text; i++) {
			const struct core_taint *t = &near->host->taints.items[i];

			if (!t->preferred)
				(void)snprintf(text, CORE_REASON, "taint %.60s%s%.60s", t->key,
					*t->value ? "=" : "", t->value);
		}
		break;
	case MAX_PER_HOST:
		(void)snprintf(text, CORE_REASON, "%u of the group are there",
			counts_of(&run->group->on_hosts, near->host->order));
		break;
	case EXCLUSIVE:
		(void)snprintf(text, CORE_REASON, "%u guests are there", near->host->guest_count);
		break;
	case NOT_UP:
		/* NOLINTBEGIN(clang-analyzer-core.NullDereference): refused is some host */
		(void)snprintf(
			text, CORE_REASON, "it is %s", core_host_state_name(near->host->state));
		/* NOLINTEND(clang-analyzer-core.NullDereference) */
		break;
	default:
		break;
	}
}

static void help(struct core_why *why, const char *text)
{
	if (why->help_count < sizeof(why->help) / sizeof(why->help[0]))
		(void)snprintf(why->help[why->help_count++], CORE_REASON, "%s", text);
}

/* "there is no host 'h9'; there are h1, h2, h3 and 4 more" */
static void suggest_host(const struct run *run, struct core_why *why)
{
	const struct core_host *h, *shown[HOSTS_NAMED];
	char text[CORE_REASON];
	size_t n = 0, used;
	unsigned all = HASH_COUNT(run->core->hosts);

	for (h = run->core->hosts; h && n < HOSTS_NAMED; h = h->hh.next)
		shown[n++] = h;
	used = (size_t)snprintf(text, sizeof(text), "there is no host '%.60s'; there %s ",
		run->spec->host, all == 1 ? "is" : "are");
	for (size_t i = 0; i < n && used < sizeof(text); i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%.40s",
			i == 0			 ? ""
			: i + 1 == n && all == n ? " and "
						 : ", ",
			shown[i]->name);
	if (all > n && used < sizeof(text))
		(void)snprintf(text + used, sizeof(text) - used, " and %u more", all - (unsigned)n);
	help(why, text);
	help(why, "name another host in the guest's placement, or start an agent of that name");
}

static void suggest(const struct run *run, const uint32_t count[REFUSALS], uint64_t least_memory,
	struct core_why *why)
{
	char size[UNITS_TEXT], text[CORE_REASON];

	if (!run->core->hosts) {
		help(why, "start an agent: 'umlaut-agent --help' tells how");
		return;
	}
	if (*run->spec->host && !host_get(run->core, run->spec->host)) {
		suggest_host(run, why);
		return;
	}
	if (count[IS_CORDONED])
		help(why, "let hosts take guests again: 'clusterctl uncordon HOST'");
	if (least_memory) {
		(void)snprintf(text, sizeof(text),
			"free %s of memory on the nearest host, give the guest less, or add a host",
			units_size(size, least_memory));
		help(why, text);
	}
	if (count[NO_CPU])
		help(why, "give the guest less CPU, or raise the hosts' over-commit of CPU");
	if (count[TAINTED])
		help(why, "tolerate the taint in the guest's placement");
	if (count[LABELS])
		help(why, "set the labels in the agents' configuration, or ask for others");
	if (count[MAX_PER_HOST] || count[APART] || count[SKEW])
		help(why, "add a host, or loosen max_per_host, apart or spread");
	if (count[WAITS_FOR])
		help(why, "place the guests that it is to be with: 'clusterctl why' tells of them");
}

static void why_waiting(struct core *core, const struct core_guest *guest, struct core_why *out)
{
	uint32_t count[REFUSALS] = {0};
	struct near near[REFUSALS] = {{0}};
	struct run run;

	run_begin(&run, core, guest->group, NULL);
	rules_least(&run);
	for (struct core_host *h = core->hosts; h; h = h->hh.next) {
		uint32_t penalty = 0;
		enum refusal r = run_judge(&run, h, &penalty);
		uint64_t lacks = lacks_of(&run, h, r);

		if (!count[r]++ || lacks < near[r].lacks)
			near[r] = (struct near){.host = h, .lacks = lacks};
	}
	(void)snprintf(out->because, sizeof(out->because), "%s", guest->reason);
	for (int r = FITS; r < REFUSALS && out->count < CORE_WHYS; r++) {
		struct core_why_item *item;

		if (!count[r])
			continue;
		item = &out->items[out->count++];
		item->what = refusal_text((enum refusal)r);
		item->hosts = count[r];
		(void)str_copy(item->example, sizeof(item->example), near[r].host->name);
		describe(&run, &near[r], (enum refusal)r, item->detail);
	}
	suggest(&run, count, count[NO_MEMORY] ? near[NO_MEMORY].lacks : 0, out);
	run_end(&run);
}

int core_why(struct core *core, uint64_t uid, struct core_why *out, struct err *err)
{
	const struct core_guest *guest = core_guest(core, uid);

	if (!guest)
		return err_set(err, -ENOENT, "no such guest");
	*out = (struct core_why){.host = guest->host};
	if (guest->host || !guest->group || !guest->want_run)
		(void)snprintf(out->because, sizeof(out->because), "%s",
			guest->host ? guest->placed_because : guest->reason);
	else
		why_waiting(core, guest, out);
	return 0;
}
