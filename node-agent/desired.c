#include "node-agent/desired.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guest/cmdline.h"
#include "lib/log.h"
#include "lib/str.h"
#include "node-agent/blobs.h"
#include "node-agent/fence.h"
#include "node-agent/hosts.h"
#include "node-agent/life.h"
#include "node-agent/moves.h"
#include "node-agent/nets.h"
#include "node-agent/orphans.h"
#include "node-agent/peers.h"
#include "node-agent/report.h"

#define NICS_MAX 32
#define MEMORY_MIN (16u << 20)
#define MEMORY_MAX (UINT64_C(1) << 40)

/* ---------------------------------------------------------------- checks */

static int check_ref(const Um__BlobRef *ref, const char *what, bool must, struct err *err)
{
	if (!ref)
		return must ? err_set(err, -EINVAL, "no %s", what) : 0;
	if (ref->id.len != MANIFEST_HASH)
		return err_set(err, -EINVAL, "%s: its id has %zu bytes", what, ref->id.len);
	return 0;
}

static int check_nic(const Um__Nic *nic, size_t i, struct err *err)
{
	struct net_mac mac;
	struct net_addr ip;

	if (nic->index >= NICS_MAX || !nic->vni || nic->vni >= 1u << 24)
		return err_set(
			err, -EINVAL, "nics[%zu]: eth%u on network %u", i, nic->index, nic->vni);
	if (nic->mac.len != sizeof(mac.bytes))
		return err_set(err, -EINVAL, "nics[%zu]: a MAC of %zu bytes", i, nic->mac.len);
	memcpy(mac.bytes, nic->mac.data, sizeof(mac.bytes));
	if (!net_mac_is_unicast(&mac))
		return err_set(err, -EINVAL, "nics[%zu]: no unicast MAC", i);
	if (net_addr_from(nic->ip4.data, nic->ip4.len, &ip) < 0 || ip.family == 6 ||
		net_addr_from(nic->ip6.data, nic->ip6.len, &ip) < 0 || ip.family == 4 ||
		nic->prefix4 > 32 || nic->prefix6 > 128)
		return err_set(err, -EINVAL, "nics[%zu]: its addresses make no sense", i);
	return 0;
}

static int check_name(const char *name, struct err *err)
{
	const char *slash = strchr(name, '/');
	char deployment[STR_NAME_MAX + 2];

	if (!slash || (size_t)(slash - name) > STR_NAME_MAX)
		return err_set(err, -EINVAL, "'%.140s' is no DEPLOYMENT/GUEST", name);
	memcpy(deployment, name, (size_t)(slash - name));
	deployment[slash - name] = '\0';
	if (str_check_name("deployment", deployment, err) < 0)
		return -EINVAL;
	return str_check_name("guest", slash + 1, err);
}

int desired_check(const Um__GuestAssign *a, struct err *err)
{
	int rc = 0;

	if (!a->uid || !a->epoch)
		return err_set(err, -EINVAL, "a guest without uid or epoch");
	if (check_name(a->name, err) < 0)
		return -EINVAL;
	if (!a->spec)
		return err_set(err, -EINVAL, "no specification");
	if (a->spec->memory_bytes < MEMORY_MIN || a->spec->memory_bytes > MEMORY_MAX)
		return err_set(err, -EINVAL, "memory of %llu bytes",
			(unsigned long long)a->spec->memory_bytes);
	if (a->spec->disk_bytes > MANIFEST_SIZE_MAX || a->spec->disk_bytes % 512)
		return err_set(err, -EINVAL, "a disk of %llu bytes",
			(unsigned long long)a->spec->disk_bytes);
	if (a->n_nics > NICS_MAX)
		return err_set(err, -EINVAL, "%zu NICs; at most %d", a->n_nics, NICS_MAX);
	if (!a->disk_generation)
		return err_set(err, -EINVAL, "no disk generation");
	if (a->start != UM__START_MODE__START_BOOT)
		return err_set(err, -EINVAL, "this agent can only boot guests");
	for (size_t i = 0; rc == 0 && i < a->n_nics; i++)
		rc = check_nic(a->nics[i], i, err);
	if (rc == 0)
		rc = cmdline_check_extra(a->spec->kernel_args, err);
	if (rc == 0)
		rc = check_ref(a->image, "image", true, err);
	if (rc == 0)
		rc = check_ref(a->kernel, "kernel", true, err);
	return rc < 0 ? rc : check_ref(a->modules, "modules", false, err);
}

/* ---------------------------------------------------------------- guests */

/* Without what says nothing of how the guest boots (spec_live_hash()). */
static Um__GuestSpec without_live(const Um__GuestSpec *spec)
{
	Um__GuestSpec copy = *spec;

	copy.restart = UM__RESTART_POLICY__RESTART_ALWAYS;
	copy.placement = NULL;
	copy.n_labels = 0;
	copy.stop_timeout_ms = 0;
	copy.persistent = false;
	return copy;
}

/* Equal but for the sources of artefacts, which are hints, and the times; LIVE: and
 * for what may change while the guest runs. */
static bool same_assign(const Um__GuestAssign *a, const Um__GuestAssign *b, bool live)
{
	const Um__GuestAssign *both[2] = {a, b};
	uint8_t *packed[2] = {NULL, NULL};
	size_t size[2] = {0, 0};
	bool same;

	for (int i = 0; i < 2; i++) {
		Um__GuestAssign copy = *both[i];
		Um__BlobRef refs[3] = {*copy.image, *copy.kernel, UM__BLOB_REF__INIT};
		Um__GuestSpec spec = without_live(copy.spec);

		if (live)
			copy.spec = &spec;
		if (copy.modules)
			refs[2] = *copy.modules;
		refs[0].n_sources = refs[1].n_sources = refs[2].n_sources = 0;
		copy.boot = NULL;
		copy.from_move = 0; /* how its disk came is no wish of its own */
		copy.image = &refs[0];
		copy.kernel = &refs[1];
		copy.modules = copy.modules ? &refs[2] : NULL;
		size[i] = um__guest_assign__get_packed_size(&copy);
		packed[i] = malloc(size[i] + 1);
		if (packed[i])
			(void)um__guest_assign__pack(&copy, packed[i]);
	}
	same = packed[0] && packed[1] && size[0] == size[1] &&
	       memcmp(packed[0], packed[1], size[0]) == 0;
	free(packed[0]);
	free(packed[1]);
	return same;
}

static void accept(struct guest *g, const Um__GuestAssign *a)
{
	bool same = g->assign && !g->gone && same_assign(g->assign, a, false);
	bool live = g->assign && !g->gone && (same || same_assign(g->assign, a, true));
	Um__GuestAssign *copy = wire_copy(&a->base);
	struct err err = ERR_INIT;

	if (!copy)
		return; /* asked for again with the next full state */
	if (g->assign && !live) {
		hosts_forget(g);
		blobs_let_go(g);
	}
	/* Ports of NICs that are wanted no more go when the guest is started again: the
	 * numbers of those that stay are the same. */
	if (g->assign)
		um__guest_assign__free_unpacked(g->assign, NULL);
	g->assign = copy;
	g->gone = g->keep_disk = false;
	if (same)
		return;
	if (live) {
		/* The run goes on, with what it holds. */
		log_info("guest changed; it goes on", LOG_STR("guest", a->name));
		life_wanted(g);
		return;
	}
	hosts_add(g, &err);
	if (err.code)
		log_warn("names may be missing", LOG_STR("guest", a->name), LOG_ERR(&err));
	log_info("guest wanted", LOG_STR("guest", a->name), LOG_U64("epoch", a->epoch),
		LOG_U64("generation", a->generation), LOG_BOOL("run", a->run));
	memset(&g->times, 0, sizeof(g->times));
	boottimes_add(&g->times, copy->boot);
	boottimes_mark(&g->times, UM__BOOT_STEP__BOOT_ACCEPTED);
	life_wanted(g);
}

static void remove_guest(struct guest *g, uint64_t epoch, const char *keep)
{
	if (g->gone && g->gone_epoch >= epoch)
		return;
	log_info("guest no longer wanted", LOG_STR("guest", g->assign ? g->assign->name : ""),
		LOG_U64("epoch", epoch), LOG_BOOL("keep_disk", keep != NULL));
	g->gone = true;
	g->gone_epoch = epoch;
	g->keep_disk = keep != NULL;
	(void)str_format(g->keep_reason, sizeof(g->keep_reason), "%.200s", keep ? keep : "");
	life_wanted(g);
}

/* It was started elsewhere meanwhile, from its image, and comes back as that: its old disk
 * becomes an orphan first.  The scheduler tells of it again when it hears that nothing of
 * the old one is left. */
static bool sets_aside(struct guest *g, const Um__GuestAssign *a)
{
	if (!g->assign)
		return false;
	if (!g->gone && a->epoch > g->assign->epoch && !a->from_move && g->booted &&
		g->disk_generation && g->disk_generation != a->disk_generation)
		remove_guest(g, g->assign->epoch,
			"its host was lost; it was started again from its image");
	return g->gone && g->keep_disk;
}

static void apply_assign(struct agent *agent, const Um__GuestAssign *a, uint64_t mark)
{
	struct guest *g = guests_find(agent->guests, a->uid);
	uint64_t newest = g ? guest_epoch(g) : 0;
	struct err err = ERR_INIT;

	if (guests_fence(agent->guests, a->uid) > newest)
		newest = guests_fence(agent->guests, a->uid);
	if (desired_check(a, &err) < 0) {
		log_error("a guest that makes no sense is refused", LOG_STR("guest", a->name),
			LOG_ERR(&err));
		report_refused(agent->report, a->uid, a->epoch, err_msg(&err));
		return;
	}
	if (a->epoch < newest) {
		(void)err_set(&err, -ESTALE, "epoch %llu is older than %llu, known here",
			(unsigned long long)a->epoch, (unsigned long long)newest);
		log_warn("a guest is refused", LOG_STR("guest", a->name), LOG_ERR(&err));
		report_refused(agent->report, a->uid, a->epoch, err_msg(&err));
		if (g)
			g->mark = mark;
		return;
	}
	if (!g)
		g = guests_add(agent->guests, a->uid, &err);
	if (!g) {
		log_error("a guest cannot be taken", LOG_STR("guest", a->name), LOG_ERR(&err));
		return;
	}
	g->mark = mark;
	if (sets_aside(g, a))
		return;
	/* Begun anew here, with nothing of the older placement that is to be kept. */
	if (g->assign && a->epoch > g->assign->epoch && !a->from_move && !g->gone)
		report_gone(agent->report, a->uid, g->assign->epoch);
	accept(g, a);
	report_again(g);
}

static void apply_remove(struct agent *agent, const Um__GuestRemove *r)
{
	struct guest *g = guests_find(agent->guests, r->uid);

	if (!g)
		report_gone(agent->report, r->uid, r->epoch);
	else if (r->epoch < guest_epoch(g))
		log_warn("a removal under an old epoch is ignored", LOG_U64("epoch", r->epoch));
	else
		remove_guest(g, r->epoch, r->keep_disk ? r->reason : NULL);
}

/* ---------------------------------------------------------------- the whole */

void desired_reset(struct agent *agent, struct desired_state *state)
{
	*state = (struct desired_state){.mark = state->mark};
	guests_freeze(agent->guests, false);
}

static void finish_full(struct agent *agent, struct desired_state *state)
{
	moves_keep(agent->moves, state->mark);
	for (struct guest *g = guests_first(agent->guests); g; g = guests_next(g))
		if (g->mark != state->mark && !g->gone &&
			!moves_holds(agent->moves, g, state->mark))
			remove_guest(g, guest_epoch(g), NULL);
	nets_keep(agent->nets, state->mark);
	state->in_full = false;
	state->complete = true;
	guests_freeze(agent->guests, false);
	guests_hold(agent->guests, false);
	fence_lift(agent->fence);
	log_info("the whole state has been heard",
		LOG_U64("guests", (uint64_t)guests_count(agent->guests)));
}

static void apply_body(struct agent *agent, uint64_t mark, const Um__Desired *d)
{
	for (size_t i = 0; i < d->n_networks; i++)
		nets_apply(agent->nets, d->networks[i], mark);
	for (size_t i = 0; i < d->n_guests; i++)
		apply_assign(agent, d->guests[i], mark);
	for (size_t i = 0; i < d->n_removed; i++)
		apply_remove(agent, d->removed[i]);
	for (size_t i = 0; i < d->n_prune; i++)
		orphans_prune(agent->orphans, d->prune[i]);
	for (size_t i = 0; i < d->n_moves_in; i++)
		moves_target(agent->moves, d->moves_in[i], mark);
	for (size_t i = 0; i < d->n_moves_out; i++)
		moves_source(agent->moves, d->moves_out[i], mark);
	for (size_t i = 0; i < d->n_moves_ended; i++)
		moves_end(agent->moves, d->moves_ended[i]);
	for (size_t i = 0; i < d->n_removed_vnis; i++)
		nets_remove(agent->nets, d->removed_vnis[i]);
	if (d->peers_full || d->n_peer_keys)
		peers_allow(agent->peers, d->peer_keys, d->n_peer_keys, d->peers_full);
	for (size_t i = 0; i < d->n_prefetch; i++)
		blobs_prefetch(agent->blobs, d->prefetch[i]);
	for (size_t i = 0; i < d->n_drop_blobs; i++)
		if (d->drop_blobs[i].len == MANIFEST_HASH)
			blobs_discard(agent->blobs, d->drop_blobs[i].data);
}

int desired_apply(
	struct agent *agent, struct desired_state *state, const Um__Desired *d, struct err *err)
{
	bool starts = d->full && !state->in_full;
	bool next = d->seq == state->seq + 1;

	/* News of a state that is still to come: it will be in there. */
	if (!d->full && !state->complete && !state->in_full)
		return 0;
	/* A full state may begin anywhere; everything else goes on from what was. */
	if (!starts && (!next || (state->in_full && !d->full)))
		return err_set(err, -ESTALE, "message %llu after %llu", (unsigned long long)d->seq,
			(unsigned long long)state->seq);
	if (starts) {
		state->mark++;
		state->in_full = true;
		guests_freeze(agent->guests, true);
	}
	state->seq = d->seq;
	apply_body(agent, state->mark, d);
	if (d->full && !d->more)
		finish_full(agent, state);
	return 0;
}
