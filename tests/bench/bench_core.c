/* The scheduler's core alone, on one core of the machine.
 *
 *   bench_core c2m [GUESTS [HOSTS]]   two million guests on 6,100 hosts, with
 *                                     networks, constraints and spread
 *   bench_core scale                  one placement at 100, 1,000, 10,000 hosts
 *   bench_core pack                   bin packing: Falkenauer's uniform and triplet
 *                                     classes (J. of Heuristics 2, 1996)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "scheduler/core/core.h"

static void must(int rc, const struct err *err)
{
	if (rc >= 0)
		return;
	(void)fprintf(stderr, "bench_core: %s\n", err_msg(err));
	exit(1);
}

static uint64_t next_random(uint64_t *seed)
{
	/* xorshift64* (Vigna 2016) */
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 2685821657736338717ull;
}

static double resident_mib(void)
{
	struct rusage usage;

	(void)getrusage(RUSAGE_SELF, &usage);
	return (double)usage.ru_maxrss / 1024;
}

static uint64_t mono_us(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static double seconds(uint64_t since_us)
{
	return (double)(mono_us() - since_us) / 1e6;
}

static void add_host(struct core *core, uint32_t n, uint64_t memory, struct core_out *out)
{
	static const char *const zones[] = {"a", "b", "c"}, *const disks[] = {"ssd", "hdd"};
	struct core_label labels[3];
	struct core_hostfacts facts = {.memory = memory,
		.disk = 1ull << 50,
		.cpu = 64000,
		.underlay_mtu = 1500,
		.labels = {.items = labels, .count = 3}};
	struct err err = ERR_INIT;

	memset(labels, 0, sizeof(labels));
	(void)snprintf(facts.name, sizeof(facts.name), "host-%u", n);
	(void)str_copy(labels[0].key, CORE_NAME, "zone");
	(void)str_copy(labels[0].value, CORE_NAME, zones[n % 3]);
	(void)str_copy(labels[1].key, CORE_NAME, "disk");
	(void)str_copy(labels[1].value, CORE_NAME, disks[n % 5 == 0]);
	(void)str_copy(labels[2].key, CORE_NAME, "rack");
	(void)snprintf(labels[2].value, CORE_NAME, "r%u", n / 40);
	facts.vtep.family = 4;
	facts.vtep.bytes[0] = 10;
	facts.vtep.bytes[2] = (uint8_t)(n >> 8);
	facts.vtep.bytes[3] = (uint8_t)n;
	must(core_host_hello(core, &facts, NULL, 0, 1, 1, out, &err), &err);
	core_out_reset(out);
}

static void group_init(struct core_groupspec *g, const char *name, uint32_t count)
{
	memset(g, 0, sizeof(*g));
	(void)str_copy(g->name, sizeof(g->name), name);
	g->count_set = true;
	g->count = count;
	g->memory = 64ull << 20;
	g->cpu = 100;
	g->disk = 64ull << 20;
	g->boot_hash = g->disk_hash = 1;
}

/* Disks that are not slow, evenly over the zones. */
static void rules_init(struct core_rules *rules, char values[1][CORE_NAME])
{
	memset(rules, 0, sizeof(*rules));
	(void)str_copy(values[0], CORE_NAME, "hdd");
	(void)str_copy(rules->exprs[0].key, CORE_NAME, "disk");
	rules->exprs[0].op = CORE_NOT_IN;
	rules->exprs[0].values = values;
	rules->exprs[0].value_count = 1;
	rules->expr_count = 1;
	(void)str_copy(rules->spreads[0].over, CORE_NAME, "zone");
	rules->spreads[0].max_skew = 1;
	rules->spread_count = 1;
}

static void lab_apply(
	struct core *core, const char *name, uint32_t guests, bool ruled, struct core_out *out)
{
	char values[1][CORE_NAME];
	struct core_netspec network = {.mtu = 1400};
	struct core_groupspec *groups = calloc(2, sizeof(*groups));
	struct core_rules rules;
	struct core_apply apply = {.networks = &network, .network_count = 1, .groups = groups};
	struct core_plan plan = {0};
	struct err err = ERR_INIT;

	if (!groups)
		exit(1);
	rules_init(&rules, values);
	(void)str_copy(apply.name, sizeof(apply.name), name);
	(void)str_copy(network.name, sizeof(network.name), "lan");
	must(net_prefix_parse("10.0.0.0/8", &network.prefix4, &err), &err);
	group_init(&groups[0], "web", guests - guests / 4);
	group_init(&groups[1], "db", guests / 4);
	for (int i = 0; i < 2; i++) {
		groups[i].nic_count = 1;
		(void)str_copy(groups[i].nics[0].network, CORE_NAME, "lan");
		groups[i].rules = ruled ? &rules : NULL;
		apply.group_count += groups[i].count > 0;
	}
	must(core_apply(core, &apply, false, 1, &plan, out, &err), &err);
	core_plan_free(&plan);
	free(groups);
}

static struct core *core_of(uint32_t hosts, uint64_t memory, struct core_out *out)
{
	const struct core_config config = {0};
	struct err err = ERR_INIT;
	struct core *core;

	must(core_new(&config, &core, &err), &err);
	for (uint32_t i = 0; i < hosts; i++)
		add_host(core, i, memory, out);
	return core;
}

static uint64_t placed(const struct core *core)
{
	uint64_t n = 0;

	for (const struct core_host *h = core_hosts(core); h; h = h->hh.next)
		n += h->guest_count;
	return n;
}

static int c2m(uint64_t guests, uint32_t hosts, uint32_t lab_size)
{
	struct core_out out = {0};
	/* Four of five hosts have the disks asked for. */
	struct core *core = core_of(hosts, (64ull << 20) * (guests / hosts + 1) * 3 / 2, &out);
	struct err err = ERR_INIT;
	uint64_t start = mono_us(), actions = 0, t = start;
	double base = resident_mib(), took;
	char name[32];

	for (uint64_t n = 0; n < guests / lab_size; n++) {
		(void)snprintf(name, sizeof(name), "lab-%llu", (unsigned long long)n);
		lab_apply(core, name, lab_size, true, &out);
		actions += out.action_count;
		core_out_reset(&out);
	}
	took = seconds(start);
	printf("%llu guests in labs of %u on %u hosts, one network each, disk != hdd, "
	       "spread over zones with max_skew 1\n",
		(unsigned long long)guests, lab_size, hosts);
	printf("placed %llu in %.2f s, %.2f us a guest; %llu messages to be sent\n",
		(unsigned long long)placed(core), took, took * 1e6 / (double)guests,
		(unsigned long long)actions);
	printf("memory %.0f MiB (%.0f MiB before), %.0f bytes a guest\n", resident_mib(), base,
		(resident_mib() - base) * 1048576 / (double)guests);
	t = mono_us();
	must(core_check(core, &err), &err);
	printf("all invariants checked in %.2f s\n", seconds(t));
	core_free(core);
	core_out_free(&out);
	return 0;
}

/* One guest more, in a lab of its own and in a large one, at several sizes. */
static int scale(void)
{
	static const uint32_t sizes[] = {100, 1000, 10000};

	printf("%8s %10s %22s %22s\n", "hosts", "guests", "a lab of 1: us a guest",
		"1 of 1000 more: us");
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		struct core_out out = {0};
		struct core *core = core_of(sizes[s], 64ull << 30, &out);
		const uint32_t rounds = 2000;
		char name[32];
		uint64_t start;
		double one, more;

		for (uint32_t i = 0; i < sizes[s] / 10; i++) {
			(void)snprintf(name, sizeof(name), "fill-%u", i);
			lab_apply(core, name, 200, true, &out);
			core_out_reset(&out);
		}
		start = mono_us();
		for (uint32_t i = 0; i < rounds; i++) {
			(void)snprintf(name, sizeof(name), "one-%u", i);
			lab_apply(core, name, 1, true, &out);
			core_out_reset(&out);
		}
		one = seconds(start) * 1e6 / rounds;
		start = mono_us();
		for (uint32_t i = 0; i < 20; i++) {
			(void)snprintf(name, sizeof(name), "many-%u", i);
			lab_apply(core, name, 1000, true, &out);
			core_out_reset(&out);
		}
		more = seconds(start) * 1e6 / 20000;
		printf("%8u %10llu %22.2f %22.2f\n", sizes[s], (unsigned long long)placed(core),
			one, more);
		core_free(core);
		core_out_free(&out);
	}
	return 0;
}

/* ---------------------------------------------------------------- bin packing */

/* Hosts used for ITEMS of the sizes given, in units of 1 MiB, hosts of CAPACITY. */
static uint32_t pack_items(const uint32_t *sizes, uint32_t items, uint32_t capacity)
{
	struct core_out out = {0};
	struct core *core = core_of(items, (uint64_t)capacity << 20, &out);
	struct core_groupspec *groups = calloc(items, sizeof(*groups));
	struct core_apply apply = {.groups = groups, .group_count = items};
	struct core_plan plan = {0};
	struct err err = ERR_INIT;
	uint32_t used = 0;
	char name[32];

	if (!groups)
		exit(1);
	(void)str_copy(apply.name, sizeof(apply.name), "pack");
	for (uint32_t i = 0; i < items; i++) {
		(void)snprintf(name, sizeof(name), "item-%u", i);
		group_init(&groups[i], name, 1);
		groups[i].count_set = false;
		groups[i].memory = (uint64_t)sizes[i] << 20;
		groups[i].disk = 0;
		groups[i].cpu = 0;
		groups[i].strategy = CORE_PACK;
	}
	must(core_apply(core, &apply, false, 1, &plan, &out, &err), &err);
	core_plan_free(&plan);
	must(core_check(core, &err), &err);
	if (placed(core) != items) {
		(void)fprintf(stderr, "bench_core: not all items were placed\n");
		exit(1);
	}
	for (const struct core_host *h = core_hosts(core); h; h = h->hh.next)
		used += h->guest_count > 0;
	free(groups);
	core_free(core);
	core_out_free(&out);
	return used;
}

/* Uniform: integers in [20, 100], bins of 150. */
static void uniform(uint32_t *sizes, uint32_t items, uint64_t *seed)
{
	for (uint32_t i = 0; i < items; i++)
		sizes[i] = 20 + (uint32_t)(next_random(seed) % 81);
}

/* Triplets: each bin of 1000 holds exactly three: one in [380, 490], one in
 * [250, half of the rest), and the rest. */
static void triplets(uint32_t *sizes, uint32_t items, uint64_t *seed)
{
	for (uint32_t i = 0; i + 2 < items; i += 3) {
		uint32_t a = 380 + (uint32_t)(next_random(seed) % 111), rest = 1000 - a;
		uint32_t b = 250 + (uint32_t)(next_random(seed) % (rest / 2 - 250));

		sizes[i] = a;
		sizes[i + 1] = b;
		sizes[i + 2] = rest - b;
	}
	for (uint32_t i = items; i > 1; i--) {
		uint32_t k = (uint32_t)(next_random(seed) % i), t = sizes[i - 1];

		sizes[i - 1] = sizes[k];
		sizes[k] = t;
	}
}

static int pack(void)
{
	static const struct {
		const char *name;
		uint32_t items, capacity;
		bool triplet;
	} classes[] = {
		{"u120", 120, 150, false},
		{"u250", 250, 150, false},
		{"u500", 500, 150, false},
		{"u1000", 1000, 150, false},
		{"t60", 60, 1000, true},
		{"t120", 120, 1000, true},
		{"t249", 249, 1000, true},
		{"t501", 501, 1000, true},
	};
	uint32_t sizes[1000];

	printf("%8s %10s %12s %12s %8s %12s\n", "class", "instances", "lower bound", "hosts used",
		"above", "ms each");
	for (size_t c = 0; c < sizeof(classes) / sizeof(classes[0]); c++) {
		uint64_t seed = 0x9e3779b97f4a7c15ull + c, used = 0, bound = 0;
		uint64_t start = mono_us();

		for (int instance = 0; instance < 20; instance++) {
			uint64_t sum = 0;

			if (classes[c].triplet)
				triplets(sizes, classes[c].items, &seed);
			else
				uniform(sizes, classes[c].items, &seed);
			for (uint32_t i = 0; i < classes[c].items; i++)
				sum += sizes[i];
			bound += (sum + classes[c].capacity - 1) / classes[c].capacity;
			used += pack_items(sizes, classes[c].items, classes[c].capacity);
		}
		printf("%8s %10d %12llu %12llu %7.2f%% %12.2f\n", classes[c].name, 20,
			(unsigned long long)bound, (unsigned long long)used,
			(double)(used - bound) * 100 / (double)bound, seconds(start) * 1e3 / 20);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "c2m") == 0) {
		long guests = argc > 2 ? strtol(argv[2], NULL, 10) : 2000000;
		long hosts = argc > 3 ? strtol(argv[3], NULL, 10) : 6100;
		long lab = argc > 4 ? strtol(argv[4], NULL, 10) : 200;

		if (guests >= 1 && hosts >= 1 && lab >= 4)
			return c2m((uint64_t)guests, (uint32_t)hosts, (uint32_t)lab);
	}
	if (argc == 2 && strcmp(argv[1], "scale") == 0)
		return scale();
	if (argc == 2 && strcmp(argv[1], "pack") == 0)
		return pack();
	(void)fprintf(stderr, "usage: bench_core c2m [GUESTS [HOSTS [LAB]]] | scale | pack\n");
	return 2;
}
