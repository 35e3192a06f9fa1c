/* config: how an agent is to run (functions agentconf_*).
 *
 * From, the later over the earlier: defaults, the configuration file
 * (/etc/umlaut/agent.yaml, or --config FILE; flat "key: value" lines, the keys are
 * the long options' names), the environment (UMLAUT_AGENT_NAME ..., '-' is '_'),
 * the command line.
 */
#ifndef UMLAUT_NODE_AGENT_CONFIG_H
#define UMLAUT_NODE_AGENT_CONFIG_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/log.h"
#include "lib/net.h"
#include "lib/str.h"

#define AGENTCONF_LABELS_MAX 64
#define AGENTCONF_TAINTS_MAX 64
#define AGENTCONF_PATH 1024
#define AGENTCONF_FILE "/etc/umlaut/agent.yaml"

struct agentconf_label {
	char key[STR_NAME_MAX + 1], value[STR_NAME_MAX + 1];
};

enum agentconf_mode { AGENTCONF_RUN, AGENTCONF_CHECK, AGENTCONF_PURGE, AGENTCONF_SIMULATE };
#define AGENTCONF_SIMULATE_MAX 20000u

struct agentconf {
	enum agentconf_mode mode;
	char state[AGENTCONF_PATH], run_dir[AGENTCONF_PATH];
	char name[STR_NAME_MAX + 1];
	char scheduler[160]; /* "": the token's, or the one joined before */
	char token[512], token_file[AGENTCONF_PATH];
	struct net_addr vtep;	  /* family 0: by the route to the scheduler */
	uint16_t vxlan_port;	  /* 0: 4789 */
	char peer_listen[160];	  /* "": peers cannot fetch from here */
	char peer_advertise[160]; /* "": as bound */
	struct agentconf_label labels[AGENTCONF_LABELS_MAX];
	size_t label_count;
	char taints[AGENTCONF_TAINTS_MAX][2 * STR_NAME_MAX + 16]; /* "key=value:prefer" */
	size_t taint_count;
	uint32_t memory_overcommit, cpu_overcommit, disk_overcommit; /* 1/1000; 0: default */
	uint64_t memory, disk; /* bytes for guests; 0: what is there */
	uint32_t cpu_milli;
	uid_t uid_base;
	uint32_t simulate, simulate_boot_ms; /* AGENTCONF_SIMULATE: agents; time of a boot */
	uint32_t boots;			     /* guests starting at once; 0: twice the CPUs */
	char runner[AGENTCONF_PATH], init[AGENTCONF_PATH]; /* "": beside us */
	enum log_level log_level;
	bool log_json;
	bool quiet; /* --check: only what is wrong */
};

/* 0: go on; 1: --help or --version was printed to OUT, end with success; -EINVAL. */
int agentconf_load(
	struct agentconf *config, int argc, char **argv, char **envp, FILE *out, struct err *err);
/* One setting, as from a file: KEY is a long option's name without "--". */
int agentconf_set(struct agentconf *config, const char *key, const char *value, struct err *err);
void agentconf_defaults(struct agentconf *config);

#endif
