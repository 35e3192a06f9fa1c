/* Which cluster: see 'clusterctl help'. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clusterctl/ctl.h"
#include "clusterctl/ydoc.h"
#include "lib/curve.h"
#include "lib/fs.h"
#include "lib/str.h"

#define DEFAULT_ENDPOINT "ipc:///run/umlaut/scheduler.sock"
#define FILE_MAX (1u << 20)

/* The file in use: PATH is "" when there is none. */
static int find_file(char path[PATH_MAX], struct err *err)
{
	const char *given = getenv("UMLAUT_CONFIG"), *home = getenv("HOME"); /* NOLINT */
	char exe[PATH_MAX];
	ssize_t n;

	path[0] = 0;
	if (given && *given) {
		if (access(given, R_OK) < 0)
			return err_errno(err, errno, "UMLAUT_CONFIG names %s", given);
		return str_copy(path, PATH_MAX, given);
	}
	n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	if (n > 0) {
		exe[n] = 0;
		/* <build>/bin/clusterctl: <build>/umlaut-context.yaml */
		for (int up = 0; up < 2; up++) {
			char *slash = strrchr(exe, '/');

			if (slash)
				*slash = 0;
		}
		if (str_format(path, PATH_MAX, "%s/umlaut-context.yaml", exe) > 0 &&
			access(path, R_OK) == 0)
			return 0;
	}
	if (home && str_format(path, PATH_MAX, "%s/.config/umlaut/contexts.yaml", home) > 0 &&
		access(path, R_OK) == 0)
		return 0;
	(void)str_copy(path, PATH_MAX, "/etc/umlaut/contexts.yaml");
	if (access(path, R_OK) == 0)
		return 0;
	path[0] = 0;
	return 0;
}

static int text_of(const struct ynode *map, const char *key, char *out, size_t size)
{
	const struct ynode *node = map ? ynode_get(map, key, NULL) : NULL;

	if (!node || node->kind != YNODE_SCALAR || ynode_is_null(node))
		return 0;
	return str_copy(out, size, node->text);
}

static int load(const char *path, struct ydoc **doc, struct err *err)
{
	struct mark mark = {0};
	struct buf text;
	int rc;

	buf_init(&text);
	rc = fs_read(path, FILE_MAX, &text, err);
	if (rc == 0) {
		rc = ydoc_parse(text.data, text.size, doc, &mark, err);
		if (rc < 0)
			(void)err_wrap(err, "%s:%u:%u", path, mark.line, mark.column);
	}
	buf_free(&text);
	return rc;
}

static int from_node(
	const struct ynode *node, const char *path, struct context *out, struct err *err)
{
	char key[CURVE_TEXT] = "", text[CURVE_TOKEN_MAX] = "";
	struct curve_token token;

	if (text_of(node, "token", text, sizeof(text)) == 0 && *text) {
		if (curve_token_parse(text, &token, err) < 0)
			return err_wrap(err, "%s: context '%s': token", path, out->name);
		(void)str_copy(out->endpoint, sizeof(out->endpoint), token.endpoint);
		memcpy(out->server_key, token.server_key, sizeof(out->server_key));
		out->has_server_key = out->has_pair = true;
		out->pair = token.pair;
		return 0;
	}
	if (node->kind != YNODE_MAP ||
		text_of(node, "endpoint", out->endpoint, sizeof(out->endpoint)) < 0 ||
		text_of(node, "key_file", out->key_file, sizeof(out->key_file)) < 0 ||
		text_of(node, "server_key", key, sizeof(key)) < 0 || !*out->endpoint)
		return err_set(err, -EINVAL,
			"%s: context '%s' needs a token, or endpoint (and for tcp:// server_key "
			"and key_file)",
			path, out->name);
	if (*key) {
		if (curve_parse(key, out->server_key, err) < 0)
			return err_wrap(err, "%s: context '%s': server_key", path, out->name);
		out->has_server_key = true;
	}
	return 0;
}

/* A relative key_file lies beside the file that names it. */
static int key_path(struct context *c, const char *path, struct err *err)
{
	char whole[sizeof(c->key_file)];
	const char *slash = strrchr(path, '/');

	if (!*c->key_file || *c->key_file == '/' || !slash)
		return 0;
	if (str_format(whole, sizeof(whole), "%.*s/%s", (int)(slash - path), path, c->key_file) < 0)
		return err_set(err, -ENAMETOOLONG, "%s: key_file is too long", path);
	return str_copy(c->key_file, sizeof(c->key_file), whole);
}

static int check(struct context *c, struct err *err)
{
	if (str_starts(c->endpoint, "tcp://") && !c->has_pair &&
		(!*c->key_file || !c->has_server_key))
		return err_set(err, -EINVAL,
			"%s needs keys: use a context with server_key and key_file (see "
			"'clusterctl context --help')",
			c->endpoint);
	if (!str_starts(c->endpoint, "tcp://") && !str_starts(c->endpoint, "ipc://"))
		return err_set(err, -EINVAL,
			"'%s' is not an endpoint (ipc:///PATH or tcp://HOST:PORT)", c->endpoint);
	return 0;
}

int context_find(const struct ctl *ctl, struct context *out, struct err *err)
{
	struct context c = {0};
	const struct ynode *root = NULL, *all, *node;
	struct ydoc *doc = NULL;
	char path[PATH_MAX];
	int rc;

	if (ctl->server && *ctl->server) {
		(void)str_copy(c.origin, sizeof(c.origin), "--server");
		if (str_copy(c.endpoint, sizeof(c.endpoint), ctl->server) < 0)
			return err_set(err, -EINVAL, "--server is too long");
		*out = c;
		return check(out, err);
	}
	rc = find_file(path, err);
	if (rc == 0 && *path)
		rc = load(path, &doc, err);
	if (rc < 0)
		return rc;
	if (doc && ydoc_count(doc))
		root = ydoc_root(doc, 0);
	if (ctl->context && *ctl->context)
		rc = str_copy(c.name, sizeof(c.name), ctl->context);
	else if (root && root->kind == YNODE_MAP)
		rc = text_of(root, "current", c.name, sizeof(c.name));
	all = root && root->kind == YNODE_MAP ? ynode_get(root, "contexts", NULL) : NULL;
	if (rc < 0) {
		rc = err_set(err, rc, "the context's name is too long");
	} else if (*c.name) {
		node = all && all->kind == YNODE_MAP ? ynode_get(all, c.name, NULL) : NULL;
		if (node)
			rc = from_node(node, path, &c, err);
		if (node && rc == 0)
			rc = key_path(&c, path, err);
		else if (!node)
			rc = err_set(err, -ENOENT, "no context '%s' in %s", c.name,
				*path ? path : "any file");
		(void)str_format(c.origin, sizeof(c.origin), "context %s of %s", c.name, path);
	} else {
		(void)str_copy(c.endpoint, sizeof(c.endpoint), DEFAULT_ENDPOINT);
		(void)str_copy(c.origin, sizeof(c.origin), "the default");
	}
	ydoc_free(doc);
	if (rc == 0)
		rc = check(&c, err);
	if (rc == 0)
		*out = c;
	return rc;
}

int context_list(const struct ctl *ctl)
{
	static const char *const columns[] = {"CURRENT", "NAME", "ENDPOINT"};
	const struct ynode *root, *all;
	struct ydoc *doc = NULL;
	struct err err = ERR_INIT;
	char path[PATH_MAX], current[64] = "";
	struct table *t;

	(void)ctl;
	if (find_file(path, &err) < 0 || (*path && load(path, &doc, &err) < 0))
		return ctl_fail_err(&err);
	t = table_new(columns, 3);
	root = doc && ydoc_count(doc) ? ydoc_root(doc, 0) : NULL;
	all = root && root->kind == YNODE_MAP ? ynode_get(root, "contexts", NULL) : NULL;
	if (root && root->kind == YNODE_MAP)
		(void)text_of(root, "current", current, sizeof(current));
	for (size_t i = 0; all && all->kind == YNODE_MAP && i < all->count; i++) {
		char endpoint[256] = "";

		(void)text_of(all->pairs[i].value, "endpoint", endpoint, sizeof(endpoint));
		table_add(t, strcmp(all->pairs[i].key->text, current) == 0 ? "*" : "");
		table_add(t, all->pairs[i].key->text);
		table_add(t, endpoint);
	}
	table_print(t, true);
	table_free(t);
	ydoc_free(doc);
	return EXIT_OK;
}

/* Changes the line "current:" alone: the file is its owner's. */
static int context_use(const char *name)
{
	const struct ynode *root, *all;
	struct ydoc *doc = NULL;
	struct err err = ERR_INIT;
	char path[PATH_MAX];
	struct buf text, out;
	const char *line, *end;
	int rc;

	if (find_file(path, &err) < 0 || (*path && load(path, &doc, &err) < 0))
		return ctl_fail_err(&err);
	root = doc && ydoc_count(doc) ? ydoc_root(doc, 0) : NULL;
	all = root && root->kind == YNODE_MAP ? ynode_get(root, "contexts", NULL) : NULL;
	if (!all || !ynode_get(all, name, NULL)) {
		ydoc_free(doc);
		return ctl_fail(EXIT_NOT_FOUND, "no context '%s' in %s", name,
			*path ? path : "any file ('clusterctl help' says where they are)");
	}
	ydoc_free(doc);
	buf_init(&text);
	buf_init(&out);
	rc = fs_read(path, FILE_MAX, &text, &err);
	buf_printf(&out, "current: %s\n", name);
	for (line = buf_text(&text); rc == 0 && *line; line = end) {
		end = line + strcspn(line, "\n");
		end += *end == '\n';
		if (!str_starts(line, "current:"))
			buf_add(&out, line, (size_t)(end - line));
	}
	if (rc == 0)
		rc = fs_write_atomic(path, out.data, out.size, 0600, &err);
	buf_free(&text);
	buf_free(&out);
	return rc < 0 ? ctl_fail_err(&err) : EXIT_OK;
}

int cmd_context(struct ctl *ctl, int argc, char **argv)
{
	const struct opt opts[] = {OPT_LAST};
	struct context c;
	struct err err = ERR_INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL);

	if (n < 0)
		return -n;
	if (n == 1 || strcmp(argv[1], "ls") == 0)
		return context_list(ctl);
	if (strcmp(argv[1], "use") == 0)
		return n == 3 ? context_use(argv[2]) : ctl_usage(ctl, "use which context?");
	if (strcmp(argv[1], "show") != 0)
		return ctl_usage(ctl, "'%s' is none of ls, show, use", argv[1]);
	if (context_find(ctl, &c, &err) < 0)
		return ctl_fail_err(&err);
	(void)printf("endpoint: %s\nfrom: %s\n", c.endpoint, c.origin);
	if (*c.key_file)
		(void)printf("key_file: %s\n", c.key_file);
	return EXIT_OK;
}
