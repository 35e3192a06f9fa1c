/* streamkit: one guest for a whole test program, and the client's side of streams. */
#ifndef UMLAUT_TESTS_UNIT_GUEST_INIT_STREAMKIT_H
#define UMLAUT_TESTS_UNIT_GUEST_INIT_STREAMKIT_H

#include "tests/unit/guest/init/vm.h"

#include "lib/buf.h"

static struct vm_world world;
static struct vm vm;

MAYBE int begin(void **state)
{
	Um__GuestConfig c = vm_config();

	(void)state;
	vm_world_make(&world);
	vm_boot(&vm, &world, "streams", world.busybox, NULL);
	vm_ready(&vm, &c);
	return 0;
}

MAYBE int finish(void **state)
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

MAYBE void result_init(struct result *r)
{
	memset(r, 0, sizeof(*r));
	buf_init(&r->out[1]);
	buf_init(&r->out[2]);
	r->credit = WIRE_STREAM_WINDOW;
}

MAYBE void result_free(struct result *r)
{
	buf_free(&r->out[1]);
	buf_free(&r->out[2]);
}

MAYBE const char *text(struct result *r, int channel)
{
	return buf_text(&r->out[channel]);
}

MAYBE uint64_t open_stream(Um__StreamOpen *body)
{
	Um__Envelope env = wire_env(vm.next_id++);

	env.body_case = UM__ENVELOPE__BODY_STREAM_OPEN;
	env.stream_open = body;
	vm_send(&vm, &env);
	return env.id;
}

MAYBE uint64_t open_sh(const char *script, bool input, bool tty)
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

MAYBE void send_data(uint64_t id, const void *data, size_t size, bool eof)
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

MAYBE void send_credit(uint64_t id, uint32_t bytes)
{
	Um__Envelope env = wire_env(id);
	Um__StreamCredit body = UM__STREAM_CREDIT__INIT;

	body.bytes = bytes;
	body.channel = 1;
	env.body_case = UM__ENVELOPE__BODY_STREAM_CREDIT;
	env.stream_credit = &body;
	vm_send(&vm, &env);
}

MAYBE void send_end(uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__StreamEnd body = UM__STREAM_END__INIT;

	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &body;
	vm_send(&vm, &env);
}

/* One message; GRANT: give the bytes back as credit. */
MAYBE void step(uint64_t id, struct result *r, bool grant)
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

MAYBE void run_to_end(uint64_t id, struct result *r)
{
	while (!r->ended)
		step(id, r, true);
}

MAYBE void put_all(uint64_t id, struct result *r, const uint8_t *data, size_t size)
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

MAYBE void expect(const char *script, int status, const char *out, const char *err)
{
	struct result r;

	result_init(&r);
	run_to_end(open_sh(script, false, false), &r);
	if (r.status != status || strcmp(text(&r, 1), out) || strcmp(text(&r, 2), err) || !r.opened)
		fail_msg("%s: status %d, '%s', '%s' %s", script, r.status, text(&r, 1), text(&r, 2),
			r.error);
	result_free(&r);
}

#endif
