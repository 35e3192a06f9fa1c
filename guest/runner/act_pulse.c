/* What is done when a guest gives no sign of life: see pulse.h. */
#include "guest/runner/reason.h"
#include "guest/runner/run_int.h"
#include "lib/str.h"

static void ping(void *arg)
{
	struct run *run = arg;
	Um__Envelope env = wire_env(0);
	Um__GuestPing body = UM__GUEST_PING__INIT;

	body.number = ++run->ping;
	env.body_case = UM__ENVELOPE__BODY_GUEST_PING;
	env.guest_ping = &body;
	/* A queue that is full is no sign of life either. */
	(void)line_send(run->line, &env, NULL);
}

static uint64_t heard(void *arg)
{
	const struct run *run = arg;
	struct line_counts counts;

	line_counts(run->line, &counts);
	return counts.frames_in;
}

static void on_version(void *arg, const struct err *err, const char *text)
{
	struct run *run = arg;

	(void)text;
	pulse_kernel(run->pulse, !err);
}

static bool ask_kernel(void *arg, uint32_t timeout_ms)
{
	struct run *run = arg;
	struct err err = ERR_INIT;
	int rc = run_mconsole(run, &err);

	if (rc >= 0)
		rc = mconsole_request(run->mconsole, "version", timeout_ms, on_version, run, &err);
	if (rc < 0)
		log_warn("the guest's kernel cannot be asked", LOG_ERR(&err));
	return rc >= 0;
}

static bool lost_stub(struct run *run)
{
	char tail[CONSOLE_RING];
	uint64_t end = console_end(run->console), lost = 0;
	uint64_t pos = end > sizeof(tail) ? end - sizeof(tail) : 0;
	size_t n = console_read(run->console, &pos, tail, sizeof(tail), &lost);

	return reason_lost_stub(tail, n);
}

static void hangs(void *arg, const char *why)
{
	struct run *run = arg;

	log_error("the guest hangs and is ended", LOG_STR("reason", why));
	run->hangs = why;
	pulse_stop(run->pulse);
	act_kill(run);
}

static void agent_gone(void *arg, bool gone)
{
	struct run *run = arg;

	if (gone && lost_stub(run)) {
		hangs(run, PULSE_KILLED);
		return;
	}

	if (gone) {
		log_warn("the guest's agent does not answer");
		run->was_ready = run->ready;
		(void)str_copy(run->was_reason, sizeof(run->was_reason), run->reason);
		run->ready = false;
		run_set_reason(run, "its agent does not answer: killed, or the guest is starved "
				    "('clusterctl restart' starts the guest anew)");
	} else {
		log_info("the guest's agent answers again");
		run->ready = run->was_ready;
		run_set_reason(run, run->was_reason);
	}
	run_tell(run);
}

const struct pulse_ops run_pulse_ops = {.ping = ping,
	.heard = heard,
	.ask_kernel = ask_kernel,
	.agent_gone = agent_gone,
	.hangs = hangs};
