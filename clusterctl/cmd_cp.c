/* cp: files and folders into and out of guests, as a tar stream. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "clusterctl/copy.h"
#include "clusterctl/progress.h"
#include "lib/str.h"

/* "GUEST:PATH", where GUEST is a name as clusterctl knows them: so "./a:b" and
 * "/a:b" are files here. */
static bool is_remote(const char *arg, char guest[STR_FULLNAME_MAX + 1], const char **path)
{
	const char *colon = strchr(arg, ':'), *slash;
	char name[STR_FULLNAME_MAX + 1], *second;

	if (!colon || (size_t)(colon - arg) > STR_FULLNAME_MAX)
		return false;
	memcpy(name, arg, (size_t)(colon - arg));
	name[colon - arg] = 0;
	slash = strchr(name, '/');
	second = name;
	if (slash) {
		second = name + (slash - name);
		*second++ = 0;
		if (str_check_name("", name, NULL) < 0)
			return false;
	}
	if (str_check_name("", second, NULL) < 0)
		return false;
	(void)str_format(guest, STR_FULLNAME_MAX + 1, "%.*s", (int)(colon - arg), arg);
	*path = colon + 1;
	return true;
}

struct copy {
	struct stream stream;
	struct packer *packer;
	struct unpacker *unpacker;
	struct err err; /* of our side */
	struct progress progress;
};

static void on_data(void *arg, struct stream *s, uint32_t channel, const uint8_t *data, size_t size)
{
	struct copy *c = arg;

	progress_add(&c->progress, size);
	if (c->unpacker && channel == 1 && !c->err.code &&
		unpacker_add(c->unpacker, data, size, &c->err) < 0)
		stream_break(s, &c->err);
	stream_consumed(s, size);
}

/* Makes and sends as much as may be sent. */
static void on_writable(void *arg, struct stream *s)
{
	struct copy *c = arg;

	struct packer *p = c->packer;

	while (p && !c->err.code && stream_room(s)) {
		size_t room = stream_room(s), size;
		const uint8_t *piece;
		int rc;

		rc = packer_peek(p, &piece, &size, &c->err);
		if (rc < 0) {
			stream_break(s, &c->err);
			return;
		}
		if (!size) {
			if (!stream_send(s, NULL, 0, true))
				return;
			packer_free(p);
			c->packer = NULL;
			return;
		}
		if (size > room)
			size = room;
		if (size > WIRE_STREAM_DATA)
			size = WIRE_STREAM_DATA;
		if (!stream_send(s, piece, size, false))
			return;
		progress_add(&c->progress, size);
		packer_consume(p, size);
	}
}

static int carry(struct ctl *ctl, struct copy *c, const char *guest, const char *path)
{
	static const struct stream_ops ops = {.data = on_data, .writable = on_writable};
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	struct err err = ERR_INIT;
	int rc;

	open.kind = c->packer ? UM__STREAM_KIND__STREAM_COPY_TO : UM__STREAM_KIND__STREAM_COPY_FROM;
	open.guest = (char *)(uintptr_t)guest;
	open.path = (char *)(uintptr_t)(*path ? path : "/");
	open.stdin_open = c->packer != NULL;
	if (stream_open(&c->stream, ctl, &open, &ops, c, &err) < 0)
		return ctl->interrupted ? 130 : ctl_fail_err(&err);
	on_writable(c, &c->stream);
	while (c->stream.state != STREAM_ENDED && !ctl->interrupted &&
		c->stream.downs == ctl->downs)
		(void)loop_run(ctl->loop, NULL);
	progress_end(&c->progress); /* before anything is said */
	if (ctl->interrupted)
		return 130;
	if (c->stream.state != STREAM_ENDED)
		return ctl_fail(EXIT_UNREACHABLE,
			"the connection to the scheduler was lost; the copy is not whole");
	if (c->err.code)
		return ctl_fail_err(&c->err);
	rc = stream_result(&c->stream);
	if (rc == EXIT_OK && c->unpacker && unpacker_finish(c->unpacker, &err) < 0)
		rc = ctl_fail_err(&err);
	return rc;
}

static int transfer(
	struct ctl *ctl, struct copy *c, const char *from, const char *guest, const char *path)
{
	struct stat st;
	uint64_t whole = 0;
	int rc;

	/* Of a folder nobody knows before it was read. */
	if (c->packer && stat(from, &st) == 0 && S_ISREG(st.st_mode))
		whole = (uint64_t)st.st_size;
	progress_begin(&c->progress, ctl->loop, whole);
	rc = carry(ctl, c, guest, path);
	progress_end(&c->progress);
	return rc;
}

int cmd_cp(struct ctl *ctl, int argc, char **argv)
{
	const struct opt opts[] = {OPT_LAST};
	char guest[STR_FULLNAME_MAX + 1], other[STR_FULLNAME_MAX + 1];
	const char *path, *path2;
	bool from, to;
	struct copy *c;
	struct err err = ERR_INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n != 3)
		return ctl_usage(ctl, "a source and a target are needed");
	from = is_remote(argv[1], guest, &path);
	to = is_remote(argv[2], from ? other : guest, from ? &path2 : &path);
	if (from == to)
		return ctl_usage(ctl, from ? "between two guests, copy in two steps"
					   : "one of the two must be GUEST:PATH");
	c = calloc(1, sizeof(*c));
	if (!c)
		return ctl_fail(EXIT_FAILED, "memory is short");
	rc = to ? packer_new(argv[1], path, &c->packer, &err)
		: unpacker_new(argv[2], &c->unpacker, &err);
	if (rc < 0)
		rc = ctl_fail_err(&err);
	else
		rc = ctl_connect(ctl);
	if (rc == 0) {
		rc = transfer(ctl, c, argv[1], guest, path);
		stream_close(&c->stream);
	}
	packer_free(c->packer);
	unpacker_free(c->unpacker);
	free(c);
	return rc;
}
