/* The lab model without YAML: what a client may send, hashes, differences. */
#include "spec/spec.h"

#include <errno.h>

#include "tests/unit/unit.h"

#define NEW(type, var)                          \
	Um__##type *var = malloc(sizeof(*var)); \
	assert_non_null(var);                   \
	um__##type##_init_(var)
/* protobuf-c's names of init functions */
#define um__DeploymentSpec_init_ um__deployment_spec__init
#define um__GroupSpec_init_ um__group_spec__init
#define um__GuestSpec_init_ um__guest_spec__init
#define um__NetworkSpec_init_ um__network_spec__init
#define um__NicSpec_init_ um__nic_spec__init
#define um__FileSpec_init_ um__file_spec__init

static void *grow(void *list, size_t n)
{
	void *p = realloc(list, (n + 1) * sizeof(void *));

	assert_non_null(p);
	return p;
}

static Um__DeploymentSpec *new_spec(const char *name)
{
	NEW(DeploymentSpec, s);
	s->name = strdup(name);
	return s;
}

static Um__GuestSpec *add_group(Um__DeploymentSpec *s, const char *name, int count)
{
	NEW(GroupSpec, group);
	NEW(GuestSpec, guest);
	group->name = strdup(name);
	group->guest = guest;
	group->count_set = count >= 0;
	group->count = count >= 0 ? (uint32_t)count : 0;
	guest->image = strdup("busybox");
	s->groups = grow(s->groups, s->n_groups);
	s->groups[s->n_groups++] = group;
	return guest;
}

static void add_network(Um__DeploymentSpec *s, const char *name, const char *subnet)
{
	NEW(NetworkSpec, net);
	net->name = strdup(name);
	net->subnet = strdup(subnet);
	s->networks = grow(s->networks, s->n_networks);
	s->networks[s->n_networks++] = net;
}

static void add_nic(Um__GuestSpec *g, const char *network, const char *address)
{
	NEW(NicSpec, nic);
	nic->network = strdup(network);
	if (*address)
		nic->address = strdup(address);
	g->nics = grow(g->nics, g->n_nics);
	g->nics[g->n_nics++] = nic;
}

static void add_env(Um__GuestSpec *g, const char *key, const char *value)
{
	Um__GuestSpec__EnvEntry *e = malloc(sizeof(*e));

	assert_non_null(e);
	um__guest_spec__env_entry__init(e);
	e->key = strdup(key);
	e->value = strdup(value);
	g->env = grow(g->env, g->n_env);
	g->env[g->n_env++] = e;
}

static void set(char **field, const char *text)
{
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = strdup(text);
}

static void add_file(Um__GuestSpec *g, const char *path, size_t size)
{
	NEW(FileSpec, f);
	f->path = strdup(path);
	f->content.data = calloc(1, size + 1);
	f->content.len = size;
	g->files = grow(g->files, g->n_files);
	g->files[g->n_files++] = f;
}

/* How many errors there are, and whether one is TEXT at PATH. */
static int errors(Um__DeploymentSpec *s, const char *path, const char *text)
{
	struct spec_errors e;
	struct err err = ERR_INIT;
	bool found = !path;
	int n;

	spec_errors_init(&e);
	unit_ok(spec_defaults(s, &err), &err);
	n = spec_check(s, &e);
	assert_int_equal(n, e.count + e.dropped);
	for (size_t i = 0; i < e.count; i++)
		found |= path && strcmp(e.items[i].path, path) == 0 &&
			 strstr(e.items[i].message, text);
	if (!found) {
		for (size_t i = 0; i < e.count; i++)
			print_message("%s: %s\n", e.items[i].path, e.items[i].message);
		fail_msg("no '%s' at %s", text, path);
	}
	spec_errors_free(&e);
	return n;
}

static void release(Um__DeploymentSpec *s)
{
	um__deployment_spec__free_unpacked(s, NULL);
}

/* What YAML cannot say, a client may: names twice, missing parts, zero sizes. */
static void test_hostile(void **state)
{
	Um__DeploymentSpec *s = new_spec("d");
	Um__GuestSpec *g;

	(void)state;
	assert_int_equal(errors(s, NULL, NULL), 0);
	add_group(s, "a", -1);
	add_group(s, "a", -1);
	add_group(s, "", -1);
	add_network(s, "n", "10.0.0.0/24");
	add_network(s, "n", "10.1.0.0/24");
	add_network(s, "\xff\x1b[31m", "10.2.0.0/24");
	(void)errors(s, "guests[1]", "'a' is there twice");
	(void)errors(s, "guests[2].name", "is empty");
	(void)errors(s, "networks[1]", "'n' is there twice");
	release(s);

	s = new_spec("d");
	g = add_group(s, "a", -1);
	um__guest_spec__free_unpacked(g, NULL);
	s->groups[0]->guest = NULL;
	assert_int_equal(errors(s, "guests.a", "says nothing"), 1);
	release(s);

	s = new_spec("d");
	g = add_group(s, "a", 1000000);
	g->memory_bytes = 1;
	g->cpu_milli = 1;
	g->restart = 77;
	g->persistent = true;
	g->on_host_loss = UM__ON_HOST_LOSS__LOSS_RESTART;
	add_env(g, "A", "1");
	add_env(g, "A", "2");
	add_file(g, "/f", 5u << 20);
	set(&g->init, "systemd");
	assert_true(errors(s, "guests.a.memory", "not within") >= 6);
	(void)errors(s, "guests.a.restart", "policy 77");
	(void)errors(s, "guests.a.env.A", "twice");
	(void)errors(s, "guests.a.files", "more than");
	(void)errors(s, "guests.a.cpus", "not within");
	(void)errors(s, "guests.a.init", "unknown");
	(void)errors(s, "guests.a.on_host_loss", "is not started elsewhere without it");
	release(s);
}

static void test_limits(void **state)
{
	Um__DeploymentSpec *s = new_spec("d");
	struct spec_errors e;
	char name[32];

	(void)state;
	/* Errors are bounded. */
	for (int i = 0; i < 1500; i++) {
		(void)snprintf(name, sizeof(name), "g%d", i);
		set(&add_group(s, name, -1)->image, "");
	}
	spec_errors_init(&e);
	assert_int_equal(spec_defaults(s, NULL), 0);
	assert_int_equal(spec_check(s, &e), 1500);
	assert_int_equal(e.count, SPEC_ERRORS_MAX);
	assert_int_equal(e.dropped, 500);
	spec_errors_free(&e);
	release(s);

	/* A /24 for 254: full, and one too many. */
	s = new_spec("d");
	add_network(s, "n", "10.0.0.0/24");
	add_nic(add_group(s, "a", 253), "n", "");
	add_nic(add_group(s, "b", -1), "n", "10.0.0.7");
	assert_int_equal(errors(s, NULL, NULL), 0);
	s->groups[0]->count = 254;
	assert_int_equal(errors(s, "networks.n.subnet", "too few for the 255"), 1);
	release(s);

	/* Many networks: overlaps are found without comparing each with each. */
	s = new_spec("d");
	for (int i = 0; i < SPEC_NETWORKS_MAX; i++) {
		char subnet[32];

		(void)snprintf(name, sizeof(name), "n%d", i);
		(void)snprintf(subnet, sizeof(subnet), "10.%d.%d.0/24", i / 256, i % 256);
		add_network(s, name, subnet);
	}
	assert_int_equal(errors(s, NULL, NULL), 0);
	set(&s->networks[77]->subnet, "10.3.0.0/16");
	assert_int_equal(
		errors(s, "networks.n1000.subnet", "overlaps the subnet 10.3.0.0/16"), 256);
	add_network(s, "more", "11.0.0.0/24");
	assert_int_equal(errors(s, "networks", "at most 4096"), 1);
	release(s);
}

static void test_names(void **state)
{
	Um__DeploymentSpec *s = new_spec("d");
	char name[STR_NAME_MAX + 1];
	uint32_t i = 9;

	(void)state;
	add_group(s, "web", 3);
	add_group(s, "web-1-2", -1);
	add_group(s, "none", 0);
	assert_int_equal(spec_group_size(s->groups[0]), 3);
	assert_int_equal(spec_group_size(s->groups[1]), 1);
	assert_int_equal(spec_group_size(s->groups[2]), 0);
	assert_int_equal(spec_guest_name(s->groups[0], 0, name), 0);
	assert_string_equal(name, "web-1");
	assert_ptr_equal(spec_find_guest(s, "web-1-2", &i), s->groups[1]);
	assert_int_equal(i, 0);
	assert_ptr_equal(spec_find_guest(s, "web-2", &i), s->groups[0]);
	assert_int_equal(i, 1);
	assert_null(spec_find_guest(s, "web-0", &i));
	assert_null(spec_find_guest(s, "none-1", &i));
	assert_null(spec_find_guest(s, "web-99999999999999", &i));
	assert_null(spec_find_guest(s, "", &i));
	assert_int_equal(errors(s, NULL, NULL), 0);
	release(s);
}

static void test_artefacts(void **state)
{
	static const char *const good[] = {"a", "debian:12", "my_image-1.2",
		"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"};
	static const char *const bad[] = {"", "A", ".a", "a/b", "a b", "sha256:", "sha256:0123",
		"\xc3\xa4",
		"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeg"};
	const char *word;
	size_t n;

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(good); i++)
		assert_int_equal(spec_check_artefact("image", good[i], NULL), 0);
	for (size_t i = 0; i < UNIT_COUNT(bad); i++)
		assert_int_equal(spec_check_artefact("image", bad[i], NULL), -EINVAL);
	assert_int_equal(spec_check_kernel_args("quiet  loglevel=3 ", &word, &n, NULL), 0);
	assert_int_equal(spec_check_kernel_args("quiet ubd0=x y", &word, &n, NULL), -EINVAL);
	assert_int_equal(n, 6);
	assert_memory_equal(word, "ubd0=x", 6);
}

/* ---- hashes and differences ---- */

static Um__GuestSpec *sample(Um__DeploymentSpec **keep)
{
	Um__DeploymentSpec *s = new_spec("d");
	Um__GuestSpec *g = add_group(s, "a", -1);

	add_nic(g, "lan", "10.0.0.1");
	add_env(g, "A", "1");
	add_env(g, "B", "2");
	add_file(g, "/f", 10);
	set(&g->run, "true");
	assert_int_equal(spec_defaults(s, NULL), 0);
	*keep = s;
	return g;
}

struct told {
	char text[1024];
	unsigned count;
};

static void note(void *arg, enum spec_effect effect, const char *text)
{
	struct told *t = arg;
	size_t n = strlen(t->text);

	t->count++;
	(void)snprintf(t->text + n, sizeof(t->text) - n, "%d %s|", (int)effect, text);
}

struct change {
	const char *what;
	void (*make)(Um__GuestSpec *g);
	enum spec_effect effect;
	const char *text;
};

static void set_image(Um__GuestSpec *g)
{
	set(&g->image, "debian");
}
static void set_disk(Um__GuestSpec *g)
{
	g->disk_bytes = 1u << 30;
}
static void set_memory(Um__GuestSpec *g)
{
	g->memory_bytes = 256u << 20;
}
static void set_cpu(Um__GuestSpec *g)
{
	g->cpu_milli = 2000;
}
static void set_kernel(Um__GuestSpec *g)
{
	set(&g->kernel, "fast");
}
static void set_address(Um__GuestSpec *g)
{
	set(&g->nics[0]->address, "10.0.0.2");
}
static void add_interface(Um__GuestSpec *g)
{
	add_nic(g, "wan", "");
}
static void set_value(Um__GuestSpec *g)
{
	set(&g->env[1]->value, "secret");
}
static void add_variable(Um__GuestSpec *g)
{
	add_env(g, "C", "");
}
static void set_content(Um__GuestSpec *g)
{
	g->files[0]->content.data[3] = 1;
}
static void set_mode(Um__GuestSpec *g)
{
	g->files[0]->mode = 0755;
}
static void set_run(Um__GuestSpec *g)
{
	set(&g->run, "false");
}
static void set_restart(Um__GuestSpec *g)
{
	g->restart = UM__RESTART_POLICY__RESTART_NEVER;
}
static void set_host(Um__GuestSpec *g)
{
	set(&g->placement->host, "h1");
}
static void set_stop(Um__GuestSpec *g)
{
	g->stop_timeout_ms = 1;
}
static void set_loss(Um__GuestSpec *g)
{
	g->on_host_loss = UM__ON_HOST_LOSS__LOSS_RESTART;
}
static void set_persistent(Um__GuestSpec *g)
{
	g->persistent = true;
}
static void set_wait(Um__GuestSpec *g)
{
	g->on_host_loss = UM__ON_HOST_LOSS__LOSS_WAIT; /* as it is by default */
}
static void set_ready(Um__GuestSpec *g)
{
	g->ready->timeout_ms = 5;
}
static void set_nothing(Um__GuestSpec *g)
{
	Um__GuestSpec__EnvEntry *e = g->env[0];

	/* the order of a map is nothing */
	g->env[0] = g->env[1];
	g->env[1] = e;
}

static void test_changes(void **state)
{
	static const struct change changes[] = {
		{"nothing", set_nothing, SPEC_NONE, ""},
		{"image", set_image, SPEC_DISK, "3 image: busybox -> debian|"},
		{"disk", set_disk, SPEC_DISK, "3 disk: the image's -> 1G|"},
		{"memory", set_memory, SPEC_RESTART, "2 memory: 128M -> 256M|"},
		{"cpus", set_cpu, SPEC_RESTART, "2 cpus: 0.5 -> 2|"},
		{"kernel", set_kernel, SPEC_RESTART, "2 kernel: none -> fast|"},
		{"address", set_address, SPEC_RESTART, "2 networks: lan 10.0.0.1 -> lan 10.0.0.2|"},
		{"interface", add_interface, SPEC_RESTART,
			"2 networks: lan 10.0.0.1 -> lan 10.0.0.1, wan|"},
		{"value", set_value, SPEC_RESTART, "2 env: ~B|"},
		{"variable", add_variable, SPEC_RESTART, "2 env: +C|"},
		{"content", set_content, SPEC_RESTART, "2 files changed|"},
		{"mode", set_mode, SPEC_RESTART, "2 files changed|"},
		{"run", set_run, SPEC_RESTART, "2 run changed|"},
		{"ready", set_ready, SPEC_RESTART, "2 ready changed|"},
		{"restart", set_restart, SPEC_LIVE, "1 restart: always -> never|"},
		{"placement", set_host, SPEC_LIVE, "1 placement: none -> host h1|"},
		{"stop_timeout", set_stop, SPEC_LIVE, "1 stop_timeout changed|"},
		{"loss", set_loss, SPEC_RESTART, "2 on_host_loss changed|"},
		{"default said", set_wait, SPEC_NONE, ""},
		{"persistent", set_persistent, SPEC_LIVE, "1 persistent: false -> true|"},
	};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(changes); i++) {
		Um__DeploymentSpec *a, *b;
		Um__GuestSpec *old = sample(&a), *new = sample(&b);
		struct told told = {0};
		enum spec_effect effect;

		changes[i].make(new);
		effect = spec_guest_diff(old, new, note, &told);
		if (effect != changes[i].effect || strcmp(told.text, changes[i].text) != 0)
			fail_msg("%s: %d, '%s'", changes[i].what, (int)effect, told.text);
		/* The hashes agree with the effect. */
		assert_true(
			(spec_boot_hash(old) != spec_boot_hash(new)) == (effect == SPEC_RESTART));
		assert_true((spec_disk_hash(old) != spec_disk_hash(new)) == (effect == SPEC_DISK));
		assert_true((spec_live_hash(old) != spec_live_hash(new)) == (effect == SPEC_LIVE));
		assert_true((spec_hash(a) != spec_hash(b)) == (effect != SPEC_NONE));
		assert_true(spec_boot_hash(new) && spec_disk_hash(new) && spec_live_hash(new));
		release(a);
		release(b);
	}
}

/* Values do not run together. */
static void test_framing(void **state)
{
	Um__DeploymentSpec *a = new_spec("d"), *b = new_spec("d");

	(void)state;
	add_env(add_group(a, "g", -1), "A", "BC");
	add_env(add_group(b, "g", -1), "AB", "C");
	assert_true(spec_boot_hash(a->groups[0]->guest) != spec_boot_hash(b->groups[0]->guest));
	release(a);
	release(b);
	/* A default that is given is a default. */
	a = new_spec("d");
	b = new_spec("d");
	add_group(a, "g", -1);
	add_group(b, "g", -1);
	assert_int_equal(spec_defaults(b, NULL), 0);
	b->groups[0]->guest->memory_bytes = a->groups[0]->guest->memory_bytes;
	b->groups[0]->guest->cpu_milli = a->groups[0]->guest->cpu_milli;
	assert_true(spec_boot_hash(a->groups[0]->guest) == spec_boot_hash(b->groups[0]->guest));
	assert_true(spec_live_hash(a->groups[0]->guest) == spec_live_hash(b->groups[0]->guest));
	release(a);
	release(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_artefacts),
		cmocka_unit_test(test_changes),
		cmocka_unit_test(test_framing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
