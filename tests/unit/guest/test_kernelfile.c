/* What is offered as a kernel and is none: each is told by what it is, without being run. */
#include "tests/unit/guest/umlkit.h"

#include <elf.h>

#include "guest/kernelinfo.h"

static struct kit_dir dir;

static int setup(void **state)
{
	(void)state;
	kit_dir_make(&dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kit_dir_remove(&dir);
	return 0;
}

static void refused(const char *path, int code, const char *want)
{
	struct err err = ERR_INIT;
	int rc = kernelinfo_check(path, &err);

	if (rc != code || !strstr(err_msg(&err), want) || !strstr(err_msg(&err), path))
		fail_msg("%s: %d, wanted %d and '%s': %s", path, rc, code, want, err_msg(&err));
}

static void bytes_refused(const void *data, size_t size, const char *want)
{
	const char *path = kit_path(&dir, "file");

	(void)unlink(path);
	kit_write(path, data, size, 0755);
	refused(path, -ENOEXEC, want);
}

static void test_no_program(void **state)
{
	char image[1024] = "MZ";

	(void)state;
	bytes_refused("", 0, "an empty file");
	bytes_refused("#!/bin/sh\necho 6.1.0\n", 20, "a script");
	bytes_refused("hello", 5, "not an ELF file");
	bytes_refused("x", 1, "not an ELF file");
	memcpy(image + 0x202, "HdrS", 4);
	bytes_refused(image, sizeof(image), "bzImage");
	refused(dir.path, -EISDIR, "a folder");
	refused("/dev/null", -ENOEXEC, "no regular file");
	refused("/nonexistent", -ENOENT, "/nonexistent");
	assert_int_equal(mkfifo(kit_path(&dir, "pipe"), 0700), 0);
	refused(kit_path(&dir, "pipe"), -ENOEXEC, "no regular file");
}

static void test_other_elf(void **state)
{
	struct {
		Elf64_Ehdr h;
		Elf64_Phdr p;
	} f = {.h = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		       .e_type = ET_EXEC,
		       .e_machine = EM_RISCV,
		       .e_phnum = 1,
		       .e_phentsize = sizeof(Elf64_Phdr),
		       .e_phoff = sizeof(Elf64_Ehdr)},
		.p = {.p_type = PT_LOAD, .p_vaddr = 0xffffffff81000000}};

	(void)state;
	bytes_refused(&f, sizeof(f), "a program for RISC-V; this machine is");
	f.h.e_machine = 4711;
	bytes_refused(&f, sizeof(f), "ELF machine 4711");
	/* The other byte order, and the other class. */
	f.h.e_ident[EI_DATA] = ELFDATA2MSB;
	f.h.e_machine = __builtin_bswap16(EM_S390);
	bytes_refused(&f, sizeof(f), "a program for s390");
	f.h.e_ident[EI_DATA] = ELFDATA2LSB;
	f.h.e_ident[EI_CLASS] = ELFCLASS32;
	f.h.e_machine = EM_386;
	bytes_refused(&f, sizeof(f), "a program for 32-bit x86");
	f.h.e_ident[EI_CLASS] = ELFCLASS64;
	f.h.e_machine = EM_X86_64;
	bytes_refused(&f, sizeof(f), "not User-Mode Linux");
	f.h.e_type = ET_REL;
	bytes_refused(&f, sizeof(f), "kernel module");
	f.h.e_type = ET_CORE;
	bytes_refused(&f, sizeof(f), "no program");
	f.h.e_type = ET_EXEC;
	f.h.e_phnum = 0;
	bytes_refused(&f, sizeof(f), "program header");
	f.h.e_phnum = 1;
	f.h.e_phoff = UINT64_MAX - 8;
	bytes_refused(&f, sizeof(f), "cut short");
	f.h.e_phoff = sizeof(Elf64_Ehdr);
	f.p.p_vaddr = 0x400000;
	f.p.p_filesz = UINT64_MAX;
	bytes_refused(&f, sizeof(f), "cut short");
}

/* A real program is not refused; cut anywhere, it is. */
static void test_cut(void **state)
{
	static char data[1 << 20];
	struct err err = ERR_INIT;
	FILE *in = fopen("/bin/true", "re");
	size_t size;

	(void)state;
	assert_non_null(in);
	size = fread(data, 1, sizeof(data), in);
	(void)fclose(in);
	assert_true(size > 4096 && size < sizeof(data));
	if (kernelinfo_check("/bin/true", &err) < 0)
		fail_msg("%s", err_msg(&err));
	for (size_t at = 4; at < size; at += at < 1100 ? 1 : 997)
		bytes_refused(data, at, "cut short");
	bytes_refused(data, size - 1, "cut short");
	if (access(KIT_KERNEL, R_OK) == 0 && kernelinfo_check(KIT_KERNEL, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_program),
		cmocka_unit_test(test_other_elf), cmocka_unit_test(test_cut)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
