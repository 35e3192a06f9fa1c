/* A disk's move: both sides over a stream of packed Envelopes, real COW files, all
 * that can go wrong on the way; disks compared as SHA-256 of the merged files and by
 * uml_moo. */
#include "tests/unit/guest/umlkit.h"

#include <sys/mount.h>

#include <openssl/sha.h>

#include "guest/cow.h"
#include "lib/buf.h"
#include "node-agent/movein.h"
#include "node-agent/movelog.h"
#include "node-agent/moveout.h"

#define DISK (48u << 20)
#define MOVE 7u

static struct kit_dir dir;
static char base[128], from[128], to[128], merged[128];
static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static struct cow_spec spec_of(void)
{
	return (struct cow_spec){.backing = base,
		.size = DISK,
		.mtime = 1,
		.mode = 0600,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1};
}

#define ok(call)                                                  \
	do {                                                      \
		struct err err = ERR_INIT;                        \
		if ((call) < 0)                                   \
			fail_msg("%s: %s", #call, err_msg(&err)); \
	} while (0)
#define fails(code, call)                       \
	do {                                    \
		struct err err = ERR_INIT;      \
		assert_int_equal((call), code); \
		assert_true(err.msg[0]);        \
	} while (0)

static int setup(void **state)
{
	struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
	struct cow_spec spec;
	uint8_t block[4096];
	int fd;

	(void)state;
	seed = 88172645463325252u;
	kit_dir_make(&dir);
	(void)snprintf(base, sizeof(base), "%s/base", dir.path);
	(void)snprintf(from, sizeof(from), "%s/cow", dir.path);
	(void)snprintf(to, sizeof(to), "%s/in", dir.path);
	(void)snprintf(merged, sizeof(merged), "%s/merged", dir.path);
	fd = open(base, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK), 0);
	for (int i = 0; i < 16; i++) {
		memset(block, 'a' + i, sizeof(block));
		assert_int_equal(pwrite(fd, block, sizeof(block), (off_t)DISK / 16 * i), 4096);
	}
	assert_int_equal(futimens(fd, times), 0);
	(void)close(fd);
	spec = spec_of();
	ok(cow_create(from, &spec, &err));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kit_dir_remove(&dir);
	return 0;
}

/* COUNT writes of random places, sizes and compressibility; some of zeroes. */
static void scribble(const char *path, unsigned count)
{
	static uint8_t data[64 * 1024];
	struct cow *cow = NULL;

	ok(cow_open(path, true, &cow, &err));
	for (unsigned i = 0; i < count; i++) {
		size_t size = (rnd() % 4 ? 8 : 1 + rnd() % 100) * COW_BLOCK;
		uint64_t at = rnd() % ((DISK - sizeof(data)) / 4096) * 4096;

		if (rnd() % 4 == 0)
			at += rnd() % 8 * COW_BLOCK;
		for (size_t b = 0; b < size; b++)
			data[b] = i % 5 == 0 ? 0 : i % 2 ? (uint8_t)rnd() : (uint8_t)i;
		ok(cow_write(cow, at, data, size, &err));
	}
	cow_close(cow);
}

static void sum_of(const char *path, uint8_t out[32])
{
	int base_fd = open(base, O_RDONLY | O_CLOEXEC);
	int fd = open(merged, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct cow *cow = NULL;
	size_t size = 0;
	char *data;

	ok(cow_open(path, false, &cow, &err));
	ok(cow_check(cow, &err));
	ok(cow_check_backing(cow, base_fd, &err));
	ok(cow_merge(cow, base_fd, fd, NULL, &err));
	cow_close(cow);
	(void)close(fd);
	(void)close(base_fd);
	data = kit_slurp(merged, &size);
	assert_int_equal(size, DISK);
	(void)SHA256((uint8_t *)data, size, out);
	free(data);
}

static void assert_same(void)
{
	uint8_t a[32], b[32];

	sum_of(from, a);
	sum_of(to, b);
	assert_memory_equal(a, b, 32);
}

static struct moveout *must_out(void)
{
	struct moveout *out = NULL;

	ok(moveout_open(from, MOVE, &out, &err));
	return out;
}

static struct movein *must_in(void)
{
	struct cow_spec spec = spec_of();
	struct movein *in = NULL;

	ok(movein_open(to, &spec, &in, &err));
	return in;
}

/* As it goes over the wire. */
static Um__Envelope *wired(Um__Envelope *env)
{
	Um__Envelope *got = NULL;
	struct buf packed;

	buf_init(&packed);
	ok(wire_pack(env, WIRE_MESSAGE_MAX, &packed, &err));
	ok(wire_unpack(packed.data, packed.size, &got, &err));
	buf_free(&packed);
	return got;
}

static int pass_have(void *arg, const Um__MoveHave *have, struct err *err)
{
	Um__Envelope env = wire_env(1), *got;
	int rc;

	env.body_case = UM__ENVELOPE__BODY_MOVE_HAVE;
	env.move_have = (Um__MoveHave *)(uintptr_t)have;
	got = wired(&env);
	rc = moveout_have(arg, got->move_have, err);
	um__envelope__free_unpacked(got, NULL);
	return rc;
}

/* One batch across: 1, 0 at the round's end.  SPOIL: a byte of it is turned. */
static int pass_batch(struct moveout *out, struct movein *in, bool spoil, int *result)
{
	Um__Envelope env = wire_env(1), *got;
	struct moveout_batch batch;
	struct err why = ERR_INIT;
	uint8_t *bulk;
	int rc;

	rc = moveout_batch(out, &batch, &why);
	if (rc < 0)
		fail_msg("%s", err_msg(&why));
	if (rc == 0)
		return 0;
	env.body_case = UM__ENVELOPE__BODY_MOVE_BLOCKS;
	env.move_blocks = &batch.blocks;
	got = wired(&env);
	bulk = malloc(batch.bulk_size + 1);
	assert_non_null(bulk);
	memcpy(bulk, batch.bulk, batch.bulk_size);
	if (spoil && batch.bulk_size)
		bulk[rnd() % batch.bulk_size] ^= (uint8_t)(1u << rnd() % 8);
	*result = movein_blocks(in, got->move_blocks, bulk, batch.bulk_size, &why);
	free(bulk);
	um__envelope__free_unpacked(got, NULL);
	return 1;
}

static void pass_round(struct moveout *out, struct movein *in)
{
	int result = 0;

	while (pass_batch(out, in, false, &result))
		assert_int_equal(result, 0);
}

/* In turns of a moment: everything is the same, in many of them. */
static void test_slices(void **state)
{
	unsigned turns[4] = {0};
	struct moveout_batch batch;
	uint8_t digest[MOVE_DIGEST];
	struct moveout *out;
	struct movein *in;
	int rc, result = 0;

	(void)state;
	scribble(from, 3000);
	out = must_out();
	in = must_in();
	ok(moveout_round(out, &err));
	pass_round(out, in);
	moveout_slice(out, 1);
	movein_slice(in, 1);
	/* Nothing changed: a whole look, and no batch. */
	ok(moveout_round(out, &err));
	while ((rc = moveout_batch(out, &batch, NULL)) != 0) {
		assert_int_equal(rc, MOVE_MORE);
		turns[0]++;
	}
	while ((rc = movein_prove(in, NULL)) == MOVE_MORE)
		turns[1]++;
	assert_int_equal(rc, 0);
	scribble(from, 30);
	ok(moveout_last(out, &err));
	while ((rc = moveout_batch(out, &batch, NULL)) != 0) {
		assert_true(rc == 1 || rc == MOVE_MORE);
		if (rc == 1) {
			result =
				movein_blocks(in, &batch.blocks, batch.bulk, batch.bulk_size, NULL);
			assert_int_equal(result, 0);
		}
	}
	ok(moveout_digest(out, digest, &err));
	while ((rc = movein_seal(in, digest, NULL)) == MOVE_MORE)
		turns[2]++;
	assert_int_equal(rc, 0);
	movein_close(in);
	/* What a new session hears is all that there is. */
	moveout_close(out);
	out = must_out();
	in = must_in();
	movein_slice(in, 1);
	while ((rc = movein_have(in, pass_have, out, NULL)) == MOVE_MORE)
		turns[3]++;
	assert_int_equal(rc, 0);
	ok(moveout_round(out, &err));
	assert_int_equal(moveout_batch(out, &batch, NULL), 0);
	moveout_close(out);
	movein_close(in);
	assert_true(turns[0] > 1 && turns[1] > 1 && turns[3] > 1);
	assert_same();
}

static void finish(struct moveout *out, struct movein *in)
{
	uint8_t digest[MOVE_DIGEST];

	ok(moveout_last(out, &err));
	pass_round(out, in);
	ok(moveout_digest(out, digest, &err));
	ok(movein_seal(in, digest, &err));
	assert_true(movein_sealed(in));
}

static uint64_t sent(const struct moveout *out)
{
	struct moveout_progress p;

	moveout_progress(out, &p);
	return p.bytes;
}

static void test_rounds(void **state)
{
	struct moveout *out;
	struct movein *in;
	struct moveout_progress p;
	struct cow_count count;
	struct cow *cow = NULL;

	(void)state;
	scribble(from, 3000);
	ok(cow_open(from, false, &cow, &err));
	ok(cow_count(cow, &count, &err));
	cow_close(cow);
	out = must_out();
	in = must_in();
	ok(moveout_round(out, &err));
	pass_round(out, in);
	moveout_progress(out, &p);
	assert_true(p.bytes <= count.data_bytes);
	assert_true(p.wire_bytes <= count.data_bytes + count.data_bytes / 20);
	/* Nothing changed: nothing is sent. */
	ok(moveout_round(out, &err));
	pass_round(out, in);
	assert_int_equal(sent(out), p.bytes);
	/* A little did. */
	scribble(from, 40);
	ok(moveout_round(out, &err));
	pass_round(out, in);
	assert_true(sent(out) > p.bytes && sent(out) <= p.bytes + UINT64_C(40) * 56 * 1024);
	scribble(from, 10);
	finish(out, in);
	moveout_close(out);
	movein_close(in);
	assert_same();
	/* An independent reader makes the same disk of it. */
	char moo[160];

	(void)snprintf(moo, sizeof(moo), "%s/moo", dir.path);
	assert_int_equal(kit_run("uml_moo", to, moo), 0);
	assert_int_equal(kit_run("cmp", moo, merged), 0);
}

static void test_empty(void **state)
{
	struct moveout *out = must_out();
	struct movein *in = must_in();

	(void)state;
	ok(moveout_round(out, &err));
	pass_round(out, in);
	finish(out, in);
	assert_int_equal(sent(out), 0);
	assert_int_equal(movein_written(in), 0);
	moveout_close(out);
	movein_close(in);
	assert_same();
}

/* Both sides die after some batches, and go on from what the target's file has. */
static void test_resume(void **state)
{
	uint64_t whole = 0, again = 0;
	unsigned starts = 0;
	bool done = false;
	struct moveout_progress p;

	(void)state;
	scribble(from, 3000);
	struct moveout *probe = must_out();
	struct moveout_batch batch;

	ok(moveout_round(probe, &err));
	while (moveout_batch(probe, &batch, NULL) > 0)
		;
	whole = sent(probe);
	moveout_close(probe);
	while (!done) {
		struct moveout *out = must_out();
		struct movein *in = must_in();
		int result = 0, more = 1;

		starts++;
		ok(movein_have(in, pass_have, out, &err));
		ok(moveout_round(out, &err));
		for (int i = 0; i < 3 && more; i++)
			more = pass_batch(out, in, false, &result);
		/* One more is made, and lost. */
		done = !more;
		if (!done && starts % 2)
			(void)moveout_batch(out, &batch, NULL);
		moveout_progress(out, &p);
		again += p.bytes;
		if (done)
			finish(out, in);
		moveout_close(out);
		movein_close(in);
		assert_true(starts < 100);
	}
	assert_true(starts > 3);
	/* Only lost batches were sent twice. */
	assert_true(again <= whole + (uint64_t)starts * MOVE_BATCH_MAX);
	assert_same();
}

/* What was written last never reached the target's disk, or was torn. */
static void test_torn(void **state)
{
	struct moveout *out;
	struct movein *in;
	struct cow *cow = NULL;
	uint8_t digest[MOVE_DIGEST], junk[8192];

	(void)state;
	scribble(from, 1000);
	out = must_out();
	in = must_in();
	ok(moveout_last(out, &err));
	pass_round(out, in);
	ok(moveout_digest(out, digest, &err));
	memset(junk, 0x5a, sizeof(junk));
	struct moveseg *seg = malloc(sizeof(*seg));

	assert_non_null(seg);
	movein_close(in);
	ok(cow_open(to, true, &cow, &err));
	assert_int_equal(moveseg_next(cow, 20, seg, NULL), 1);
	unsigned n = (unsigned)__builtin_ctzll(seg->cells);
	off_t at = (off_t)(seg->index * MOVE_SEGMENT + n * MOVE_CELL +
			   (unsigned)__builtin_ctz(seg->mask[n]) * COW_BLOCK);

	assert_int_equal(
		pwrite(cow_fd(cow), junk, 512, (off_t)cow_info(cow)->data_offset + at), 512);
	cow_close(cow);
	free(seg);
	in = must_in();
	fails(-ESTALE, movein_seal(in, digest, &err));
	assert_false(movein_sealed(in));
	moveout_close(out);
	out = must_out();
	ok(movein_have(in, pass_have, out, &err));
	finish(out, in);
	assert_true(sent(out) > 0 && sent(out) <= MOVE_CELL);
	moveout_close(out);
	movein_close(in);
	assert_same();
}

/* One bit of the copy, in the first cell that is set from there on. */
static void flip(uint64_t from_segment)
{
	struct moveseg *seg = malloc(sizeof(*seg));
	struct cow *cow = NULL;
	uint8_t byte;
	off_t at;
	int fd;

	assert_non_null(seg);
	ok(cow_open(to, false, &cow, &err));
	assert_int_equal(moveseg_next(cow, from_segment, seg, NULL), 1);
	at = (off_t)(cow_info(cow)->data_offset + seg->index * MOVE_SEGMENT +
		     (unsigned)__builtin_ctzll(seg->cells) * MOVE_CELL +
		     (unsigned)__builtin_ctz(seg->mask[__builtin_ctzll(seg->cells)]) * COW_BLOCK);
	cow_close(cow);
	free(seg);
	fd = open(to, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 16;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	(void)close(fd);
}

/* Reading ahead of the seal finds what reading at the seal finds: what changed before it,
 * what came after it; with nothing wrong, nothing.  AT: when a bit turns over, 0: never. */
static void settle_and_prove(int at)
{
	struct moveout *out;
	struct movein *in;
	struct cow *cow = NULL;
	uint8_t digest[MOVE_DIGEST], data[8192];

	scribble(from, 1000);
	out = must_out();
	in = must_in();
	ok(moveout_round(out, &err));
	pass_round(out, in);
	if (at == 1)
		flip(10);
	ok(movein_settle(in, &err));
	if (at == 2)
		flip(0);
	ok(movein_settle(in, &err)); /* nothing to do */
	/* Where scribble() and so flip() do not come. */
	ok(cow_open(from, true, &cow, &err));
	memset(data, 'z', sizeof(data));
	ok(cow_write(cow, DISK - sizeof(data), data, sizeof(data), &err));
	cow_close(cow);
	ok(moveout_last(out, &err));
	ok(movein_prove(in, &err));
	ok(movein_prove(in, &err)); /* a session that began anew */
	pass_round(out, in);
	ok(moveout_digest(out, digest, &err));
	if (at) {
		fails(-ESTALE, movein_seal(in, digest, &err));
		movein_close(in);
		moveout_close(out);
		out = must_out();
		in = must_in();
		ok(movein_have(in, pass_have, out, &err));
		finish(out, in);
		assert_true(sent(out) > 0 && sent(out) <= MOVE_CELL);
	} else {
		ok(movein_seal(in, digest, &err));
	}
	moveout_close(out);
	movein_close(in);
	assert_same();
}

static void test_settled(void **state)
{
	(void)state;
	settle_and_prove(0);
}

static void test_spoiled_before_settled(void **state)
{
	(void)state;
	settle_and_prove(1);
}

static void test_spoiled_after_settled(void **state)
{
	(void)state;
	settle_and_prove(2);
}

static void test_spoiled(void **state)
{
	struct moveout *out;
	struct movein *in;
	int result = 0, bad = 0;

	(void)state;
	scribble(from, 2000);
	out = must_out();
	in = must_in();
	ok(moveout_round(out, &err));
	while (pass_batch(out, in, true, &result)) {
		assert_int_equal(result, -EBADMSG);
		bad++;
	}
	assert_true(bad > 3);
	assert_int_equal(movein_written(in), 0);
	moveout_close(out);
	out = must_out();
	ok(movein_have(in, pass_have, out, &err));
	finish(out, in);
	/* It takes no more. */
	Um__MoveBlocks none = UM__MOVE_BLOCKS__INIT;

	fails(-EPERM, movein_blocks(in, &none, NULL, 0, &err));
	moveout_close(out);
	movein_close(in);
	assert_same();
}

static void test_disk_full(void **state)
{
	struct cow_spec spec = spec_of();
	struct moveout *out;
	struct movein *in = NULL;
	char small[128], path[160];
	uint8_t before[32], after[32];
	int result = 0;

	(void)state;
	scribble(from, 3000);
	sum_of(from, before);
	(void)snprintf(small, sizeof(small), "%s/small", dir.path);
	(void)snprintf(path, sizeof(path), "%s/in", small);
	assert_int_equal(mkdir(small, 0700), 0);
	assert_int_equal(mount("small", small, "tmpfs", 0, "size=4m"), 0);
	out = must_out();
	ok(movein_open(path, &spec, &in, &err));
	ok(moveout_round(out, &err));
	while (result == 0 && pass_batch(out, in, false, &result))
		;
	fails(-EIO, movein_sync(in, &err));
	moveout_close(out);
	movein_close(in);
	assert_int_equal(umount2(small, MNT_DETACH), 0);
	assert_int_equal(result, -ENOSPC);
	sum_of(from, after);
	assert_memory_equal(before, after, 32);
}

static void test_foreign(void **state)
{
	struct cow_spec spec = spec_of();
	struct moveout *out;
	struct movein *in;
	struct moveout_batch batch;

	(void)state;
	/* The partial copy has what the source never had. */
	ok(cow_create(to, &spec, &err));
	scribble(to, 50);
	scribble(from, 5);
	out = must_out();
	in = must_in();
	ok(movein_have(in, pass_have, out, &err));
	ok(moveout_round(out, &err));
	struct err why = ERR_INIT;
	int rc;

	while ((rc = moveout_batch(out, &batch, &why)) > 0)
		;
	assert_int_equal(rc, -ESTALE);
	moveout_close(out);
	movein_close(in);
	/* No COW file at all: made anew. */
	kit_write(to, "nonsense", 8, 0600);
	out = must_out();
	in = must_in();
	ok(movein_have(in, pass_have, out, &err));
	finish(out, in);
	moveout_close(out);
	movein_close(in);
	assert_same();
}

/* The guest writes during all rounds; its kernel's lock keeps the last one away. */
static void test_live(void **state)
{
	struct moveout *out;
	struct movein *in;
	int ready[2];
	char byte;
	pid_t pid;

	(void)state;
	scribble(from, 1000);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		static uint8_t data[4096];
		struct cow *cow = NULL;

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (cow_open(from, true, &cow, NULL) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;) {
			memset(data, (int)rnd(), sizeof(data));
			(void)cow_write(cow, rnd() % (DISK / 4096) * 4096, data, 4096, NULL);
		}
	}
	assert_true(pid > 0);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	out = must_out();
	in = must_in();
	for (int i = 0; i < 4; i++) {
		ok(moveout_round(out, &err));
		pass_round(out, in);
		ok(movein_sync(in, &err));
	}
	fails(-EBUSY, moveout_last(out, &err));
	(void)kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	finish(out, in);
	moveout_close(out);
	movein_close(in);
	(void)close(ready[0]);
	(void)close(ready[1]);
	assert_same();
}

/* What a look at the log sends goes over; returns how many bytes of text that were. */
static size_t pass_log(struct movelog_mark *mark, const char *source, const char *target)
{
	struct movelog *log = NULL;
	struct movelog_piece piece;
	size_t bytes = 0;

	ok(movelog_open(source, MOVE, mark, &log, &err));
	while (movelog_next(log, &piece) > 0) {
		ok(movelog_take(target, &piece.log, piece.bulk, piece.bulk_size, &err));
		bytes += piece.log.raw_size;
	}
	movelog_close(log);
	ok(movelog_sync(target, &err));
	return bytes;
}

static void assert_same_log(const char *source, const char *target, const char *name)
{
	char a[160], b[160];

	(void)snprintf(a, sizeof(a), "%s/%s", source, name);
	(void)snprintf(b, sizeof(b), "%s/%s", target, name);
	assert_int_equal(kit_run("cmp", a, b), 0);
}

/* Each look sends what came since; after a rotation, each file whole. */
static void test_log(void **state)
{
	char source[128], target[128], path[160], old[160];
	struct movelog_mark mark = {0};
	static char text[3 << 20];
	int fd;

	(void)state;
	memset(text, 'l', sizeof(text));
	(void)snprintf(source, sizeof(source), "%s/s", dir.path);
	(void)snprintf(target, sizeof(target), "%s/t", dir.path);
	(void)snprintf(path, sizeof(path), "%s/console.log", source);
	(void)snprintf(old, sizeof(old), "%s/console.log.1", source);
	assert_int_equal(mkdir(source, 0700), 0);
	assert_int_equal(mkdir(target, 0700), 0);
	assert_int_equal(pass_log(&mark, source, target), 0);
	kit_write(path, text, sizeof(text), 0600);
	kit_write(old, text, 5000, 0600);
	assert_int_equal(pass_log(&mark, source, target), sizeof(text) + 5000);
	assert_int_equal(pass_log(&mark, source, target), 0);
	fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_int_equal(write(fd, "the end\n", 8), 8);
	(void)close(fd);
	assert_int_equal(pass_log(&mark, source, target), 8);
	assert_same_log(source, target, "console.log");
	assert_same_log(source, target, "console.log.1");
	/* The new one is empty: so is what is there. */
	assert_int_equal(rename(path, old), 0);
	kit_write(path, text, 0, 0600);
	assert_int_equal(pass_log(&mark, source, target), sizeof(text) + 8);
	assert_same_log(source, target, "console.log");
	assert_same_log(source, target, "console.log.1");
}

/* Messages of an enemy: any bytes turned, nothing but -EBADMSG or a good batch. */
static void test_hostile(void **state)
{
	struct moveout *out;
	struct movein *in;
	struct moveout_batch batch;
	Um__Envelope env = wire_env(1);
	struct buf packed;

	(void)state;
	scribble(from, 60);
	out = must_out();
	in = must_in();
	ok(moveout_round(out, &err));
	assert_int_equal(moveout_batch(out, &batch, NULL), 1);
	env.body_case = UM__ENVELOPE__BODY_MOVE_BLOCKS;
	env.move_blocks = &batch.blocks;
	buf_init(&packed);
	ok(wire_pack(&env, WIRE_MESSAGE_MAX, &packed, &err));
	for (int i = 0; i < 1500; i++) {
		uint8_t *copy = malloc(packed.size);
		Um__Envelope *got = NULL;

		assert_non_null(copy);
		memcpy(copy, packed.data, packed.size);
		for (uint64_t k = 1 + rnd() % 3; k > 0; k--)
			copy[rnd() % (k == 1 ? packed.size : 64)] = (uint8_t)rnd();
		if (wire_unpack(copy, packed.size, &got, NULL) == 0) {
			if (got->body_case == UM__ENVELOPE__BODY_MOVE_BLOCKS) {
				int rc = movein_blocks(
					in, got->move_blocks, batch.bulk, batch.bulk_size, NULL);

				assert_true(rc == 0 || rc == -EBADMSG);
			}
			um__envelope__free_unpacked(got, NULL);
		}
		free(copy);
	}
	buf_free(&packed);
	moveout_close(out);
	movein_close(in);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_rounds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_slices, setup, teardown),
		cmocka_unit_test_setup_teardown(test_empty, setup, teardown),
		cmocka_unit_test_setup_teardown(test_resume, setup, teardown),
		cmocka_unit_test_setup_teardown(test_torn, setup, teardown),
		cmocka_unit_test_setup_teardown(test_settled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spoiled_before_settled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spoiled_after_settled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spoiled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
		cmocka_unit_test_setup_teardown(test_foreign, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live, setup, teardown),
		cmocka_unit_test_setup_teardown(test_log, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
