#include "guest/cmdline.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/str.h"

#define EXTRA_MAX 1024
#define ARG_MAX_LEN 1024
#define MIB (UINT64_C(1) << 20)

/* Beginnings of options that are Umlaut's, or that reach out of the guest: the
 * kernel too compares only the beginning (uml_checksetup(), __setup()). */
static const char *const reserved[] = {"mem=", "iomem", "ubd", "udb", "fake_ide", "con", "ssl",
	"xterm", "vec", "eth", "mconsole", "umid", "uml_dir", "initrd", "noinitrd", "rdinit",
	"init=", "root", "hostfs", "virtio_uml", "noreboot", "time-travel=ext", "gdb", "jail",
	"umlaut"};

struct build {
	char **argv;
	size_t argc, capacity, length;
	int rc;
	struct err *err;
};

/* ---- checks ---- */

/* Printable ASCII without what options are split at. */
static bool is_plain(const char *text)
{
	if (!*text)
		return false;
	for (const char *p = text; *p; p++) {
		if (*p <= ' ' || *p > '~' || strchr(",:\"'\\", *p))
			return false;
	}
	return true;
}

static int check_path(const char *what, const char *path, struct err *err)
{
	if (!path || path[0] != '/')
		return err_set(err, -EINVAL, "kernel command line: %s '%s' is not an absolute path",
			what, path ? path : "");
	if (!is_plain(path))
		return err_set(err, -EINVAL,
			"kernel command line: %s '%s' has a character that is not allowed there "
			"(only "
			"printable ASCII without blank, comma, colon, quote and backslash)",
			what, path);
	if (strlen(path) > 512)
		return err_set(
			err, -EINVAL, "kernel command line: %s is longer than 512 bytes", what);
	return 0;
}

static bool is_id(const char *text, size_t max)
{
	size_t len = strlen(text);

	if (len == 0 || len > max || !isalnum((unsigned char)text[0]))
		return false;
	for (size_t i = 0; i < len; i++) {
		if (!isalnum((unsigned char)text[i]) && !strchr("_.-", text[i]))
			return false;
	}
	return true;
}

static bool given(const char *text)
{
	return text && *text;
}

static int check_nics(const struct cmdline_spec *spec, struct err *err)
{
	bool used[CMDLINE_NICS_MAX] = {false};

	for (size_t i = 0; i < spec->nic_count; i++) {
		const struct cmdline_nic *nic = &spec->nics[i];

		if (nic->index >= CMDLINE_NICS_MAX || used[nic->index])
			return err_set(err, -EINVAL,
				"kernel command line: NIC number %" PRIu32 " is %s", nic->index,
				nic->index >= CMDLINE_NICS_MAX ? "too large" : "there twice");
		used[nic->index] = true;
		if (!nic->ifname || !is_id(nic->ifname, 15))
			return err_set(err, -EINVAL, "kernel command line: '%s' is no device name",
				nic->ifname ? nic->ifname : "");
		if (!net_mac_is_unicast(&nic->mac))
			return err_set(err, -EINVAL,
				"kernel command line: NIC %" PRIu32 " has no unicast MAC",
				nic->index);
		if (nic->depth > 1024)
			return err_set(err, -EINVAL,
				"kernel command line: NIC %" PRIu32 ": depth %" PRIu32
				" is over 1024",
				nic->index, nic->depth);
	}
	return 0;
}

static int check_spec(const struct cmdline_spec *spec, struct err *err)
{
	const struct {
		const char *what, *path;
		bool optional;
	} paths[] = {{"kernel", spec->kernel, false}, {"disk", spec->cow, false},
		{"base image", spec->base, true}, {"modules", spec->modules, true},
		{"initrd", spec->initrd, true}, {"bulk window", spec->bulk, true},
		{"uml_dir", spec->uml_dir, false}, {"notify socket", spec->notify, true}};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		if (paths[i].optional && !given(paths[i].path))
			continue;
		int rc = check_path(paths[i].what, paths[i].path, err);

		if (rc < 0)
			return rc;
	}
	if (spec->memory < CMDLINE_MEMORY_MIN || spec->memory > UINT64_C(1) << 46)
		return err_set(err, -EINVAL,
			"kernel command line: memory of %" PRIu64
			" bytes is not from 16 MiB to 64 TiB",
			spec->memory);
	if (!spec->umid || !is_id(spec->umid, 63))
		return err_set(err, -EINVAL, "kernel command line: umid '%s' is not allowed",
			spec->umid ? spec->umid : "");
	int rc = check_nics(spec, err);

	if (rc < 0)
		return rc;
	return given(spec->extra) ? cmdline_check_extra(spec->extra, err) : 0;
}

static int check_option(const char *word, size_t len, struct err *err)
{
	if (word[0] == '-')
		return err_set(err, -EINVAL,
			"kernel arguments: '%.*s' is not a kernel option (it starts with '-')",
			(int)len, word);
	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
		size_t n = strlen(reserved[i]);

		if (len >= n && memcmp(word, reserved[i], n) == 0)
			return err_set(err, -EINVAL,
				"kernel arguments: '%.*s' is not allowed: options that start with "
				"'%s' "
				"are set by Umlaut",
				(int)len, word, reserved[i]);
	}
	return 0;
}

int cmdline_check_extra(const char *extra, struct err *err)
{
	size_t len;

	if (strlen(extra) > EXTRA_MAX)
		return err_set(err, -EINVAL, "kernel arguments: longer than %d bytes", EXTRA_MAX);
	for (const char *p = extra; *p; p++) {
		if (*p < ' ' || *p > '~' || *p == '"' || *p == '\'' || *p == '\\')
			return err_set(err, -EINVAL,
				"kernel arguments: byte %zu is not allowed (only printable ASCII "
				"without "
				"quotes and backslash)",
				(size_t)(p - extra) + 1);
	}
	for (const char *p = extra + strspn(extra, " "); *p; p += len + strspn(p + len, " ")) {
		len = strcspn(p, " ");
		int rc = check_option(p, len, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* ---- building ---- */

static void fail(struct build *b, int code, const char *what)
{
	if (b->rc == 0)
		b->rc = err_set(b->err, code, "kernel command line: %s", what);
}

static __attribute__((format(printf, 2, 3))) void add(struct build *b, const char *fmt, ...)
{
	char text[ARG_MAX_LEN + 512];
	va_list ap;
	int n;

	if (b->rc < 0)
		return;
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(text)) {
		fail(b, -E2BIG, "an option is too long");
		return;
	}
	/* argv[0] is not part of the kernel's joined line, all others are. */
	b->length += b->argc ? (size_t)n + 1 : 0;
	if (b->length >= CMDLINE_MAX) {
		fail(b, -E2BIG, "longer than 4095 bytes");
		return;
	}
	if (b->argc + 2 > b->capacity) {
		size_t capacity = b->capacity ? 2 * b->capacity : 32;
		char **argv = reallocarray(b->argv, capacity, sizeof(*argv));

		if (!argv) {
			fail(b, -ENOMEM, "out of memory");
			return;
		}
		b->argv = argv;
		b->capacity = capacity;
	}
	b->argv[b->argc] = str_dup(text);
	if (!b->argv[b->argc]) {
		fail(b, -ENOMEM, "out of memory");
		return;
	}
	b->argv[++b->argc] = NULL;
}

static void add_line(struct build *b, const char *name, int fd)
{
	if (fd < 0)
		add(b, "%s=null", name);
	else
		add(b, "%s=fd:%d,fd:%d", name, fd, fd);
}

static void add_extra(struct build *b, const char *extra)
{
	size_t len;

	for (const char *p = extra + strspn(extra, " "); *p; p += len + strspn(p + len, " ")) {
		len = strcspn(p, " ");
		add(b, "%.*s", (int)len, p);
	}
}

/* What a kernel with everything built in would make unasked: bond0, dummy0, ifb0, tunl0
 * and their like.  They cost time at boot and memory, and stand in every `ip link`.
 * Nothing is lost: devices that are asked for are made as ever.  A kernel that does
 * not know one of these passes over it. */
static const char *const no_devices[] = {
	"bonding.max_bonds=0", "dummy.numdummies=0", "ifb.numifbs=0", "fb_tunnels=none"};

/* systemd, where it is the image's init, would ask for a login on tty1, which is the
 * agent's line, and fail; the console is tty0.  Others pass over it. */
static const char *const gettys[] = {
	"systemd.mask=getty@tty1.service", "systemd.wants=getty@tty0.service"};

static void add_nic(struct build *b, const struct cmdline_nic *nic)
{
	char mac[NET_ADDR_TEXT];

	add(b, "vec%" PRIu32 ":transport=tap,ifname=%s,depth=%" PRIu32 ",gro=1,mac=%s", nic->index,
		nic->ifname, nic->depth ? nic->depth : 128, net_mac_text(mac, &nic->mac));
}

int cmdline_build(const struct cmdline_spec *spec, struct cmdline *out, struct err *err)
{
	struct build b = {.err = err};
	int rc = check_spec(spec, err);

	if (rc < 0)
		return rc;
	add(&b, "%s", spec->kernel);
	add(&b, "mem=%" PRIu64 "M", (spec->memory + MIB - 1) / MIB);
	if (given(spec->base))
		add(&b, "ubd0=%s,%s", spec->cow, spec->base);
	else
		add(&b, "ubd0d=%s", spec->cow);
	if (given(spec->modules))
		add(&b, "ubd1rd=%s", spec->modules);
	if (given(spec->bulk))
		add(&b, "ubd7rd=%s", spec->bulk);
	if (given(spec->initrd))
		add(&b, "initrd=%s", spec->initrd);
	add(&b, "con=null");
	add_line(&b, "con0", spec->console_fd);
	add_line(&b, "con1", spec->agent_fd);
	add(&b, "ssl=null");
	add(&b, "lpj=%u", CMDLINE_LPJ);
	for (size_t i = 0; i < sizeof(no_devices) / sizeof(no_devices[0]); i++)
		add(&b, "%s", no_devices[i]);
	for (size_t i = 0; i < spec->nic_count; i++)
		add_nic(&b, &spec->nics[i]);
	add(&b, "uml_dir=%s", spec->uml_dir);
	add(&b, "umid=%s", spec->umid);
	for (size_t i = 0; i < sizeof(gettys) / sizeof(gettys[0]); i++)
		add(&b, "%s", gettys[i]);
	if (spec->no_reboot)
		add(&b, "noreboot");
	if (given(spec->notify))
		add(&b, "mconsole=notify:%s", spec->notify);
	if (given(spec->extra))
		add_extra(&b, spec->extra);
	*out = (struct cmdline){.argv = b.argv, .argc = b.argc};
	if (b.rc < 0)
		cmdline_free(out);
	return b.rc;
}

void cmdline_free(struct cmdline *cmdline)
{
	for (size_t i = 0; i < cmdline->argc; i++)
		free(cmdline->argv[i]);
	free(cmdline->argv);
	*cmdline = (struct cmdline){0};
}
