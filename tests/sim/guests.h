/* guests: what is on a machine below the agent; read by check.c. */
#ifndef UMLAUT_TESTS_SIM_GUESTS_H
#define UMLAUT_TESTS_SIM_GUESTS_H

#include "lib/net.h"
#include "lib/str.h"
#include "proto/umlaut.pb-c.h"
#include "tests/sim/event.h"

struct driver_run;

struct sim_runner {
	struct sim_machine *machine;
	char dir[256], name[STR_FULLNAME_MAX + 1];
	uint64_t uid, epoch, generation, memory;
	bool alive; /* the runner */
	bool fenced;
	bool ended, stopping; /* the guest */
	bool ready, by_request, told;
	Um__Phase phase;
	int exit_status;
	uint64_t started_at;
	struct sim_event event;
	struct driver_run *run; /* the agent's hand on it */
	struct sim_runner *prev, *next;
};

struct sim_member {
	struct net_mac mac;
	struct net_addr vtep;
	UT_hash_handle hh;
};

struct sim_net {
	uint32_t vni;
	struct sim_member *members;
	UT_hash_handle hh;
};

#endif
