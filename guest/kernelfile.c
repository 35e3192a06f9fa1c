/* The third part of kernelinfo: what a file is, before it is run. */
#include "guest/kernelinfo.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEGMENTS_MAX 64
#define HEAD 1024

#if defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#else
#define OUR_MACHINE EM_X86_64
#endif

/* The upper half of the address space: no program is loaded there. */
#define KERNEL_HALF (1ULL << 63)

static const char *machine_name(unsigned machine)
{
	static const struct {
		unsigned machine;
		const char *name;
	} names[] = {{EM_X86_64, "x86-64"}, {EM_386, "32-bit x86"}, {EM_AARCH64, "64-bit ARM"},
		{EM_ARM, "32-bit ARM"}, {EM_RISCV, "RISC-V"}, {EM_PPC64, "64-bit PowerPC"},
		{EM_S390, "s390"}, {EM_MIPS, "MIPS"}};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (names[i].machine == machine)
			return names[i].name;
	}
	return NULL;
}

static int check_machine(const Elf64_Ehdr *h, struct err *err)
{
	/* e_machine lies at the same place in both classes; its byte order is the file's. */
	unsigned machine =
		h->e_ident[EI_DATA] == ELFDATA2MSB ? __builtin_bswap16(h->e_machine) : h->e_machine;
	const char *name = machine_name(machine);

	if (h->e_ident[EI_CLASS] == ELFCLASS64 && h->e_ident[EI_DATA] == ELFDATA2LSB &&
		machine == OUR_MACHINE)
		return 0;
	if (name)
		return err_set(err, -ENOEXEC, "a program for %s; this machine is %s", name,
			machine_name(OUR_MACHINE));
	return err_set(
		err, -ENOEXEC, "a program for another architecture (ELF machine %u)", machine);
}

static int cut_short(uint64_t size, struct err *err)
{
	return err_set(err, -ENOEXEC, "cut short: of this program only %llu bytes are there",
		(unsigned long long)size);
}

static int check_segments(int fd, const Elf64_Ehdr *h, uint64_t size, struct err *err)
{
	Elf64_Phdr segments[SEGMENTS_MAX];
	size_t bytes = h->e_phnum * sizeof(segments[0]);

	if (h->e_phentsize != sizeof(segments[0]) || h->e_phnum == 0 || h->e_phnum > SEGMENTS_MAX)
		return err_set(err, -ENOEXEC, "an ELF file without a usable program header");
	if (h->e_phoff > size || bytes > size - h->e_phoff)
		return cut_short(size, err);
	if (pread(fd, segments, bytes, (off_t)h->e_phoff) != (ssize_t)bytes)
		return err_set(err, -EIO, "its program header cannot be read");
	for (size_t i = 0; i < h->e_phnum; i++) {
		const Elf64_Phdr *s = &segments[i];

		if (s->p_type == PT_LOAD && s->p_vaddr >= KERNEL_HALF)
			return err_set(err, -ENOEXEC,
				"a kernel for bare or virtual machines, not User-Mode Linux "
				"(ARCH=um)");
		if (s->p_offset > size || s->p_filesz > size - s->p_offset)
			return cut_short(size, err);
	}
	/* The section table is the file's end; a stripped file may be without one. */
	if (h->e_shoff > size || (uint64_t)h->e_shnum * h->e_shentsize > size - h->e_shoff)
		return cut_short(size, err);
	return 0;
}

/* What is no ELF file. */
static int not_elf(const unsigned char *head, size_t n, struct err *err)
{
	if (n >= 2 && memcmp(head, "#!", 2) == 0)
		return err_set(err, -ENOEXEC, "a script, not a User-Mode Linux kernel");
	/* Documentation/arch/x86/boot.rst: the setup header's signature. */
	if (n >= 0x206 && memcmp(head + 0x202, "HdrS", 4) == 0)
		return err_set(err, -ENOEXEC,
			"a boot image (bzImage) for bare or virtual machines, not User-Mode Linux");
	return err_set(err, -ENOEXEC, "no program (not an ELF file)");
}

static int check_open(int fd, struct err *err)
{
	union {
		Elf64_Ehdr elf;
		unsigned char bytes[HEAD];
	} head = {.bytes = {0}};
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return err_errno(err, errno, "look at it");
	if (S_ISDIR(st.st_mode))
		return err_set(err, -EISDIR, "a folder, not a kernel");
	if (!S_ISREG(st.st_mode))
		return err_set(err, -ENOEXEC, "no regular file");
	if (st.st_size == 0)
		return err_set(err, -ENOEXEC, "an empty file");
	n = pread(fd, head.bytes, sizeof(head.bytes), 0);
	if (n < 0)
		return err_errno(err, errno, "read it");
	if (n < SELFMAG || memcmp(head.bytes, ELFMAG, SELFMAG) != 0)
		return not_elf(head.bytes, (size_t)n, err);
	if ((size_t)n < sizeof(head.elf))
		return cut_short((uint64_t)n, err);

	int rc = check_machine(&head.elf, err);

	if (rc < 0)
		return rc;
	if (head.elf.e_type == ET_REL)
		return err_set(err, -ENOEXEC, "an object file or kernel module, not a kernel");
	if (head.elf.e_type != ET_EXEC && head.elf.e_type != ET_DYN)
		return err_set(err, -ENOEXEC, "an ELF file, but no program");
	return check_segments(fd, &head.elf, (uint64_t)st.st_size, err);
}

int kernelinfo_check(const char *path, struct err *err)
{
	/* O_NONBLOCK: a named pipe does not hold us up. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	int rc;

	if (fd < 0)
		return err_errno(err, errno, "kernel %s", path);
	rc = check_open(fd, err);
	(void)close(fd);
	return rc < 0 ? err_wrap(err, "kernel %s", path) : 0;
}
