#include "spec/spec.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "spec/spec_int.h"

#define SUGGEST_MAX 4096 /* names among which a misspelt one is sought */

const char *check_at(char buf[SPEC_WHERE], const char *where, const char *field)
{
	if (str_format(buf, SPEC_WHERE, "%s%s%s", where, *where ? "." : "", field) < 0)
		(void)str_format(buf, SPEC_WHERE, "%.200s...", where);
	return buf;
}

const char *check_at_index(char buf[SPEC_WHERE], const char *where, const char *field, size_t i)
{
	if (str_format(buf, SPEC_WHERE, "%s%s%s[%zu]", where, *where ? "." : "", field, i) < 0)
		(void)str_format(buf, SPEC_WHERE, "%.200s...", where);
	return buf;
}

void check_add(struct check *c, const char *where, const char *field, struct err *err)
{
	char at[SPEC_WHERE];

	spec_errors_add(c->out, check_at(at, where, field), "%s", err_msg(err));
	*err = ERR_INIT;
}

void check_labels(
	struct check *c, const char *where, const char *key, const char *value, struct seen *seen)
{
	char at[SPEC_WHERE];
	bool first;

	check_at(at, where, key);
	if (!spec_is_label_key(key))
		spec_errors_add(c->out, at,
			"label '%.80s' must be 1 to %d letters, digits, '.', '_', '/' or '-'", key,
			SPEC_LABEL_KEY_MAX);
	if (strlen(value) > SPEC_LABEL_VALUE_MAX)
		spec_errors_add(c->out, at, "the value of a label is at most %d bytes long",
			SPEC_LABEL_VALUE_MAX);
	(void)seen_put(seen, key, 0, &first);
	if (!first)
		spec_errors_add(c->out, at, "label '%s' is given twice", key);
}

static void check_deployment_labels(struct check *c)
{
	struct seen seen;

	seen_init(&seen);
	if (c->spec->n_labels > SPEC_LABELS_MAX)
		spec_errors_add(c->out, "labels", "%zu labels are more than %d", c->spec->n_labels,
			SPEC_LABELS_MAX);
	for (size_t i = 0; i < c->spec->n_labels && i < SPEC_LABELS_MAX; i++)
		check_labels(
			c, "labels", c->spec->labels[i]->key, c->spec->labels[i]->value, &seen);
	c->out->failed |= seen.failed;
	seen_free(&seen);
}

/* "web-3" alone and the third of a counted "web" would be one name.  Two counted
 * groups cannot meet: a name is split at its last dash in one way only. */
static void check_collision(struct check *c, const Um__GroupSpec *group, const char *where)
{
	char base[STR_NAME_MAX + 1];
	const char *dash = strrchr(group->name, '-');
	uint64_t i, n;

	if (group->count_set || !dash || str_copy(base, sizeof(base), group->name) < 0)
		return;
	base[dash - group->name] = 0;
	if (dash[1] == '0' || str_u64(dash + 1, 1, UINT32_MAX, &n) < 0 ||
		!seen_get(&c->group_names, base, &i) || !c->spec->groups[i]->count_set ||
		n > c->spec->groups[i]->count)
		return;
	spec_errors_add(c->out, where,
		"guest '%s' is also the name of one of the %u guests of '%s'", group->name,
		c->spec->groups[i]->count, base);
}

/* The length of the longest name of the group's guests. */
static void check_length(struct check *c, const Um__GroupSpec *group, const char *where)
{
	char name[STR_NAME_MAX + 1];

	if (group->count_set && group->count && group->count <= SPEC_GUESTS_MAX &&
		strlen(group->name) <= STR_NAME_MAX &&
		spec_guest_name(group, group->count - 1, name) < 0)
		spec_errors_add(c->out, where,
			"the name of its last guest, '%s-%u', is longer than %d characters",
			group->name, group->count, STR_NAME_MAX);
}

static void check_group(struct check *c, size_t i)
{
	const Um__GroupSpec *group = c->spec->groups[i];
	struct err err = ERR_INIT;
	char where[SPEC_WHERE], at[SPEC_WHERE];
	uint64_t other = i;

	(void)check_at(where, "guests", group->name);
	(void)seen_get(&c->group_names, group->name, &other);
	if (!given(group->name) || other != i)
		(void)check_at_index(where, "", "guests", i);
	if (str_check_name("guest name", group->name, &err) < 0)
		check_add(c, where, "name", &err);
	if (other != i)
		spec_errors_add(c->out, where, "guest '%s' is there twice", group->name);
	if (group->count_set && group->count > SPEC_GUESTS_MAX)
		spec_errors_add(c->out, check_at(at, where, "count"),
			"a count of %u is more than %d", group->count, SPEC_GUESTS_MAX);
	check_length(c, group, where);
	check_collision(c, group, where);
	c->guests += spec_group_size(group);
	if (!group->guest) {
		spec_errors_add(c->out, where, "guest '%s' says nothing about itself", group->name);
		return;
	}
	check_guest(c, i, where);
}

static void check_groups(struct check *c)
{
	bool first;

	if (c->spec->n_groups <= SUGGEST_MAX)
		c->group_list = calloc(c->spec->n_groups + 1, sizeof(*c->group_list));
	for (size_t i = 0; i < c->spec->n_groups; i++) {
		(void)seen_put(&c->group_names, c->spec->groups[i]->name, i, &first);
		if (c->group_list)
			c->group_list[i] = c->spec->groups[i]->name;
	}
	for (size_t i = 0; i < c->spec->n_groups; i++)
		check_group(c, i);
	if (c->guests > SPEC_GUESTS_MAX)
		spec_errors_add(c->out, "guests", "%" PRIu64 " guests are more than %d", c->guests,
			SPEC_GUESTS_MAX);
}

int spec_check(const Um__DeploymentSpec *spec, struct spec_errors *out)
{
	struct check c = {.spec = spec, .out = out};
	struct err err = ERR_INIT;
	size_t before = out->count + out->dropped;

	if (str_check_name("deployment name", spec->name, &err) < 0)
		check_add(&c, "", "name", &err);
	if (spec->n_networks > SPEC_NETWORKS_MAX || spec->n_groups > SPEC_GROUPS_MAX) {
		spec_errors_add(out, spec->n_networks > SPEC_NETWORKS_MAX ? "networks" : "guests",
			"at most %d networks and %d kinds of guests may be in one deployment",
			SPEC_NETWORKS_MAX, SPEC_GROUPS_MAX);
		return (int)(out->count + out->dropped - before);
	}
	c.nets = calloc(spec->n_networks + 1, sizeof(*c.nets));
	c.net_list = calloc(spec->n_networks + 1, sizeof(*c.net_list));
	if (!c.nets || !c.net_list) {
		out->failed = true;
		goto out;
	}
	check_deployment_labels(&c);
	check_networks(&c);
	check_groups(&c);
	check_circles(&c);
	check_network_room(&c);
out:
	out->failed |=
		c.net_names.failed || c.group_names.failed || c.addresses.failed || c.macs.failed;
	seen_free(&c.net_names);
	seen_free(&c.group_names);
	seen_free(&c.addresses);
	seen_free(&c.macs);
	free(c.nets);
	free(c.net_list);
	free(c.group_list);
	return out->failed ? -ENOMEM : (int)(out->count + out->dropped - before);
}
