#include "node-agent/facts.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "node-agent/peers.h"

static uint64_t host_memory(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

	return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

static void disk_of(struct agent *agent, uint64_t *all, uint64_t *free_bytes)
{
	struct statvfs fs;

	*all = *free_bytes = 0;
	if (statvfs(agent->config.state, &fs) < 0)
		return;
	*all = (uint64_t)fs.f_blocks * fs.f_frsize;
	*free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
}

void facts_fill(struct agent *agent, struct facts *out)
{
	const struct agentconf *c = &agent->config;
	Um__HostFacts *m = &out->msg;
	char ifname[OVERLAY_IFNAME];
	uint64_t disk, disk_free;
	struct utsname uts;
	struct err err = ERR_INIT;

	um__host_facts__init(m);
	m->memory_bytes = c->memory ? c->memory : host_memory() / 10 * 9;
	m->cpu_milli = c->cpu_milli ? c->cpu_milli : 1000 * proc_cpus();
	disk_of(agent, &disk, &disk_free);
	m->disk_bytes = c->disk ? c->disk : disk;
	m->disk_free_bytes = disk_free;
	m->vtep = (char *)(uintptr_t)(c->vtep.family ? net_addr_text(out->vtep, &c->vtep) : "");
	if (c->vtep.family && overlay_underlay_mtu(&c->vtep, &m->underlay_mtu, ifname, &err) < 0)
		log_warn("the underlay's MTU is not known", LOG_ERR(&err));
	m->vxlan_port = c->vxlan_port ? c->vxlan_port : 4789;
	m->peer_endpoint = (char *)(uintptr_t)peers_endpoint(agent->peers);
	m->pubkey.data = agent->keys.public_key;
	m->pubkey.len = sizeof(agent->keys.public_key);
	for (size_t i = 0; i < c->label_count; i++) {
		um__host_facts__labels_entry__init(&out->labels[i]);
		out->labels[i].key = (char *)(uintptr_t)c->labels[i].key;
		out->labels[i].value = (char *)(uintptr_t)c->labels[i].value;
		out->label_list[i] = &out->labels[i];
	}
	m->labels = out->label_list;
	m->n_labels = c->label_count;
	for (size_t i = 0; i < c->taint_count; i++)
		out->taint_list[i] = (char *)(uintptr_t)c->taints[i];
	m->taints = out->taint_list;
	m->n_taints = c->taint_count;
	m->memory_overcommit = c->memory_overcommit;
	m->cpu_overcommit = c->cpu_overcommit;
	m->disk_overcommit = c->disk_overcommit;
	if (uname(&uts) == 0) {
		(void)str_format(out->kernel, sizeof(out->kernel), "%.64s", uts.release);
		m->kernel_release = out->kernel;
	}
	m->agent_version = (char *)(uintptr_t)UMLAUT_VERSION;
}

void facts_usage(struct agent *agent, Um__HostUsage *out)
{
	struct driver_usage usage = {0};
	uint64_t disk;

	um__host_usage__init(out);
	if (agent->driver.ops->usage(agent->driver.self, &usage, NULL) == 0)
		out->memory_used_bytes = usage.memory_bytes;
	disk_of(agent, &disk, &out->disk_free_bytes);
}

/* ---------------------------------------------------------------- our address */

static int split(const char *endpoint, char host[128], char port[8], struct err *err)
{
	const char *at = endpoint + 6, *colon = strrchr(endpoint, ':'), *end;

	if (!str_starts(endpoint, "tcp://") || !colon || colon < at)
		return err_set(err, -EINVAL, "'%.80s' has no address: give --vtep", endpoint);
	end = colon;
	if (*at == '[' && end > at && end[-1] == ']') {
		at++;
		end--;
	}
	if (str_format(host, 128, "%.*s", (int)(end - at), at) < 0 ||
		str_copy(port, 8, colon + 1) < 0)
		return err_set(err, -EINVAL, "'%.80s' is no endpoint", endpoint);
	return 0;
}

static int source_of(const struct addrinfo *to, struct net_addr *out, struct err *err)
{
	struct sockaddr_storage self = {0};
	socklen_t size = sizeof(self);
	int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc = 0;

	if (fd < 0)
		return err_errno(err, errno, "socket");
	/* A connected UDP socket has asked the routing table, and sent nothing. */
	if (connect(fd, to->ai_addr, to->ai_addrlen) < 0 ||
		getsockname(fd, (struct sockaddr *)&self, &size) < 0)
		rc = err_errno(err, errno, "no route to the scheduler");
	(void)close(fd);
	if (rc < 0)
		return rc;
	if (self.ss_family == AF_INET)
		return net_addr_from(&((struct sockaddr_in *)&self)->sin_addr, 4, out);
	return net_addr_from(&((struct sockaddr_in6 *)&self)->sin6_addr, 16, out);
}

int facts_source(const char *endpoint, struct net_addr *out, struct err *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_DGRAM};
	struct addrinfo *list = NULL;
	char host[128], port[8];
	int rc = split(endpoint, host, port, err);

	if (rc < 0)
		return rc;
	rc = getaddrinfo(host, port, &hints, &list);
	if (rc)
		return err_set(err, -EINVAL, "%s: %s", host, gai_strerror(rc));
	rc = source_of(list, out, err);
	freeaddrinfo(list);
	return rc;
}
