/* What a kernel binary says of itself, and what it needs. */
#include "tests/unit/guest/umlkit.h"

#include "guest/kernelinfo.h"
#include "lib/loop.h"

static struct kit_dir dir;

static int setup(void **state)
{
	(void)state;
	kit_dir_make(&dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kit_dir_remove(&dir);
	return 0;
}

static void need_kernel(void)
{
	if (access(KIT_KERNEL, X_OK) < 0)
		skip();
}

static void check_debian(const struct kernelinfo *info)
{
	char want[128] = "";
	FILE *f;

	assert_true(info->vector && info->blk_dev_ubd && info->mconsole && info->initrd);
	assert_true(info->ext4 && info->modules);
	assert_int_equal(kernelinfo_usable(info, NULL), 0);
	/* The release is the name of its modules' folder. */
	(void)snprintf(want, sizeof(want), "/usr/lib/uml/modules/%s", info->release);
	f = fopen(want, "re");
	assert_non_null(f);
	(void)fclose(f);
}

static void test_read(void **state)
{
	struct kernelinfo info;
	struct err err = ERR_INIT;

	(void)state;
	need_kernel();
	if (kernelinfo_read(KIT_KERNEL, (uid_t)-1, KERNELINFO_TIMEOUT_MS, &info, &err) < 0)
		fail_msg("%s", err_msg(&err));
	check_debian(&info);
	/* As nobody. */
	if (geteuid() == 0)
		assert_int_equal(
			kernelinfo_read(KIT_KERNEL, 65534, KERNELINFO_TIMEOUT_MS, &info, &err), 0);
}

struct waiting {
	struct loop *loop;
	unsigned calls;
};

static void on_info(void *arg, const struct err *err, const struct kernelinfo *info)
{
	struct waiting *w = arg;

	if (err)
		fail_msg("%s", err_msg(err));
	check_debian(info);
	w->calls++;
	loop_stop(w->loop);
}

static void test_in_the_pool(void **state)
{
	struct waiting w = {0};

	(void)state;
	need_kernel();
	assert_int_equal(loop_new(&w.loop, NULL), 0);
	assert_int_equal(kernelinfo_start(w.loop, KIT_KERNEL, (uid_t)-1, on_info, &w, NULL), 0);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_int_equal(w.calls, 1);
	assert_int_equal(loop_free(w.loop), 0);
}

static int read_script(const char *script, uint32_t ms, struct err *err)
{
	const char *path = kit_path(&dir, "script");
	struct kernelinfo info;

	(void)unlink(path);
	kit_write(path, script, strlen(script), 0755);
	return kernelinfo_read(path, (uid_t)-1, ms, &info, err);
}

static void test_read_refuses(void **state)
{
	struct err err = ERR_INIT;
	struct kernelinfo info;
	uint64_t start;

	(void)state;
	assert_int_equal(kernelinfo_read("/nonexistent", (uid_t)-1, 1000, &info, &err), -ENOENT);
	assert_int_equal(kernelinfo_read("/bin/true", (uid_t)-1, 1000, &info, &err), -EPROTO);
	assert_int_equal(read_script("not a program", 1000, &err), -ENOEXEC);
	assert_int_equal(read_script("#!/bin/sh\necho 6.1.0\n", 1000, &err), -EPROTO);
	assert_int_equal(read_script("#!/bin/sh\nkill -9 $$\n", 1000, &err), -ENOEXEC);
	start = kit_now_ms();
	assert_int_equal(read_script("#!/bin/sh\nsleep 100\n", 200, &err), -ETIMEDOUT);
	/* Closes its output and stays; or leaves a child that holds it: that ends with it. */
	assert_int_equal(
		read_script("#!/bin/sh\nexec >/dev/null\nsleep 100\n", 200, &err), -ETIMEDOUT);
	assert_int_equal(read_script("#!/bin/sh\nsleep 100 &\n", 2000, &err), -EPROTO);
	assert_int_equal(read_script("#!/bin/sh\nsetsid sleep 100 &\n", 2000, &err), -EPROTO);
	assert_int_equal(
		read_script(
			"#!/bin/sh\nwhile :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
			"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done\n",
			20000, &err),
		-EMSGSIZE);
	assert_true(kit_now_ms() - start < 15000);
}

/* What is run is nobody, among its own processes; its folder is nobody else's. */
static void test_apart(void **state)
{
	static const char script[] = "#!/bin/sh\ncase $1 in\n--version) echo 6.1-$(id -u)-$$ ;;\n"
				     "--showconfig) echo CONFIG_UML=y ;;\nesac\n";
	const char *path = kit_path(&dir, "script");
	struct kernelinfo info;
	struct err err = ERR_INIT;

	(void)state;
	if (geteuid() != 0)
		skip();
	(void)unlink(path);
	kit_write(path, script, strlen(script), 0755);
	assert_int_equal(chmod(dir.path, 0700), 0);
	if (kernelinfo_read(path, (uid_t)-1, KERNELINFO_TIMEOUT_MS, &info, &err) < 0)
		fail_msg("%s", err_msg(&err));
	assert_string_equal(info.release, "6.1-65534-2");
	assert_int_equal(kernelinfo_read(path, 4711, KERNELINFO_TIMEOUT_MS, &info, &err), 0);
	assert_string_equal(info.release, "6.1-4711-2");
}

static void test_parse(void **state)
{
	struct kernelinfo info;
	struct err err = ERR_INIT;
	static const char config[] =
		"# x\nCONFIG_UML=y\nCONFIG_UML_NET_VECTOR=y\nCONFIG_IPV6=m\n"
		"CONFIG_SMP=y\n# CONFIG_MCONSOLE is not set\nXCONFIG_EXT4_FS=y";

	(void)state;
	assert_int_equal(
		kernelinfo_parse("7.2.13\n", config, "seccomp=<on/auto/off>\n", &info, &err), 0);
	assert_string_equal(info.release, "7.2.13");
	assert_true(info.vector && info.smp && info.seccomp_mode);
	assert_false(info.ipv6 || info.mconsole || info.ext4 || info.modules);
	assert_int_equal(kernelinfo_usable(&info, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err_msg(&err), "CONFIG_BLK_DEV_UBD"));
	assert_int_equal(kernelinfo_parse("", config, "", &info, &err), -EPROTO);
	assert_int_equal(kernelinfo_parse("GNU coreutils\n", config, "", &info, &err), -EPROTO);
	assert_int_equal(kernelinfo_parse("6.1;rm\n", config, "", &info, &err), -EPROTO);
	assert_int_equal(kernelinfo_parse("6.1\n", "CONFIG_X86=y\n", "", &info, &err), -EPROTO);
}

/* Names in a fixed order; a module is told apart; what is off is not named. */
static void test_features(void **state)
{
	struct kernelinfo info;
	char out[KERNELINFO_FEATURES];
	struct buf all, options;

	(void)state;
	kernelinfo_features("CONFIG_NF_TABLES=m\nCONFIG_VXLAN=y\n# CONFIG_SMP is not set\n"
			    "CONFIG_BRIDGE_NETFILTER=y\nXCONFIG_IPV6=y\nCONFIG_TUN=y",
		true, out);
	assert_string_equal(out, "seccomp,vxlan,tun,nftables=m");
	kernelinfo_features("", false, out);
	assert_string_equal(out, "");

	buf_init(&options);
	assert_int_equal(kernelinfo_options(
				 "# x\nCONFIG_UML=y\nOTHER=y\nCONFIG_A=\"b c\"\n", &options, NULL),
		0);
	assert_string_equal(buf_text(&options), "CONFIG_UML=y\nCONFIG_A=\"b c\"\n");
	assert_int_equal(kernelinfo_options("CONFIG_UML=y\x1b[2J\n", &options, NULL), -EPROTO);
	buf_free(&options);
	buf_init(&all);
	if (access(KIT_KERNEL, X_OK) == 0) {
		assert_int_equal(
			kernelinfo_read(KIT_KERNEL, (uid_t)-1, KERNELINFO_TIMEOUT_MS, &info, NULL),
			0);
		assert_non_null(strstr(info.features, "vector"));
		assert_non_null(strstr(info.features, "bridge=m"));
		assert_int_equal(
			kernelinfo_config(KIT_KERNEL, (uid_t)-1, KERNELINFO_TIMEOUT_MS, &all, NULL),
			0);
		assert_non_null(strstr(buf_text(&all), "\nCONFIG_UML_NET_VECTOR=y\n"));
		assert_null(strstr(buf_text(&all), "#"));
	}
	buf_free(&all);
}

static bool lists(const struct kernelinfo_needs *needs, const char *name)
{
	for (size_t i = 0; i < needs->count; i++) {
		const char *slash = strrchr(needs->files[i], '/');

		assert_true(slash && access(needs->files[i], R_OK) == 0);
		if (strcmp(slash + 1, name) == 0)
			return true;
	}
	return false;
}

/* The list suffices: in a root with only these files, the kernel starts. */
static void try_in_jail(const struct kernelinfo_needs *needs)
{
	char root[256], to[700], from[300];

	(void)snprintf(root, sizeof(root), "%s/jail", dir.path);
	assert_int_equal(kit_run("mkdir", "-p", root), 0);
	for (size_t i = 0; i < needs->count; i++) {
		(void)snprintf(to, sizeof(to), "%s%s", root, needs->files[i]);
		*strrchr(to, '/') = '\0';
		assert_int_equal(kit_run("mkdir", "-p", to), 0);
		(void)snprintf(from, sizeof(from), "%s", needs->files[i]);
		assert_int_equal(kit_run("cp", "-L", from, to), 0);
	}
	(void)snprintf(to, sizeof(to), "%s/kernel", root);
	assert_int_equal(kit_run("cp", KIT_KERNEL, to), 0);
	assert_int_equal(kit_run("chroot", root, "/kernel", "--version"), 0);
}

static void test_needs(void **state)
{
	struct kernelinfo_needs needs;
	struct err err = ERR_INIT;

	(void)state;
	need_kernel();
	if (kernelinfo_needs(KIT_KERNEL, &needs, &err) < 0)
		fail_msg("%s", err_msg(&err));
	assert_true(lists(&needs, "ld-linux-x86-64.so.2"));
	assert_non_null(strstr(needs.files[0], "ld-linux"));
	assert_true(lists(&needs, "libc.so.6"));
	assert_true(lists(&needs, "libgcc_s.so.1"));
	assert_int_equal(needs.count, 3);
	if (geteuid() == 0)
		try_in_jail(&needs);
	/* One with more libraries, in depth; and a static one. */
	assert_int_equal(kernelinfo_needs("/usr/sbin/mke2fs", &needs, &err), 0);
	assert_true(lists(&needs, "libext2fs.so.2"));
	assert_true(lists(&needs, "libc.so.6"));
	assert_int_equal(kernelinfo_needs("/bin/busybox", &needs, &err), 0);
	assert_int_equal(needs.count, 0);
}

static void test_needs_refuses(void **state)
{
	struct kernelinfo_needs needs;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(kernelinfo_needs("/nonexistent", &needs, &err), -ENOENT);
	assert_int_equal(kernelinfo_needs("/etc/passwd", &needs, &err), -ENOEXEC);
	assert_int_equal(kernelinfo_needs(dir.path, &needs, &err), -ENOEXEC);
	assert_int_equal(kernelinfo_needs("/dev/zero", &needs, &err), -ENOEXEC);
}

/* Byte flips in a small dynamic program: never a crash. */
static void test_needs_damage(void **state)
{
	struct kernelinfo_needs needs;
	const char *copy = kit_path(&dir, "elf");
	uint32_t seed = 4711;
	size_t size;
	char *data = kit_slurp("/bin/true", &size);

	(void)state;
	assert_non_null(data);
	kit_write(copy, data, size, 0755);
	int fd = open(copy, O_RDWR | O_CLOEXEC);

	for (unsigned i = 0; i < 2000; i++) {
		struct err err = ERR_INIT;

		seed = seed * 1664525 + 1013904223;
		/* Headers, and the area of strings and symbols. */
		off_t at = (off_t)((seed >> 8) % (i % 2 ? 1024 : (uint32_t)size));
		char flipped = (char)(data[at] ^ (char)(1u << (seed >> 29)));

		assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
		if (kernelinfo_needs(copy, &needs, &err) < 0)
			assert_true(err_msg(&err)[0] != '\0');
		assert_int_equal(pwrite(fd, &data[at], 1, at), 1);
	}
	(void)close(fd);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_read),
		cmocka_unit_test(test_in_the_pool), cmocka_unit_test(test_read_refuses),
		cmocka_unit_test(test_apart), cmocka_unit_test(test_parse),
		cmocka_unit_test(test_features), cmocka_unit_test(test_needs),
		cmocka_unit_test(test_needs_refuses), cmocka_unit_test(test_needs_damage)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
