/* Defaults, and which guests a group means. */
#include "spec/spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "spec/spec_int.h"

static int set_text(char **field, const char *text)
{
	char *copy;

	if (given(*field))
		return 0;
	copy = str_dup(text);
	if (!copy)
		return -ENOMEM;
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = copy;
	return 0;
}

static int guest_defaults(Um__GuestSpec *g)
{
	if (!g->memory_bytes)
		g->memory_bytes = SPEC_DEFAULT_MEMORY;
	if (!g->cpu_milli)
		g->cpu_milli = SPEC_DEFAULT_CPU;
	if (!g->stop_timeout_ms)
		g->stop_timeout_ms = SPEC_DEFAULT_STOP_TIMEOUT;
	for (size_t i = 0; i < g->n_files; i++)
		if (!g->files[i]->mode)
			g->files[i]->mode = SPEC_DEFAULT_FILE_MODE;
	if (!g->ready) {
		g->ready = malloc(sizeof(*g->ready));
		if (!g->ready)
			return -ENOMEM;
		um__ready_probe__init(g->ready);
	}
	if (!g->ready->interval_ms)
		g->ready->interval_ms = SPEC_DEFAULT_READY_INTERVAL;
	if (!g->placement) {
		g->placement = malloc(sizeof(*g->placement));
		if (!g->placement)
			return -ENOMEM;
		um__placement__init(g->placement);
	}
	return set_text(&g->init, "auto");
}

int spec_defaults(Um__DeploymentSpec *spec, struct err *err)
{
	for (size_t i = 0; i < spec->n_groups; i++) {
		Um__GroupSpec *group = spec->groups[i];

		if (!group->count_set)
			group->count = 1;
		if (group->guest && guest_defaults(group->guest) < 0)
			return err_set(err, -ENOMEM, "memory is short");
	}
	return 0;
}

uint32_t spec_group_size(const Um__GroupSpec *group)
{
	return group->count_set ? group->count : 1;
}

int spec_guest_name(const Um__GroupSpec *group, uint32_t i, char out[STR_NAME_MAX + 1])
{
	int rc;

	if (!group->count_set)
		return str_copy(out, STR_NAME_MAX + 1, group->name);
	rc = str_format(out, STR_NAME_MAX + 1, "%s-%u", group->name, i + 1);
	return rc < 0 ? rc : 0;
}

const Um__GroupSpec *spec_find_guest(const Um__DeploymentSpec *spec, const char *name, uint32_t *i)
{
	const char *dash = strrchr(name, '-');
	uint64_t n = 0;

	if (dash && (dash[1] == '0' || str_u64(dash + 1, 1, UINT32_MAX, &n) < 0))
		n = 0;
	for (size_t k = 0; k < spec->n_groups; k++) {
		const Um__GroupSpec *g = spec->groups[k];

		if (!g->count_set && strcmp(g->name, name) == 0) {
			*i = 0;
			return g;
		}
		if (g->count_set && n && n <= g->count &&
			strlen(g->name) == (size_t)(dash - name) &&
			strncmp(g->name, name, strlen(g->name)) == 0) {
			*i = (uint32_t)n - 1;
			return g;
		}
	}
	return NULL;
}
