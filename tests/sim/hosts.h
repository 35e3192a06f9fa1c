/* hosts: addresses of the machines, and what their processes leave. */
#ifndef UMLAUT_TESTS_SIM_HOSTS_H
#define UMLAUT_TESTS_SIM_HOSTS_H

#include "lib/net.h"
#include "tests/sim/sim.h"

#define SIM_ENDPOINT "tcp://10.100.0.0:7700"
#define SIM_LOCAL "ipc:///sim/s/run/local.sock"

int hosts_vtep(uint32_t index, struct net_addr *out, struct err *err);
/* Frees the processes that have ended; at the end of a run. */
void hosts_bury(void);

#endif
