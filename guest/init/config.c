#include "guest/init/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/net.h"
#include "lib/str.h"

void config_init(struct config_parts *parts)
{
	buf_init(&parts->packed);
	buf_init(&parts->run);
	parts->packed.limit = CONFIG_SIZE_MAX;
	parts->run.limit = CONFIG_SIZE_MAX;
	parts->count = 0;
}

void config_free(struct config_parts *parts)
{
	buf_free(&parts->packed);
	buf_free(&parts->run);
}

int config_add(struct config_parts *parts, Um__GuestConfig *part, struct err *err)
{
	char *run = part->run;
	size_t size;

	/* `run` is joined; as a string in the packed parts the last would win. */
	if (run)
		buf_add_str(&parts->run, run);
	part->run = NULL;
	size = um__guest_config__get_packed_size(part);
	if (buf_reserve(&parts->packed, size)) {
		(void)um__guest_config__pack(part, parts->packed.data + parts->packed.size);
		parts->packed.size += size;
	}
	part->run = run;
	parts->count++;
	if (parts->packed.failed || parts->run.failed)
		return err_set(err, -E2BIG, "configuration: larger than %u MiB, or no memory",
			CONFIG_SIZE_MAX >> 20);
	return 0;
}

/* Joins files that go on with the content of the one before. */
static int join_files(Um__GuestConfig *c, struct err *err)
{
	size_t kept = 0, i;

	for (i = 0; i < c->n_files; i++) {
		Um__FileSpec *file = c->files[i];
		Um__FileSpec *last = kept ? c->files[kept - 1] : NULL;
		uint8_t *more;

		if (!last || strcmp(last->path, file->path) != 0) {
			c->files[kept++] = file;
			continue;
		}
		more = realloc(last->content.data, last->content.len + file->content.len + 1);
		if (!more) {
			/* Keep the list whole for its release. */
			memmove(&c->files[kept], &c->files[i],
				(c->n_files - i) * sizeof(struct Um__FileSpec *));
			c->n_files -= i - kept;
			return err_set(err, -ENOMEM, "file '%s': no memory", file->path);
		}
		if (file->content.len)
			memcpy(more + last->content.len, file->content.data, file->content.len);
		last->content.data = more;
		last->content.len += file->content.len;
		um__file_spec__free_unpacked(file, NULL);
	}
	c->n_files = kept;
	return 0;
}

static int check_nics(const Um__GuestConfig *c, struct err *err)
{
	struct net_addr addr;
	size_t i;

	if (c->n_nics > CONFIG_NICS_MAX)
		return err_set(
			err, -EINVAL, "nics: %zu are more than %d", c->n_nics, CONFIG_NICS_MAX);
	for (i = 0; i < c->n_nics; i++) {
		const Um__Nic *nic = c->nics[i];

		if (nic->index >= CONFIG_NICS_MAX)
			return err_set(err, -EINVAL, "nics[%zu]: index %u", i, nic->index);
		if (nic->mac.len != 6)
			return err_set(err, -EINVAL, "nics[%zu]: a MAC has 6 bytes", i);
		if (net_addr_from(nic->ip4.data, nic->ip4.len, &addr) || addr.family == 6 ||
			nic->prefix4 > 32)
			return err_set(err, -EINVAL, "nics[%zu]: bad IPv4 address", i);
		if (net_addr_from(nic->ip6.data, nic->ip6.len, &addr) || addr.family == 4 ||
			nic->prefix6 > 128)
			return err_set(err, -EINVAL, "nics[%zu]: bad IPv6 address", i);
		if ((nic->gateway4.len && nic->gateway4.len != 4) ||
			(nic->gateway6.len && nic->gateway6.len != 16))
			return err_set(err, -EINVAL, "nics[%zu]: bad gateway", i);
		if (nic->mtu && (nic->mtu < 68 || nic->mtu > 65535))
			return err_set(err, -EINVAL, "nics[%zu]: MTU %u", i, nic->mtu);
	}
	return 0;
}

static int check(const Um__GuestConfig *c, struct err *err)
{
	size_t i;
	int rc;

	if (*c->hostname) {
		rc = str_check_name("host name", c->hostname, err);
		if (rc)
			return rc;
	}
	if (*c->init && strcmp(c->init, "auto") != 0 && strcmp(c->init, "image") != 0 &&
		strcmp(c->init, "umlaut") != 0)
		return err_set(err, -EINVAL, "init: '%s' is none of auto, image, umlaut", c->init);
	if (c->root_device[0] != '/')
		return err_set(err, -EINVAL, "root device: '%s' is not a path", c->root_device);
	if (*c->modules_device && c->modules_device[0] != '/')
		return err_set(
			err, -EINVAL, "modules device: '%s' is not a path", c->modules_device);
	if (c->n_hosts > CONFIG_HOSTS_MAX)
		return err_set(err, -EINVAL, "hosts: %zu are too many", c->n_hosts);
	for (i = 0; i < c->n_files; i++)
		if (c->files[i]->path[0] != '/' || strlen(c->files[i]->path) > 4000)
			return err_set(err, -EINVAL, "files[%zu]: '%.200s' is not an absolute path",
				i, c->files[i]->path);
	return check_nics(c, err);
}

int config_finish(struct config_parts *parts, Um__GuestConfig **out, struct err *err)
{
	Um__GuestConfig *c = um__guest_config__unpack(NULL, parts->packed.size, parts->packed.data);
	char *run;
	int rc;

	if (!c)
		return err_set(err, -EBADMSG, "configuration: its parts do not fit together");
	rc = join_files(c, err);
	if (rc)
		goto fail;
	run = str_dup(buf_text(&parts->run));
	if (!run) {
		rc = err_set(err, -ENOMEM, "configuration: no memory");
		goto fail;
	}
	if (c->run != protobuf_c_empty_string)
		free(c->run);
	c->run = run;
	rc = check(c, err);
	if (rc)
		goto fail;
	*out = c;
	return 0;
fail:
	um__guest_config__free_unpacked(c, NULL);
	return rc;
}
