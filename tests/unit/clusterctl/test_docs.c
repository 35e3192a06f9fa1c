/* The references are true: every verb's help and every key of the lab file stand in
 * them, and nothing stands there that is not in the program. */
#include "clusterctl/ctl.h"

#include <ctype.h>

#include "clusterctl/lab_schema.h"
#include "tests/unit/unit.h"

static char *read_doc(const char *path)
{
	struct err err = ERR_INIT;
	struct buf b;

	buf_init(&b);
	unit_ok(fs_read(path, 1 << 20, &b, &err), &err);
	(void)buf_text(&b);
	return (char *)buf_steal(&b, NULL);
}

/* The text of the section under HEADING, up to the next of its level. */
static char *section(const char *doc, const char *heading)
{
	const char *at = strstr(doc, heading), *end;
	char level[8] = "\n";
	size_t n = strspn(heading, "\n#");
	char *out;

	if (!at)
		fail_msg("the heading '%s' is missing", heading);
	memcpy(level, heading, n);
	level[n] = ' ';
	level[n + 1] = 0;
	at += strlen(heading);
	end = strstr(at, level);
	out = strndup(at, end ? (size_t)(end - at) : strlen(at));
	assert_non_null(out);
	return out;
}

static void test_verbs(void **state)
{
	char *doc = read_doc("docs/reference/clusterctl.md"), *all = section(doc, "\n## Verbs");
	size_t headings = 0, count = 0;

	(void)state;
	for (const char *p = all; (p = strstr(p, "\n### ")); p++)
		headings++;
	for (const struct verb *v = verbs; v->name; v++, count++) {
		char heading[64];
		struct buf want;
		char *got;

		(void)snprintf(heading, sizeof(heading), "\n### %s\n", v->name);
		got = section(all, heading);
		buf_init(&want);
		buf_add_byte(&want, '\n');
		for (const char *line = v->help; *line;) {
			size_t n = strcspn(line, "\n");

			buf_printf(&want, "%s%.*s\n", n ? "    " : "", (int)n, line);
			line += n + (line[n] == '\n');
		}
		if (strncmp(got, buf_text(&want), want.size) != 0 ||
			strspn(got + want.size, "\n") != strlen(got + want.size))
			fail_msg("docs/reference/clusterctl.md, %s: should be%s", v->name,
				buf_text(&want));
		buf_free(&want);
		free(got);
	}
	assert_int_equal(headings, count);
	free(all);
	free(doc);
}

/* Keys that stand first in a row of the section's table: `a`, or `a`, `b`. */
static size_t documented(const char *text, char keys[40][32])
{
	size_t n = 0;

	for (const char *row = strstr(text, "\n| `"); row; row = strstr(row + 1, "\n| `")) {
		const char *cell_end = strchr(row + 3, '|');

		for (const char *p = strchr(row, '`'); p && p < cell_end;) {
			size_t size = strcspn(p + 1, "`");

			assert_true(n < 40 && size < 32);
			(void)snprintf(keys[n++], 32, "%.*s", (int)size, p + 1);
			p = strchr(p + size + 2, '`');
		}
	}
	return n;
}

static void test_keys(void **state)
{
	char *doc = read_doc("docs/reference/yaml.md");

	(void)state;
	for (size_t t = 0; t < UNIT_COUNT(lab_tables); t++) {
		const struct lab_table *table = lab_tables[t];
		char heading[64], keys[40][32], *text;
		size_t n;

		(void)snprintf(heading, sizeof(heading), "\n## %c%s\n",
			toupper((unsigned char)table->name[0]), table->name + 1);
		text = section(doc, heading);
		n = documented(text, keys);
		for (size_t i = 0; i < table->count; i++) {
			bool found = false;

			for (size_t k = 0; k < n; k++)
				found |= strcmp(keys[k], table->fields[i].key) == 0;
			if (!found)
				fail_msg("docs/reference/yaml.md does not tell of '%s' in %s",
					table->fields[i].key, table->name);
		}
		for (size_t k = 0; k < n; k++) {
			bool found = false;

			for (size_t i = 0; i < table->count; i++)
				found |= strcmp(keys[k], table->fields[i].key) == 0;
			if (!found)
				fail_msg("docs/reference/yaml.md tells of '%s' in %s, which is no "
					 "key",
					keys[k], table->name);
		}
		free(text);
	}
	free(doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_verbs),
		cmocka_unit_test(test_keys),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
