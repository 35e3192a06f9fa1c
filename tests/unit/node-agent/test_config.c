/* The agent's settings: labels, taints and over-commit, from all three places. */
#include "node-agent/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/unit.h"

#define KEY63 "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff123"

static void test_good(void **state)
{
	static struct agentconf c;
	struct err err = ERR_INIT;

	(void)state;
	agentconf_defaults(&c);
	assert_int_equal(c.label_count + c.taint_count + c.memory_overcommit, 0);
	unit_ok(agentconf_set(&c, "labels", "zone=a,ssd=,x.y/z_1-2=1 2=3", &err), &err);
	assert_int_equal(c.label_count, 3);
	assert_string_equal(c.labels[0].key, "zone");
	assert_string_equal(c.labels[0].value, "a");
	assert_string_equal(c.labels[1].value, "");
	assert_string_equal(c.labels[2].value, "1 2=3");
	unit_ok(agentconf_set(&c, "labels", " { zone: a , rack: \"r1\" } ", &err), &err);
	assert_int_equal(c.label_count, 2);
	assert_string_equal(c.labels[1].key, "rack");
	assert_string_equal(c.labels[1].value, "r1");
	unit_ok(agentconf_set(&c, "labels", "", &err), &err);
	assert_int_equal(c.label_count, 0);
	unit_ok(agentconf_set(&c, "labels", KEY63 "=" KEY63, &err), &err);
	assert_string_equal(c.labels[0].key, KEY63);

	unit_ok(agentconf_set(&c, "taints", "gpu, db=yes,old:prefer,a=b:prefer", &err), &err);
	assert_int_equal(c.taint_count, 4);
	assert_string_equal(c.taints[0], "gpu");
	assert_string_equal(c.taints[1], "db=yes");
	assert_string_equal(c.taints[2], "old:prefer");
	assert_string_equal(c.taints[3], "a=b:prefer");
	unit_ok(agentconf_set(&c, "taints", "['" KEY63 "=" KEY63 ":prefer']", &err), &err);
	assert_int_equal(c.taint_count, 1);
	assert_string_equal(c.taints[0], KEY63 "=" KEY63 ":prefer");

	unit_ok(agentconf_set(&c, "overcommit", "memory=1.5,cpu=16", &err), &err);
	assert_int_equal(c.memory_overcommit, 1500);
	assert_int_equal(c.cpu_overcommit, 16000);
	assert_int_equal(c.disk_overcommit, 0);
	unit_ok(agentconf_set(&c, "overcommit", "{disk: 0.125, memory: 100}", &err), &err);
	assert_int_equal(c.memory_overcommit, 100000);
	assert_int_equal(c.cpu_overcommit, 0);
	assert_int_equal(c.disk_overcommit, 125);
}

static void test_bad(void **state)
{
	static const struct {
		const char *key, *value, *says;
	} bad[] = {
		{"labels", "zone", "label 'zone' is not KEY=VALUE"},
		{"labels", "=a", "must be 1 to 63 letters"},
		{"labels", "a b=c", "label 'a b' must be"},
		{"labels", KEY63 "x=c", "must be 1 to 63"},
		{"labels", "a=" KEY63 "x", "longer than 63 bytes"},
		{"labels", "a=b,a=c", "label 'a' is given twice"},
		{"labels", "a=b,,c=d", "label '' is not"},
		{"labels", "host=h9", "is the host's name"},
		{"labels", "[a=b", "label '[a' must be"},
		{"taints", "a:b", "after ':' only 'prefer' may stand"},
		{"taints", "a:prefer:prefer", "taint 'a:prefer' must be"},
		{"taints", "=b", "must be 1 to 63"},
		{"taints", "a b", "taint 'a b' must be"},
		{"taints", "a=" KEY63 "x", "longer than 63 bytes"},
		{"taints", KEY63 KEY63 KEY63, "is too long"},
		{"overcommit", "memory", "ratio of memory is a number from 0.1 to 100"},
		{"overcommit", "memory=", "is a number"},
		{"overcommit", "memory=1.5x", "is a number"},
		{"overcommit", "memory=1.", "is a number"},
		{"overcommit", "memory=.5", "is a number"},
		{"overcommit", "memory=1.2345", "is a number"},
		{"overcommit", "memory=-1", "is a number"},
		{"overcommit", "memory=0", "from 0.1 to 100"},
		{"overcommit", "disk=100.1", "from 0.1 to 100"},
		{"overcommit", "cpu=99999999999", "from 0.1 to 1000"},
		{"overcommit", "cpus=8", "'cpus=8' is none of memory, cpu, disk"},
		{"taint", "a", "did you mean taints"},
	};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
		static struct agentconf c;
		struct err err = ERR_INIT;

		agentconf_defaults(&c);
		if (agentconf_set(&c, bad[i].key, bad[i].value, &err) != -EINVAL ||
			!strstr(err_msg(&err), bad[i].says))
			fail_msg("%s %s: %s", bad[i].key, bad[i].value, err_msg(&err));
	}
}

/* A list that is longer than its room. */
static void test_many(void **state)
{
	static struct agentconf c;
	struct err err = ERR_INIT;
	struct buf list;

	(void)state;
	for (int taints = 0; taints < 2; taints++) {
		buf_init(&list);
		for (unsigned i = 0; i < 64; i++)
			buf_printf(&list, "%sk%u%s", i ? "," : "", i, taints ? "" : "=v");
		agentconf_defaults(&c);
		unit_ok(agentconf_set(&c, taints ? "taints" : "labels", buf_text(&list), &err),
			&err);
		buf_printf(&list, ",more%s", taints ? "" : "=v");
		assert_int_equal(
			agentconf_set(&c, taints ? "taints" : "labels", buf_text(&list), &err),
			-EINVAL);
		assert_non_null(strstr(err_msg(&err), "more than 64"));
		err = ERR_INIT;
		buf_free(&list);
	}
}

/* The file, over it the environment, over it the command line. */
static void test_places(void **state)
{
	static const char text[] = "# an agent\nname: h1\nlabels: {zone: a}   # where it is\n"
				   "taints: [gpu, old:prefer]\novercommit: {memory: 1.5}\n";
	static struct agentconf c;
	char path[] = "/tmp/umlaut-config.XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	char *argv[] = {(char *)(uintptr_t) "umlaut-agent", (char *)(uintptr_t) "--config", path,
		(char *)(uintptr_t) "--overcommit=cpu=2", NULL};
	char *envp[] = {(char *)(uintptr_t) "UMLAUT_AGENT_TAINTS=db=1", NULL};
	struct err err = ERR_INIT;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	(void)close(fd);
	unit_ok(agentconf_load(&c, 4, argv, envp, stdout, &err), &err);
	(void)unlink(path);
	assert_string_equal(c.labels[0].value, "a");
	assert_int_equal(c.taint_count, 1);
	assert_string_equal(c.taints[0], "db=1");
	assert_int_equal(c.cpu_overcommit, 2000);
	assert_int_equal(c.memory_overcommit, 0);
}

static void test_unknown(void **state)
{
	static const char *const args[] = {"--nosuch", "--nosuch=1", "-x", "--stat"};
	static struct agentconf c;
	char *none[] = {NULL};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(args); i++) {
		char *argv[] = {
			(char *)(uintptr_t) "umlaut-agent", (char *)(uintptr_t)args[i], NULL};
		struct err err = ERR_INIT;

		assert_int_equal(agentconf_load(&c, 2, argv, none, stdout, &err), -EINVAL);
		unit_says(&err, "unknown option");
		unit_says(&err, args[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_unknown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
