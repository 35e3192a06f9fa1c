/* umlaut-agent: runs this host's guests as the cluster's scheduler wants.
 *
 * SIGTERM and SIGINT end the agent; guests go on, and the next agent finds them.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/str.h"
#include "lib/usage.h"
#include "node-agent/agent.h"
#include "node-agent/fencer.h"
#include "node-agent/check.h"
#include "node-agent/notify.h"
#include "node-agent/programs.h"
#include "node-agent/purge.h"
#include "node-agent/simulate.h"

struct program {
	struct loop *loop;
	struct zctx *zctx;
	struct driver driver;
	struct agent *agent;
	struct loop_signal *term, *interrupt;
};

static void on_end(void *arg, int signum)
{
	struct program *p = arg;

	log_info("ending; guests go on", LOG_STR("signal", signum == SIGTERM ? "TERM" : "INT"));
	(void)notify_send(getenv("NOTIFY_SOCKET"), "STOPPING=1");
	loop_stop(p->loop);
}

/* Many guests are many sockets. */
static void raise_limits(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
}

static int open_driver(struct program *p, struct agentconf *config, struct err *err)
{
	struct driver_real_config real = {
		.runner = config->runner, .vxlan_port = config->vxlan_port};
	char netns[PATH_MAX], cgroup[128];
	int rc = agent_find_vtep(config, err);

	if (rc == 0)
		rc = fs_join(netns, sizeof(netns), config->state, "overlay.netns", err);
	if (rc < 0)
		return rc;
	agent_cgroup(config, cgroup);
	real.state = config->state;
	real.netns_path = netns;
	real.cgroup = cgroup;
	real.vtep = config->vtep;
	return driver_real_open(&real, &p->driver, err);
}

static int run(struct program *p, struct agentconf *config, struct err *err)
{
	int rc = open_driver(p, config, err);

	if (rc == 0)
		rc = loop_new(&p->loop, err);
	if (rc == 0)
		rc = zctx_new(&p->zctx, err);
	if (rc == 0)
		rc = loop_signal_open(p->loop, SIGTERM, on_end, p, &p->term, err);
	if (rc == 0)
		rc = loop_signal_open(p->loop, SIGINT, on_end, p, &p->interrupt, err);
	if (rc == 0)
		rc = agent_open(config, p->loop, p->zctx, &p->driver, &p->agent, err);
	if (rc == 0) {
		(void)notify_send(getenv("NOTIFY_SOCKET"), "READY=1");
		rc = loop_run(p->loop, err);
	}
	agent_stop(p->agent);
	driver_real_stop(&p->driver);
	loop_signal_close(p->term);
	loop_signal_close(p->interrupt);
	if (p->loop)
		(void)loop_free(p->loop);
	agent_free(p->agent);
	zctx_free(p->zctx);
	driver_real_close(&p->driver);
	return rc;
}

/* Nothing of the host is used but the connection. */
static int simulate(const struct agentconf *config, struct err *err)
{
	struct program p = {0};
	struct simulate *sim = NULL;
	int rc = loop_new(&p.loop, err);

	if (rc == 0)
		rc = zctx_new(&p.zctx, err);
	if (rc == 0)
		rc = loop_signal_open(p.loop, SIGTERM, on_end, &p, &p.term, err);
	if (rc == 0)
		rc = loop_signal_open(p.loop, SIGINT, on_end, &p, &p.interrupt, err);
	if (rc == 0)
		rc = simulate_open(config, p.loop, p.zctx, &sim, err);
	if (rc == 0)
		rc = loop_run(p.loop, err);
	simulate_stop(sim);
	loop_signal_close(p.term);
	loop_signal_close(p.interrupt);
	if (p.loop)
		(void)loop_free(p.loop);
	simulate_free(sim);
	zctx_free(p.zctx);
	return rc;
}

static int serve(struct agentconf *config, struct err *err)
{
	struct program program = {0};
	int lock = -1, rc = agent_lock(config, &lock, err);

	if (rc == 0)
		rc = programs_find(config, err);
	if (rc == 0)
		rc = fs_mkdirs(config->run_dir, 0755, err);
	if (rc == 0)
		rc = run(&program, config, err);
	if (lock >= 0)
		(void)close(lock);
	return rc;
}

int main(int argc, char **argv)
{
	struct log_config log = {.program = "agent", .level = LOG_INFO, .fd = STDERR_FILENO};
	static struct agentconf config;
	struct err err = ERR_INIT;
	int rc;

	/* Started by the agent itself (fencer.h). */
	if (argc == 3 && strcmp(argv[1], "--fence-for") == 0) {
		log_init(&log);
		return fencer_main(argv[2]);
	}
	rc = agentconf_load(&config, argc, argv, environ, stdout, &err);

	if (rc > 0)
		return 0;
	if (rc < 0)
		return usage_wrong("umlaut-agent", "%s", err_msg(&err));
	(void)umask(022);
	(void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
	log.instance = config.name;
	log.level = config.log_level;
	log.json = config.log_json;
	log_init(&log);
	raise_limits();
	if (config.mode == AGENTCONF_CHECK)
		return check_host(&config, stdout) ? 0 : 1;
	rc = config.mode == AGENTCONF_PURGE	 ? purge_all(&config, &err)
	     : config.mode == AGENTCONF_SIMULATE ? simulate(&config, &err)
						 : serve(&config, &err);
	if (rc < 0)
		log_error(config.mode == AGENTCONF_PURGE ? "not everything could be removed"
							 : "the agent cannot run",
			LOG_ERR(&err));
	return rc < 0 ? 1 : 0;
}
