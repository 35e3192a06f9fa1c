#include "clusterctl/lab_schema.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fs.h"

#define FIELD(message, member) offsetof(Um__##message, member)

/* ---- interfaces ---- */

static const struct lab_field nic_fields[] = {
	{"network", LAB_TEXT, FIELD(NicSpec, network), NULL, NULL, NULL},
	{"address", LAB_TEXT, FIELD(NicSpec, address), NULL, NULL, NULL},
	{"address6", LAB_TEXT, FIELD(NicSpec, address6), NULL, NULL, NULL},
	{"mac", LAB_TEXT, FIELD(NicSpec, mac), NULL, NULL, NULL},
};

static void read_nic(struct lab_ctx *ctx, const struct ynode *node, Um__GuestSpec *guest)
{
	Um__NicSpec *nic = lab_append(ctx, &guest->n_nics, &um__nic_spec__descriptor);

	if (!nic)
		return;
	if (node->kind == YNODE_SCALAR)
		(void)lab_read_text(ctx, node, &nic->network);
	else
		lab_read(ctx, node, &lab_nic, nic);
}

/* networks: [lan, {network: wan, address: 10.2.0.1}], or as a map
 * networks: {lan: , wan: {address: 10.2.0.1}} */
static void read_nics(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	Um__GuestSpec *guest = msg;

	if (node->kind == YNODE_SCALAR) {
		lab_complain(ctx, node, "expected a list, not a text (write [%.60s])", node->text);
		return;
	}
	if (node->kind == YNODE_LIST) {
		for (size_t i = 0; i < node->count; i++)
			read_nic(ctx, node->items[i], guest);
		return;
	}
	for (size_t i = 0; i < node->count; i++) {
		const struct ypair *p = &node->pairs[i];
		Um__NicSpec *nic = lab_append(ctx, &guest->n_nics, &um__nic_spec__descriptor);

		if (!nic || !lab_read_text(ctx, p->key, &nic->network))
			return;
		if (ynode_is_null(p->value))
			continue;
		lab_read(ctx, p->value, &lab_nic, nic);
		if (ynode_get(p->value, "network", NULL))
			lab_complain(ctx, p->key,
				"'%.60s' is the network; the key 'network' cannot stand inside",
				p->key->text);
	}
}

/* ---- files ---- */

struct file_reader {
	Um__FileSpec file; /* first: the table's offsets are of it */
	char *source;
	const struct ynode *content, *source_node;
	bool mode_set;
};

static void read_content(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	struct file_reader *r = msg;

	if (lab_expect(ctx, node, YNODE_SCALAR))
		r->content = node;
}

static void read_source(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	struct file_reader *r = msg;

	if (lab_expect(ctx, node, YNODE_SCALAR))
		r->source_node = node;
}

static const struct lab_field file_fields[] = {
	{"path", LAB_TEXT, FIELD(FileSpec, path), NULL, NULL, NULL},
	{"content", LAB_OTHER, 0, NULL, NULL, read_content},
	{"source", LAB_OTHER, 0, NULL, NULL, read_source},
	{"mode", LAB_MODE, FIELD(FileSpec, mode), NULL, NULL, NULL},
	{"uid", LAB_U32, FIELD(FileSpec, uid), NULL, NULL, NULL},
	{"gid", LAB_U32, FIELD(FileSpec, gid), NULL, NULL, NULL},
};

/* Takes over SIZE bytes of DATA. */
static void set_content(Um__FileSpec *file, uint8_t *data, size_t size)
{
	file->content.data = data;
	file->content.len = size;
}

static void load_source(struct lab_ctx *ctx, struct file_reader *r)
{
	const struct ynode *node = r->source_node;
	struct err err = ERR_INIT;
	char path[PATH_MAX];
	struct buf data;
	struct stat st;
	size_t size;

	if (node->text[0] == '/' || !*ctx->dir) {
		if (str_copy(path, sizeof(path), node->text) < 0)
			path[0] = 0;
	} else if (fs_join(path, sizeof(path), ctx->dir, node->text, &err) < 0) {
		path[0] = 0;
	}
	ctx->key = "source";
	/* What is no ordinary file might never end, or wait for ever. */
	if (!path[0] || stat(path, &st) < 0) {
		lab_complain(ctx, node, "cannot read '%.200s': %s", path,
			path[0] ? strerror(errno) : "not a path");
		return;
	}
	if (!S_ISREG(st.st_mode)) {
		lab_complain(ctx, node, "'%.200s' is not an ordinary file", path);
		return;
	}
	buf_init(&data);
	if (fs_read(path, SPEC_FILES_BYTES, &data, &err) < 0) {
		lab_complain(ctx, node, "%s", err_msg(&err));
	} else if (ctx->source_bytes + data.size > 16 * (size_t)SPEC_FILES_BYTES) {
		lab_complain(ctx, node, "the lab's files are more than %u MiB in all",
			16 * (SPEC_FILES_BYTES >> 20));
	} else {
		ctx->source_bytes += data.size;
		if (!r->file.mode)
			r->file.mode = st.st_mode & 0777u;
		set_content(&r->file, buf_steal(&data, &size), size);
		r->file.content.len = size;
	}
	buf_free(&data);
}

static void read_file(struct lab_ctx *ctx, const struct ynode *node, Um__GuestSpec *guest)
{
	struct file_reader r = {.file = UM__FILE_SPEC__INIT};
	Um__FileSpec *file = lab_append(ctx, &guest->n_files, &um__file_spec__descriptor);

	if (!file)
		return;
	lab_read(ctx, node, &lab_file, &r);
	if (node->kind == YNODE_MAP && !r.content == !r.source_node &&
		!lab_is_bad(ctx, node, "content") && !lab_is_bad(ctx, node, "source") &&
		!lab_is_bad(ctx, ynode_get(node, "content", NULL), NULL) &&
		!lab_is_bad(ctx, ynode_get(node, "source", NULL), NULL)) {
		ctx->key = "files";
		lab_complain(ctx, node,
			r.content ? "'content' and 'source' exclude each other"
				  : "a file needs 'content' or 'source'");
	} else if (r.content) {
		uint8_t *copy = malloc(r.content->size + 1);

		if (!copy) {
			ctx->failed = true;
		} else {
			memcpy(copy, r.content->text, r.content->size + 1);
			set_content(&r.file, copy, r.content->size);
		}
	} else if (r.source_node) {
		load_source(ctx, &r);
	}
	ctx->key = "files";
	*file = r.file;
}

static void read_files(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	if (!lab_expect(ctx, node, YNODE_LIST))
		return;
	for (size_t i = 0; i < node->count; i++)
		read_file(ctx, node->items[i], msg);
}

/* ---- routes, readiness ---- */

static const struct lab_field route_fields[] = {
	{"to", LAB_TEXT, FIELD(RouteSpec, to), NULL, NULL, NULL},
	{"via", LAB_TEXT, FIELD(RouteSpec, via), NULL, NULL, NULL},
};

static void read_routes(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	Um__GuestSpec *guest = msg;

	if (!lab_expect(ctx, node, YNODE_LIST))
		return;
	for (size_t i = 0; i < node->count; i++) {
		Um__RouteSpec *route =
			lab_append(ctx, &guest->n_routes, &um__route_spec__descriptor);

		if (route)
			lab_read(ctx, node->items[i], &lab_route, route);
	}
}

/* A list is the command's words; a text is for the guest's /bin/sh. */
static void read_exec(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	static const struct ynode sh = {.kind = YNODE_SCALAR, .text = "/bin/sh", .size = 7},
				  c = {.kind = YNODE_SCALAR, .text = "-c", .size = 2};
	Um__ReadyProbe *ready = msg;

	if (node->kind == YNODE_SCALAR) {
		(void)(lab_append_text(ctx, &ready->n_exec, &sh) &&
			lab_append_text(ctx, &ready->n_exec, &c) &&
			lab_append_text(ctx, &ready->n_exec, node));
		return;
	}
	if (!lab_expect(ctx, node, YNODE_LIST))
		return;
	if (!node->count)
		lab_complain(ctx, node, "the command is empty");
	for (size_t i = 0; i < node->count; i++)
		(void)lab_append_text(ctx, &ready->n_exec, node->items[i]);
}

static const struct lab_field ready_fields[] = {
	{"exec", LAB_OTHER, 0, NULL, NULL, read_exec},
	{"interval", LAB_TIME, FIELD(ReadyProbe, interval_ms), NULL, NULL, NULL},
	{"timeout", LAB_TIME, FIELD(ReadyProbe, timeout_ms), NULL, NULL, NULL},
};

/* A message of its own in a field: made once, also when the key comes again
 * through the defaults. */
static void read_ready(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	Um__GuestSpec *guest = msg;

	guest->ready = malloc(sizeof(*guest->ready));
	if (!guest->ready) {
		ctx->failed = true;
		return;
	}
	um__ready_probe__init(guest->ready);
	/* The command alone stands for {exec: COMMAND}. */
	if (node->kind == YNODE_MAP)
		lab_read(ctx, node, &lab_ready, guest->ready);
	else
		read_exec(ctx, node, guest->ready);
}

/* ---- guests ---- */

/* A group while it is read; the guest's own fields go through the pointer. */
static void read_count(struct lab_ctx *ctx, const struct ynode *node, void *msg);

static const char *const inits[] = {"auto", "image", "umlaut", NULL};
static const char *const policies[] = {"always", "on-failure", "never", NULL};
static const char *const losses[] = {"default", "restart", "wait", "none", NULL};

/* One name, or a list of them. */
static void read_features(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	Um__GuestSpec *guest = msg;

	if (node->kind != YNODE_LIST) {
		(void)lab_append_text(ctx, &guest->n_kernel_features, node);
		return;
	}
	for (size_t i = 0; i < node->count; i++)
		(void)lab_append_text(ctx, &guest->n_kernel_features, node->items[i]);
}

static const struct lab_field guest_fields[] = {
	{"image", LAB_TEXT, FIELD(GuestSpec, image), NULL, NULL, NULL},
	{"kernel", LAB_TEXT, FIELD(GuestSpec, kernel), NULL, NULL, NULL},
	{"memory", LAB_SIZE, FIELD(GuestSpec, memory_bytes), NULL, NULL, NULL},
	{"cpus", LAB_CPUS, FIELD(GuestSpec, cpu_milli), NULL, NULL, NULL},
	{"disk", LAB_SIZE, FIELD(GuestSpec, disk_bytes), NULL, NULL, NULL},
	{"count", LAB_OTHER, 0, NULL, NULL, read_count},
	{"networks", LAB_OTHER, 0, NULL, NULL, read_nics},
	{"routes", LAB_OTHER, 0, NULL, NULL, read_routes},
	{"hostname", LAB_TEXT, FIELD(GuestSpec, hostname), NULL, NULL, NULL},
	{"env", LAB_MAP, FIELD(GuestSpec, n_env), NULL, &um__guest_spec__env_entry__descriptor,
		NULL},
	{"files", LAB_OTHER, 0, NULL, NULL, read_files},
	{"run", LAB_TEXT, FIELD(GuestSpec, run), NULL, NULL, NULL},
	{"init", LAB_WORD, FIELD(GuestSpec, init), inits, NULL, NULL},
	{"ready", LAB_OTHER, 0, NULL, NULL, read_ready},
	{"restart", LAB_ENUM, FIELD(GuestSpec, restart), policies, NULL, NULL},
	{"stop_timeout", LAB_TIME, FIELD(GuestSpec, stop_timeout_ms), NULL, NULL, NULL},
	{"placement", LAB_OTHER, 0, NULL, NULL, lab_read_placement},
	{"on_host_loss", LAB_ENUM, FIELD(GuestSpec, on_host_loss), losses, NULL, NULL},
	{"persistent", LAB_BOOL, FIELD(GuestSpec, persistent), NULL, NULL, NULL},
	{"kernel_features", LAB_OTHER, 0, NULL, NULL, read_features},
	{"kernel_args", LAB_TEXT, FIELD(GuestSpec, kernel_args), NULL, NULL, NULL},
	{"labels", LAB_MAP, FIELD(GuestSpec, n_labels), NULL,
		&um__guest_spec__labels_entry__descriptor, NULL},
};

/* What the guest's table reads into: the spec, and what belongs to its group. */
struct guest_reader {
	Um__GuestSpec guest; /* first: the table's offsets are of it */
	bool count_set;
	uint32_t count;
};

static void read_count(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	struct guest_reader *r = msg;
	uint64_t v;
	int rc;

	if (!lab_expect(ctx, node, YNODE_SCALAR))
		return;
	rc = str_u64(node->text, 0, SPEC_GUESTS_MAX, &v);
	if (rc == -ERANGE)
		lab_complain(ctx, node, "%.40s is not within 0 to %d", node->text, SPEC_GUESTS_MAX);
	else if (rc < 0)
		lab_complain(ctx, node, "'%.40s' is not a whole number", node->text);
	if (rc < 0)
		return;
	r->count_set = true;
	r->count = (uint32_t)v;
}

static void read_guest(struct lab_ctx *ctx, const struct ynode *node, const struct ynode *key,
	Um__DeploymentSpec *spec)
{
	struct guest_reader r = {.guest = UM__GUEST_SPEC__INIT};
	Um__GroupSpec *group = lab_append(ctx, &spec->n_groups, &um__group_spec__descriptor);

	if (!group)
		return;
	group->guest = malloc(sizeof(*group->guest));
	if (!group->guest) {
		ctx->failed = true;
		return;
	}
	(void)lab_read_text(ctx, key, &group->name);
	ctx->key = NULL;
	lab_read(ctx, node, &lab_guest, &r);
	*group->guest = r.guest;
	group->count_set = r.count_set;
	group->count = r.count;
}

static const char *const joined_keys[] = {"env", "labels", "placement", "ready", NULL};

static void read_guests(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	static const struct ynode nothing = {.kind = YNODE_MAP};

	if (!lab_expect(ctx, node, YNODE_MAP))
		return;
	ctx->guests = calloc(node->count + 1, sizeof(void *));
	if (!ctx->guests) {
		ctx->failed = true;
		return;
	}
	for (size_t i = 0; i < node->count && !ctx->failed; i++) {
		const struct ypair *p = &node->pairs[i];
		const struct ynode *guest = p->value;

		if (ynode_is_null(guest))
			guest = &nothing;
		if (guest->kind == YNODE_MAP) {
			/* Always a copy, so that each guest has its own place. */
			guest = ydoc_join(ctx->doc, guest, ctx->defaults ? ctx->defaults : &nothing,
				joined_keys);
			if (!guest) {
				ctx->failed = true;
				return;
			}
		}
		ctx->guests[i] = guest;
		read_guest(ctx, guest, p->key, msg);
	}
}

/* ---- networks and the top ---- */

static const char *const spoofings[] = {"allow", "deny", NULL};

static const struct lab_field network_fields[] = {
	{"subnet", LAB_TEXT, FIELD(NetworkSpec, subnet), NULL, NULL, NULL},
	{"subnet6", LAB_TEXT, FIELD(NetworkSpec, subnet6), NULL, NULL, NULL},
	{"gateway", LAB_TEXT, FIELD(NetworkSpec, gateway), NULL, NULL, NULL},
	{"gateway6", LAB_TEXT, FIELD(NetworkSpec, gateway6), NULL, NULL, NULL},
	{"mtu", LAB_U32, FIELD(NetworkSpec, mtu), NULL, NULL, NULL},
	{"spoofing", LAB_ENUM, FIELD(NetworkSpec, spoofing), spoofings, NULL, NULL},
};

static void read_networks(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	Um__DeploymentSpec *spec = msg;

	if (!lab_expect(ctx, node, YNODE_MAP))
		return;
	for (size_t i = 0; i < node->count; i++) {
		const struct ypair *p = &node->pairs[i];
		Um__NetworkSpec *net =
			lab_append(ctx, &spec->n_networks, &um__network_spec__descriptor);

		if (!net)
			return;
		(void)lab_read_text(ctx, p->key, &net->name);
		ctx->key = NULL;
		if (!ynode_is_null(p->value))
			lab_read(ctx, p->value, &lab_network, net);
	}
}

/* Read for its own mistakes, also when no guest takes a key from it. */
static void read_defaults(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	struct guest_reader r = {.guest = UM__GUEST_SPEC__INIT};
	Um__GuestSpec *copy;

	(void)msg;
	if (!lab_expect(ctx, node, YNODE_MAP))
		return;
	ctx->key = NULL;
	lab_read(ctx, node, &lab_guest, &r);
	copy = malloc(sizeof(*copy));
	if (!copy) {
		ctx->failed = true;
		return;
	}
	*copy = r.guest;
	um__guest_spec__free_unpacked(copy, NULL);
} /* NOLINT: free_unpacked() frees the copy */

static void read_version(struct lab_ctx *ctx, const struct ynode *node, void *msg)
{
	(void)msg;
	if (lab_expect(ctx, node, YNODE_SCALAR) && strcmp(node->text, "1") != 0)
		lab_complain(ctx, node, "'%.20s' is unknown; this clusterctl reads version 1",
			node->text);
}

static const struct lab_field top_fields[] = {
	{"version", LAB_OTHER, 0, NULL, NULL, read_version},
	{"name", LAB_TEXT, FIELD(DeploymentSpec, name), NULL, NULL, NULL},
	{"labels", LAB_MAP, FIELD(DeploymentSpec, n_labels), NULL,
		&um__deployment_spec__labels_entry__descriptor, NULL},
	{"networks", LAB_OTHER, 0, NULL, NULL, read_networks},
	{"defaults", LAB_OTHER, 0, NULL, NULL, read_defaults},
	{"guests", LAB_OTHER, 0, NULL, NULL, read_guests},
	{"gang", LAB_BOOL, FIELD(DeploymentSpec, gang), NULL, NULL, NULL},
};

const struct lab_table lab_top = LAB_TABLE("a lab", top_fields);
const struct lab_table lab_network = LAB_TABLE("a network", network_fields);
const struct lab_table lab_guest = LAB_TABLE("a guest", guest_fields);
const struct lab_table lab_nic = LAB_TABLE("an interface", nic_fields);
const struct lab_table lab_file = LAB_TABLE("a file", file_fields);
const struct lab_table lab_route = LAB_TABLE("a route", route_fields);
const struct lab_table lab_ready = LAB_TABLE("ready", ready_fields);
const struct lab_table *const lab_tables[10] = {&lab_top, &lab_network, &lab_guest, &lab_nic,
	&lab_file, &lab_route, &lab_ready, &lab_placement, &lab_neighbour, &lab_spread};
