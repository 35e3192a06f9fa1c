/* Starting and ending the scheduler and the agents on their machines. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fs.h"
#include "lib/str.h"
#include "node-agent/agent.h"
#include "scheduler/serve/serve.h"
#include "tests/sim/event.h"
#include "tests/sim/hosts.h"

static struct sim_proc *graves;

/* The underlay of every machine. */
int __wrap_overlay_underlay_mtu(
	const struct net_addr *vtep, uint32_t *mtu, char ifname[OVERLAY_IFNAME], struct err *err);
int __wrap_overlay_underlay_mtu(
	const struct net_addr *vtep, uint32_t *mtu, char ifname[OVERLAY_IFNAME], struct err *err)
{
	(void)vtep;
	(void)err;
	*mtu = 1500;
	ifname[0] = '\0';
	return 0;
}

static void on_broken(void *arg, const struct err *err)
{
	struct sim_proc *p = arg;

	/* The program ends; started again, it loads what is durable. */
	if (!p->dead)
		sim_note("the scheduler ends: %s", err_msg(err));
	sim_kill(p);
}

static int start_scheduler(struct sim_proc *p, struct err *err)
{
	static const char *const listen[] = {SIM_ENDPOINT};
	const struct serve_config config = {.state_dir = "/sim/s/state",
		.store = "sqlite:cluster",
		.listen = listen,
		.listen_count = 1,
		.local = SIM_LOCAL,
		.on_broken = on_broken,
		.arg = p};
	int rc = serve_open(p->loop, &config, &p->serve, err);

	if (rc == 0 && !p->dead)
		check_loaded(p->serve);
	return rc;
}

static bool token(char out[512])
{
	struct sim_machine *s = &sim->machines[SIM_SCHEDULER];
	struct sim_proc *cur = sim->cur;
	struct buf data;
	bool found;

	buf_init(&data);
	sim->cur = NULL; /* the user carries it over */
	found = fs_exists(s, "/sim/s/state/join.token") &&
		fs_read("/sim/s/state/join.token", 400, &data, NULL) == 0;
	sim->cur = cur;
	if (found) {
		(void)str_format(out, 512, "%.*s", (int)data.size, (const char *)data.data);
		out[strcspn(out, "\n")] = '\0';
	}
	buf_free(&data);
	return found && *out;
}

static int start_agent(struct sim_machine *m, struct sim_proc *p, struct err *err)
{
	struct agentconf config;
	char address[NET_ADDR_TEXT];
	struct driver driver;
	struct zctx *zctx = NULL;
	int rc;

	agentconf_defaults(&config);
	(void)str_format(config.state, sizeof(config.state), "/sim/%s/state", m->name);
	(void)str_copy(config.name, sizeof(config.name), m->name);
	if (!token(config.token))
		return err_set(err, -ENOENT, "no token yet");
	config.vtep.family = 4;
	config.memory = (uint64_t)m->memory_mb << 20;
	config.cpu_milli = m->cpu_milli;
	config.disk = UINT64_C(100) << 30;
	config.init[0] = '\0';
	config.label_count = 1;
	(void)str_copy(config.labels[0].key, sizeof(config.labels[0].key), "zone");
	(void)str_copy(config.labels[0].value, sizeof(config.labels[0].value), m->zone);
	rc = hosts_vtep(m->index, &config.vtep, err);
	(void)str_format(config.peer_listen, sizeof(config.peer_listen), "tcp://%s:7712",
		net_addr_text(address, &config.vtep));
	if (rc == 0)
		rc = zctx_new(&zctx, err);
	p->extra = zctx;
	driver_sim(m, &driver);
	return rc < 0 ? rc : agent_open(&config, p->loop, zctx, &driver, &p->agent, err);
}

int hosts_vtep(uint32_t index, struct net_addr *out, struct err *err)
{
	char text[32];

	(void)str_format(text, sizeof(text), "10.%u.%u.%u", 100 + index / 65536, index / 256 % 256,
		index % 256);
	return net_addr_parse(text, out, err);
}

static void start_again(void *arg)
{
	machine_start(arg);
}

void machine_gone(struct sim_machine *m)
{
	uint64_t after =
		sim_between(m, DRAW_CRASH, 50 * SIM_MS, sim->healed ? SIM_SECOND : 4 * SIM_SECOND);

	if (m->powered && !sim->failed)
		(void)sim_after(after, NULL, start_again, m);
}

static void set_up(void *arg)
{
	machine_power_on(arg);
}

void machine_purge(struct sim_machine *m)
{
	sim_note("%s is purged", m->name);
	machine_power_off(m);
	fs_machine_free(m);
	(void)sim_after(2 * SIM_SECOND, NULL, set_up, m);
}

void machine_start(struct sim_machine *m)
{
	bool scheduler = m->index == SIM_SCHEDULER;
	struct sim_proc *p, *cur = sim->cur;
	struct err err = ERR_INIT;
	int rc;

	if (m->proc || !m->powered || sim->failed)
		return;
	p = sim_proc_new(scheduler ? SIM_PROC_SCHEDULER : SIM_PROC_AGENT, m->index);
	m->proc = p;
	sim->cur = p;
	/* Some do not even come up. */
	if (!sim->healed && sim_chance(m, DRAW_CRASH, 0.05))
		p->die_at = sim_between(m, DRAW_CRASH, 1, 12);
	(void)loop_new(&p->loop, &err);
	rc = scheduler ? start_scheduler(p, &err) : start_agent(m, p, &err);
	if (rc < 0) {
		if (rc != -ENOENT || scheduler)
			sim_note("%s cannot start: %s", m->name, err_msg(&err));
		p->dead = true;
		net_drop_all(p);
		sim_reap(p);
	} else {
		sim_note("%s is started", m->name);
		if (!p->dead)
			sim_loop_deferred(p->loop);
	}
	sim->cur = cur;
}

/* As main() does at its end; nothing of it has an effect outside. */
void sim_reap(struct sim_proc *p)
{
	struct sim_machine *m = &sim->machines[p->machine];
	struct sim_proc *cur = sim->cur;

	p->dead = true;
	sim_cancel(p->reaper);
	p->reaper = NULL;
	sim->cur = p;
	if (p->kind == SIM_PROC_SCHEDULER) {
		serve_close(p->serve);
		(void)loop_free(p->loop);
	} else {
		agent_stop(p->agent);
		(void)loop_free(p->loop);
		agent_free(p->agent);
		zctx_free(p->extra);
	}
	p->loop = NULL;
	p->serve = NULL;
	p->agent = NULL;
	sim->cur = cur;
	/* Events of it may still be in the queue. */
	p->extra = graves;
	graves = p;
	if (m->proc == p) {
		m->proc = NULL;
		machine_gone(m);
	}
}

void hosts_bury(void)
{
	while (graves) {
		struct sim_proc *p = graves;

		graves = p->extra;
		free(p);
	}
}

void machine_power_off(struct sim_machine *m)
{
	if (!m->powered)
		return;
	sim_note("%s loses power", m->name);
	m->powered = false;
	if (m->proc) {
		m->proc->dead = true;
		net_drop_all(m->proc);
		sim_reap(m->proc);
	}
	driver_power_loss(m);
	fs_power_loss(m);
}

void machine_power_on(struct sim_machine *m)
{
	if (m->powered || m->kept_off)
		return;
	m->powered = true;
	m->boots++;
	sim_note("%s boots", m->name);
	machine_gone(m);
}
