#include "guest/initrd.h"

#include <elf.h>
#include <errno.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/str.h"

#define INIT_MAX (64u << 20)

struct node {
	const char *name;
	mode_t mode;
	unsigned major, minor;
};

/* The line is /dev/tty1 in UML: minor 1 of the terminals' major number 4. */
static const struct node nodes[] = {
	{"dev", S_IFDIR | 0755, 0, 0},
	{"dev/console", S_IFCHR | 0600, 5, 1},
	{"dev/null", S_IFCHR | 0666, 1, 3},
	{"dev/tty1", S_IFCHR | 0600, 4, 1},
	{"proc", S_IFDIR | 0755, 0, 0},
	{"root", S_IFDIR | 0755, 0, 0},
	{"sys", S_IFDIR | 0755, 0, 0},
};

static void align(struct buf *out)
{
	static const uint8_t zeros[4];

	buf_add(out, zeros, (4 - out->size % 4) % 4);
}

static void add_member(
	struct buf *out, unsigned ino, const struct node *node, const void *data, size_t size)
{
	unsigned links = S_ISDIR(node->mode) ? 2 : 1;

	/* magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor
	 * rdevminor namesize check */
	buf_printf(out, "070701%08X%08X%08X%08X%08X%08X%08zX%08X%08X%08X%08X%08zX%08X", ino,
		(unsigned)node->mode, 0u, 0u, links, 0u, size, 0u, 0u, node->major, node->minor,
		strlen(node->name) + 1, 0u);
	buf_add(out, node->name, strlen(node->name) + 1);
	align(out);
	buf_add(out, data, size);
	align(out);
}

int initrd_archive(const void *init, size_t size, struct buf *out, struct err *err)
{
	static const struct node program = {"init", S_IFREG | 0755, 0, 0};
	static const struct node trailer = {"TRAILER!!!", 0, 0, 0};
	size_t i;

	if (size > INIT_MAX)
		return err_set(
			err, -EFBIG, "initrd: the program is larger than %u MiB", INIT_MAX >> 20);
	for (i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++)
		add_member(out, (unsigned)i + 1, &nodes[i], NULL, 0);
	add_member(out, (unsigned)i + 1, &program, init, size);
	add_member(out, 0, &trailer, NULL, 0);
	return out->failed ? err_set(err, -ENOMEM, "initrd: no memory") : 0;
}

/* A dynamic program would fail in the guest with nothing but "no init found". */
static int check_static(const char *path, const struct buf *program, struct err *err)
{
	const Elf64_Ehdr *head = (const Elf64_Ehdr *)(const void *)program->data;
	size_t i;

	if (program->size < sizeof(*head) || memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 ||
		head->e_ident[EI_CLASS] != ELFCLASS64 || head->e_phentsize != sizeof(Elf64_Phdr) ||
		head->e_phoff > program->size ||
		head->e_phnum * sizeof(Elf64_Phdr) > program->size - head->e_phoff)
		return err_set(err, -ENOEXEC, "%s is not a 64-bit ELF program", path);
	for (i = 0; i < head->e_phnum; i++) {
		Elf64_Phdr phdr;

		memcpy(&phdr, program->data + head->e_phoff + i * sizeof(phdr), sizeof(phdr));
		if (phdr.p_type == PT_INTERP)
			return err_set(err, -ENOEXEC, "%s is not statically linked", path);
	}
	return 0;
}

int initrd_make(const char *init, const char *dir, char *path, size_t size, struct err *err)
{
	uint8_t digest[SHA256_DIGEST_LENGTH];
	struct buf program, archive;
	struct stat st;
	char hex[17];
	int rc;

	buf_init(&program);
	buf_init(&archive);
	rc = fs_read(init, INIT_MAX, &program, err);
	if (!rc)
		rc = check_static(init, &program, err);
	if (!rc)
		rc = initrd_archive(program.data, program.size, &archive, err);
	if (rc)
		goto out;
	(void)SHA256(archive.data, archive.size, digest);
	str_hex(hex, digest, 8);
	rc = str_format(path, size, "%s/initrd-%s", dir, hex);
	if (rc < 0) {
		rc = err_set(err, rc, "initrd: '%s' is too long", dir);
		goto out;
	}
	rc = 0;
	if (stat(path, &st) || (size_t)st.st_size != archive.size)
		rc = fs_write_atomic(path, archive.data, archive.size, 0644, err);
out:
	buf_free(&program);
	buf_free(&archive);
	return rc < 0 ? err_wrap(err, "initrd") : 0;
}
