#include "guest/image/ext4.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/image/tool.h"
#include "lib/buf.h"
#include "lib/str.h"

#define BLOCK 4096u
#define UUID "756d6c61-7574-4000-8000-000000000001"
#define HASH_SEED "756d6c61-7574-4000-8000-000000000002"
#define JOURNAL_MIB 4u
#define FIRST_INODE 11u /* lost+found; the folder's follow one after the other */
#define INODE_SIZE 256u
#define DEPTH_MAX 64
/* What every Linux since 4.0 mounts; not what the builder's mke2fs.conf says. */
#define FEATURES                                                                           \
	"none,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super," \
	"large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

struct count {
	uint64_t blocks; /* of content, folders included */
	uint64_t inodes;
};

static int count_dir(int fd, struct count *c, unsigned depth, struct err *err)
{
	struct dirent *d;
	DIR *dir = fdopendir(fd);
	int rc = 0;

	if (!dir) {
		close(fd);
		return err_errno(err, errno, "read a folder");
	}
	if (depth > DEPTH_MAX)
		rc = err_set(err, -ELOOP, "folders more than %d deep", DEPTH_MAX);
	while (rc == 0 && (d = readdir(dir))) {
		struct stat st;

		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW)) {
			rc = err_errno(err, errno, "'%s'", d->d_name);
			break;
		}
		c->inodes++;
		if (S_ISREG(st.st_mode)) {
			c->blocks += ((uint64_t)st.st_size + BLOCK - 1) / BLOCK;
		} else if (S_ISDIR(st.st_mode)) {
			/* A folder's own blocks: 64 bytes an entry is ample. */
			c->blocks += 2 + (uint64_t)st.st_size / BLOCK;
			rc = openat(dirfd(dir), d->d_name,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			rc = rc < 0 ? err_errno(err, errno, "'%s'", d->d_name)
				    : count_dir(rc, c, depth + 1, err);
			if (rc)
				(void)err_wrap(err, "%s", d->d_name);
		} else if (S_ISLNK(st.st_mode) && st.st_size >= 60) {
			c->blocks++;
		}
	}
	closedir(dir);
	return rc;
}

/* Size and number of inodes. */
static int plan(const struct ext4_spec *spec, struct count *c, uint64_t *size, uint64_t *inodes,
	struct err *err)
{
	uint64_t need;
	int fd = open(spec->tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return err_errno(err, errno, "folder %s", spec->tree);
	*c = (struct count){0};
	rc = count_dir(fd, c, 0, err);
	if (rc)
		return err_wrap(err, "folder %s", spec->tree);
	*inodes = c->inodes + FIRST_INODE + 16;
	if (!spec->read_only && *inodes < (spec->size + spec->free) / 8192)
		*inodes = (spec->size + spec->free) / 8192;
	*inodes = (*inodes + 15) / 16 * 16;
	need = c->blocks * BLOCK + *inodes * INODE_SIZE;
	need += need / 32 + (1u << 20);
	if (!spec->read_only)
		need += JOURNAL_MIB << 20;
	*size = spec->size ? spec->size : need + spec->free;
	if (*size < EXT4_SIZE_MIN)
		*size = EXT4_SIZE_MIN;
	*size = (*size + BLOCK - 1) / BLOCK * BLOCK;
	if (c->blocks * BLOCK >= *size)
		return err_set(err, -ENOSPC, "folder %s: its %llu MiB do not fit into %llu MiB",
			spec->tree, (unsigned long long)(c->blocks * BLOCK >> 20),
			(unsigned long long)(*size >> 20));
	return 0;
}

static int run_mke2fs(const struct ext4_spec *spec, uint64_t size, uint64_t inodes, struct err *err)
{
	char inodes_text[24], blocks_text[24], journal[24], fake[40], epoch[40];
	const char *const env[] = {fake, epoch, "MKE2FS_CONFIG=/dev/null", NULL};
	const char *argv[32];
	struct tool tool = {.argv = argv, .env = env, .as_root = true};
	size_t n = 0;

	(void)str_format(inodes_text, sizeof(inodes_text), "%llu", (unsigned long long)inodes);
	(void)str_format(
		blocks_text, sizeof(blocks_text), "%llu", (unsigned long long)(size / BLOCK));
	(void)str_format(journal, sizeof(journal), "size=%u", JOURNAL_MIB);
	(void)str_format(fake, sizeof(fake), "E2FSPROGS_FAKE_TIME=%u", EXT4_TIME);
	(void)str_format(epoch, sizeof(epoch), "SOURCE_DATE_EPOCH=%u", EXT4_TIME);
	argv[n++] = "mke2fs";
	argv[n++] = "-q";
	argv[n++] = "-F";
	argv[n++] = "-t";
	argv[n++] = "ext4";
	argv[n++] = "-b";
	argv[n++] = "4096";
	argv[n++] = "-I";
	argv[n++] = "256";
	argv[n++] = "-N";
	argv[n++] = inodes_text;
	argv[n++] = "-m";
	argv[n++] = "0";
	argv[n++] = "-O";
	argv[n++] = spec->read_only ? FEATURES : FEATURES ",has_journal";
	if (!spec->read_only) {
		argv[n++] = "-J";
		argv[n++] = journal;
	}
	argv[n++] = "-U";
	argv[n++] = UUID;
	argv[n++] = "-L";
	argv[n++] = spec->label ? spec->label : "";
	argv[n++] = "-E";
	argv[n++] = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,hash_"
		    "seed=" HASH_SEED;
	argv[n++] = "-d";
	argv[n++] = spec->tree;
	argv[n++] = spec->out;
	argv[n++] = blocks_text;
	argv[n] = NULL;
	return tool_run(&tool, err);
}

/* Access and change times come from the folder's files: they differ at every run. */
static int fix_times(const struct ext4_spec *spec, uint64_t inodes, struct err *err)
{
	const char *argv[] = {"debugfs", "-w", "-f", "-", spec->out, NULL};
	char fake[40];
	const char *const env[] = {fake, NULL};
	struct tool tool = {.argv = argv, .env = env};
	struct buf script;
	uint64_t i;
	int rc;

	(void)str_format(fake, sizeof(fake), "E2FSPROGS_FAKE_TIME=%u", EXT4_TIME);
	buf_init(&script);
	/* The root folder, and all from lost+found on. */
	buf_printf(&script, "sif <2> atime @%u\nsif <2> ctime @%u\nsif <2> mtime @%u\n", EXT4_TIME,
		EXT4_TIME, EXT4_TIME);
	for (i = FIRST_INODE; i < FIRST_INODE + 1 + inodes; i++)
		buf_printf(&script, "sif <%llu> atime @%u\nsif <%llu> ctime @%u\n",
			(unsigned long long)i, EXT4_TIME, (unsigned long long)i, EXT4_TIME);
	tool.input = buf_text(&script);
	rc = script.failed ? err_set(err, -ENOMEM, "no memory") : tool_run(&tool, err);
	buf_free(&script);
	return rc;
}

int ext4_build(const struct ext4_spec *spec, struct err *err)
{
	struct count count = {0};
	uint64_t size = 0, inodes = 0;
	int attempt, rc, fd;

	rc = plan(spec, &count, &size, &inodes, err);
	for (attempt = 0; rc == 0; attempt++) {
		/* An empty file of the right size: what is not written stays a hole. */
		(void)unlink(spec->out);
		fd = open(spec->out, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (fd < 0 || ftruncate(fd, (off_t)size))
			rc = err_errno(err, errno, "image %s", spec->out);
		if (fd >= 0)
			close(fd);
		if (rc)
			break;
		rc = run_mke2fs(spec, size, inodes, err);
		if (rc != -EIO || spec->size || attempt == 2)
			break;
		/* The estimate was short: links, attributes, deep folders. */
		size = (size + size / 4) / BLOCK * BLOCK;
		rc = 0;
	}
	/* Hard links take no inode of their own: those beyond the last are unused, and
	 * setting the times of a free inode would be seen by nobody but a comparison. */
	if (!rc)
		rc = fix_times(spec, count.inodes, err);
	if (rc) {
		(void)unlink(spec->out);
		return err_wrap(err, "make the ext4 image %s", spec->out);
	}
	return 0;
}
