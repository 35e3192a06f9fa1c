/* clusterctl: the command line. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clusterctl/ctl.h"
#include "lib/log.h"
#include "lib/str.h"
#include "lib/usage.h"

/* Takes --server and --context out of argv, wherever they stand before "--". */
static int global_options(struct ctl *ctl, int *argc, char **argv)
{
	static const char *const names[] = {"--server", "--context"};
	const char **to[] = {&ctl->server, &ctl->context};
	int n = 1;

	for (int i = 1; i < *argc; i++) {
		bool taken = false;

		if (strcmp(argv[i], "--") == 0) {
			while (i < *argc)
				argv[n++] = argv[i++];
			break;
		}
		for (int k = 0; k < 2 && !taken; k++) {
			size_t len = strlen(names[k]);

			if (strncmp(argv[i], names[k], len) != 0)
				continue;
			if (argv[i][len] == '=') {
				*to[k] = argv[i] + len + 1;
				taken = true;
			} else if (!argv[i][len]) {
				if (i + 1 >= *argc)
					return usage_wrong(
						"clusterctl", "%s needs a value", names[k]);
				*to[k] = argv[++i];
				taken = true;
			}
		}
		if (!taken)
			argv[n++] = argv[i];
	}
	argv[n] = NULL;
	*argc = n;
	return 0;
}

static bool wants_help(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	const struct log_config log = {
		.program = "clusterctl", .instance = "", .level = LOG_ERROR, .fd = 2};
	struct ctl ctl = {0};
	static const char *const globals[] = {"server", "context", "version", "help"};
	const char *names[32];
	size_t count = 0;
	int rc;

	log_init(&log);
	/* A closed pipe is an error of write(), not an end without a word. */
	(void)sigaction(SIGPIPE, &(const struct sigaction){.sa_handler = SIG_IGN}, NULL);
	ctl.server = getenv("UMLAUT_SERVER");	/* NOLINT: before any thread */
	ctl.context = getenv("UMLAUT_CONTEXT"); /* NOLINT */
	rc = global_options(&ctl, &argc, argv);
	if (rc)
		return rc;
	if (argc < 2) {
		verbs_show(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		verbs_show(stdout);
		return EXIT_OK;
	}
	/* Without a scheduler, as any program does. */
	if (strcmp(argv[1], "--version") == 0) {
		(void)printf("clusterctl %s\n", UMLAUT_VERSION);
		return EXIT_OK;
	}
	ctl.verb = verb_find(argv[1]);
	if (!ctl.verb && argv[1][0] == '-')
		return usage_unknown("clusterctl", argv[1], globals, 4);
	if (!ctl.verb) {
		const char *near;

		for (const struct verb *v = verbs; v->name && count < 32; v++)
			names[count++] = v->name;
		near = str_nearest(argv[1], names, count);
		return usage_wrong("clusterctl", "unknown verb '%.60s'%s%s%s", argv[1],
			near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
	}
	if (wants_help(argc - 1, argv + 1)) {
		(void)fputs(ctl.verb->help, stdout);
		return EXIT_OK;
	}
	rc = ctl.verb->run(&ctl, argc - 1, argv + 1);
	if (fflush(stdout) != 0 && rc == EXIT_OK)
		rc = EXIT_FAILED;
#ifndef __SANITIZE_ADDRESS__
	/* All has been asked and answered; to end ZeroMQ's threads in order would take a
	 * millisecond, a good part of a short command. */
	if (rc == EXIT_OK)
		_exit(rc);
#endif
	ctl_close(&ctl);
	return rc;
}
