#include "guest/init/hosts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/init/files.h"
#include "lib/buf.h"
#include "lib/str.h"

#define HOSTS_PATH "/etc/hosts"
#define HOSTS_FILE_MAX (4u << 20)
#define MARK_BEGIN "# umlaut: from here on managed by Umlaut, changes are lost\n"
#define MARK_END "# umlaut: end\n"

static int add(struct hosts *h, const Um__HostEntry *e, struct err *err)
{
	struct hosts_entry *entry;
	size_t i;

	if (h->count == HOSTS_MAX)
		return err_set(err, -E2BIG, "hosts: more than %d entries", HOSTS_MAX);
	if (h->count == h->capacity) {
		size_t capacity = h->capacity ? h->capacity * 2 : 16;
		struct hosts_entry *more = realloc(h->entries, capacity * sizeof(*more));

		if (!more)
			return err_set(err, -ENOMEM, "hosts: no memory");
		h->entries = more;
		h->capacity = capacity;
	}
	entry = &h->entries[h->count];
	if (net_addr_from(e->ip.data, e->ip.len, &entry->ip) || entry->ip.family == 0)
		return err_set(err, -EINVAL, "hosts: '%.63s' has no address", e->name);
	if (str_copy(entry->name, sizeof(entry->name), e->name) || !*entry->name)
		return err_set(err, -EINVAL, "hosts: bad name '%.63s'", e->name);
	for (i = 0; entry->name[i]; i++)
		if (strchr(" \t\n\r#", entry->name[i]))
			return err_set(err, -EINVAL, "hosts: bad name '%s'", entry->name);
	h->count++;
	h->dirty = true;
	return 0;
}

static int cmp_name(const void *a, const void *b)
{
	const char *const *x = a, *const *y = b;

	return strcmp(*x, *y);
}

/* Drops the entries of all NAMES (sorted in place). */
static void drop(struct hosts *h, const char **names, size_t count)
{
	size_t kept = 0, i;

	qsort(names, count, sizeof(*names), cmp_name);
	for (i = 0; i < h->count; i++) {
		const char *name = h->entries[i].name;

		if (!bsearch(&name, names, count, sizeof(*names), cmp_name))
			h->entries[kept++] = h->entries[i];
	}
	h->dirty |= kept != h->count;
	h->count = kept;
}

int hosts_init(struct hosts *h, const Um__GuestConfig *config, struct err *err)
{
	size_t i;
	int rc = 0;

	memset(h, 0, sizeof(*h));
	h->config = config;
	h->dirty = true;
	for (i = 0; rc == 0 && i < config->n_hosts; i++)
		rc = add(h, config->hosts[i], err);
	return rc;
}

void hosts_free(struct hosts *h)
{
	free(h->entries);
	memset(h, 0, sizeof(*h));
}

int hosts_update(struct hosts *h, const Um__HostsUpdate *u, struct err *err)
{
	const char **names;
	size_t i, count = 0;
	int rc = 0;

	if (u->full) {
		h->count = 0;
		h->dirty = true;
	} else if (u->n_hosts + u->n_removed > 0) {
		names = calloc(u->n_hosts + u->n_removed, sizeof(*names));
		if (!names)
			return err_set(err, -ENOMEM, "hosts: no memory");
		for (i = 0; i < u->n_removed; i++)
			names[count++] = u->removed[i];
		for (i = 0; i < u->n_hosts; i++)
			names[count++] = u->hosts[i]->name;
		drop(h, names, count);
		free(names);
	}
	/* One bad entry does not keep out the others. */
	for (i = 0; i < u->n_hosts; i++) {
		int one = add(h, u->hosts[i], err);

		rc = rc ? rc : one;
	}
	return rc;
}

static void add_line(struct buf *out, const struct net_addr *ip, const char *name)
{
	char text[NET_ADDR_TEXT];

	buf_printf(out, "%s\t%s\n", net_addr_text(text, ip), name);
}

static void add_own(struct buf *out, const Um__GuestConfig *c)
{
	struct net_addr ip;
	size_t i;

	buf_add_str(out, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
	if (!*c->hostname)
		return;
	for (i = 0; i < c->n_nics; i++) {
		if (!net_addr_from(c->nics[i]->ip4.data, c->nics[i]->ip4.len, &ip) && ip.family)
			add_line(out, &ip, c->hostname);
		if (!net_addr_from(c->nics[i]->ip6.data, c->nics[i]->ip6.len, &ip) && ip.family)
			add_line(out, &ip, c->hostname);
	}
	if (c->n_nics == 0)
		buf_printf(out, "127.0.1.1\t%s\n", c->hostname);
}

/* The image's own content, without the block. */
static void read_own(struct buf *text)
{
	int fd = open(HOSTS_PATH, O_RDONLY | O_CLOEXEC);
	const char *begin, *end;
	ssize_t n = 1;

	text->limit = HOSTS_FILE_MAX;
	while (fd >= 0 && n > 0 && buf_reserve(text, 4096)) {
		n = read(fd, text->data + text->size, 4096);
		if (n > 0)
			text->size += (size_t)n;
	}
	if (fd >= 0)
		close(fd);
	begin = strstr(buf_text(text), MARK_BEGIN);
	if (!begin)
		return;
	end = strstr(begin, MARK_END);
	end = end ? end + strlen(MARK_END) : begin + strlen(begin);
	n = begin - (const char *)text->data;
	memmove(text->data + n, end, strlen(end));
	text->size = (size_t)n + strlen(end);
}

static bool is_own_line(const struct hosts *h, const struct hosts_entry *e)
{
	/* The networks' member lists name this guest too. */
	return strcmp(e->name, h->config->hostname) == 0;
}

int hosts_flush(struct hosts *h, struct err *err)
{
	struct buf own, out;
	size_t i;
	int rc;

	if (!h->dirty)
		return 0;
	h->dirty = false;
	buf_init(&own);
	buf_init(&out);
	buf_add_str(&out, MARK_BEGIN);
	add_own(&out, h->config);
	for (i = 0; i < h->count; i++)
		if (!is_own_line(h, &h->entries[i]))
			add_line(&out, &h->entries[i].ip, h->entries[i].name);
	buf_add_str(&out, MARK_END);
	read_own(&own);
	buf_add(&out, own.data, own.size);
	if (out.failed)
		rc = err_set(err, -ENOMEM, "%s: no memory", HOSTS_PATH);
	else
		rc = files_write(HOSTS_PATH, out.data, out.size, 0644, 0, 0, err);
	buf_free(&own);
	buf_free(&out);
	return rc;
}
