#include "node-agent/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "lib/buf.h"
#include "lib/fs.h"
#include "lib/units.h"
#include "node-agent/config_place.h"

#define FILE_MAX_BYTES (64u << 10)
#define ENV_PREFIX "UMLAUT_AGENT_"

typedef int set_fn(struct agentconf *c, const char *value, struct err *err);

static int set_text(char *out, size_t size, const char *value, struct err *err)
{
	if (str_copy(out, size, value) < 0)
		return err_set(err, -EINVAL, "'%.60s...' is too long", value);
	return 0;
}

static int set_path(char *out, const char *value, struct err *err)
{
	if (value[0] != '/') {
		char cwd[AGENTCONF_PATH];

		if (!getcwd(cwd, sizeof(cwd)) ||
			str_format(out, AGENTCONF_PATH, "%s/%s", cwd, value) < 0)
			return err_set(err, -EINVAL, "path '%.60s' is too long", value);
		return 0;
	}
	return set_text(out, AGENTCONF_PATH, value, err);
}

static int set_state(struct agentconf *c, const char *v, struct err *err)
{
	return set_path(c->state, v, err);
}

static int set_run_dir(struct agentconf *c, const char *v, struct err *err)
{
	return set_path(c->run_dir, v, err);
}

static int set_name(struct agentconf *c, const char *v, struct err *err)
{
	int rc = str_check_name("the host's name", v, err);

	return rc < 0 ? rc : set_text(c->name, sizeof(c->name), v, err);
}

static int check_endpoint(const char *v, struct err *err)
{
	if (!str_starts(v, "tcp://") && !str_starts(v, "ipc://"))
		return err_set(err, -EINVAL, "'%.80s' is no endpoint like tcp://ADDRESS:PORT", v);
	return 0;
}

static int set_scheduler(struct agentconf *c, const char *v, struct err *err)
{
	int rc = check_endpoint(v, err);

	return rc < 0 ? rc : set_text(c->scheduler, sizeof(c->scheduler), v, err);
}

static int set_token(struct agentconf *c, const char *v, struct err *err)
{
	return set_text(c->token, sizeof(c->token), v, err);
}

static int set_token_file(struct agentconf *c, const char *v, struct err *err)
{
	return set_path(c->token_file, v, err);
}

static int set_vtep(struct agentconf *c, const char *v, struct err *err)
{
	return net_addr_parse(v, &c->vtep, err);
}

static int set_vxlan_port(struct agentconf *c, const char *v, struct err *err)
{
	uint64_t port;

	if (str_u64(v, 1, 65535, &port) < 0)
		return err_set(err, -EINVAL, "'%.40s' is no port (1 to 65535)", v);
	c->vxlan_port = (uint16_t)port;
	return 0;
}

static int set_peer_listen(struct agentconf *c, const char *v, struct err *err)
{
	int rc = check_endpoint(v, err);

	return rc < 0 ? rc : set_text(c->peer_listen, sizeof(c->peer_listen), v, err);
}

static int set_peer_advertise(struct agentconf *c, const char *v, struct err *err)
{
	int rc = check_endpoint(v, err);

	return rc < 0 ? rc : set_text(c->peer_advertise, sizeof(c->peer_advertise), v, err);
}

static int set_memory(struct agentconf *c, const char *v, struct err *err)
{
	return units_parse_size(v, &c->memory, err);
}

static int set_disk(struct agentconf *c, const char *v, struct err *err)
{
	return units_parse_size(v, &c->disk, err);
}

static int set_cpus(struct agentconf *c, const char *v, struct err *err)
{
	return units_parse_cpus(v, &c->cpu_milli, err);
}

static int set_uid_base(struct agentconf *c, const char *v, struct err *err)
{
	uint64_t base;

	if (str_u64(v, 1000, 0xffff0000u - 65536, &base) < 0)
		return err_set(err, -EINVAL,
			"'%.40s': the first user id of guests must be 1000 to 4294836224", v);
	c->uid_base = (uid_t)base;
	return 0;
}

static int set_boots(struct agentconf *c, const char *v, struct err *err)
{
	uint64_t n;

	if (str_u64(v, 1, 10000, &n) < 0)
		return err_set(err, -EINVAL, "'%.40s' is no count (1 to 10000)", v);
	c->boots = (uint32_t)n;
	return 0;
}

static int set_simulate(struct agentconf *c, const char *v, struct err *err)
{
	uint64_t n;

	if (str_u64(v, 1, AGENTCONF_SIMULATE_MAX, &n) < 0)
		return err_set(
			err, -EINVAL, "'%.40s' is no count (1 to %u)", v, AGENTCONF_SIMULATE_MAX);
	c->simulate = (uint32_t)n;
	c->mode = AGENTCONF_SIMULATE;
	return 0;
}

static int set_simulate_boot(struct agentconf *c, const char *v, struct err *err)
{
	uint64_t n;

	if (str_u64(v, 0, 3600000, &n) < 0)
		return err_set(err, -EINVAL, "'%.40s' is no time (0 to 3600000)", v);
	c->simulate_boot_ms = (uint32_t)n;
	return 0;
}

static int set_runner(struct agentconf *c, const char *v, struct err *err)
{
	return set_path(c->runner, v, err);
}

static int set_init(struct agentconf *c, const char *v, struct err *err)
{
	return set_path(c->init, v, err);
}

static int set_log_level(struct agentconf *c, const char *v, struct err *err)
{
	return log_level_parse(v, &c->log_level, err);
}

static int set_log_format(struct agentconf *c, const char *v, struct err *err)
{
	if (strcmp(v, "text") != 0 && strcmp(v, "json") != 0)
		return err_set(err, -EINVAL, "'%.40s': the log format is text or json", v);
	c->log_json = strcmp(v, "json") == 0;
	return 0;
}

/* Every setting, once: option, environment variable and key of the file. */
static const struct setting {
	const char *key, *arg, *help;
	set_fn *set;
} settings[] = {
	{"state", "DIR", "guests, artefacts and keys (/var/lib/umlaut/agent)", set_state},
	{"run-dir", "DIR", "what lives only while it runs (/run/umlaut/agent)", set_run_dir},
	{"name", "HOST", "this host's name in the cluster (the host name)", set_name},
	{"scheduler", "ENDPOINT", "tcp://ADDRESS:PORT (the token's)", set_scheduler},
	{"token", "TOKEN", "joins the cluster, once (umlaut1:...)", set_token},
	{"token-file", "FILE", "the same, from a file", set_token_file},
	{"vtep", "ADDRESS", "underlay address (of the route to the scheduler)", set_vtep},
	{"vxlan-port", "PORT", "UDP port of the overlay (4789)", set_vxlan_port},
	{"peer-listen", "ENDPOINT", "where other agents fetch from, tcp://ADDRESS:PORT",
		set_peer_listen},
	{"peer-advertise", "ENDPOINT", "as they reach it (as bound)", set_peer_advertise},
	{"labels", "A=B,...", "labels of this host, for placement", agentconf_set_labels},
	{"taints", "A,B=C,...", "only guests that tolerate them (A:prefer: others last)",
		agentconf_set_taints},
	{"overcommit", "WHAT=RATIO,...", "memory=1.5, cpu (8), disk: guests may ask for so much",
		agentconf_set_overcommit},
	{"memory", "SIZE", "memory for guests (nine tenths of the host's)", set_memory},
	{"cpus", "N", "CPUs for guests (all)", set_cpus},
	{"disk", "SIZE", "disk for guests (that of the state folder)", set_disk},
	{"uid-base", "N", "first user id of guests (700000)", set_uid_base},
	{"boots", "N", "guests starting at once (twice the CPUs)", set_boots},
	{"simulate", "N", "instead: N agents with pretended guests, for load", set_simulate},
	{"simulate-boot-ms", "N", "how long a pretended boot takes (100)", set_simulate_boot},
	{"runner", "FILE", "the program umlaut-guest (beside this one)", set_runner},
	{"init", "FILE", "the program umlaut-init (beside this one)", set_init},
	{"log-level", "LEVEL", "debug, info, warn or error (info)", set_log_level},
	{"log-format", "FORMAT", "text or json (text)", set_log_format},
};

#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

void agentconf_defaults(struct agentconf *c)
{
	char host[256] = "";

	*c = (struct agentconf){.uid_base = 700000, .simulate_boot_ms = 100, .log_level = LOG_INFO};
	(void)str_copy(c->state, sizeof(c->state), "/var/lib/umlaut/agent");
	(void)str_copy(c->run_dir, sizeof(c->run_dir), "/run/umlaut/agent");
	if (gethostname(host, sizeof(host) - 1) == 0) {
		host[strcspn(host, ".")] = '\0';
		for (char *p = host; *p; p++)
			*p = (char)tolower((unsigned char)*p);
		if (str_check_name("host", host, NULL) == 0)
			(void)str_copy(c->name, sizeof(c->name), host);
	}
}

int agentconf_set(struct agentconf *c, const char *key, const char *value, struct err *err)
{
	const char *names[SETTINGS + 1] = {NULL};
	const char *near;

	for (size_t i = 0; i < SETTINGS; i++) {
		names[i] = settings[i].key;
		if (strcmp(key, settings[i].key) == 0)
			return settings[i].set(c, value, err) < 0 ? err_wrap(err, "%s", key) : 0;
	}
	near = str_nearest(key, names, SETTINGS);
	return err_set(err, -EINVAL, "unknown setting '%.40s'%s%s%s", key,
		near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

/* ---------------------------------------------------------------- file, environment */

static char *trim(char *text)
{
	char *end = text + strlen(text);

	while (end > text && isspace((unsigned char)end[-1]))
		*--end = '\0';
	while (isspace((unsigned char)*text))
		text++;
	return text;
}

/* "key: value", a value perhaps in quotes; '#' begins a comment. */
static int set_line(struct agentconf *c, char *line, struct err *err)
{
	char *key = trim(line), *value, *colon;
	size_t size;

	if (!*key || *key == '#' || strcmp(key, "---") == 0)
		return 0;
	colon = strchr(key, ':');
	if (!colon)
		return err_set(err, -EINVAL, "expected 'key: value'");
	*colon = '\0';
	value = trim(colon + 1);
	key = trim(key);
	size = strlen(value);
	if (size >= 2 && (*value == '"' || *value == '\'') && value[size - 1] == *value) {
		value[size - 1] = '\0';
		value++;
	} else {
		char *comment = strstr(value, " #");

		if (comment)
			*comment = '\0';
		value = trim(value);
	}
	return agentconf_set(c, key, value, err);
}

static int load_file(struct agentconf *c, const char *path, bool must, struct err *err)
{
	struct buf text;
	unsigned n = 1;
	char *line, *next;
	int rc;

	if (!must && access(path, F_OK) < 0)
		return 0;
	buf_init(&text);
	rc = fs_read(path, FILE_MAX_BYTES, &text, err);
	buf_add_byte(&text, '\0');
	if (rc == 0 && text.failed)
		rc = err_set(err, -ENOMEM, "%s: memory is short", path);
	for (line = (char *)text.data; rc == 0 && line && *line; line = next, n++) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		rc = set_line(c, line, err);
		if (rc < 0)
			rc = err_wrap(err, "%s:%u", path, n);
	}
	buf_free(&text);
	return rc;
}

static int load_env(struct agentconf *c, char **envp, struct err *err)
{
	for (; *envp; envp++) {
		char key[64];
		const char *eq = strchr(*envp, '=');
		size_t size, skip = strlen(ENV_PREFIX);
		int rc;

		if (!eq || !str_starts(*envp, ENV_PREFIX))
			continue;
		size = (size_t)(eq - *envp) - skip;
		if (size >= sizeof(key))
			continue;
		for (size_t i = 0; i < size; i++) {
			char ch = (*envp)[skip + i];

			key[i] = ch == '_' ? '-' : (char)tolower((unsigned char)ch);
		}
		key[size] = '\0';
		if (strcmp(key, "config") == 0)
			continue;
		rc = agentconf_set(c, key, eq + 1, err);
		if (rc < 0)
			return err_wrap(err, "environment");
	}
	return 0;
}

/* ---------------------------------------------------------------- command line */

static void usage(FILE *out)
{
	(void)fprintf(out, "usage: umlaut-agent [OPTION]...\n"
			   "Runs the guests of this host as the cluster's scheduler wants.\n\n");
	for (size_t i = 0; i < SETTINGS; i++) {
		char left[48];

		(void)str_format(left, sizeof(left), "--%s %s", settings[i].key, settings[i].arg);
		(void)fprintf(out, "  %-26s %s\n", left, settings[i].help);
	}
	(void)fprintf(out,
		"  %-26s settings, one 'option: value' a line (%s)\n"
		"  %-26s says what this host lacks, changes nothing, and ends\n"
		"  %-26s with --check: only what is wrong\n"
		"  %-26s removes every trace of this agent, guests and disks too\n"
		"  --version, --help\n\n"
		"Each option may also be set as UMLAUT_AGENT_OPTION in the environment.\n"
		"SIGTERM ends the agent and leaves the guests running.\n"
		"Exit status: 0 success, 1 failure, 2 wrong use.\n",
		"--config FILE", AGENTCONF_FILE, "--check", "--quiet", "--purge");
}

static bool known(const char *key)
{
	for (size_t i = 0; i < SETTINGS; i++)
		if (strcmp(settings[i].key, key) == 0)
			return true;
	return false;
}

static int unknown(const char *arg, const char *key, struct err *err)
{
	const char *names[SETTINGS + 1] = {NULL};
	const char *near;

	for (size_t i = 0; i < SETTINGS; i++)
		names[i] = settings[i].key;
	near = str_nearest(key, names, SETTINGS);
	return err_set(err, -EINVAL, "unknown option '%.60s'%s%s%s", arg,
		near ? " (did you mean --" : "", near ? near : "", near ? "?)" : "");
}

/* "--key=value" or "--key value".  The number of arguments used, or negative. */
static int set_arg(struct agentconf *c, char **argv, int left, struct err *err)
{
	const char *arg = argv[0], *eq;
	char key[64];
	int rc;

	if (!str_starts(arg, "--"))
		return err_set(err, -EINVAL,
			*arg == '-' ? "unknown option '%.60s'" : "unexpected argument '%.60s'",
			arg);
	eq = strchr(arg, '=');
	if (str_format(key, sizeof(key), "%.*s", eq ? (int)(eq - arg - 2) : 60, arg + 2) < 0)
		return err_set(err, -EINVAL, "unknown option '%.60s'", arg);
	if (!known(key))
		return unknown(arg, key, err);
	if (!eq && left < 2)
		return err_set(err, -EINVAL, "%s needs a value", arg);
	rc = agentconf_set(c, key, eq ? eq + 1 : argv[1], err);
	if (rc < 0)
		return err_wrap(err, "--%s", key);
	return eq ? 1 : 2;
}

static int set_args(struct agentconf *c, int argc, char **argv, struct err *err)
{
	for (int i = 1; i < argc;) {
		int rc = 1;

		if (strcmp(argv[i], "--check") == 0)
			c->mode = AGENTCONF_CHECK;
		else if (strcmp(argv[i], "--purge") == 0)
			c->mode = AGENTCONF_PURGE;
		else if (strcmp(argv[i], "--quiet") == 0)
			c->quiet = true;
		else if (strcmp(argv[i], "--json") == 0)
			c->log_json = true;
		else if (strcmp(argv[i], "--config") == 0)
			rc = 2;
		else
			rc = set_arg(c, argv + i, argc - i, err);
		if (rc < 0)
			return rc;
		i += rc;
	}
	return 0;
}

static int load_token(struct agentconf *c, struct err *err)
{
	struct buf text;
	int rc;

	if (!c->token_file[0] || c->token[0] || c->mode != AGENTCONF_RUN)
		return 0;
	/* A host that has joined needs it no more. */
	if (access(c->token_file, F_OK) < 0)
		return 0;
	buf_init(&text);
	rc = fs_read(c->token_file, sizeof(c->token) - 1, &text, err);
	buf_add_byte(&text, '\0');
	if (rc == 0 && !text.failed)
		rc = set_text(c->token, sizeof(c->token), trim((char *)text.data), err);
	buf_free(&text);
	return rc;
}

int agentconf_load(
	struct agentconf *c, int argc, char **argv, char **envp, FILE *out, struct err *err)
{
	const char *file = NULL;
	int rc;

	agentconf_defaults(c);
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0) {
			usage(out);
			return 1;
		}
		if (strcmp(argv[i], "--version") == 0) {
			(void)fprintf(out, "umlaut-agent %s\n", UMLAUT_VERSION);
			return 1;
		}
		if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
			file = argv[i + 1];
	}
	rc = load_file(c, file ? file : AGENTCONF_FILE, file != NULL, err);
	if (rc == 0)
		rc = load_env(c, envp, err);
	if (rc == 0)
		rc = set_args(c, argc, argv, err);
	if (rc == 0)
		rc = load_token(c, err);
	if (rc == 0 && !c->name[0])
		rc = err_set(err, -EINVAL,
			"this host's name cannot serve; give one of a-z, 0-9 and '-' with --name");
	return rc;
}
