/* umlaut-scheduler: options, wiring, loop. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/lease.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/str.h"
#include "lib/units.h"
#include "lib/usage.h"
#include "scheduler/serve/serve.h"

#define LISTEN_MAX 8

static const char usage[] =
	"usage: umlaut-scheduler [OPTION]...\n"
	"The scheduler of an Umlaut cluster: places guests, keeps the cluster's state.\n"
	"\n"
	"  --state DIR          keys, state, images (default /var/lib/umlaut/scheduler)\n"
	"  --listen ENDPOINT    tcp://ADDRESS:PORT for agents and clients, encrypted; may be\n"
	"                       given up to 8 times (default tcp://*:7711)\n"
	"  --advertise ENDPOINT what join tokens name (default: the first --listen)\n"
	"  --local ENDPOINT     ipc://PATH for clients on this machine, root only\n"
	"                       (default ipc:///run/umlaut/scheduler.sock)\n"
	"  --local-agents ENDPOINT  the same for agents on this machine (default none)\n"
	"  --store URL          sqlite:PATH (default: STATE/cluster.db)\n"
	"  --lease TIME         a host not heard of for so long is lost (default 5s; 1s to 1h)\n"
	"  --heartbeat TIME     how often agents report (default a fifth of the lease, at most\n"
	"                       1s); no more than a quarter of it\n"
	"  --log-level LEVEL    debug, info, warn, error (default info)\n"
	"  --log-format FORMAT  text or json (default text)\n"
	"  --version, --help\n"
	"\n"
	"On its first start it writes STATE/admin.key, for clusterctl on other machines, and\n"
	"STATE/join.token, with which hosts join.\n"
	"Exit status: 0 ended by a signal, 1 failure, 2 wrong usage.\n";

struct options {
	struct serve_config serve;
	const char *listen[LISTEN_MAX];
	struct log_config log;
};

struct program {
	struct loop *loop;
	bool broken;
};

#define WHO "umlaut-scheduler"

static int parse_time(const char *name, const char *text, uint32_t *out)
{
	struct err err = ERR_INIT;
	uint64_t ms;

	if (units_parse_duration(text, &ms, &err) < 0)
		return usage_wrong(WHO, "--%s: %s", name, err_msg(&err));
	if (ms < LEASE_BEAT_MIN_MS || ms > LEASE_MAX_MS)
		return usage_wrong(WHO, "--%s: must be %s to 1h", name,
			strcmp(name, "lease") == 0 ? "1s" : "50ms");
	*out = (uint32_t)ms;
	return 0;
}

/* -1: go on; otherwise the exit status. */
static int parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"state", required_argument, NULL, 's'},
		{"listen", required_argument, NULL, 'l'},
		{"advertise", required_argument, NULL, 'a'},
		{"local", required_argument, NULL, 'u'},
		{"local-agents", required_argument, NULL, 'U'},
		{"store", required_argument, NULL, 'd'},
		{"lease", required_argument, NULL, 'e'},
		{"heartbeat", required_argument, NULL, 'b'},
		{"log-level", required_argument, NULL, 'v'},
		{"log-format", required_argument, NULL, 'f'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct err err = ERR_INIT;
	int c, rc;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		rc = 0;
		switch (c) {
		case 's':
			o->serve.state_dir = optarg;
			break;
		case 'l':
			if (o->serve.listen_count == LISTEN_MAX)
				return usage_wrong(WHO, "more than 8 --listen endpoints");
			if (!str_starts(optarg, "tcp://"))
				return usage_wrong(
					WHO, "--listen takes tcp://ADDRESS:PORT, not '%s'", optarg);
			o->listen[o->serve.listen_count++] = optarg;
			break;
		case 'a':
			o->serve.advertise = optarg;
			break;
		case 'u':
			o->serve.local = optarg;
			break;
		case 'U':
			o->serve.local_agents = optarg;
			break;
		case 'd':
			o->serve.store = optarg;
			break;
		case 'e':
			rc = parse_time("lease", optarg, &o->serve.lease_ms);
			break;
		case 'b':
			rc = parse_time("heartbeat", optarg, &o->serve.heartbeat_ms);
			break;
		case 'v':
			if (log_level_parse(optarg, &o->log.level, &err) < 0)
				return usage_wrong(WHO, "--log-level: %s", err_msg(&err));
			break;
		case 'f':
			if (strcmp(optarg, "text") != 0 && strcmp(optarg, "json") != 0)
				return usage_wrong(
					WHO, "--log-format is text or json, not '%s'", optarg);
			o->log.json = strcmp(optarg, "json") == 0;
			break;
		case 'V':
			(void)puts("umlaut-scheduler " UMLAUT_VERSION);
			return 0;
		case 'h':
			(void)fputs(usage, stdout);
			return 0;
		default:
			return usage_getopt(WHO, c, argv, longs);
		}
		if (rc)
			return rc;
	}
	if (optind < argc)
		return usage_wrong(WHO, "unexpected argument '%.60s'", argv[optind]);
	if (lease_choose(&o->serve.lease_ms, &o->serve.heartbeat_ms, &err) < 0)
		return usage_wrong(WHO, "%s", err_msg(&err));
	if (!o->serve.listen_count)
		o->listen[o->serve.listen_count++] = "tcp://*:7711";
	return -1;
}

/* Tells systemd, when it asks (sd_notify(3)). */
static void notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET"); /* NOLINT: before any thread */
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd;

	if (!path || str_copy(addr.sun_path, sizeof(addr.sun_path), path) < 0)
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));

	if (addr.sun_path[0] == '@')
		addr.sun_path[0] = 0;
	(void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&addr, size);
	(void)close(fd);
}

static void on_signal(void *arg, int signum)
{
	struct program *p = arg;

	log_info("ending", LOG_I64("signal", signum));
	loop_stop(p->loop);
}

static void on_broken(void *arg, const struct err *err)
{
	struct program *p = arg;

	log_error("the state cannot be written; ending, nothing that was promised is lost",
		LOG_ERR(err));
	p->broken = true;
	loop_stop(p->loop);
}

int main(int argc, char **argv)
{
	struct options o = {
		.serve = {.state_dir = "/var/lib/umlaut/scheduler",
			.local = "ipc:///run/umlaut/scheduler.sock"},
		.log = {.program = "scheduler", .instance = "", .level = LOG_INFO, .fd = 2},
	};
	struct loop_signal *term = NULL, *intr = NULL;
	struct program p = {.loop = NULL};
	struct serve *serve = NULL;
	struct err err = ERR_INIT;
	int rc = parse(argc, argv, &o);

	if (rc >= 0)
		return rc;
	log_init(&o.log);
	o.serve.listen = o.listen;
	o.serve.on_broken = on_broken;
	o.serve.arg = &p;
	rc = loop_new(&p.loop, &err);
	if (rc == 0)
		rc = loop_signal_open(p.loop, SIGTERM, on_signal, &p, &term, &err);
	if (rc == 0)
		rc = loop_signal_open(p.loop, SIGINT, on_signal, &p, &intr, &err);
	if (rc == 0)
		rc = serve_open(p.loop, &o.serve, &serve, &err);
	if (rc == 0) {
		log_info("serving", LOG_STR("state", o.serve.state_dir),
			LOG_STR("listen", o.listen[0]), LOG_STR("local", o.serve.local));
		notify("READY=1");
		rc = loop_run(p.loop, &err);
	}
	if (rc < 0)
		log_error("cannot go on", LOG_ERR(&err));
	notify("STOPPING=1");
	serve_close(serve);
	loop_signal_close(term);
	loop_signal_close(intr);
	if (loop_free(p.loop) && rc == 0)
		rc = -EIO;
	return rc < 0 || p.broken ? 1 : 0;
}
