#include "node-agent/life.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/str.h"
#include "node-agent/agent.h"
#include "node-agent/hosts.h"
#include "node-agent/nets.h"

#define CONSOLE_MAX (4u << 20) /* bytes of console.log, and as many of console.log.1 */
/* Each process of a guest is one of the host, and the kernel has its own few. */
#define PIDS_BASE 1024u
#define PIDS_PER_MIB 16u
#define PIDS_MAX 32768u
#define NICS_MAX 32
#define DEVICE_ROOT "/dev/ubda"
#define DEVICE_MODULES "/dev/ubdb"

uid_t life_uid(const struct guest *g)
{
	return g->agent->config.uid_base + g->slot;
}

/* ---------------------------------------------------------------- ports */

static int make_port(struct guest *g, const Um__Nic *nic, char *ifname, struct err *err)
{
	const struct driver *d = &g->agent->driver;
	struct overlay_member self = {.mac = {{0}}};
	int rc = nets_ensure(g->agent->nets, nic->vni, err);

	if (rc < 0)
		return rc;
	memcpy(self.mac.bytes, nic->mac.data, sizeof(self.mac.bytes));
	(void)net_addr_from(nic->ip4.data, nic->ip4.len, &self.ip4);
	(void)net_addr_from(nic->ip6.data, nic->ip6.len, &self.ip6);
	self.vtep = g->agent->config.vtep;
	rc = d->ops->port(d->self, nic->vni, g->slot, nic->index, life_uid(g), &self, ifname, err);
	return rc < 0 ? err_wrap(err, "eth%u", nic->index) : 0;
}

/* The ports of the NICs in MASK, if there are any: an agent that was killed between making
 * one and the runner's start has left it, and nothing that says so. */
static void remove_ports(struct guest *g, uint32_t mask)
{
	const struct driver *d = &g->agent->driver;
	struct err err = ERR_INIT;

	for (uint32_t i = 0; i < NICS_MAX; i++)
		if ((mask & 1u << i) && d->ops->port_remove(d->self, g->slot, i, &err) < 0)
			log_warn("a port cannot be removed",
				LOG_STR("guest", g->assign ? g->assign->name : ""), LOG_ERR(&err));
	g->ports &= ~mask;
}

void life_ports_remove(struct guest *g)
{
	remove_ports(g, UINT32_MAX);
}

/* ---------------------------------------------------------------- the specification */

/* What the RunnerSpec points to. */
struct parts {
	Um__RunnerSpec spec;
	Um__GuestConfig config;
	Um__BootTimes times;
	Um__Tap taps[NICS_MAX], *tap_list[NICS_MAX];
	char ifnames[NICS_MAX][OVERLAY_IFNAME];
	char kernel[PATH_MAX], modules[PATH_MAX], cow[PATH_MAX];
	char cgroup[192], machine_id[33];
	struct hosts_list hosts;
	Um__GuestConfig__EnvEntry *env, **env_list;
};

/* The same for every start of a guest, and no other's. */
static void machine_id(struct guest *g, char out[33])
{
	uint8_t hash[MANIFEST_HASH];
	char text[64];
	int n = snprintf(text, sizeof(text), "umlaut machine %016" PRIx64, g->uid);

	manifest_sha256(text, (size_t)n, hash);
	str_hex(out, hash, 16);
}

static int fill_env(struct guest *g, struct parts *p, struct err *err)
{
	const Um__GuestSpec *spec = g->assign->spec;

	p->env = calloc(spec->n_env + 1, sizeof(*p->env));
	p->env_list = calloc(spec->n_env + 1, sizeof(*p->env_list));
	if (!p->env || !p->env_list)
		return err_set(err, -ENOMEM, "memory is short");
	for (size_t i = 0; i < spec->n_env; i++) {
		um__guest_config__env_entry__init(&p->env[i]);
		p->env[i].key = spec->env[i]->key;
		p->env[i].value = spec->env[i]->value;
		p->env_list[i] = &p->env[i];
	}
	p->config.env = p->env_list;
	p->config.n_env = spec->n_env;
	return 0;
}

static char *short_name(struct guest *g)
{
	char *slash = strrchr(g->assign->name, '/');

	return slash ? slash + 1 : g->assign->name;
}

static int fill_config(struct guest *g, struct parts *p, struct err *err)
{
	const Um__GuestSpec *spec = g->assign->spec;
	Um__GuestConfig *c = &p->config;
	int rc;

	um__guest_config__init(c);
	c->hostname = spec->hostname[0] ? spec->hostname : short_name(g);
	c->nics = g->assign->nics;
	c->n_nics = g->assign->n_nics;
	c->routes = spec->routes;
	c->n_routes = spec->n_routes;
	c->files = spec->files;
	c->n_files = spec->n_files;
	c->run = spec->run;
	c->init = spec->init;
	c->root_device = (char *)(uintptr_t)DEVICE_ROOT;
	if (g->assign->modules)
		c->modules_device = (char *)(uintptr_t)DEVICE_MODULES;
	machine_id(g, p->machine_id);
	c->machine_id = p->machine_id;
	c->ready = spec->ready;
	c->first_boot = !g->booted;
	/* Until it has run here; not at each start: many guests that boot together would wake
	 * all others. */
	c->announce = g->assign->from_move != 0;
	for (size_t i = 0; i < g->assign->n_nics; i++)
		c->announce |= g->assign->nics[i]->announce;
	rc = hosts_list(g, &p->hosts, err);
	if (rc < 0)
		return rc;
	c->hosts = p->hosts.pointers;
	c->n_hosts = p->hosts.count;
	return fill_env(g, p, err);
}

static uint32_t pids_max(const struct guest *g)
{
	uint64_t n = PIDS_BASE + (g->assign->spec->memory_bytes >> 20) * PIDS_PER_MIB;

	return n < PIDS_MAX ? (uint32_t)n : PIDS_MAX;
}

static int fill_paths(struct guest *g, struct parts *p, struct err *err)
{
	struct agent *agent = g->agent;
	const Um__GuestAssign *a = g->assign;
	Um__RunnerSpec *s = &p->spec;
	int rc = imgstore_path(agent->store, a->kernel->id.data, p->kernel, err);

	if (rc == 0 && a->modules)
		rc = imgstore_path(agent->store, a->modules->id.data, p->modules, err);
	if (rc == 0)
		rc = fs_join(p->cow, sizeof(p->cow), g->dir, "cow", err);
	if (rc == 0 && str_format(p->cgroup, sizeof(p->cgroup), "%s/%016" PRIx64, agent->cgroup,
			       g->uid) < 0)
		rc = err_set(err, -ENAMETOOLONG, "the group's name is too long");
	s->kernel = p->kernel;
	s->initrd = agent->initrd;
	s->backing = g->backing;
	s->cow = p->cow;
	s->modules = p->modules;
	s->cgroup = p->cgroup;
	s->netns = (char *)(uintptr_t)agent->driver.ops->netns(agent->driver.self);
	return rc;
}

static int fill_taps(struct guest *g, struct parts *p, struct err *err)
{
	const Um__GuestAssign *a = g->assign;
	uint32_t wanted = 0;

	for (size_t i = 0; i < a->n_nics; i++)
		wanted |= 1u << a->nics[i]->index;
	remove_ports(g, ~wanted);
	for (size_t i = 0; i < a->n_nics; i++) {
		int rc = make_port(g, a->nics[i], p->ifnames[i], err);

		if (rc < 0)
			return rc;
		g->ports |= 1u << a->nics[i]->index;
		um__tap__init(&p->taps[i]);
		p->taps[i].ifname = p->ifnames[i];
		p->taps[i].mac = a->nics[i]->mac;
		p->taps[i].index = a->nics[i]->index;
		p->tap_list[i] = &p->taps[i];
	}
	p->spec.taps = p->tap_list;
	p->spec.n_taps = a->n_nics;
	return 0;
}

static int fill(struct guest *g, struct parts *p, struct err *err)
{
	const Um__GuestAssign *a = g->assign;
	Um__RunnerSpec *s = &p->spec;
	int rc;

	um__runner_spec__init(s);
	s->uid = g->uid;
	s->name = a->name;
	s->epoch = a->epoch;
	s->generation = a->generation;
	s->memory_bytes = a->spec->memory_bytes;
	s->cpu_milli = a->spec->cpu_milli;
	s->jail_uid = life_uid(g);
	s->fenced = a->fenced;
	s->pids_max = pids_max(g);
	s->kernel_args = a->spec->kernel_args;
	s->console_max_bytes = CONSOLE_MAX;
	s->config = &p->config;
	rc = fill_paths(g, p, err);
	if (rc == 0)
		rc = fill_config(g, p, err);
	return rc < 0 ? rc : fill_taps(g, p, err);
}

int life_start(struct guest *g, struct err *err)
{
	struct parts *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(err, -ENOMEM, "memory is short");
	rc = fill(g, p, err);
	boottimes_mark(&g->times, UM__BOOT_STEP__BOOT_NETWORK);
	boottimes_fill(&g->times, &p->times);
	p->spec.boot = &p->times;
	if (rc == 0)
		rc = life_run(g, &p->spec, err);
	hosts_list_free(&p->hosts);
	free(p->env);
	free(p->env_list);
	free(p);
	return rc;
}
