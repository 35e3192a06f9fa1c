/* Which kernel a guest gets, by the features that it asks for. */
#include "scheduler/serve/serve_int.h"
#include "tests/unit/unit.h"

#define T(text) ((char *)(uintptr_t)(text))

static void add(struct serve *s, const char *name, const char *features, bool modules)
{
	Um__ArtefactInfo *info = calloc(1, sizeof(*info)), *copy;
	Um__ArtefactInfo__MetaEntry meta = UM__ARTEFACT_INFO__META_ENTRY__INIT, *metas = &meta;
	uint8_t id[CORE_ID] = {1}, packed[512];
	struct err err = ERR_INIT;

	assert_non_null(info);
	um__artefact_info__init(info);
	info->name = T(name);
	info->kind = UM__ARTEFACT_KIND__ARTEFACT_KERNEL;
	info->id.data = id;
	info->id.len = CORE_ID;
	if (modules)
		info->modules_id = info->id;
	meta.key = T("features");
	meta.value = T(features);
	info->meta = &metas;
	info->n_meta = 1;
	copy = um__artefact_info__unpack(NULL, um__artefact_info__pack(info, packed), packed);
	free(info);
	unit_ok(artefacts_put(s, copy, &err), &err);
}

static const char *choose(
	struct serve *s, const char *kernel, const char *a, const char *b, struct err *err)
{
	Um__GuestSpec spec = UM__GUEST_SPEC__INIT;
	char *features[] = {T(a), T(b)};
	const Um__ArtefactInfo *got;

	*err = (struct err)ERR_INIT;
	spec.kernel = T(kernel);
	spec.kernel_features = features;
	spec.n_kernel_features = b ? 2 : a ? 1 : 0;
	got = kernels_choose(s, &spec, err);
	return got ? got->name : NULL;
}

static void test_choice(void **state)
{
	struct serve *s = calloc(1, sizeof(*s));
	struct artefact *art, *next;
	struct err err;

	(void)state;
	assert_non_null(s);
	add(s, "debian", "seccomp,nftables=m,tun=m", true);
	add(s, "small", "seccomp,net-namespaces,tun=m", false);
	add(s, "wide", "seccomp,wireguard,nftables,mpls", false);
	assert_string_equal(choose(s, "", NULL, NULL, &err), "debian");
	assert_string_equal(choose(s, "", "seccomp", NULL, &err), "debian");
	assert_string_equal(choose(s, "", "nftables", "tun", &err), "debian");
	assert_string_equal(choose(s, "", "wireguard", "nftables", &err), "wide");
	assert_string_equal(choose(s, "debian", "tun", NULL, &err), "debian");
	/* Modules that are not here are no feature; nor is the beginning of a name. */
	assert_null(choose(s, "small", "tun", NULL, &err));
	assert_non_null(strstr(err_msg(&err), "'debian' has all"));
	assert_null(choose(s, "small", "net", NULL, &err));
	/* The one that is named is not replaced. */
	assert_null(choose(s, "debian", "mpls", NULL, &err));
	assert_non_null(strstr(err_msg(&err), "has no mpls"));
	assert_non_null(strstr(err_msg(&err), "'wide' has all"));
	assert_null(choose(s, "", "mpls", "tun", &err));
	assert_non_null(strstr(err_msg(&err), "no kernel of the cluster"));
	HASH_ITER (hh, s->artefacts, art, next) {
		HASH_DEL(s->artefacts, art);
		um__artefact_info__free_unpacked(art->info, NULL);
		free(art);
	}
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_choice)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
