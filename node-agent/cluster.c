#include "node-agent/cluster.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/str.h"

static int parse_line(struct cluster *c, char *line, struct err *err)
{
	char *value = strchr(line, ' ');

	if (!value)
		return err_set(err, -EINVAL, "a line without a value");
	*value++ = '\0';
	if (strcmp(line, "cluster") == 0)
		return str_copy(c->id, sizeof(c->id), value) < 0
			       ? err_set(err, -EINVAL, "the id is too long")
			       : 0;
	if (strcmp(line, "endpoint") == 0)
		return str_copy(c->endpoint, sizeof(c->endpoint), value) < 0
			       ? err_set(err, -EINVAL, "the endpoint is too long")
			       : 0;
	if (strcmp(line, "server") == 0) {
		c->curve = true;
		return curve_parse(value, c->server_key, err);
	}
	return err_set(err, -EINVAL, "unknown line '%.20s'", line);
}

int cluster_load(const char *path, struct cluster *out, struct err *err)
{
	struct cluster c = {.curve = false};
	struct buf text;
	char *line, *next;
	int rc;

	if (access(path, F_OK) < 0)
		return err_set(err, -ENOENT, "this host has not joined a cluster");
	buf_init(&text);
	rc = fs_read(path, 4096, &text, err);
	buf_add_byte(&text, '\0');
	for (line = (char *)text.data; rc == 0 && line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		rc = parse_line(&c, line, err);
	}
	buf_free(&text);
	if (rc < 0)
		return err_wrap(err, "%s", path);
	*out = c;
	return 0;
}

int cluster_save(const char *path, const struct cluster *c, struct err *err)
{
	char key[CURVE_TEXT] = "";
	struct buf text;
	int rc;

	buf_init(&text);
	buf_printf(&text, "cluster %s\nendpoint %s\n", c->id, c->endpoint);
	if (c->curve) {
		curve_text(key, c->server_key);
		buf_printf(&text, "server %s\n", key);
	}
	rc = text.failed ? err_set(err, -ENOMEM, "memory is short")
			 : fs_write_atomic(path, text.data, text.size, 0600, err);
	buf_free(&text);
	return rc;
}
