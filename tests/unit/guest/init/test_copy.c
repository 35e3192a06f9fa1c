/* Copies into and out of a real guest, as tar streams. */
#include "tests/unit/guest/init/streamkit.h"

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
	expect("head -c 20971520 /dev/urandom > /tmp/big", 0, "", "");
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
		cmocka_unit_test(test_copy_tree),
		cmocka_unit_test(test_copy_names),
		cmocka_unit_test(test_copy_hostile),
		cmocka_unit_test(test_end),
	};

	return cmocka_run_group_tests(tests, begin, finish);
}
