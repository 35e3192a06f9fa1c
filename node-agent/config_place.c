/* What of a host decides where guests go: labels, taints, over-commit. */
#include "node-agent/config_place.h"

#include <errno.h>
#include <string.h>

#define KEY_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-"
#define ITEM_MAX (2 * STR_NAME_MAX + 16)

typedef int item_fn(struct agentconf *c, char *item, struct err *err);

static const char *skip(const char *p)
{
	return p + strspn(p, " \t");
}

/* Without the quotes around it, as YAML has them. */
static char *unquote(char *text)
{
	size_t n = strlen(text);

	if (n < 2 || (*text != '"' && *text != '\'') || text[n - 1] != *text)
		return text;
	text[n - 1] = '\0';
	return text + 1;
}

/* "A, B, C", which may stand in the brackets that YAML has for a list or a map. */
static int each(struct agentconf *c, const char *list, item_fn *fn, struct err *err)
{
	const char *p = skip(list), *end = p + strlen(p);

	while (end > p && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	if (end - p >= 2 && ((*p == '[' && end[-1] == ']') || (*p == '{' && end[-1] == '}'))) {
		p++;
		end--;
	}
	for (p = skip(p); p < end;) {
		const char *comma = memchr(p, ',', (size_t)(end - p)), *stop = comma ? comma : end;
		char item[ITEM_MAX];
		int rc;

		while (stop > p && (stop[-1] == ' ' || stop[-1] == '\t'))
			stop--;
		if (str_format(item, sizeof(item), "%.*s", (int)(stop - p), p) < 0)
			return err_set(err, -EINVAL, "'%.60s...' is too long", p);
		rc = fn(c, unquote(item), err);
		if (rc < 0)
			return rc;
		p = comma ? skip(comma + 1) : end;
	}
	return 0;
}

static int check_key(const char *what, const char *key, size_t size, struct err *err)
{
	if (!size || size > STR_NAME_MAX || strspn(key, KEY_CHARS) < size)
		return err_set(err, -EINVAL,
			"%s '%.*s' must be 1 to %d letters, digits, '.', '_', '/' or '-'", what,
			size > 80 ? 80 : (int)size, key, STR_NAME_MAX);
	return 0;
}

/* "KEY=VALUE" or "KEY: VALUE"; the value, or NULL. */
static char *split(char *item, size_t *key_size)
{
	char *sep = item + strcspn(item, "=:");

	*key_size = (size_t)(sep - item);
	while (*key_size && (item[*key_size - 1] == ' ' || item[*key_size - 1] == '\t'))
		--*key_size;
	return *sep ? unquote(sep + 1 + strspn(sep + 1, " \t")) : NULL;
}

/* ---- labels ---- */

static int add_label(struct agentconf *c, char *item, struct err *err)
{
	struct agentconf_label *label = &c->labels[c->label_count];
	size_t size;
	const char *value = split(item, &size);

	if (!value)
		return err_set(err, -EINVAL, "label '%.80s' is not KEY=VALUE", item);
	if (check_key("label", item, size, err) < 0)
		return -EINVAL;
	if (size == 4 && str_starts(item, "host"))
		return err_set(
			err, -EINVAL, "label 'host' is the host's name; give it with --name");
	if (c->label_count == AGENTCONF_LABELS_MAX)
		return err_set(err, -EINVAL, "more than %d labels", AGENTCONF_LABELS_MAX);
	if (str_format(label->key, sizeof(label->key), "%.*s", (int)size, item) < 0 ||
		str_copy(label->value, sizeof(label->value), value) < 0)
		return err_set(err, -EINVAL, "the value of label '%.80s' is longer than %d bytes",
			item, STR_NAME_MAX);
	for (size_t i = 0; i < c->label_count; i++)
		if (strcmp(c->labels[i].key, label->key) == 0)
			return err_set(err, -EINVAL, "label '%s' is given twice", label->key);
	c->label_count++;
	return 0;
}

int agentconf_set_labels(struct agentconf *c, const char *v, struct err *err)
{
	c->label_count = 0;
	return each(c, v, add_label, err);
}

/* ---- taints ---- */

static int add_taint(struct agentconf *c, char *item, struct err *err)
{
	const char *colon = strrchr(item, ':'), *equals = strchr(item, '=');
	size_t size = colon ? (size_t)(colon - item) : strlen(item);
	size_t key = equals ? (size_t)(equals - item) : size;

	if (colon && strcmp(colon, ":prefer") != 0)
		return err_set(err, -EINVAL,
			"taint '%.80s': after ':' only 'prefer' may stand (KEY, KEY=VALUE, "
			"KEY=VALUE:prefer)",
			item);
	if (check_key("taint", item, key, err) < 0)
		return -EINVAL;
	if (size - key > STR_NAME_MAX + 1)
		return err_set(err, -EINVAL, "the value of taint '%.80s' is longer than %d bytes",
			item, STR_NAME_MAX);
	if (c->taint_count == AGENTCONF_TAINTS_MAX)
		return err_set(err, -EINVAL, "more than %d taints", AGENTCONF_TAINTS_MAX);
	return str_copy(c->taints[c->taint_count++], sizeof(c->taints[0]), item);
}

int agentconf_set_taints(struct agentconf *c, const char *v, struct err *err)
{
	c->taint_count = 0;
	return each(c, v, add_taint, err);
}

/* ---- over-commit ---- */

/* "1.5" is 1500; at most three digits after the point. */
static int parse_ratio(const char *text, uint32_t *out)
{
	size_t whole = strspn(text, "0123456789"), rest = 0;
	uint32_t v = 0;

	if (text[whole] == '.')
		rest = strspn(text + whole + 1, "0123456789");
	if (!whole || whole > 4 || rest > 3 || (text[whole] == '.' && !rest) ||
		text[whole + (rest ? rest + 1 : 0)])
		return -EINVAL;
	for (size_t i = 0; i < whole; i++)
		v = 10 * v + (uint32_t)(text[i] - '0');
	for (size_t i = 0; i < 3; i++)
		v = 10 * v + (i < rest ? (uint32_t)(text[whole + 1 + i] - '0') : 0);
	*out = v;
	return 0;
}

static int add_overcommit(struct agentconf *c, char *item, struct err *err)
{
	const struct {
		const char *name;
		uint32_t *to, max;
	} all[] = {{"memory", &c->memory_overcommit, 100}, {"cpu", &c->cpu_overcommit, 1000},
		{"disk", &c->disk_overcommit, 100}};
	size_t size;
	const char *value = split(item, &size);

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		uint32_t v;

		if (strlen(all[i].name) != size || strncmp(item, all[i].name, size) != 0)
			continue;
		if (!value || parse_ratio(value, &v) < 0 || v < 100 || v > 1000 * all[i].max)
			return err_set(err, -EINVAL,
				"'%.40s': the ratio of %s is a number from 0.1 to %u, as in 1.5",
				value ? value : "", all[i].name, all[i].max);
		*all[i].to = v;
		return 0;
	}
	return err_set(
		err, -EINVAL, "'%.40s' is none of memory, cpu, disk (cpu=8,memory=1.5)", item);
}

int agentconf_set_overcommit(struct agentconf *c, const char *v, struct err *err)
{
	c->memory_overcommit = c->cpu_overcommit = c->disk_overcommit = 0;
	return each(c, v, add_overcommit, err);
}
