/* The simulator's command line; docs/simulation.md. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include "lib/str.h"
#include "tests/sim/simplan.h"

struct args {
	uint64_t first, last;
	unsigned jobs, limit;
	bool list, twice, until_fail;
	struct sim_options options;
};

static const char usage[] =
	"Runs the whole cluster in virtual time, from seeds.\n"
	"\n"
	"Usage: sim [options] [SEED | FIRST-LAST]\n"
	"\n"
	"  --jobs N       processes side by side (default: 1)\n"
	"  --trace        print what happens (one seed)\n"
	"  --bug NAME     plant a bug; succeeds when a seed finds it\n"
	"  --bugs         list them\n"
	"  --hosts N      as many hosts in every run\n"
	"  --shrink N     runs spent on making a failing seed's story short (default: 300)\n"
	"  --twice        run every seed twice: the histories must be the same\n";

static int seeds(const char *text, struct args *args)
{
	char first[32];
	const char *dash = strchr(text, '-');

	if (str_format(first, sizeof(first), "%.*s", dash ? (int)(dash - text) : 31, text) < 0 ||
		str_u64(first, 0, UINT64_MAX, &args->first) < 0)
		return -EINVAL;
	args->last = args->first;
	return dash ? str_u64(dash + 1, args->first, UINT64_MAX, &args->last) : 0;
}

/* 0: go on. */
static int parse(int argc, char **argv, struct args *args)
{
	static const struct option longs[] = {{"jobs", 1, NULL, 'j'}, {"trace", 0, NULL, 't'},
		{"bug", 1, NULL, 'b'}, {"bugs", 0, NULL, 'l'}, {"hosts", 1, NULL, 'n'},
		{"shrink", 1, NULL, 's'}, {"twice", 0, NULL, '2'}, {"help", 0, NULL, 'h'}, {0}};
	uint64_t n;
	int c;

	*args = (struct args){.first = 1, .last = 1000, .jobs = 1, .limit = 300};
	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'j':
			if (str_u64(optarg, 1, 64, &n) < 0)
				return 2;
			args->jobs = (unsigned)n;
			break;
		case 't':
			args->options.trace = true;
			break;
		case 'b':
			args->options.bug = optarg;
			break;
		case 'l':
			args->list = true;
			break;
		case 'n':
			if (str_u64(optarg, 1, 10000, &n) < 0)
				return 2;
			args->options.hosts = (uint32_t)n;
			break;
		case 's':
			if (str_u64(optarg, 0, 100000, &n) < 0)
				return 2;
			args->limit = (unsigned)n;
			break;
		case '2':
			args->twice = true;
			break;
		case 'h':
			(void)fputs(usage, stdout);
			return 1;
		default:
			return 2;
		}
	}
	if (optind < argc && seeds(argv[optind++], args) < 0)
		return 2;
	return optind < argc ? 2 : 0;
}

static void tell_failure(uint64_t seed, struct sim_plan *plan, const struct args *args)
{
	printf("\nseed %" PRIu64 " FAILED at %.3f s: %s\n", seed,
		(double)simplan_outcome(plan)->at / 1e6, simplan_outcome(plan)->failure);
	(void)fflush(stdout);
	if (args->limit && !args->options.trace)
		simplan_shrink(seed, plan, &args->options, args->limit);
	printf("What it takes: ");
	simplan_print(plan, stdout);
	printf("Then: %s\nSee it: sim --trace %s%s%s%" PRIu64 "\n", simplan_outcome(plan)->failure,
		args->options.bug ? "--bug " : "", args->options.bug ? args->options.bug : "",
		args->options.bug ? " " : "", seed);
	(void)fflush(stdout);
}

struct tally {
	uint64_t runs, failed, events, starts, applies, crashes, hosts, seconds;
};

/* False: it failed. */
static bool one(uint64_t seed, const struct args *args, struct tally *tally)
{
	struct sim_plan *plan = simplan_make(seed, &args->options);
	const struct plan_outcome *o = simplan_outcome(plan);
	bool held = sim_run(seed, &args->options, plan);
	uint64_t history = o->history;

	if (held && args->twice) {
		held = sim_run(seed, &args->options, plan);
		if (o->history != history) {
			printf("\nseed %" PRIu64 " FAILED: two runs, two histories\n", seed);
			simplan_free(plan);
			return false;
		}
	}
	tally->runs++;
	tally->failed += !held;
	tally->events += o->events;
	tally->starts += o->starts;
	tally->applies += o->applies;
	tally->crashes += o->crashes;
	tally->hosts += o->hosts;
	tally->seconds += o->at / SIM_SECOND;
	if (!held && !args->options.bug)
		tell_failure(seed, plan, args);
	simplan_free(plan);
	return held;
}

static uint64_t worker_seed;

static void died(int signum)
{
	char text[64];
	int n = snprintf(
		text, sizeof(text), "\nseed %" PRIu64 " FAILED: signal %d\n", worker_seed, signum);

	if (n > 0)
		(void)!write(1, text, (size_t)n);
	_exit(3);
}

static void worker(const struct args *args, unsigned nth, int fd)
{
	struct tally tally = {0};
	static const int signals[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE};
	const struct sigaction action = {.sa_handler = died};

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		(void)sigaction(signals[i], &action, NULL);
	for (uint64_t seed = args->first + nth; seed <= args->last; seed += args->jobs) {
		worker_seed = seed;
		if (!one(seed, args, &tally) && args->options.bug) {
			tally.seconds = seed; /* found */
			break;
		}
	}
	(void)!write(fd, &tally, sizeof(tally));
	(void)fflush(stdout);
#ifdef __SANITIZE_ADDRESS__
	if (__lsan_do_recoverable_leak_check())
		_exit(4);
#endif
	_exit(0);
}

static void add(struct tally *all, const struct tally *t)
{
	all->runs += t->runs;
	all->failed += t->failed;
	all->events += t->events;
	all->starts += t->starts;
	all->applies += t->applies;
	all->crashes += t->crashes;
	all->hosts += t->hosts;
	all->seconds += t->seconds;
}

static int run_all(const struct args *args)
{
	struct tally all = {0}, t;
	struct timespec begin, end;
	int fds[2], status, bad = 0;

	if (pipe(fds) < 0)
		return 3;
	(void)clock_gettime(CLOCK_MONOTONIC, &begin);
	(void)fflush(stdout);
	for (unsigned i = 0; i < args->jobs; i++)
		if (fork() == 0) {
			(void)close(fds[0]);
			worker(args, i, fds[1]);
		}
	(void)close(fds[1]);
	while (read(fds[0], &t, sizeof(t)) == sizeof(t))
		add(&all, &t);
	while (wait(&status) > 0)
		bad += status != 0;
	(void)clock_gettime(CLOCK_MONOTONIC, &end);
	if (args->options.bug) {
		printf("%s: %s after %" PRIu64 " seeds\n", args->options.bug,
			all.failed || bad ? "found" : "NOT found", all.runs);
		return all.failed || bad ? 0 : 1;
	}
	printf("%" PRIu64 " seeds, %" PRIu64 " failed%s; %" PRIu64 " hosts, %" PRIu64
	       " virtual hours, %" PRIu64 " events, %" PRIu64 " labs applied, %" PRIu64
	       " guests started, %" PRIu64 " processes died; %.1f s\n",
		all.runs, all.failed + (uint64_t)bad, bad ? " (some by a signal)" : "", all.hosts,
		all.seconds / 3600, all.events, all.applies, all.starts, all.crashes,
		(double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
	return all.failed || bad ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct args args;
	struct tally tally = {0};
	size_t bugs;
	const struct bug_text *list = bug_list(&bugs);
	int rc = parse(argc, argv, &args);

	if (rc) {
		if (rc == 2)
			(void)fputs(usage, stderr);
		return rc == 2 ? 2 : 0;
	}
	if (args.list) {
		for (size_t i = 0; i < bugs; i++)
			printf("%-20s %s\n", list[i].name, list[i].what);
		return 0;
	}
	for (size_t i = 0; args.options.bug; i++) {
		if (i == bugs) {
			(void)fprintf(stderr, "sim: no bug '%s'; see --bugs\n", args.options.bug);
			return 2;
		}
		if (strcmp(list[i].name, args.options.bug) == 0)
			break;
	}
	if (args.first == args.last)
		return one(args.first, &args, &tally) ? (puts("held"), 0) : 1;
	return run_all(&args);
}
