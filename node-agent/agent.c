#include "node-agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/initrd.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "node-agent/blobs.h"
#include "node-agent/cluster.h"
#include "node-agent/facts.h"
#include "node-agent/fence.h"
#include "node-agent/guests.h"
#include "node-agent/hosts.h"
#include "node-agent/inventory.h"
#include "node-agent/link.h"
#include "node-agent/moves.h"
#include "node-agent/nets.h"
#include "node-agent/orphans.h"
#include "node-agent/peers.h"
#include "node-agent/pressure.h"
#include "node-agent/relay.h"
#include "node-agent/report.h"

#define SWEEP_AGE_S (7 * 24 * 3600) /* of transfers that nobody went on with */

int agent_path(const struct agent *agent, const char *name, char path[PATH_MAX], struct err *err)
{
	return fs_join(path, PATH_MAX, agent->config.state, name, err);
}

void agent_cgroup(const struct agentconf *config, char out[128])
{
	uint8_t hash[MANIFEST_HASH];
	char hex[9];

	manifest_sha256(config->state, strlen(config->state), hash);
	str_hex(hex, hash, 4);
	(void)str_format(out, 128, "%s-%s", config->name, hex);
}

int agent_lock(const struct agentconf *config, int *fd, struct err *err)
{
	char path[PATH_MAX];
	int lock, rc = fs_mkdirs(config->state, 0711, err);

	if (rc == 0)
		rc = fs_join(path, sizeof(path), config->state, "lock", err);
	if (rc < 0)
		return rc;
	lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (lock < 0)
		return err_errno(err, errno, "%s", path);
	if (proc_lock(lock) < 0) {
		(void)close(lock);
		return err_set(err, -EBUSY, "an agent is running on %s", config->state);
	}
	*fd = lock;
	return 0;
}

int agent_find_vtep(struct agentconf *config, struct err *err)
{
	struct cluster cluster;
	struct curve_token token;
	char path[PATH_MAX];
	const char *endpoint = config->scheduler;
	int rc;

	if (config->vtep.family)
		return 0;
	rc = fs_join(path, sizeof(path), config->state, "cluster", err);
	if (rc < 0)
		return rc;
	if (!endpoint[0] && cluster_load(path, &cluster, NULL) == 0)
		endpoint = cluster.endpoint;
	else if (!endpoint[0] && config->token[0] &&
		 curve_token_parse(config->token, &token, NULL) == 0)
		endpoint = token.endpoint;
	if (!endpoint[0])
		return err_set(err, -EINVAL,
			"this host has not joined a cluster: give it a --token (clusterctl token "
			"create agent)");
	rc = facts_source(endpoint, &config->vtep, err);
	return rc < 0 ? err_wrap(err, "this host's underlay address (give --vtep)") : 0;
}

/* ---------------------------------------------------------------- open */

static int load_identity(struct agent *agent, struct err *err)
{
	char path[PATH_MAX];
	int rc = agent_path(agent, "keys", path, err);

	if (rc == 0)
		rc = curve_load_or_make(path, &agent->keys, err);
	if (rc == 0)
		rc = proc_boot_id(agent->boot_id, err);
	agent->instance = proc_random_u64();
	agent_cgroup(&agent->config, agent->cgroup);
	return rc;
}

static int open_store(struct agent *agent, struct err *err)
{
	char path[PATH_MAX];
	int rc = agent_path(agent, "store", path, err);

	if (rc == 0)
		rc = imgstore_open(path, &agent->store, err);
	if (rc < 0)
		return rc;
	if (imgstore_damaged(agent->store))
		log_warn("damaged artefacts are fetched again",
			LOG_U64("count", imgstore_damaged(agent->store)));
	return imgstore_sweep(agent->store, SWEEP_AGE_S, err);
}

static int make_initrd(struct agent *agent, struct err *err)
{
	/* Simulated guests need none. */
	if (!agent->config.init[0])
		return 0;
	return initrd_make(
		agent->config.init, agent->config.state, agent->initrd, sizeof(agent->initrd), err);
}

static int open_parts(struct agent *agent, struct err *err)
{
	struct inventory found = {0};
	int rc = guests_open(agent, &agent->guests, err);

	if (rc == 0)
		rc = report_open(agent, &agent->report, err);
	if (rc == 0)
		rc = hosts_open(agent, &agent->hosts, err);
	if (rc == 0)
		rc = blobs_open(agent, &agent->blobs, err);
	if (rc == 0)
		rc = orphans_open(agent, &agent->orphans, err);
	if (rc == 0)
		rc = moves_open(agent, &agent->moves, err);
	if (rc == 0)
		rc = relay_open(agent, &agent->relay, err);
	if (rc == 0)
		rc = nets_open(agent, &agent->nets, err);
	if (rc == 0)
		rc = peers_open(agent, &agent->peers, err);
	if (rc == 0)
		rc = inventory_load(agent, &found, err);
	if (rc == 0)
		rc = moves_load(agent->moves, err);
	if (rc == 0)
		rc = fence_open(agent, &agent->fence, err);
	if (rc == 0)
		rc = link_open(agent, &agent->link, err);
	if (rc == 0)
		rc = pressure_open(agent, &agent->pressure, err);
	if (rc == 0)
		log_info("agent started", LOG_U64("guests", found.guests),
			LOG_U64("running", found.running), LOG_U64("half_made", found.broken));
	return rc;
}

int agent_open(const struct agentconf *config, struct loop *loop, struct zctx *zctx,
	const struct driver *driver, struct agent **out, struct err *err)
{
	struct agent *agent = calloc(1, sizeof(*agent));
	int rc;

	if (!agent)
		return err_set(err, -ENOMEM, "memory is short");
	agent->config = *config;
	agent->loop = loop;
	agent->zctx = zctx;
	agent->driver = *driver;
	rc = fs_mkdirs(config->state, 0711, err);
	if (rc == 0)
		rc = load_identity(agent, err);
	if (rc == 0)
		rc = make_initrd(agent, err);
	if (rc == 0)
		rc = open_store(agent, err);
	if (rc == 0)
		rc = open_parts(agent, err);
	if (rc < 0) {
		/* What is in the pool ends with the loop; the caller frees it after that. */
		agent_stop(agent);
		*out = agent;
		return rc;
	}
	*out = agent;
	return 0;
}

void agent_stop(struct agent *agent)
{
	if (!agent || agent->stopping)
		return;
	agent->stopping = true;
	pressure_stop(agent->pressure);
	relay_stop(agent->relay);
	moves_stop(agent->moves);
	orphans_stop(agent->orphans);
	blobs_stop(agent->blobs);
	link_stop(agent->link);
	fence_stop(agent->fence);
	peers_stop(agent->peers);
	report_stop(agent->report);
	guests_stop(agent->guests);
	nets_stop(agent->nets);
	hosts_stop(agent->hosts);
}

void agent_free(struct agent *agent)
{
	if (!agent)
		return;
	pressure_free(agent->pressure);
	moves_free(agent->moves);
	orphans_free(agent->orphans);
	guests_free(agent->guests);
	blobs_free(agent->blobs);
	relay_free(agent->relay);
	link_free(agent->link);
	fence_free(agent->fence);
	peers_free(agent->peers);
	report_free(agent->report);
	nets_free(agent->nets);
	hosts_free(agent->hosts);
	imgstore_close(agent->store);
	curve_wipe(&agent->keys);
	free(agent);
}
