/* What users declared, and the part of it that the core decides on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/serve/serve_int.h"
#include "spec/spec.h"

static struct lab *find(const struct serve *s, const char *name)
{
	struct lab *lab;

	HASH_FIND_STR(s->labs, name, lab);
	return lab;
}

static void free_groups(struct lab_group *groups, struct lab_group *by_name)
{
	HASH_CLEAR(hh, by_name);
	free(groups);
}

static const Um__GroupSpec *group_of(struct lab_group *by_name, const char *name)
{
	struct lab_group *group;

	HASH_FIND_STR(by_name, name, group);
	return group ? group->spec : NULL;
}

static void tell_guest(struct core_out *out, const struct core_guest *g)
{
	struct core_action *action;

	if (out->action_count == out->action_room) {
		size_t room = out->action_room ? out->action_room * 2 : 64;
		struct core_action *actions = realloc(out->actions, room * sizeof(*actions));

		if (!actions) {
			out->failed = true;
			return;
		}
		out->actions = actions;
		out->action_room = room;
	}
	action = &out->actions[out->action_count++];
	*action = (struct core_action){.kind = CORE_TELL_GUEST, .uid = g->uid, .epoch = g->epoch};
	(void)str_copy(action->host, sizeof(action->host), g->host->name);
}

/* With boot or disk changed as well the core has told it. */
static bool only_live(const Um__GuestSpec *old, const Um__GuestSpec *new)
{
	return old && new &&spec_live_hash(old) != spec_live_hash(new) &&
	       spec_boot_hash(old) == spec_boot_hash(new) &&
	       spec_disk_hash(old) == spec_disk_hash(new);
}

static void tell_live(struct serve *s, const struct lab *lab, struct lab_group *old)
{
	const struct core_deployment *d = core_deployment(s->core, lab->name);
	const struct core_group *group;
	const struct core_guest *g;

	if (!d)
		return;
	DL_FOREACH (d->groups, group) {
		const Um__GroupSpec *was = group_of(old, group->spec.name);
		const Um__GroupSpec *is = group_of(lab->groups_by_name, group->spec.name);

		if (!was || !is || !only_live(was->guest, is->guest))
			continue;
		DL_FOREACH2(group->guests, g, group_next)
		if (g->host)
			tell_guest(&s->out, g);
	}
}

int labs_set(struct serve *s, Um__DeploymentSpec *spec, struct err *err)
{
	struct lab *lab = find(s, spec->name);
	struct lab_group *groups = calloc(spec->n_groups + 1, sizeof(*groups)), *by_name = NULL;
	struct lab_group *old_groups, *old_by_name;
	Um__DeploymentSpec *old;

	if (!lab && groups) {
		lab = calloc(1, sizeof(*lab));
		if (lab && str_copy(lab->name, sizeof(lab->name), spec->name) == 0) {
			HASH_ADD_STR(s->labs, name, lab);
		} else {
			free(lab);
			lab = NULL;
		}
	}
	if (!lab || !groups) {
		free(groups);
		um__deployment_spec__free_unpacked(spec, NULL);
		return err_set(err, -ENOMEM, "memory is short, or a name too long");
	}
	for (size_t i = 0; i < spec->n_groups; i++) {
		groups[i].spec = spec->groups[i];
		HASH_ADD_KEYPTR(hh, by_name, spec->groups[i]->name, strlen(spec->groups[i]->name),
			&groups[i]);
	}
	old = lab->spec;
	old_groups = lab->groups;
	old_by_name = lab->groups_by_name;
	lab->spec = spec;
	lab->groups = groups;
	lab->groups_by_name = by_name;
	if (old) {
		tell_live(s, lab, old_by_name);
		free_groups(old_groups, old_by_name);
		um__deployment_spec__free_unpacked(old, NULL);
	}
	return 0;
}

void labs_drop(struct serve *s, const char *name)
{
	struct lab *lab = find(s, name);

	if (!lab)
		return;
	HASH_DEL(s->labs, lab);
	free_groups(lab->groups, lab->groups_by_name);
	um__deployment_spec__free_unpacked(lab->spec, NULL);
	free(lab);
}

Um__DeploymentSpec *labs_spec(const struct serve *s, const char *name)
{
	struct lab *lab = find(s, name);

	return lab ? lab->spec : NULL;
}

Um__GroupSpec *labs_group(const struct serve *s, const char *deployment, const char *group)
{
	struct lab *lab = find(s, deployment);
	struct lab_group *found = NULL;

	if (lab)
		HASH_FIND_STR(lab->groups_by_name, group, found);
	return found ? found->spec : NULL;
}

/* ---------------------------------------------------------------- for the core */

static int optional_addr(const char *text, struct net_addr *out, struct err *err)
{
	return text && *text ? net_addr_parse(text, out, err) : 0;
}

static int convert_network(const Um__NetworkSpec *from, struct core_netspec *to, struct err *err)
{
	int rc = str_copy(to->name, sizeof(to->name), from->name);

	if (rc == 0 && *from->subnet)
		rc = net_prefix_parse(from->subnet, &to->prefix4, err);
	if (rc == 0 && *from->subnet6)
		rc = net_prefix_parse(from->subnet6, &to->prefix6, err);
	if (rc == 0)
		rc = optional_addr(from->gateway, &to->gateway4, err);
	if (rc == 0)
		rc = optional_addr(from->gateway6, &to->gateway6, err);
	to->mtu = from->mtu;
	to->guarded = from->spoofing == UM__SPOOFING__SPOOFING_DENY;
	return rc < 0 ? err_wrap(err, "network %.60s", from->name) : 0;
}

static int resolve(const struct serve *s, const Um__GuestSpec *spec, struct core_groupspec *to,
	struct err *err)
{
	const Um__ArtefactInfo *image, *kernel;

	if (!s)
		return 0;
	image = artefacts_find(s, UM__ARTEFACT_KIND__ARTEFACT_IMAGE, spec->image);
	if (!image)
		return err_set(err, -ENOENT,
			"image '%.80s' is not in the cluster ('clusterctl get images' lists those "
			"that are; 'clusterctl image build busybox' makes the default one)",
			spec->image);
	kernel = kernels_choose(s, spec, err);
	if (!kernel)
		return err->code;
	memcpy(to->image_id, image->id.data, CORE_ID);
	memcpy(to->kernel_id, kernel->id.data, CORE_ID);
	if (kernel->modules_id.len == CORE_ID)
		memcpy(to->modules_id, kernel->modules_id.data, CORE_ID);
	(void)str_copy(to->kernel, sizeof(to->kernel), kernel->name);
	/* The disk takes what the image takes at most, when it is not said. */
	if (!to->disk)
		to->disk = image->size;
	return 0;
}

static int convert_placement(const Um__Placement *from, struct core_groupspec *to, struct err *err)
{
	if (!from)
		return 0;
	to->strategy = from->strategy == UM__STRATEGY__PACK ? CORE_PACK : CORE_SPREAD;
	to->max_per_host = from->max_per_host;
	to->priority = from->priority;
	if (str_copy(to->host, sizeof(to->host), from->host) < 0)
		return err_set(err, -EINVAL, "host name '%.80s' is too long", from->host);
	return rules_convert(from, &to->rules, err);
}

static int convert_group(const struct serve *s, const Um__GroupSpec *from,
	struct core_groupspec *to, struct err *err)
{
	const Um__GuestSpec *g = from->guest;
	int rc;

	if (!g || g->n_nics > CORE_NICS_MAX || str_copy(to->name, sizeof(to->name), from->name) < 0)
		return err_set(err, -EINVAL, "guest %.60s: not a guest", from->name);
	to->count_set = from->count_set;
	to->count = from->count_set ? from->count : 1;
	to->memory = g->memory_bytes;
	to->cpu = g->cpu_milli;
	to->disk = g->disk_bytes;
	if (str_copy(to->image, sizeof(to->image), g->image) < 0 ||
		str_copy(to->kernel, sizeof(to->kernel), g->kernel) < 0)
		return err_set(
			err, -EINVAL, "guest %s: image or kernel name is too long", to->name);
	to->on_loss = spec_on_loss(g) == UM__ON_HOST_LOSS__LOSS_WAIT   ? CORE_LOSS_WAIT
		      : spec_on_loss(g) == UM__ON_HOST_LOSS__LOSS_NONE ? CORE_LOSS_NONE
								       : CORE_LOSS_RESTART;
	to->persistent = g->persistent;
	to->boot_hash = spec_boot_hash(g);
	to->disk_hash = spec_disk_hash(g);
	for (size_t i = 0; i < g->n_nics; i++) {
		struct core_nicspec *nic = &to->nics[to->nic_count++];

		rc = str_copy(nic->network, sizeof(nic->network), g->nics[i]->network);
		if (rc == 0)
			rc = optional_addr(g->nics[i]->address, &nic->ip4, err);
		if (rc == 0)
			rc = optional_addr(g->nics[i]->address6, &nic->ip6, err);
		if (rc == 0 && g->nics[i]->mac && *g->nics[i]->mac)
			rc = net_mac_parse(g->nics[i]->mac, &nic->mac, err);
		if (rc < 0)
			return err_wrap(err, "guest %s", to->name);
	}
	rc = convert_placement(g->placement, to, err);
	if (rc == 0)
		rc = resolve(s, g, to, err);
	return rc < 0 ? err_wrap(err, "guest %s", to->name) : 0;
}

int labs_convert(
	struct serve *s, const Um__DeploymentSpec *spec, struct core_apply *out, struct err *err)
{
	struct core_apply apply = {0};
	int rc = str_copy(apply.name, sizeof(apply.name), spec->name);

	if (rc < 0)
		return err_set(err, rc, "the deployment's name is too long");
	apply.gang = spec->gang;
	apply.networks = calloc(spec->n_networks + 1, sizeof(*apply.networks));
	apply.groups = calloc(spec->n_groups + 1, sizeof(*apply.groups));
	if (!apply.networks || !apply.groups)
		rc = err_set(err, -ENOMEM, "memory is short for deployment %s", apply.name);
	for (size_t i = 0; rc == 0 && i < spec->n_networks; i++)
		rc = convert_network(
			spec->networks[i], &apply.networks[apply.network_count++], err);
	for (size_t i = 0; rc == 0 && i < spec->n_groups; i++)
		rc = convert_group(s, spec->groups[i], &apply.groups[apply.group_count++], err);
	if (rc < 0) {
		labs_apply_free(&apply);
		return rc;
	}
	*out = apply;
	return 0;
}

void labs_apply_free(struct core_apply *apply)
{
	for (size_t i = 0; i < apply->group_count; i++)
		core_rules_free(apply->groups[i].rules);
	free(apply->networks);
	free(apply->groups);
	memset(apply, 0, sizeof(*apply));
}
