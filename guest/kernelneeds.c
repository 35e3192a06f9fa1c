/* The second half of kernelinfo: the shared libraries of a binary. */
#include "guest/kernelinfo.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/str.h"

#define SEGMENTS_MAX 64
#define DYNAMIC_MAX 4096       /* entries */
#define STRINGS_MAX (4u << 20) /* bytes */

#if defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#define TRIPLET "aarch64-linux-gnu"
#else /* User-Mode Linux runs on x86 only, so far */
#define OUR_MACHINE EM_X86_64
#define TRIPLET "x86_64-linux-gnu"
#endif

/* Where ld.so looks without configuration, on Debian and elsewhere. */
static const char *const folders[] = {
	"/lib/" TRIPLET, "/usr/lib/" TRIPLET, "/lib64", "/usr/lib64", "/lib", "/usr/lib"};

struct elf {
	int fd;
	Elf64_Phdr segments[SEGMENTS_MAX];
	size_t segment_count;
	Elf64_Dyn *dynamic;
	size_t dynamic_count;
	char *strings; /* NUL-terminated */
	size_t strings_size;
};

static int read_at(int fd, void *data, size_t size, uint64_t offset)
{
	if (offset > INT64_MAX - size)
		return -ENOEXEC;
	ssize_t n = pread(fd, data, size, (off_t)offset);

	if (n < 0)
		return -errno;
	return (size_t)n == size ? 0 : -ENOEXEC;
}

static void elf_close(struct elf *elf)
{
	if (elf->fd >= 0)
		(void)close(elf->fd);
	free(elf->dynamic);
	free(elf->strings);
	*elf = (struct elf){.fd = -1};
}

/* The place in the file of a virtual address. */
static int place_of(const struct elf *elf, uint64_t addr, uint64_t size, uint64_t *offset)
{
	for (size_t i = 0; i < elf->segment_count; i++) {
		const Elf64_Phdr *s = &elf->segments[i];

		if (s->p_type == PT_LOAD && addr >= s->p_vaddr && addr - s->p_vaddr < s->p_filesz &&
			size <= s->p_filesz - (addr - s->p_vaddr)) {
			*offset = s->p_offset + (addr - s->p_vaddr);
			return 0;
		}
	}
	return -ENOEXEC;
}

static const Elf64_Phdr *segment(const struct elf *elf, uint32_t type)
{
	for (size_t i = 0; i < elf->segment_count; i++) {
		if (elf->segments[i].p_type == type)
			return &elf->segments[i];
	}
	return NULL;
}

static int load_headers(struct elf *elf)
{
	Elf64_Ehdr h;
	int rc = read_at(elf->fd, &h, sizeof(h), 0);

	if (rc < 0)
		return rc;
	if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 ||
		h.e_ident[EI_DATA] != ELFDATA2LSB || h.e_machine != OUR_MACHINE ||
		(h.e_type != ET_EXEC && h.e_type != ET_DYN) ||
		h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phnum == 0 || h.e_phnum > SEGMENTS_MAX)
		return -ENOEXEC;
	elf->segment_count = h.e_phnum;
	return read_at(
		elf->fd, elf->segments, elf->segment_count * sizeof(elf->segments[0]), h.e_phoff);
}

static uint64_t dynamic_value(const struct elf *elf, int64_t tag)
{
	for (size_t i = 0; i < elf->dynamic_count; i++) {
		if (elf->dynamic[i].d_tag == tag)
			return elf->dynamic[i].d_un.d_val;
	}
	return 0;
}

static int load_dynamic(struct elf *elf)
{
	const Elf64_Phdr *s = segment(elf, PT_DYNAMIC);
	uint64_t offset, size;
	int rc;

	if (!s)
		return 0;
	if (s->p_filesz > DYNAMIC_MAX * sizeof(Elf64_Dyn))
		return -ENOEXEC;
	elf->dynamic_count = s->p_filesz / sizeof(Elf64_Dyn);
	elf->dynamic = calloc(elf->dynamic_count + 1, sizeof(Elf64_Dyn));
	if (!elf->dynamic)
		return -ENOMEM;
	rc = read_at(elf->fd, elf->dynamic, elf->dynamic_count * sizeof(Elf64_Dyn), s->p_offset);
	if (rc < 0)
		return rc;
	size = dynamic_value(elf, DT_STRSZ);
	if (size == 0 || size > STRINGS_MAX)
		return -ENOEXEC;
	rc = place_of(elf, dynamic_value(elf, DT_STRTAB), size, &offset);
	if (rc < 0)
		return rc;
	elf->strings = calloc(1, size + 1);
	if (!elf->strings)
		return -ENOMEM;
	elf->strings_size = size;
	return read_at(elf->fd, elf->strings, size, offset);
}

static int elf_open(const char *path, struct elf *elf)
{
	struct stat st;
	int rc;

	*elf = (struct elf){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
	if (elf->fd < 0)
		return -errno;
	rc = fstat(elf->fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -ENOEXEC;
	if (rc == 0)
		rc = load_headers(elf);
	if (rc == 0)
		rc = load_dynamic(elf);
	if (rc < 0)
		elf_close(elf);
	return rc;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static bool is_listed(const struct kernelinfo_needs *needs, const char *name)
{
	for (size_t i = 0; i < needs->count; i++) {
		if (strcmp(base_name(needs->files[i]), name) == 0)
			return true;
	}
	return false;
}

static int list(struct kernelinfo_needs *needs, const char *path, struct err *err)
{
	if (needs->count == KERNELINFO_FILES_MAX)
		return err_set(err, -E2BIG, "it needs more than %d shared libraries",
			KERNELINFO_FILES_MAX);
	if (str_copy(needs->files[needs->count], KERNELINFO_PATH, path) < 0)
		return err_set(err, -ENAMETOOLONG, "path too long: %s", path);
	needs->count++;
	return 0;
}

/* Lists the library NAME where the loader would find it. */
static int find_library(struct kernelinfo_needs *needs, const char *name, struct err *err)
{
	char path[KERNELINFO_PATH];

	if (strchr(name, '/') || !*name || *name == '.')
		return err_set(err, -ENOEXEC, "it needs a library by a path: '%s'", name);
	if (is_listed(needs, name))
		return 0;
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		struct elf elf;

		if (str_format(path, sizeof(path), "%s/%s", folders[i], name) < 0)
			return err_set(err, -ENAMETOOLONG, "library name too long: %s", name);
		if (elf_open(path, &elf) < 0)
			continue;
		elf_close(&elf);
		return list(needs, path, err);
	}
	return err_set(
		err, -ENOENT, "it needs the shared library %s, which is not on this host", name);
}

static int list_needed(
	const char *path, struct kernelinfo_needs *needs, bool program, struct err *err)
{
	char interp[KERNELINFO_PATH] = "";
	const Elf64_Phdr *s;
	struct elf elf;
	int rc = elf_open(path, &elf);

	if (rc == -ENOEXEC)
		return err_set(err, rc, "it is no ELF executable of this machine");
	if (rc < 0)
		return err_errno(err, rc, "read %s", path);
	s = segment(&elf, PT_INTERP);
	if (program && s) {
		if (s->p_filesz == 0 || s->p_filesz >= sizeof(interp))
			rc = err_set(err, -ENOEXEC, "its loader's path is too long");
		else if (read_at(elf.fd, interp, s->p_filesz, s->p_offset) < 0 || interp[0] != '/')
			rc = err_set(err, -ENOEXEC, "its loader's path cannot be read");
		else
			rc = list(needs, interp, err);
		if (rc == 0)
			rc = find_library(needs, "libgcc_s.so.1", err);
	}
	for (size_t i = 0; rc == 0 && i < elf.dynamic_count && elf.dynamic[i].d_tag != DT_NULL;
		i++) {
		uint64_t at = elf.dynamic[i].d_un.d_val;

		if (elf.dynamic[i].d_tag != DT_NEEDED)
			continue;
		if (at >= elf.strings_size)
			rc = err_set(err, -ENOEXEC, "its dynamic section is damaged");
		else
			rc = find_library(needs, elf.strings + at, err);
	}
	elf_close(&elf);
	return rc;
}

int kernelinfo_needs(const char *path, struct kernelinfo_needs *out, struct err *err)
{
	struct kernelinfo_needs needs = {.count = 0};
	int rc = list_needed(path, &needs, true, err);

	/* The list grows behind the cursor; each file is looked into once. */
	for (size_t i = 0; rc == 0 && i < needs.count; i++)
		rc = list_needed(needs.files[i], &needs, false, err);
	if (rc < 0)
		return err_wrap(err, "kernel %s", path);
	*out = needs;
	return 0;
}
