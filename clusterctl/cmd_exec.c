/* exec, console, logs. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clusterctl/stream.h"
#include "lib/str.h"

#define ARGS_MAX 4096
#define ESCAPE 0x1d /* Ctrl-] */

struct session {
	struct stream stream;
	struct outpipe out, err;
	struct inpipe in;
	bool with_input, raw;
	bool left; /* by the escape */
	char last; /* for "~." after a new line */
	struct loop_signal *winch;
	unsigned interrupts;
};

static void on_data(void *arg, struct stream *s, uint32_t channel, const uint8_t *data, size_t size)
{
	struct session *se = arg;

	(void)s;
	outpipe_add(channel == 2 ? &se->err : &se->out, data, size);
}

static void on_writable(void *arg, struct stream *s)
{
	struct session *se = arg;

	(void)s;
	if (se->with_input && se->in.stream)
		inpipe_pump(&se->in);
}

static const struct stream_ops ops = {.data = on_data, .writable = on_writable};

static void on_winch(void *arg, int signum)
{
	struct session *se = arg;
	uint32_t rows, cols;

	(void)signum;
	tty_size(&rows, &cols);
	stream_control(&se->stream, rows, cols, 0);
}

/* Ctrl-] anywhere, or "~." at the beginning of a line, leaves a console. */
static size_t find_escape(void *arg, struct inpipe *in, uint8_t *data, size_t size)
{
	struct session *se = arg;

	(void)in;
	for (size_t i = 0; i < size; i++) {
		char c = (char)data[i];

		if (c == ESCAPE || (c == '.' && se->last == '~')) {
			se->left = true;
			loop_stop(se->stream.ctl->loop);
			return i;
		}
		if (c == '~' && (se->last == '\n' || se->last == '\r' || !se->last))
			se->last = '~';
		else
			se->last = c;
	}
	return size;
}

static void open_input(struct session *se, bool console)
{
	if (!se->with_input)
		return;
	if (console && isatty(0))
		se->in.filter = find_escape;
	se->in.arg = se;
	/* A console goes on after the end of a script's input. */
	se->in.keep_open = console;
	if (se->raw && tty_raw(0) < 0)
		se->raw = false;
	if (se->raw)
		(void)loop_signal_open(
			se->stream.ctl->loop, SIGWINCH, on_winch, se, &se->winch, NULL);
	inpipe_open(&se->in, &se->stream, 0);
}

/* The first Ctrl-C goes to the command; the second ends us. */
static bool interrupted(struct session *se, bool forward)
{
	struct ctl *ctl = se->stream.ctl;

	if (!ctl->interrupted)
		return false;
	if (!forward || se->interrupts++)
		return true;
	ctl->interrupted = false;
	stream_control(&se->stream, 0, 0, SIGINT);
	return false;
}

static int run(struct session *se, bool forward)
{
	struct ctl *ctl = se->stream.ctl;
	struct err err = ERR_INIT;

	while (se->stream.state != STREAM_ENDED && !se->left) {
		(void)loop_run(ctl->loop, NULL);
		if (interrupted(se, forward))
			return 130;
		if (se->stream.state != STREAM_ENDED && se->stream.downs != ctl->downs)
			return ctl_fail(EXIT_UNREACHABLE,
				"the connection to the scheduler was lost; what runs in the guest "
				"is ended");
	}
	if (se->left) {
		tty_restore();
		(void)fprintf(stderr, "\nleft the console\n");
		return EXIT_OK;
	}
	while ((outpipe_busy(&se->out) || outpipe_busy(&se->err)) && !ctl->interrupted)
		if (loop_run(ctl->loop, &err) < 0)
			break;
	tty_restore();
	/* As a shell reports a program that a closed pipe ended. */
	if (se->out.broken && se->stream.err.code == -EPIPE)
		return 128 + SIGPIPE;
	return stream_result(&se->stream);
}

static int session(struct ctl *ctl, Um__StreamOpen *open, bool with_input, bool raw)
{
	struct session *se = calloc(1, sizeof(*se));
	bool console = open->kind == UM__STREAM_KIND__STREAM_CONSOLE;
	struct err err = ERR_INIT;
	int rc = ctl_reach(ctl);

	if (rc || !se) {
		free(se);
		return rc ? rc : ctl_fail(EXIT_FAILED, "memory is short");
	}
	se->with_input = with_input;
	se->raw = raw;
	/* The pipes come first: data may come with the answer. */
	se->stream.ctl = ctl;
	outpipe_open(&se->out, &se->stream, 1);
	outpipe_open(&se->err, &se->stream, 2);
	if (stream_open(&se->stream, ctl, open, &ops, se, &err) < 0) {
		rc = ctl->interrupted ? 130
		     : se->out.broken ? 128 + SIGPIPE
		     : se->stream.exit_status > 0
			     ? (ctl_fail_err(&err), se->stream.exit_status & 255)
			     : ctl_fail_err(&err);
	} else {
		if (console && isatty(0))
			(void)fprintf(stderr, "console of %s; Ctrl-] leaves it\n", open->guest);
		open_input(se, console);
		rc = run(se, !raw && !console && open->kind == UM__STREAM_KIND__STREAM_EXEC);
	}
	tty_restore();
	stream_close(&se->stream);
	inpipe_close(&se->in);
	outpipe_close(&se->out);
	outpipe_close(&se->err);
	loop_signal_close(se->winch);
	free(se);
	return rc;
}

/* The command after GUEST may have options of its own: only what stands before
 * GUEST, or before "--", is ours. */
static int split(int argc, char **argv, char **own, char ***command, int *count)
{
	int dashes = 0, n = 0, i = 1;

	for (int k = 1; k < argc && !dashes; k++)
		if (strcmp(argv[k], "--") == 0)
			dashes = k;
	if (dashes) {
		for (n = 0; n < dashes; n++)
			own[n] = argv[n];
		*command = argv + dashes + 1;
		*count = argc - dashes - 1;
	} else {
		own[n++] = argv[0];
		for (; i < argc; i++) {
			own[n++] = argv[i];
			if (argv[i][0] != '-')
				break;
			if ((strcmp(argv[i], "-e") == 0 || strcmp(argv[i], "--env") == 0 ||
				    strcmp(argv[i], "-w") == 0 ||
				    strcmp(argv[i], "--workdir") == 0) &&
				i + 1 < argc)
				own[n++] = argv[++i];
		}
		*command = argv + (i < argc ? i + 1 : argc);
		*count = i < argc ? argc - i - 1 : 0;
	}
	own[n] = NULL;
	return n;
}

int cmd_exec(struct ctl *ctl, int argc, char **argv)
{
	bool input = false, tty = false;
	const char *folder = "", *term = getenv("TERM"); /* NOLINT: one thread */
	struct opt_list env = {.count = 0};
	const struct opt opts[] = {{OPT_FLAG, "stdin", 'i', &input}, {OPT_FLAG, "tty", 't', &tty},
		{OPT_LIST, "env", 'e', &env}, {OPT_TEXT, "workdir", 'w', &folder}, OPT_LAST};
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	char *all[65], term_text[64], **own, **command;
	int n, count, rc;

	own = calloc((size_t)argc + 1, sizeof(*own));
	if (!own)
		return ctl_fail(EXIT_FAILED, "memory is short");
	n = opt_parse(ctl, split(argc, argv, own, &command, &count), own, opts, NULL);
	if (n < 0) {
		rc = -n;
		goto out;
	}
	/* "exec GUEST COMMAND -- ARGUMENT" has its command before the dashes. */
	if (n < 2 || n > 2 || !count) {
		rc = ctl_usage(ctl, n < 2   ? "which guest?"
				    : n > 2 ? "the command stands after --"
					    : "which command?");
		goto out;
	}
	if (count > ARGS_MAX) {
		rc = ctl_usage(ctl, "more than %d arguments", ARGS_MAX);
		goto out;
	}
	for (size_t i = 0; i < env.count; i++)
		all[open.n_env++] = (char *)(uintptr_t)env.items[i];
	if (tty && term && str_format(term_text, sizeof(term_text), "TERM=%s", term) > 0)
		all[open.n_env++] = term_text;
	open.kind = UM__STREAM_KIND__STREAM_EXEC;
	open.guest = own[1];
	open.argv = command;
	open.n_argv = (size_t)count;
	open.env = all;
	open.tty = tty;
	open.stdin_open = input;
	open.path = (char *)(uintptr_t)folder;
	if (tty)
		tty_size(&open.rows, &open.cols);
	rc = session(ctl, &open, input, tty && input && isatty(0));
out:
	free(own);
	return rc;
}

int cmd_console(struct ctl *ctl, int argc, char **argv)
{
	const struct opt opts[] = {OPT_LAST};
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL);

	if (n < 0)
		return -n;
	if (n != 2)
		return ctl_usage(ctl, "one guest is needed");
	open.kind = UM__STREAM_KIND__STREAM_CONSOLE;
	open.guest = argv[1];
	open.stdin_open = true;
	open.tty = true;
	tty_size(&open.rows, &open.cols);
	return session(ctl, &open, true, isatty(0));
}

int cmd_logs(struct ctl *ctl, int argc, char **argv)
{
	bool follow = false;
	const char *tail = NULL;
	const struct opt opts[] = {
		{OPT_FLAG, "follow", 'f', &follow}, {OPT_TEXT, "tail", 'n', &tail}, OPT_LAST};
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL);
	uint64_t lines = 0;

	if (n < 0)
		return -n;
	if (n != 2)
		return ctl_usage(ctl, "one guest is needed");
	if (tail && str_u64(tail, 0, UINT32_MAX, &lines) < 0)
		return ctl_usage(ctl, "--tail: '%s' is not a number of lines", tail);
	open.kind = UM__STREAM_KIND__STREAM_LOGS;
	open.guest = argv[1];
	open.follow = follow;
	open.tail = (uint32_t)lines;
	return session(ctl, &open, false, false);
}
