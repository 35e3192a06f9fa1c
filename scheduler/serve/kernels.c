/* Which kernel a guest gets. */
#include <errno.h>
#include <string.h>

#include "scheduler/serve/serve_int.h"

static const char *features_of(const Um__ArtefactInfo *kernel)
{
	for (size_t i = 0; i < kernel->n_meta; i++)
		if (strcmp(kernel->meta[i]->key, "features") == 0)
			return kernel->meta[i]->value;
	return "";
}

/* LIST: "seccomp,vector,nftables=m"; what is a module counts when the modules are here. */
static bool has_feature(const Um__ArtefactInfo *kernel, const char *feature)
{
	size_t size = strlen(feature);

	for (const char *p = features_of(kernel); *p; p += strcspn(p, ","), p += *p == ',') {
		if (strncmp(p, feature, size) != 0)
			continue;
		if (!p[size] || p[size] == ',')
			return true;
		if (strncmp(p + size, "=m", 2) == 0)
			return kernel->modules_id.len == CORE_ID;
	}
	return false;
}

static const char *lacks(const Um__ArtefactInfo *kernel, const Um__GuestSpec *spec)
{
	for (size_t i = 0; i < spec->n_kernel_features; i++)
		if (!has_feature(kernel, spec->kernel_features[i]))
			return spec->kernel_features[i];
	return NULL;
}

/* The first by name that has all. */
static const Um__ArtefactInfo *one_that_has(const struct serve *s, const Um__GuestSpec *spec)
{
	const Um__ArtefactInfo *best = NULL;

	for (struct artefact *art = s->artefacts; art; art = art->hh.next) {
		const Um__ArtefactInfo *k = art->info;

		if (k->kind == UM__ARTEFACT_KIND__ARTEFACT_KERNEL && !lacks(k, spec) &&
			(!best || strcmp(k->name, best->name) < 0))
			best = k;
	}
	return best;
}

const Um__ArtefactInfo *kernels_choose(
	const struct serve *s, const Um__GuestSpec *spec, struct err *err)
{
	const Um__ArtefactInfo *kernel = artefacts_kernel(s, spec->kernel, err), *other;
	const char *missing;

	if (!kernel)
		return NULL;
	missing = lacks(kernel, spec);
	if (!missing)
		return kernel;
	other = one_that_has(s, spec);
	if (other && !*spec->kernel)
		return other;
	if (other)
		(void)err_set(err, -EINVAL,
			"kernel '%.80s' has no %s, which kernel_features asks for; '%.80s' has all "
			"of them",
			kernel->name, missing, other->name);
	else
		(void)err_set(err, -EINVAL,
			"no kernel of the cluster has all of kernel_features (%s of %zu: '%.80s' "
			"has no %s); 'clusterctl kernel build' makes one with everything labs need",
			*spec->kernel ? "the one named" : "the default", spec->n_kernel_features,
			kernel->name, missing);
	return NULL;
}
