/* umlaut-init's streams in a real guest: exec on pipes and terminals, copies. */
#include "tests/unit/guest/init/vm.h"

#include <openssl/sha.h>

#include "lib/buf.h"

static struct vm_world world;
static struct vm vm;

static int begin(void **state)
{
	Um__GuestConfig c = vm_config();

	(void)state;
	vm_world_make(&world);
	vm_boot(&vm, &world, "streams", world.busybox, NULL);
	vm_ready(&vm, &c);
	return 0;
}

static int finish(void **state)
{
	(void)state;
	vm_end(&vm);
	vm_world_free(&world);
	return 0;
}

struct result {
	struct buf out[3]; /* by channel */
	int status;
	unsigned signal;
	char error[512];
	bool opened, ended;
	size_t credit; /* what we may send */
};

static void result_init(struct result *r)
{
	memset(r, 0, sizeof(*r));
	buf_init(&r->out[1]);
	buf_init(&r->out[2]);
	r->credit = WIRE_STREAM_WINDOW;
}

static void result_free(struct result *r)
{
	buf_free(&r->out[1]);
	buf_free(&r->out[2]);
}

static const char *text(struct result *r, int channel)
{
	return buf_text(&r->out[channel]);
}

static uint64_t open_stream(Um__StreamOpen *body)
{
	Um__Envelope env = wire_env(vm.next_id++);

	env.body_case = UM__ENVELOPE__BODY_STREAM_OPEN;
	env.stream_open = body;
	vm_send(&vm, &env);
	return env.id;
}

static uint64_t open_sh(const char *script, bool input, bool tty)
{
	Um__StreamOpen body = UM__STREAM_OPEN__INIT;
	char *argv[] = {vm_text("sh"), vm_text("-c"), vm_text(script)};

	body.kind = UM__STREAM_KIND__STREAM_EXEC;
	body.argv = argv;
	body.n_argv = 3;
	body.stdin_open = input;
	body.tty = tty;
	body.rows = 33;
	body.cols = 111;
	return open_stream(&body);
}

static void send_data(uint64_t id, const void *data, size_t size, bool eof)
{
	Um__Envelope env = wire_env(id);
	Um__StreamData body = UM__STREAM_DATA__INIT;
	union {
		const void *c;
		uint8_t *p;
	} bytes = {.c = data};

	body.data.data = bytes.p;
	body.data.len = size;
	body.eof = eof;
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &body;
	vm_send(&vm, &env);
}

static void send_credit(uint64_t id, uint32_t bytes)
{
	Um__Envelope env = wire_env(id);
	Um__StreamCredit body = UM__STREAM_CREDIT__INIT;

	body.bytes = bytes;
	body.channel = 1;
	env.body_case = UM__ENVELOPE__BODY_STREAM_CREDIT;
	env.stream_credit = &body;
	vm_send(&vm, &env);
}

static void send_end(uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__StreamEnd body = UM__STREAM_END__INIT;

	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &body;
	vm_send(&vm, &env);
}

/* One message; GRANT: give the bytes back as credit. */
static void step(uint64_t id, struct result *r, bool grant)
{
	Um__Envelope *env = vm_next(&vm);

	if (!env)
		fail_msg("the guest ended; console:\n%s", vm_console(&vm));
	if (env->id == id && env->body_case == UM__ENVELOPE__BODY_STREAM_OPENED) {
		r->opened = true;
	} else if (env->id == id && env->body_case == UM__ENVELOPE__BODY_STREAM_DATA) {
		ProtobufCBinaryData *data = &env->stream_data->data;

		assert_in_range(env->stream_data->channel, 1, 2);
		assert_true(data->len <= WIRE_STREAM_DATA);
		buf_add(&r->out[env->stream_data->channel], data->data, data->len);
		if (grant && data->len)
			send_credit(id, (uint32_t)data->len);
	} else if (env->id == id && env->body_case == UM__ENVELOPE__BODY_STREAM_CREDIT) {
		r->credit += env->stream_credit->bytes;
	} else if (env->id == id && env->body_case == UM__ENVELOPE__BODY_STREAM_END) {
		r->ended = true;
		r->status = env->stream_end->exit_status;
		r->signal = env->stream_end->signal;
		if (env->stream_end->error)
			(void)snprintf(
				r->error, sizeof(r->error), "%s", env->stream_end->error->message);
	}
	vm_free(env);
}

static void run_to_end(uint64_t id, struct result *r)
{
	while (!r->ended)
		step(id, r, true);
}

static void put_all(uint64_t id, struct result *r, const uint8_t *data, size_t size)
{
	size_t at = 0;

	while (at < size && !r->ended) {
		size_t n = size - at < WIRE_STREAM_DATA ? size - at : WIRE_STREAM_DATA;

		if (r->credit < n) {
			step(id, r, true);
			continue;
		}
		send_data(id, data + at, n, false);
		r->credit -= n;
		at += n;
	}
	send_data(id, NULL, 0, true);
}

static void expect(const char *script, int status, const char *out, const char *err)
{
	struct result r;

	result_init(&r);
	run_to_end(open_sh(script, false, false), &r);
	if (r.status != status || strcmp(text(&r, 1), out) || strcmp(text(&r, 2), err) || !r.opened)
		fail_msg("%s: status %d, '%s', '%s' %s", script, r.status, text(&r, 1), text(&r, 2),
			r.error);
	result_free(&r);
}

static void test_pipes(void **state)
{
	struct result r;
	uint64_t id;

	(void)state;
	expect("echo out; echo err >&2; exit 42", 42, "out\n", "err\n");
	expect("kill -9 $$", 137, "", "");
	expect("cat; pwd; umask; echo $HOME $USER", 0, "/\n0022\n/root root\n", "");
	expect("ls /proc/self/fd", 0, "0\n1\n2\n3\n", "");
	/* Who is left behind does not keep the stream open. */
	expect("sleep 300 & echo fast", 0, "fast\n", "");
	expect("trap 'echo got; exit 3' TERM; kill -TERM $$", 3, "got\n", "");

	result_init(&r);
	id = open_sh("tr a-z A-Z; echo done", true, false);
	send_data(id, "hello ", 6, false);
	send_data(id, "there\n", 6, true);
	run_to_end(id, &r);
	assert_string_equal(text(&r, 1), "HELLO THERE\ndone\n");
	assert_int_equal(r.status, 0);
	result_free(&r);
}

static void test_not_run(void **state)
{
	Um__StreamOpen body = UM__STREAM_OPEN__INIT;
	char *argv[] = {vm_text("no-such-program")}, *folder[] = {vm_text("/etc")},
	     *text_file[] = {vm_text("/etc/passwd")}, *list[] = {vm_text("ls")};
	struct result r;

	(void)state;
	body.kind = UM__STREAM_KIND__STREAM_EXEC;
	body.argv = argv;
	body.n_argv = 1;
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_int_equal(r.status, 127);
	assert_string_equal(r.error, "no-such-program: not found in the guest");
	result_free(&r);

	body.argv = folder;
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_int_equal(r.status, 126);
	result_free(&r);

	body.argv = text_file;
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_int_equal(r.status, 126);
	result_free(&r);

	body.argv = list;
	body.path = vm_text("/nowhere");
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_string_equal(r.error, "folder /nowhere: No such file or directory");
	result_free(&r);

	body.kind = UM__STREAM_KIND__STREAM_LOGS;
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_true(r.status != 0 && *r.error);
	result_free(&r);
}

static void test_env_and_cwd(void **state)
{
	Um__StreamOpen body = UM__STREAM_OPEN__INIT;
	char *argv[] = {vm_text("sh"), vm_text("-c"), vm_text("pwd; echo $A-$TERM")};
	char *env[] = {vm_text("A=x y"), vm_text("TERM=screen"), vm_text("broken")};
	struct result r;

	(void)state;
	body.kind = UM__STREAM_KIND__STREAM_EXEC;
	body.argv = argv;
	body.n_argv = 3;
	body.env = env;
	body.n_env = 3;
	body.path = vm_text("/etc/init.d");
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_string_equal(text(&r, 1), "/etc/init.d\nx y-screen\n");
	result_free(&r);
}

/* 20 MB out: whole, and never more than was granted. */
static void test_big_out(void **state)
{
	const size_t size = 20u << 20;
	char want[65], got[65];
	uint8_t digest[SHA256_DIGEST_LENGTH];
	uint64_t id, start;
	struct result r, sum;

	(void)state;
	result_init(&sum);
	run_to_end(open_sh("head -c 20971520 /dev/urandom > /tmp/big; sha256sum /tmp/big", false,
			   false),
		&sum);
	(void)str_copy(want, sizeof(want), "");
	memcpy(want, text(&sum, 1), 64);
	want[64] = '\0';
	result_init(&r);
	id = open_sh("cat /tmp/big", false, false);
	start = proc_mono_ms();
	while (r.out[1].size < WIRE_STREAM_WINDOW)
		step(id, &r, false);
	/* The window is used up: a second stream is served, this one waits. */
	expect("echo other", 0, "other\n", "");
	assert_int_equal(r.out[1].size, WIRE_STREAM_WINDOW);
	send_credit(id, WIRE_STREAM_WINDOW);
	run_to_end(id, &r);
	print_message("20 MiB out in %llu ms\n", (unsigned long long)(proc_mono_ms() - start));
	assert_int_equal(r.out[1].size, size);
	(void)SHA256(r.out[1].data, r.out[1].size, digest);
	str_hex(got, digest, sizeof(digest));
	assert_string_equal(got, want);
	assert_int_equal(r.status, 0);
	result_free(&r);
	result_free(&sum);
}

static void test_big_in(void **state)
{
	const size_t size = 2u << 20;
	uint8_t *data = malloc(size), digest[SHA256_DIGEST_LENGTH];
	char want[65];
	struct result r;
	uint64_t id, start;

	(void)state;
	assert_non_null(data);
	proc_random(data, size);
	(void)SHA256(data, size, digest);
	str_hex(want, digest, sizeof(digest));
	result_init(&r);
	id = open_sh("sha256sum", true, false);
	start = proc_mono_ms();
	put_all(id, &r, data, size);
	run_to_end(id, &r);
	print_message("2 MiB in within %llu ms\n", (unsigned long long)(proc_mono_ms() - start));
	assert_int_equal(strncmp(text(&r, 1), want, 64), 0);
	result_free(&r);

	/* A program that does not read its input does not hold up anybody. */
	result_init(&r);
	id = open_sh("exec 0<&-; sleep 0.2; echo done", true, false);
	put_all(id, &r, data, size / 2);
	run_to_end(id, &r);
	assert_string_equal(text(&r, 1), "done\n");
	result_free(&r);
	free(data);
}

static void test_too_much(void **state)
{
	static uint8_t data[WIRE_STREAM_DATA];
	struct result r;
	uint64_t id;
	int i;

	(void)state;
	result_init(&r);
	id = open_sh("sleep 5", true, false);
	for (i = 0; i < 40 && !r.ended; i++) {
		send_data(id, data, sizeof(data), false);
		if (i == 20) /* past the window and a pipe: it must have ended */
			run_to_end(id, &r);
	}
	assert_non_null(strstr(r.error, "granted"));
	result_free(&r);
}

static void test_tty(void **state)
{
	struct result r;
	uint64_t id;
	Um__Envelope env;
	Um__StreamControl control = UM__STREAM_CONTROL__INIT;

	(void)state;
	result_init(&r);
	run_to_end(open_sh("tty; stty size; test -t 2 && echo all; exit 5", true, true), &r);
	assert_string_equal(text(&r, 1), "/dev/pts/0\r\n33 111\r\nall\r\n");
	assert_int_equal(r.status, 5);
	result_free(&r);

	/* Typed input with echo, a new size, Ctrl-C to the foreground job. */
	result_init(&r);
	id = open_sh(
		"trap 'stty size; exit 9' INT; echo go; while :; do sleep 0.1; done", true, true);
	while (!strstr(text(&r, 1), "go"))
		step(id, &r, true);
	control.rows = 50;
	control.cols = 90;
	env = wire_env(id);
	env.body_case = UM__ENVELOPE__BODY_STREAM_CONTROL;
	env.stream_control = &control;
	vm_send(&vm, &env);
	send_data(id, "\003", 1, false);
	run_to_end(id, &r);
	assert_non_null(strstr(text(&r, 1), "50 90\r\n"));
	assert_int_equal(r.status, 9);
	result_free(&r);

	/* The end of input ends the shell. */
	result_init(&r);
	id = open_sh("cat; echo over", true, true);
	send_data(id, "x\n", 2, true);
	run_to_end(id, &r);
	assert_non_null(strstr(text(&r, 1), "over"));
	result_free(&r);
}

/* The kernel hangs a terminal up when its session's leader ends: nothing is lost,
 * also when the client takes the last of it much later. */
static void test_tty_big(void **state)
{
	struct result r;
	uint64_t id;
	int i;

	(void)state;
	expect("seq 1 39893 > /tmp/seq", 0, "", "");
	for (i = 0; i < 5; i++) {
		result_init(&r);
		id = open_sh("exec cat /tmp/seq", true, true);
		while (r.out[1].size < WIRE_STREAM_WINDOW)
			step(id, &r, false);
		expect("while ps | grep -q '[c]at /tmp/seq'; do usleep 10000; done", 0, "", "");
		send_credit(id, WIRE_STREAM_WINDOW);
		run_to_end(id, &r);
		assert_int_equal(r.out[1].size, 268145);
		assert_string_equal(text(&r, 1) + r.out[1].size - 7, "39893\r\n");
		result_free(&r);
	}
}

static void test_client_gone(void **state)
{
	struct result r;
	uint64_t id;
	int i;

	(void)state;
	result_init(&r);
	id = open_sh("echo up; (sleep 777 | sleep 777) & sleep 777", true, false);
	while (!strstr(text(&r, 1), "up"))
		step(id, &r, true);
	send_end(id);
	result_free(&r);
	result_init(&r);
	id = open_sh("echo up; sleep 777", true, true);
	while (!strstr(text(&r, 1), "up"))
		step(id, &r, true);
	send_end(id);
	result_free(&r);
	for (i = 0; i < 50; i++) {
		result_init(&r);
		run_to_end(open_sh("ps | grep -c '[s]leep 777'", false, false), &r);
		if (strcmp(text(&r, 1), "0\n") == 0)
			break;
		result_free(&r);
	}
	assert_true(i < 50);
	result_free(&r);
}

static void test_many(void **state)
{
	struct result r[64];
	uint64_t ids[64];
	size_t i, left = 64;
	struct result extra;

	(void)state;
	for (i = 0; i < 64; i++) {
		result_init(&r[i]);
		ids[i] = open_sh("read x; echo $x", true, false);
	}
	result_init(&extra);
	run_to_end(open_sh("true", false, false), &extra);
	assert_non_null(strstr(extra.error, "64 streams"));
	result_free(&extra);
	for (i = 0; i < 64; i++)
		send_data(ids[i], "same\n", 5, true);
	while (left > 0) {
		Um__Envelope *env = vm_next(&vm);

		for (i = 0; i < 64; i++) {
			if (env->id != ids[i])
				continue;
			if (env->body_case == UM__ENVELOPE__BODY_STREAM_DATA)
				buf_add(&r[i].out[1], env->stream_data->data.data,
					env->stream_data->data.len);
			left -= env->body_case == UM__ENVELOPE__BODY_STREAM_END;
		}
		vm_free(env);
	}
	for (i = 0; i < 64; i++) {
		assert_string_equal(text(&r[i], 1), "same\n");
		result_free(&r[i]);
	}
}

/* ---------------------------------------------------------------- copies */

/* A command of the host, in the test's folder. */
static void host(const char *script)
{
	char out[8192];

	if (vm_tool(out, sizeof(out), "cd %s && set -e; %s", world.dir, script))
		fail_msg("%s: %s", script, out);
}

static void copy_to(const char *tar, const char *path, struct result *r)
{
	Um__StreamOpen body = UM__STREAM_OPEN__INIT;
	char file[PATH_MAX];
	struct err err = ERR_INIT;
	struct buf data;
	uint64_t id;

	buf_init(&data);
	(void)snprintf(file, sizeof(file), "%s/%s", world.dir, tar);
	vm_check(fs_read(file, 64u << 20, &data, &err), &err);
	body.kind = UM__STREAM_KIND__STREAM_COPY_TO;
	body.path = vm_text(path);
	result_init(r);
	id = open_stream(&body);
	put_all(id, r, data.data, data.size);
	run_to_end(id, r);
	buf_free(&data);
}

static void copy_from(const char *path, const char *tar, struct result *r)
{
	Um__StreamOpen body = UM__STREAM_OPEN__INIT;
	char file[PATH_MAX];
	struct err err = ERR_INIT;

	body.kind = UM__STREAM_KIND__STREAM_COPY_FROM;
	body.path = vm_text(path);
	result_init(r);
	run_to_end(open_stream(&body), r);
	(void)snprintf(file, sizeof(file), "%s/%s", world.dir, tar);
	vm_check(fs_write_atomic(file, r->out[1].data, r->out[1].size, 0600, &err), &err);
}

/* A tree goes in, comes out, and is the same to an independent tar and diff. */
static void test_copy_tree(void **state)
{
	struct result r;

	(void)state;
	host("mkdir -p t/src/sub/empty && cd t/src && printf hi > a && head -c 300000 /dev/urandom "
	     "> b && "
	     "ln -s a link && ln a hard && chmod 4751 b && chmod 700 sub && "
	     "printf x > sub/$(printf '%0150d' 7) && : > sub/nothing && mkfifo fifo && "
	     "mkdir -p sub/$(printf '%090d' 1)/$(printf '%090d' 2) && "
	     "printf deep > sub/$(printf '%090d' 1)/$(printf '%090d' 2)/file && "
	     "ln -s $(printf '%0140d' 3) sub/longlink && chown 12:34 a && "
	     "touch -h -d '2001-02-03 04:05:06' a b link sub/nothing fifo && "
	     "touch -d '2011-02-03 04:05:06' sub/empty sub . && cd .. && tar -cf ../in.tar src");
	copy_to("in.tar", "/root", &r);
	assert_string_equal(r.error, "");
	assert_int_equal(r.status, 0);
	result_free(&r);
	expect("cd /root/src; cat a link; stat -c '%a %u %g %Y' a b sub; readlink link; stat -c %h "
	       "hard",
		0, "hihi644 12 34 981173106\n4751 0 0 981173106\n700 0 0 1296705906\na\n2\n", "");
	copy_from("/root/src", "out.tar", &r);
	assert_string_equal(r.error, "");
	result_free(&r);
	host("mkdir -p t/back && tar -xpf out.tar -C t/back && cd t && diff -r --no-dereference "
	     "--exclude=fifo "
	     "src back/src && "
	     "for d in src back/src; do (cd $d && find . -printf '%P %y %m %U %G %Ts %l\\n' "
	     "| sort) > $(echo $d | tr / -).list; done; "
	     "diff src.list back-src.list");
	/* In other formats too. */
	host("cd t && tar --format=gnu -cf ../gnu.tar src && tar --format=pax -cf ../pax.tar src "
	     "&& tar --format=v7 -cf ../v7.tar src/a src/b ");
	copy_to("gnu.tar", "/root/gnu", &r);
	assert_string_equal(r.error, "");
	result_free(&r);
	copy_to("pax.tar", "/root/pax", &r);
	assert_string_equal(r.error, "");
	result_free(&r);
	expect("cd /root; rm */sub/longlink */fifo; diff -r src gnu && diff -r src pax && echo "
	       "same",
		0, "same\n", "");
	copy_to("v7.tar", "/root/v7", &r);
	assert_string_equal(r.error, "");
	result_free(&r);
	expect("cmp /root/v7/b /root/src/b && echo same", 0, "same\n", "");
}

static void test_copy_names(void **state)
{
	struct result r;

	(void)state;
	host("mkdir -p n && printf one > n/f && tar -C n -cf f.tar f && printf two > n/g && tar -C "
	     "n -cf fg.tar f g && tar -C n -cf dot.tar .");
	/* A new name for one file; again, over the old one; a link is replaced, not followed. */
	copy_to("f.tar", "/tmp/renamed", &r);
	assert_string_equal(r.error, "");
	result_free(&r);
	expect("cat /tmp/renamed; ln -sf /tmp/renamed /tmp/ln; mkdir /tmp/dir", 0, "one", "");
	copy_to("f.tar", "/tmp/ln", &r);
	assert_string_equal(r.error, "");
	result_free(&r);
	expect("test -h /tmp/ln || echo file", 0, "file\n", "");
	copy_to("f.tar", "/tmp/dir/", &r);
	result_free(&r);
	copy_to("dot.tar", "/tmp/newdir", &r);
	assert_string_equal(r.error, "");
	result_free(&r);
	expect("ls /tmp/dir /tmp/newdir; stat -c %a /tmp/newdir", 0,
		"/tmp/dir:\nf\n\n/tmp/newdir:\nf\ng\n755\n", "");
	copy_to("fg.tar", "/tmp/nofolder", &r);
	assert_non_null(strstr(r.error, "more than one"));
	result_free(&r);
	copy_to("f.tar", "/no/parent", &r);
	assert_string_equal(r.error, "folder '/no': No such file or directory");
	result_free(&r);
	copy_to("f.tar", "relative", &r);
	assert_non_null(strstr(r.error, "absolute"));
	result_free(&r);
	copy_from("/etc/hostname", "one.tar", &r);
	result_free(&r);
	host("tar -xOf one.tar hostname | grep -qx probe");
	copy_from("/var/run", "run.tar", &r); /* a link as the path is followed */
	assert_string_equal(r.error, "");
	result_free(&r);
	host("tar -tf run.tar | head -1 | grep -qx run/");
	copy_from("/none", "x.tar", &r);
	assert_string_equal(r.error, "'/none': No such file or directory");
	result_free(&r);
}

/* What an archive may not do, and broken ones. */
static void test_copy_hostile(void **state)
{
	struct result r;

	(void)state;
	host("mkdir -p h/d && cd h && printf evil > d/f && tar -P -cf ../up.tar --transform "
	     "'s,d,../../etc,' d/f && "
	     "ln -s /etc out && mkdir real && printf evil > real/shadow && "
	     "tar -cf ../link.tar out && tar -rf ../link.tar --transform 's,real,out,' real/shadow "
	     "&& "
	     "tar -cf ../abs.tar -P --transform 's,d/f,/abs-file,' d/f && "
	     "head -c 700 ../up.tar > ../cut.tar && head -c 2048 /dev/urandom > ../noise.tar && : "
	     "> ../empty.tar");
	expect("mkdir /tmp/h; sha256sum < /etc/shadow > /tmp/before", 0, "", "");
	copy_to("up.tar", "/tmp/h", &r);
	assert_non_null(strstr(r.error, "'..'"));
	result_free(&r);
	copy_to("link.tar", "/tmp/h", &r);
	assert_non_null(strstr(r.error, "outside"));
	result_free(&r);
	copy_to("abs.tar", "/tmp/h", &r);
	result_free(&r);
	copy_to("cut.tar", "/tmp", &r);
	assert_true(r.status == 1 && *r.error);
	result_free(&r);
	copy_to("noise.tar", "/tmp/h", &r);
	assert_non_null(strstr(r.error, "not a tar"));
	result_free(&r);
	copy_to("empty.tar", "/tmp/h", &r);
	assert_string_equal(r.error, "");
	result_free(&r);
	expect("sha256sum < /etc/shadow | cmp - /tmp/before && ls /tmp/h /abs-file", 1,
		"/tmp/h:\nabs-file\nout\n", "ls: /abs-file: No such file or directory\n");
}

/* Last: both ways at once, an exec among them, and a clean disk after all that. */
static void test_end(void **state)
{
	Um__StreamOpen body = UM__STREAM_OPEN__INIT;
	struct result r, e;
	uint64_t id, start, ran = 0;

	(void)state;
	body.kind = UM__STREAM_KIND__STREAM_COPY_FROM;
	body.path = vm_text("/tmp/big");
	result_init(&r);
	result_init(&e);
	id = open_stream(&body);
	start = proc_mono_ms();
	while (!r.ended) {
		step(id, &r, true);
		if (!ran && r.out[1].size > (2u << 20)) {
			ran = open_sh("echo between", false, false);
			while (!e.ended && !r.ended) {
				Um__Envelope *env = vm_next(&vm);

				assert_non_null(env);
				if (env->id == ran &&
					env->body_case == UM__ENVELOPE__BODY_STREAM_END)
					e.ended = true;
				if (env->id == id &&
					env->body_case == UM__ENVELOPE__BODY_STREAM_DATA) {
					buf_add(&r.out[1], env->stream_data->data.data,
						env->stream_data->data.len);
					send_credit(id, (uint32_t)env->stream_data->data.len);
				}
				r.ended |= env->id == id &&
					   env->body_case == UM__ENVELOPE__BODY_STREAM_END;
				vm_free(env);
			}
			/* Not only after the 20 MB. */
			assert_true(e.ended && !r.ended);
		}
	}
	print_message(
		"20 MiB copied out in %llu ms\n", (unsigned long long)(proc_mono_ms() - start));
	assert_in_range(r.out[1].size, 20u << 20, (20u << 20) + 4096);
	result_free(&r);
	result_free(&e);
	vm_shutdown(&vm, 10000, false);
	assert_int_equal(vm_wait(&vm), 0);
	vm_disk_clean(&vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pipes),
		cmocka_unit_test(test_not_run),
		cmocka_unit_test(test_env_and_cwd),
		cmocka_unit_test(test_big_out),
		cmocka_unit_test(test_big_in),
		cmocka_unit_test(test_too_much),
		cmocka_unit_test(test_tty),
		cmocka_unit_test(test_tty_big),
		cmocka_unit_test(test_client_gone),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_copy_tree),
		cmocka_unit_test(test_copy_names),
		cmocka_unit_test(test_copy_hostile),
		cmocka_unit_test(test_end),
	};

	return cmocka_run_group_tests(tests, begin, finish);
}
