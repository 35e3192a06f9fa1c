/* What get prints: the JSON contract, YAML that reads back the same, tables. */
#include "clusterctl/show.h"

#include <fcntl.h>
#include <unistd.h>

#include "clusterctl/ydoc.h"
#include "clusterctl/yamlout.h"
#include "tests/unit/unit.h"

static uint8_t mac[6] = {2, 0, 0, 0, 0, 7}, ip4[4] = {10, 1, 0, 2}, ip6[16] = {0xfd, [15] = 2};

/* A reply with one guest; its strings are not ours to free. */
struct sample {
	Um__GetReply reply;
	Um__GuestInfo guest, *guests[1];
	Um__Nic nic, bare, *nics[2];
};

static void fill(struct sample *s)
{
	um__get_reply__init(&s->reply);
	um__guest_info__init(&s->guest);
	um__nic__init(&s->nic);
	um__nic__init(&s->bare);
	s->nic.network = (char *)(uintptr_t) "lan";
	s->nic.mac = (ProtobufCBinaryData){6, mac};
	s->nic.ip4 = (ProtobufCBinaryData){4, ip4};
	s->nic.ip6 = (ProtobufCBinaryData){16, ip6};
	s->bare.network = (char *)(uintptr_t) "wan";
	s->bare.mac = (ProtobufCBinaryData){3, mac}; /* not a MAC */
	s->nics[0] = &s->nic;
	s->nics[1] = &s->bare;
	s->guest.name = (char *)(uintptr_t) "hello/web-1";
	s->guest.state = (char *)(uintptr_t) "running";
	s->guest.reason = (char *)(uintptr_t) "say \"hi\": #1\n\x1b[31m";
	s->guest.image = (char *)(uintptr_t) "no";
	s->guest.memory_bytes = 64u << 20;
	s->guest.cpu_milli = 250;
	s->guest.epoch = UINT64_MAX;
	s->guest.uid = 0xabc;
	s->guest.started_at = UINT64_C(1700000000123);
	s->guest.nics = s->nics;
	s->guest.n_nics = 2;
	s->guests[0] = &s->guest;
	s->reply.guests = s->guests;
	s->reply.n_guests = 1;
}

static void test_json(void **state)
{
	struct sample s;
	struct buf b;
	struct json j;

	(void)state;
	fill(&s);
	buf_init(&b);
	json_init(&j, &b, 0);
	assert_true(show_json(&s.reply, UM__KIND__KIND_GUESTS, 0, &j));
	assert_string_equal(buf_text(&b),
		"{\"name\":\"hello/web-1\",\"host\":null,\"state\":\"running\",\"ready\":false,"
		"\"reason\":\"say \\\"hi\\\": #1\\n\\u001b[31m\",\"image\":\"no\",\"kernel\":\"\","
		"\"memory_bytes\":67108864,\"cpus\":0.25,\"networks\":[{\"network\":\"lan\","
		"\"address\":\"10.1.0.2\",\"address6\":\"fd00::2\",\"mac\":\"02:00:00:00:00:07\"},"
		"{\"network\":\"wan\",\"address\":null,\"mac\":\"\"}],\"epoch\":"
		"18446744073709551615,"
		"\"restarts\":0,\"started_at\":\"2023-11-14T22:13:20.123Z\",\"created_at\":null,"
		"\"uid\":\"0000000000000abc\",\"desired\":\"\",\"exit_status\":0,\"final\":false,"
		"\"placed_because\":\"\",\"disk_used_bytes\":0}");
	assert_false(show_json(&s.reply, UM__KIND__KIND_GUESTS, 1, &j));
	assert_false(show_json(&s.reply, UM__KIND__KIND_HOSTS, 0, &j));
	buf_free(&b);
}

static bool same(const struct ynode *a, const struct ynode *b)
{
	if (a->kind != b->kind || a->count != b->count)
		return false;
	if (a->kind == YNODE_SCALAR) /* a plain text may become a quoted one, not a value */
		return strcmp(a->text, b->text) == 0 && ynode_is_null(a) == ynode_is_null(b);
	for (size_t i = 0; i < a->count; i++) {
		if (a->kind == YNODE_LIST && !same(a->items[i], b->items[i]))
			return false;
		if (a->kind == YNODE_MAP &&
			(strcmp(a->pairs[i].key->text, b->pairs[i].key->text) != 0 ||
				!same(a->pairs[i].value, b->pairs[i].value)))
			return false;
	}
	return true;
}

static void test_yaml(void **state)
{
	static const char *const cases[] = {"{}", "[]", "1", "\"a\"", "\"no\"", "\"\"", "null",
		"{\"a\":[]}", "[[1,[2,[]]],{\"a\":{\"b\":[{\"c\":1,\"d\":[1,2]}]}}]",
		"[{\"a\":\"x: y\"},{\"b\":\"- z\"},{\"c\":\"# q\"},{\"d\":\"  s "
		"\"},{\"e\":\"1e3\"}]",
		"{\"k: 1\":\"\\u001b\\\"\\\\\\n\",\"true\":\"true\",\"0x10\":\"0x10\",\"~\":\"~\"}",
		"[\"a:\",\"a: b\",\"a "
		"#b\",\"a#b\",\"&a\",\"*a\",\"!a\",\"%a\",\"@a\",\"`a\",\"'a\",\"{\","
		"\"[\",\"|\",\">\",\"?\",\"-\",\"--- a\",\"/x\",\"a "
		"b\",\"10:20\",\"fd00::1\",\"a/b-1\"]"};
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
		for (int item = 0; item < 2; item++) {
			struct ydoc *a, *b;
			struct mark mark;
			const struct ynode *back;
			struct buf out;

			buf_init(&out);
			unit_ok(yamlout(cases[i], strlen(cases[i]), item, &out, &err), &err);
			unit_ok(ydoc_parse(cases[i], strlen(cases[i]), &a, &mark, &err), &err);
			if (ydoc_parse(out.data, out.size, &b, &mark, &err) < 0)
				fail_msg("%s is no YAML: %s", buf_text(&out), err_msg(&err));
			if (ydoc_count(a)) {
				back = ydoc_root(b, 0);
				if (item)
					back = back->items[0];
				if (!same(ydoc_root(a, 0), back))
					fail_msg("%s became\n%s", cases[i], buf_text(&out));
			}
			ydoc_free(a);
			ydoc_free(b);
			buf_free(&out);
		}
	}
}

/* What FN prints on standard output. */
static void captured(struct table *t, struct buf *out)
{
	char path[] = "/tmp/umlaut-show.XXXXXX";
	struct err err = ERR_INIT;
	int fd = mkostemp(path, O_CLOEXEC), keep;

	assert_true(fd >= 0);
	(void)fflush(stdout);
	keep = fcntl(1, F_DUPFD_CLOEXEC, 10);
	(void)dup2(fd, 1);
	table_print(t, true);
	(void)fflush(stdout);
	(void)dup2(keep, 1);
	(void)close(keep);
	(void)close(fd);
	unit_ok(fs_read(path, 1 << 20, out, &err), &err);
	(void)unlink(path);
}

static void test_table(void **state)
{
	static const char *const columns[] = {"NAME", "X", "LAST"};
	struct table *t = table_new(columns, 3);
	struct sample s;
	struct buf out;
	const struct kind *guests = kind_find("g");

	(void)state;
	buf_init(&out);
	table_add(t, "\xc3\xa4\xc3\xb6");
	table_add(t, "");
	table_addf(t, "%d", 5);
	table_add(t, "a longer name");
	table_add(t, "x\x1b[2J\n");
	table_add(t, "failed");
	captured(t, &out);
	assert_string_equal(buf_text(&out), "NAME           X       LAST\n"
					    "\xc3\xa4\xc3\xb6             -       5\n"
					    "a longer name  x?[2J?  failed\n");
	table_free(t);
	out.size = 0;
	fill(&s);
	t = table_new(guests->wide, guests->wide_count);
	assert_true(show_cells(&s.reply, UM__KIND__KIND_GUESTS, 0, true, t));
	captured(t, &out);
	/* As many cells as columns: the header and one row. */
	assert_int_equal(out.data[out.size - 1], '\n');
	assert_non_null(strstr(buf_text(&out), "10.1.0.2,"));
	assert_non_null(strstr(buf_text(&out), "0000000000000abc"));
	table_free(t);
	buf_free(&out);
}

static void test_kinds(void **state)
{
	(void)state;
	assert_ptr_equal(kind_find("guest"), kind_find("guests"));
	assert_ptr_equal(kind_find("dep"), kind_find("deployments"));
	assert_null(kind_find("gust"));
	assert_null(kind_find(""));
}

static Um__MigrationInfo a_move(void)
{
	Um__MigrationInfo m = UM__MIGRATION_INFO__INIT;

	m.move = 7;
	m.guest = (char *)(uintptr_t) "lab/g";
	m.from = (char *)(uintptr_t) "h1";
	m.to = (char *)(uintptr_t) "h2";
	m.state = (char *)(uintptr_t) "copying";
	m.round = 2;
	m.bytes_done = 3 << 20;
	m.bytes_left = 6 << 20;
	m.bytes_total = 40 << 20;
	m.wire_bytes = 20 << 20;
	m.rate = 2 << 20;
	m.expected_ms = 210;
	m.started_at = UINT64_C(1700000000000);
	return m;
}

static void line_is(const Um__MigrationInfo *m, const char *wanted)
{
	char line[256], cut[12];

	show_move_line(m, line, sizeof(line));
	assert_string_equal(line, wanted);
	show_move_line(m, cut, sizeof(cut));
	assert_int_equal(strlen(cut), sizeof(cut) - 1);
	assert_memory_equal(cut, wanted, sizeof(cut) - 1);
}

static void test_move_line(void **state)
{
	Um__MigrationInfo m = a_move();

	(void)state;
	line_is(&m, "lab/g: copying, round 2: 3M sent, ~6M left, 2M/s, 3s; downtime ~210ms");
	m.expected_ms = 0;
	m.rate = 0;
	line_is(&m, "lab/g: copying, round 2: 3M sent, ~6M left");
	m.state = (char *)(uintptr_t) "preparing";
	m.reason = (char *)(uintptr_t) "h2 fetches its image";
	line_is(&m, "lab/g: preparing: h2 fetches its image");
	assert_false(show_move_ended(&m));
	m.state = (char *)(uintptr_t) "cancelled";
	assert_true(show_move_ended(&m));
}

static void rows(const Um__GetReply *reply, const char *kind, struct buf *out)
{
	const struct kind *k = kind_find(kind);
	struct table *t = table_new(k->wide, k->wide_count);

	for (size_t i = 0; show_cells(reply, k->kind, i, true, t); i++)
		;
	out->size = 0;
	captured(t, out);
	table_free(t);
}

static void test_move_cells(void **state)
{
	Um__MigrationInfo m = a_move(), *moves[] = {&m};
	Um__GetReply reply = UM__GET_REPLY__INIT;
	struct buf b;

	(void)state;
	buf_init(&b);
	reply.migrations = moves;
	reply.n_migrations = 1;
	rows(&reply, "migrations", &b);
	assert_non_null(strstr(buf_text(&b), "2M/s"));
	assert_non_null(strstr(buf_text(&b), "~210ms"));
	m.state = (char *)(uintptr_t) "done";
	m.frozen_at = m.started_at + 1000;
	m.running_at = m.started_at + 1307;
	m.ended_at = m.started_at + 1400;
	rows(&reply, "migrations", &b);
	assert_null(strstr(buf_text(&b), "2M/s"));
	assert_null(strstr(buf_text(&b), "~"));
	assert_non_null(strstr(buf_text(&b), "307ms"));
	assert_non_null(strstr(buf_text(&b), "1.4s"));
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_yaml),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_move_line),
		cmocka_unit_test(test_move_cells),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
