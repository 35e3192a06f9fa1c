/* Fetching and uploading between two stores, over real sockets: bad sources,
 * breaks and resumes with the bytes counted. */
#include "tests/unit/image/imgkit.h"

#include "image/fetch.h"
#include "image/receive.h"
#include "image/serve.h"
#include "image/upload.h"

struct world {
	struct kit *kit;
	struct loop *loop;
	struct zctx *zctx;
	struct loop_timer *deadline;
	struct imgstore *here, *there;
	struct zsock *router;
	struct imgserve *serve;
	struct imgreceive *receive;
	char endpoint[128];
	/* What the other side does wrong. */
	enum { FINE, MUTE, CORRUPT, REFUSE, WRONG_MANIFEST } manner;
	unsigned chunk_requests;
	unsigned commits;
	char name[64];
	/* Outcome. */
	bool done, timed_out;
	int code;
	char message[ERR_MSG_SIZE];
	uint64_t progress, total;
	uint64_t stop_at; /* progress at which the loop stops; 0: never */
};

static void on_deadline(void *arg)
{
	struct world *w = arg;

	w->timed_out = true;
	loop_stop(w->loop);
}

static void spoil(
	struct world *w, struct zsock *sock, const struct zpeer *peer, const Um__Envelope *env)
{
	Um__Envelope out = wire_env(env->id);
	Um__ChunkData chunk = UM__CHUNK_DATA__INIT;
	Um__Error error = UM__ERROR__INIT;
	static uint8_t junk[MANIFEST_CHUNK];

	if (w->manner == REFUSE) {
		error.code = UM__ERROR_CODE__NOT_FOUND;
		error.message = (char *)(uintptr_t) "have it not";
		out.body_case = UM__ENVELOPE__BODY_ERROR;
		out.error = &error;
		(void)zsock_send(sock, peer, &out, NULL, 0, NULL);
	} else if (w->manner == CORRUPT) {
		chunk.id = env->chunk_get->id;
		chunk.index = env->chunk_get->index;
		chunk.raw_size = MANIFEST_CHUNK;
		proc_random(junk, 16);
		out.body_case = UM__ENVELOPE__BODY_CHUNK_DATA;
		out.chunk_data = &chunk;
		(void)zsock_send(sock, peer, &out, junk, sizeof(junk), NULL);
	}
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;
	bool chunk = env->body_case == UM__ENVELOPE__BODY_CHUNK_GET;

	w->chunk_requests += chunk;
	if (w->manner == FINE || (w->manner == CORRUPT && !chunk)) {
		if (!imgserve_message(w->serve, sock, peer, env))
			assert_true(
				imgreceive_message(w->receive, sock, peer, env, bulk, bulk_size));
	} else {
		spoil(w, sock, peer, env);
	}
}

static void on_commit(void *arg, struct zsock *sock, const struct zpeer *peer, uint64_t id,
	const Um__ArtefactCommit *commit)
{
	struct world *w = arg;
	Um__Envelope env = wire_env(id);
	Um__Ok ok = UM__OK__INIT;

	w->commits++;
	(void)str_copy(w->name, sizeof(w->name), commit->info->name);
	assert_int_equal(commit->info->size, w->kit->size);
	assert_true(imgstore_has(w->there, commit->info->id.data));
	env.body_case = UM__ENVELOPE__BODY_OK;
	env.ok = &ok;
	(void)zsock_send(sock, peer, &env, NULL, 0, NULL);
}

static void open_router(struct world *w, const char *name)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	const struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "test"};
	struct err err = ERR_INIT;

	(void)str_format(w->endpoint, sizeof(w->endpoint), "ipc://%s/%s", w->kit->dir, name);
	if (zsock_open(w->loop, w->zctx, &config, &ops, w, &w->router, &err) < 0 ||
		zsock_bind(w->router, w->endpoint, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static int setup(void **state)
{
	static const struct imgreceive_ops receive_ops = {.on_commit = on_commit};
	struct world *w = calloc(1, sizeof(*w));
	struct err err = ERR_INIT;

	(void)kit_setup((void **)&w->kit);
	assert_int_equal(loop_new(&w->loop, &err), 0);
	assert_int_equal(zctx_new(&w->zctx, &err), 0);
	assert_int_equal(
		loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, &err), 0);
	w->here = kit_store(w->kit, "here");
	w->there = kit_store(w->kit, "there");
	assert_int_equal(imgserve_new(w->loop, w->there, &w->serve, &err), 0);
	assert_int_equal(imgreceive_new(w->loop, w->there, &receive_ops, w, &w->receive, &err), 0);
	open_router(w, "sock");
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	imgserve_free(w->serve);
	imgreceive_free(w->receive);
	zsock_close(w->router, 0);
	loop_timer_close(w->deadline);
	assert_int_equal(loop_free(w->loop), 0);
	zctx_free(w->zctx);
	imgstore_close(w->here);
	imgstore_close(w->there);
	(void)kit_teardown((void **)&w->kit);
	free(w);
	return 0;
}

static void run(struct world *w)
{
	struct err err = ERR_INIT;

	w->done = false;
	w->code = 0;
	loop_timer_arm(w->deadline, 30000);
	assert_int_equal(loop_run(w->loop, &err), 0);
	loop_timer_disarm(w->deadline);
	assert_false(w->timed_out);
}

static void outcome(struct world *w, const struct err *err)
{
	w->done = true;
	w->code = err ? err->code : 0;
	(void)str_copy(w->message, sizeof(w->message), err ? err_msg(err) : "");
	loop_stop(w->loop);
}

static void on_progress(void *arg, struct imgfetch *f, uint64_t done, uint64_t total)
{
	struct world *w = arg;

	(void)f;
	w->progress = done;
	w->total = total;
	if (w->stop_at && done >= w->stop_at)
		loop_stop(w->loop);
}

static void on_fetched(void *arg, struct imgfetch *f, const struct err *err)
{
	(void)f;
	outcome(arg, err);
}

static struct imgfetch *fetch(
	struct world *w, const uint8_t *id, const char *const *endpoints, size_t count)
{
	static const struct imgfetch_ops ops = {.on_progress = on_progress, .on_done = on_fetched};
	struct imgfetch_source sources[4] = {{0}};
	struct imgfetch_config config = {.loop = w->loop,
		.store = w->here,
		.zctx = w->zctx,
		.sources = sources,
		.source_count = count,
		.timeout_ms = 1000};
	struct imgfetch *f = NULL;
	struct err err = ERR_INIT;

	for (size_t i = 0; i < count; i++)
		sources[i].endpoint = endpoints[i];
	memcpy(config.id, id, sizeof(config.id));
	if (imgfetch_start(&config, &ops, w, &f, &err) < 0)
		fail_msg("%s", err_msg(&err));
	run(w);
	return f;
}

static void add(struct world *w, uint32_t chunks, uint8_t id[MANIFEST_HASH])
{
	struct err err = ERR_INIT;

	kit_make(w->kit, "f", chunks, 1234);
	if (imgstore_add_file(w->there, kit_path(w->kit, "f"), id, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static void check_here(struct world *w, const uint8_t *id)
{
	struct err err = ERR_INIT;
	char path[PATH_MAX];

	if (imgstore_path(w->here, id, path, &err) < 0)
		fail_msg("%s", err_msg(&err));
	kit_same_file(w->kit, path);
}

static void test_fetch(void **state)
{
	struct world *w = *state;
	const char *source = w->endpoint;
	uint8_t id[MANIFEST_HASH];
	struct imgfetch *f;

	add(w, 50, id);
	f = fetch(w, id, &source, 1);
	assert_string_equal(w->message, "");
	check_here(w, id);
	assert_int_equal(w->chunk_requests, 34); /* every third is a hole */
	assert_int_equal(w->progress, w->total);
	assert_int_equal(imgfetch_received(f), 34 * MANIFEST_CHUNK - 1234);
	imgfetch_close(f);
	/* Again: it is there, nothing is asked. */
	f = fetch(w, id, NULL, 0);
	assert_int_equal(w->code, 0);
	assert_int_equal(w->chunk_requests, 34);
	imgfetch_close(f);
}

/* What compresses goes compressed. */
static void test_compressed(void **state)
{
	struct world *w = *state;
	const char *source = w->endpoint;
	uint8_t id[MANIFEST_HASH];
	struct err err = ERR_INIT;
	struct imgfetch *f;
	int fd;

	kit_make(w->kit, "f", 8, 0);
	fd = open(kit_path(w->kit, "f"), O_RDWR | O_CLOEXEC);
	for (size_t i = 0; i < w->kit->size; i++)
		w->kit->data[i] = (uint8_t)(i >> 12);
	assert_int_equal(pwrite(fd, w->kit->data, w->kit->size, 0), w->kit->size);
	(void)close(fd);
	assert_int_equal(imgstore_add_file(w->there, kit_path(w->kit, "f"), id, &err), 0);
	f = fetch(w, id, &source, 1);
	assert_int_equal(w->code, 0);
	check_here(w, id);
	assert_true(imgfetch_received(f) < w->kit->size / 20);
	imgfetch_close(f);
}

/* Broken off in the middle and started again: no chunk comes twice. */
static void test_resume(void **state)
{
	struct world *w = *state;
	const char *source = w->endpoint;
	uint8_t id[MANIFEST_HASH];
	uint64_t first;
	struct imgfetch *f;

	add(w, 120, id);
	w->stop_at = 20 * MANIFEST_CHUNK;
	f = fetch(w, id, &source, 1);
	assert_false(w->done);
	first = imgfetch_received(f);
	assert_true(first >= w->stop_at && first < 60 * MANIFEST_CHUNK);
	imgfetch_close(f);
	/* Our program ends; the other side stays. */
	{
		struct err err = ERR_INIT;

		loop_timer_arm(w->deadline, 50); /* lets the pool finish what it has */
		assert_int_equal(loop_run(w->loop, &err), 0);
		w->timed_out = false;
		imgstore_close(w->here);
		w->here = kit_store(w->kit, "here");
	}
	w->stop_at = 0;
	f = fetch(w, id, &source, 1);
	assert_int_equal(w->code, 0);
	check_here(w, id);
	/* The sum is the artefact, and at most a window that was thrown away. */
	first += imgfetch_received(f);
	assert_true(first >= 80 * MANIFEST_CHUNK - 1234);
	assert_true(first <= (80 + IMGFETCH_WINDOW) * MANIFEST_CHUNK);
	imgfetch_close(f);
}

/* The bad source comes first, the good one second. */
static void bad_source(void **state, int manner)
{
	struct world *w = *state;
	struct world bad = *w;
	char good[128];
	const char *sources[2] = {bad.endpoint, good};
	uint8_t id[MANIFEST_HASH];
	struct imgfetch *f;

	add(w, 20, id);
	(void)str_copy(good, sizeof(good), w->endpoint);
	bad.kit = w->kit;
	bad.manner = manner;
	open_router(&bad, "bad");
	f = fetch(w, id, sources, 2);
	assert_string_equal(w->message, "");
	check_here(w, id);
	imgfetch_close(f);
	zsock_close(bad.router, 0);
}

static void test_corrupt_source(void **state)
{
	bad_source(state, CORRUPT);
}

static void test_mute_source(void **state)
{
	bad_source(state, MUTE);
}

static void test_refusing_source(void **state)
{
	bad_source(state, REFUSE);
}

/* No good source: its error, and what was received stays. */
static void test_no_source(void **state)
{
	struct world *w = *state;
	const char *source = w->endpoint, *nobody = "ipc:///tmp/umlaut-nobody";
	uint8_t id[MANIFEST_HASH];
	struct imgfetch *f;

	add(w, 9, id);
	w->manner = CORRUPT;
	f = fetch(w, id, &source, 1);
	assert_int_equal(w->code, -EBADMSG);
	imgfetch_close(f);
	assert_false(imgstore_has(w->here, id));
	w->manner = REFUSE;
	f = fetch(w, id, &source, 1);
	assert_non_null(strstr(w->message, "have it not"));
	imgfetch_close(f);
	f = fetch(w, id, &nobody, 1);
	assert_int_equal(w->code, -ETIMEDOUT);
	imgfetch_close(f);
	f = fetch(w, id, NULL, 0);
	assert_int_equal(w->code, -ENOENT);
	imgfetch_close(f);
	id[5] ^= 1;
	w->manner = FINE;
	f = fetch(w, id, &source, 1);
	assert_int_equal(w->code, -ENOENT);
	imgfetch_close(f);
}

/* ---------------------------------------------------------------- uploads */

static void on_up_progress(
	void *arg, struct imgupload *up, const char *step, uint64_t done, uint64_t total)
{
	struct world *w = arg;

	(void)up;
	w->progress = done;
	w->total = total;
	if (w->stop_at && strcmp(step, "sending") == 0 && done >= w->stop_at)
		loop_stop(w->loop);
}

static void on_uploaded(void *arg, struct imgupload *up, const struct err *err)
{
	(void)up;
	outcome(arg, err);
}

static struct imgupload *upload(struct world *w, const struct imgvia *via, const char *name)
{
	static const struct imgupload_ops ops = {
		.on_progress = on_up_progress, .on_done = on_uploaded};
	Um__ArtefactInfo info = UM__ARTEFACT_INFO__INIT;
	struct imgupload *up = NULL;
	struct err err = ERR_INIT;
	char text[64];

	(void)str_copy(text, sizeof(text), name);
	info.name = text;
	if (imgupload_start(w->loop, via, kit_path(w->kit, "f"), &info, false, &ops, w, &up, &err) <
		0)
		fail_msg("%s", err_msg(&err));
	run(w);
	return up;
}

static void test_upload(void **state)
{
	struct world *w = *state;
	struct imgvia_dealer *dealer = NULL;
	const struct imgvia *via;
	struct err err = ERR_INIT;
	struct imgupload *up;
	uint64_t sent;
	char path[PATH_MAX];

	assert_int_equal(
		imgvia_dealer_open(w->loop, w->zctx, w->endpoint, NULL, NULL, &dealer, &err), 0);
	via = imgvia_dealer_via(dealer);
	kit_make(w->kit, "f", 100, 99);
	w->stop_at = 20 * MANIFEST_CHUNK;
	up = upload(w, via, "web");
	assert_false(w->done);
	sent = imgupload_sent(up);
	imgupload_close(up);
	assert_int_equal(w->commits, 0);
	imgvia_dealer_close(dealer);

	assert_int_equal(
		imgvia_dealer_open(w->loop, w->zctx, w->endpoint, NULL, NULL, &dealer, &err), 0);
	via = imgvia_dealer_via(dealer);
	w->stop_at = 0;
	up = upload(w, via, "web");
	assert_string_equal(w->message, "");
	assert_true(w->done);
	assert_int_equal(w->commits, 1);
	assert_string_equal(w->name, "web");
	assert_int_equal(imgstore_path(w->there, imgupload_id(up), path, &err), 0);
	kit_same_file(w->kit, path);
	sent += imgupload_sent(up);
	assert_true(sent <= 67 * MANIFEST_CHUNK);
	imgupload_close(up);

	/* The same under another name: not a byte. */
	up = upload(w, via, "web2");
	assert_int_equal(w->code, 0);
	assert_string_equal(w->name, "web2");
	assert_int_equal(imgupload_sent(up), 0);
	imgupload_close(up);
	imgvia_dealer_close(dealer);
}

/* More chunks than fit into one ArtefactNeed. */
static void test_upload_many(void **state)
{
	struct world *w = *state;
	struct imgvia_dealer *dealer = NULL;
	struct err err = ERR_INIT;
	struct imgupload *up;
	uint32_t count = IMGRECEIVE_NEED_MAX + 10;
	int fd = open(kit_path(w->kit, "f"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t tag = i + 1;

		assert_int_equal(
			pwrite(fd, &tag, sizeof(tag), (off_t)i * MANIFEST_CHUNK), sizeof(tag));
	}
	w->kit->size = (size_t)count * MANIFEST_CHUNK;
	assert_int_equal(ftruncate(fd, (off_t)w->kit->size), 0);
	(void)close(fd);
	assert_int_equal(
		imgvia_dealer_open(w->loop, w->zctx, w->endpoint, NULL, NULL, &dealer, &err), 0);
	up = upload(w, imgvia_dealer_via(dealer), "many");
	assert_string_equal(w->message, "");
	assert_true(imgupload_sent(up) < w->kit->size / 100);
	imgupload_close(up);
	imgvia_dealer_close(dealer);
}

/* Not what was promised. */
static void test_upload_wrong(void **state)
{
	struct world *w = *state;
	struct imgvia_dealer *dealer = NULL;
	struct err err = ERR_INIT;
	struct imgupload *up;

	assert_int_equal(
		imgvia_dealer_open(w->loop, w->zctx, w->endpoint, NULL, NULL, &dealer, &err), 0);
	kit_make(w->kit, "f", 5, 0);
	w->manner = REFUSE;
	up = upload(w, imgvia_dealer_via(dealer), "x");
	assert_non_null(strstr(w->message, "have it not"));
	imgupload_close(up);
	assert_int_equal(w->commits, 0);
	imgvia_dealer_close(dealer);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_fetch),
		T(test_compressed),
		T(test_resume),
		T(test_corrupt_source),
		T(test_mute_source),
		T(test_refusing_source),
		T(test_no_source),
		T(test_upload),
		T(test_upload_many),
		T(test_upload_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
