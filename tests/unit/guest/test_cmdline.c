/* The kernel's argument vector. */
#include "tests/unit/guest/umlkit.h"

#include "guest/cmdline.h"

static struct cmdline_spec good(void)
{
	static const struct cmdline_nic nics[] = {
		{.index = 0, .ifname = "t3.0", .mac = {{2, 0, 0, 0, 0, 1}}},
		{.index = 1, .ifname = "t3.1", .mac = {{2, 0, 0, 0, 0, 2}}, .depth = 64}};

	return (struct cmdline_spec){.kernel = "/kernel",
		.memory = 64u << 20,
		.cow = "/disk/cow",
		.base = "/disk/base",
		.modules = "/disk/modules",
		.bulk = "/proc/self/fd/5",
		.initrd = "/initrd",
		.console_fd = 3,
		.agent_fd = 4,
		.nics = nics,
		.nic_count = 2,
		.uml_dir = "/uml",
		.umid = "g",
		.extra = "  quiet   seccomp=on "};
}

static void expect(const struct cmdline_spec *spec, const char *const *want)
{
	struct cmdline line;
	struct err err = ERR_INIT;

	if (cmdline_build(spec, &line, &err) < 0)
		fail_msg("%s", err_msg(&err));
	for (size_t i = 0; i < line.argc; i++) {
		assert_non_null(want[i]);
		assert_string_equal(line.argv[i], want[i]);
	}
	assert_null(want[line.argc]);
	assert_null(line.argv[line.argc]);
	cmdline_free(&line);
	cmdline_free(&line);
}

static void test_whole(void **state)
{
	const struct cmdline_spec spec = good();
	static const char *const want[] = {"/kernel", "mem=64M", "ubd0=/disk/cow,/disk/base",
		"ubd1rd=/disk/modules", "ubd7rd=/proc/self/fd/5", "initrd=/initrd", "con=null",
		"con0=fd:3,fd:3", "con1=fd:4,fd:4", "ssl=null", "lpj=40000000",
		"bonding.max_bonds=0", "dummy.numdummies=0", "ifb.numifbs=0", "fb_tunnels=none",
		"vec0:transport=tap,ifname=t3.0,depth=128,gro=1,mac=02:00:00:00:00:01",
		"vec1:transport=tap,ifname=t3.1,depth=64,gro=1,mac=02:00:00:00:00:02",
		"uml_dir=/uml", "umid=g", "systemd.mask=getty@tty1.service",
		"systemd.wants=getty@tty0.service", "quiet", "seccomp=on", NULL};

	(void)state;
	expect(&spec, want);
}

static void test_least(void **state)
{
	const struct cmdline_spec spec = {.kernel = "/k",
		.memory = (17u << 20) + 1,
		.cow = "/d",
		.console_fd = -1,
		.agent_fd = -1,
		.uml_dir = "/u",
		.umid = "0123456789abcdef",
		.no_reboot = true,
		.notify = "/n"};
	static const char *const want[] = {"/k", "mem=18M", "ubd0d=/d", "con=null", "con0=null",
		"con1=null", "ssl=null", "lpj=40000000", "bonding.max_bonds=0",
		"dummy.numdummies=0", "ifb.numifbs=0", "fb_tunnels=none", "uml_dir=/u",
		"umid=0123456789abcdef", "systemd.mask=getty@tty1.service",
		"systemd.wants=getty@tty0.service", "noreboot", "mconsole=notify:/n", NULL};

	(void)state;
	expect(&spec, want);
}

static void refused(const struct cmdline_spec *spec, int code, const char *part)
{
	struct cmdline line = {0};
	struct err err = ERR_INIT;

	assert_int_equal(cmdline_build(spec, &line, &err), code);
	if (!strstr(err_msg(&err), part))
		fail_msg("'%s' does not say '%s'", err_msg(&err), part);
	assert_null(line.argv);
}

static void test_bad_paths(void **state)
{
	static const char *const bad[] = {"", "relative", "/a,b", "/a b", "/a:b", "/a\nb", "/a\tb",
		"/a\"b", "/a'b", "/a\x7f", "/\xc3\xa4", "/a\\b"};
	char longest[600];
	struct cmdline_spec spec;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		spec = good();
		spec.cow = bad[i];
		refused(&spec, -EINVAL, "disk");
		spec = good();
		spec.uml_dir = bad[i];
		refused(&spec, -EINVAL, "uml_dir");
		if (!*bad[i])
			continue;
		spec = good();
		spec.base = bad[i];
		refused(&spec, -EINVAL, "base image");
		spec = good();
		spec.initrd = bad[i];
		refused(&spec, -EINVAL, "initrd");
	}
	memset(longest, 'a', sizeof(longest));
	longest[0] = '/';
	longest[sizeof(longest) - 1] = '\0';
	spec = good();
	spec.kernel = longest;
	refused(&spec, -EINVAL, "longer than");
	spec.kernel = NULL;
	refused(&spec, -EINVAL, "kernel");
}

static void test_bad_values(void **state)
{
	struct cmdline_nic nics[3] = {{.index = 0, .ifname = "a", .mac = {{2}}},
		{.index = 0, .ifname = "b", .mac = {{2, 1}}}};
	struct cmdline_spec spec = good();

	(void)state;
	spec.memory = 1 << 20;
	refused(&spec, -EINVAL, "memory");
	spec = good();
	spec.umid = "../x";
	refused(&spec, -EINVAL, "umid");
	spec.umid = "a/b";
	refused(&spec, -EINVAL, "umid");
	spec.umid = "";
	refused(&spec, -EINVAL, "umid");
	spec = good();
	spec.nics = nics;
	refused(&spec, -EINVAL, "twice");
	nics[1].index = 64;
	refused(&spec, -EINVAL, "too large");
	nics[1].index = 1;
	nics[1].ifname = "a,b";
	refused(&spec, -EINVAL, "device name");
	nics[1].ifname = "a234567890123456";
	refused(&spec, -EINVAL, "device name");
	nics[1].ifname = "b";
	nics[1].mac.bytes[0] = 1;
	refused(&spec, -EINVAL, "unicast");
}

static void test_too_long(void **state)
{
	struct cmdline_nic nics[CMDLINE_NICS_MAX];
	struct cmdline_spec spec = good();

	(void)state;
	for (uint32_t i = 0; i < CMDLINE_NICS_MAX; i++)
		nics[i] = (struct cmdline_nic){
			.index = i, .ifname = "t65535.63", .mac = {{2, 0, 0, 0, 0, (uint8_t)i}}};
	spec.nics = nics;
	spec.nic_count = CMDLINE_NICS_MAX;
	refused(&spec, -E2BIG, "longer than 4095");
	spec.nic_count = 40;
	struct cmdline line;

	assert_int_equal(cmdline_build(&spec, &line, NULL), 0);
	cmdline_free(&line);
}

static void test_extra(void **state)
{
	static const char *const bad[] = {"mem=1G", "quiet mem=1G", "ubd0=/x", "ubda=/x", "udb=1",
		"con=xterm", "con3=fd:0", "console=tty9", "ssl0=port:99", "vec7:transport=raw",
		"eth0=tuntap", "mconsole=notify:/x", "umid=y", "uml_dir=/", "initrd=/x",
		"rdinit=/bin/sh", "root=/dev/ubdb", "hostfs=/etc", "xterm=/bin/sh,a,b",
		"virtio_uml.device=/x:1", "iomem=a,/etc/shadow", "--version", "-x", "--",
		"time-travel=ext:/sock", "a\nb", "a\x01", "\"mem=1G\"", "a'b", "a\\b", "\xff"};
	static const char *const fine[] = {"", " ", "quiet", "panic=1 loglevel=3", "seccomp=on",
		"time-travel=inf-cpu", "net.ifnames=0", "ro", "member=1"};
	char longest[1100];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err err = ERR_INIT;

		if (cmdline_check_extra(bad[i], &err) != -EINVAL)
			fail_msg("'%s' was let through", bad[i]);
		assert_non_null(strstr(err_msg(&err), "kernel arguments"));
	}
	for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++)
		assert_int_equal(cmdline_check_extra(fine[i], NULL), 0);
	memset(longest, 'a', sizeof(longest));
	longest[1024] = '\0';
	assert_int_equal(cmdline_check_extra(longest, NULL), 0);
	longest[1024] = 'a';
	longest[1025] = '\0';
	assert_int_equal(cmdline_check_extra(longest, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole),
		cmocka_unit_test(test_least), cmocka_unit_test(test_bad_paths),
		cmocka_unit_test(test_bad_values), cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_extra)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
