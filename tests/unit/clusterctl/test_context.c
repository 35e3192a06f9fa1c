/* Contexts: which cluster, and what is wrong with the file that says so. */
#include "clusterctl/ctl.h"

#include <errno.h>

#include "tests/unit/unit.h"

static char dir[64], file[128];

static void put(const char *text)
{
	struct err err = ERR_INIT;

	unit_ok(fs_write_atomic(file, text, strlen(text), 0600, &err), &err);
}

static int setup(void **state)
{
	(void)state;
	unit_dir_make(dir);
	(void)snprintf(file, sizeof(file), "%s/contexts.yaml", dir);
	return setenv("UMLAUT_CONFIG", file, 1);
}

static int teardown(void **state)
{
	(void)state;
	unit_dir_remove(dir);
	return unsetenv("UMLAUT_CONFIG");
}

static const char good[] =
	"# mine\n"
	"current: here\n"
	"contexts:\n"
	"  here: {endpoint: \"ipc:///run/x.sock\"}\n"
	"  there:\n"
	"    endpoint: tcp://10.0.0.1:7711\n"
	"    server_key: \"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7\"\n"
	"    key_file: admin.key\n"
	"  keyless: {endpoint: tcp://10.0.0.1:7711}\n"
	"  http: {endpoint: http://x}\n"
	"  empty: {}\n"
	"  wrong: {endpoint: tcp://10.0.0.1:7711, server_key: short, key_file: k}\n"
	"  token: {token: umlaut1:nonsense}\n";

static void test_find(void **state)
{
	static const struct {
		const char *context;
		int rc;
		const char *says;
	} bad[] = {{"keyless", -EINVAL, "needs keys"}, {"http", -EINVAL, "is not an endpoint"},
		{"empty", -EINVAL, "needs a token, or endpoint"}, {"wrong", -EINVAL, "server_key"},
		{"token", -EINVAL, "context 'token': token"},
		{"none", -ENOENT, "no context 'none' in"}};
	struct ctl ctl = {0};
	struct context c;
	struct err err = ERR_INIT;
	char want[128];

	(void)state;
	put(good);
	unit_ok(context_find(&ctl, &c, &err), &err);
	assert_string_equal(c.endpoint, "ipc:///run/x.sock");
	ctl.context = "there";
	unit_ok(context_find(&ctl, &c, &err), &err);
	assert_string_equal(c.endpoint, "tcp://10.0.0.1:7711");
	assert_true(c.has_server_key && !c.has_pair);
	/* A relative path is beside the file. */
	(void)snprintf(want, sizeof(want), "%s/admin.key", dir);
	assert_string_equal(c.key_file, want);
	for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
		err = ERR_INIT;
		ctl.context = bad[i].context;
		assert_int_equal(context_find(&ctl, &c, &err), bad[i].rc);
		unit_says(&err, bad[i].says);
	}
	/* --server wins. */
	ctl.server = "ipc:///other";
	unit_ok(context_find(&ctl, &c, &err), &err);
	assert_string_equal(c.endpoint, "ipc:///other");
	ctl.server = "tcp://10.0.0.1:1";
	assert_int_equal(context_find(&ctl, &c, &err), -EINVAL);
}

static void test_files(void **state)
{
	struct ctl ctl = {0};
	struct context c;
	struct err err = ERR_INIT;

	(void)state;
	put("current: [");
	assert_int_equal(context_find(&ctl, &c, &err), -EINVAL);
	unit_says(&err, "contexts.yaml:2:1: not valid YAML");
	err = ERR_INIT;
	put("- a\n");
	unit_ok(context_find(&ctl, &c, &err), &err);
	assert_string_equal(c.endpoint, "ipc:///run/umlaut/scheduler.sock");
	put("");
	unit_ok(context_find(&ctl, &c, &err), &err);
	assert_int_equal(remove(file), 0);
	assert_int_equal(context_find(&ctl, &c, &err), -ENOENT);
	unit_says(&err, "UMLAUT_CONFIG");
}

/* `use` changes its line and nothing else. */
static void test_use(void **state)
{
	static char use[] = "use", there[] = "there", nowhere[] = "nowhere", verb[] = "context";
	struct ctl ctl = {.verb = verb_find("context")};
	struct err err = ERR_INIT;
	struct buf text;

	(void)state;
	put(good);
	assert_int_equal(cmd_context(&ctl, 3, (char *[]){verb, use, there, NULL}), EXIT_OK);
	buf_init(&text);
	unit_ok(fs_read(file, 1 << 16, &text, &err), &err);
	assert_memory_equal(text.data, "current: there\n# mine\ncontexts:\n", 31);
	assert_int_equal(text.size, sizeof(good) - 1 + 1);
	buf_free(&text);
	assert_int_equal(
		cmd_context(&ctl, 3, (char *[]){verb, use, nowhere, NULL}), EXIT_NOT_FOUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_use),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
