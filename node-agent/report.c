#include "node-agent/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "node-agent/agent.h"
#include "node-agent/life.h"
#include "node-agent/link.h"
#include "node-agent/moves.h"
#include "node-agent/orphans.h"

#define BATCH_MS 10   /* between two messages; the first goes at once */
#define BATCH_MAX 512 /* guests in one message */
#define BLOBS_MAX 256
#define BUSY_MS 100 /* the link's queue was full */

struct extra {
	uint64_t uid, epoch;
	bool gone;
	char reason[GUESTS_REASON];
	struct extra *next;
};

struct blob_news {
	uint8_t id[MANIFEST_HASH];
	bool added;
	struct blob_news *next;
};

struct report {
	struct agent *agent;
	struct loop_timer *timer;
	uint64_t sent_at; /* loop time */
	struct guest *marked, **marked_end;
	struct extra *extras, **extras_end;
	struct blob_news *blobs, **blobs_end;
	bool moves, orphans; /* there is news of some */
	bool missed;	     /* news that could not be told since the hello */
};

/* ---------------------------------------------------------------- one guest */

static uint64_t cow_bytes(const struct guest *g)
{
	char path[PATH_MAX];
	struct stat st;

	if (fs_join(path, sizeof(path), g->dir, "cow", NULL) < 0 || stat(path, &st) < 0)
		return 0;
	return (uint64_t)st.st_blocks * 512;
}

/* What is not on disk yet would be forgotten by the next death of this process, which starts
 * the older one again: with the memory that the scheduler gave to others when it heard of this. */
static uint64_t durable_generation(const struct guest *g)
{
	return g->assign && g->spec_revision <= g->saved_revision ? g->assign->generation : 0;
}

static void observe(struct guest *g, Um__GuestObserved *out, char *reason)
{
	um__guest_observed__init(out);
	out->uid = g->uid;
	out->phase = life_phase(g, reason);
	out->reason = reason;
	out->restarts = g->restarts;
	out->exit_status = g->last.exit_status;
	out->disk_generation = g->disk_generation;
	out->troubles = g->trouble_count;
	out->final = life_final(g);
	out->ran = life_ran(g);
	if (g->run) {
		out->epoch = g->run_epoch;
		out->generation = g->run_generation;
		out->ready = g->status.ready && out->phase == UM__PHASE__RUNNING;
		out->started_at = g->status.started_at;
		out->boots = g->status.boots;
	} else {
		out->epoch = guest_epoch(g);
		out->generation = durable_generation(g);
		out->boots = g->last.boots;
	}
}

void report_observe(struct guest *g, Um__GuestObserved *out, char *reason)
{
	observe(g, out, reason);
	out->cow_bytes = cow_bytes(g);
	if (g->run && !boottimes_empty(&g->status.times)) {
		boottimes_fill(&g->status.times, &g->times_message);
		out->boot = &g->times_message;
	}
}

/* FNV-1a of what is told; its disk's size alone is no news. */
static uint64_t hash_of(struct guest *g)
{
	Um__GuestObserved o;
	char reason[GUESTS_REASON];
	uint8_t packed[512];
	uint64_t hash = UINT64_C(14695981039346656037);
	size_t size;

	observe(g, &o, reason);
	if (um__guest_observed__get_packed_size(&o) > sizeof(packed))
		return 0;
	size = um__guest_observed__pack(&o, packed);
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ packed[i]) * UINT64_C(1099511628211);
	return hash ? hash : 1;
}

/* ---------------------------------------------------------------- marks */

static void soon(struct report *report)
{
	uint64_t since = loop_now(report->agent->loop) - report->sent_at;

	if (!report->agent->stopping && link_up(report->agent->link) &&
		!loop_timer_armed(report->timer))
		loop_timer_arm(report->timer, since < BATCH_MS ? BATCH_MS - since : 0);
}

void report_guest(struct guest *g)
{
	struct report *report = g->agent->report;

	if (!link_up(g->agent->link) || g->agent->stopping)
		return; /* the next hello tells */
	if (!g->reported) {
		g->reported = true;
		g->reported_next = NULL;
		*report->marked_end = g;
		report->marked_end = &g->reported_next;
	}
	soon(report);
}

void report_again(struct guest *g)
{
	g->report_hash = 0;
	report_guest(g);
}

void report_told(struct guest *g)
{
	g->report_hash = hash_of(g);
}

void report_forget(struct guest *g)
{
	struct report *report = g->agent->report;
	struct guest **at = &report->marked;

	if (!g->reported)
		return;
	while (*at && *at != g)
		at = &(*at)->reported_next;
	if (*at)
		*at = g->reported_next;
	if (report->marked_end == &g->reported_next)
		report->marked_end = at;
	g->reported = false;
}

static void add_extra(
	struct report *report, uint64_t uid, uint64_t epoch, bool gone, const char *reason)
{
	struct extra *e;

	if (!link_up(report->agent->link)) {
		report->missed = true;
		return;
	}
	e = calloc(1, sizeof(*e));
	if (!e)
		return;
	e->uid = uid;
	e->epoch = epoch;
	e->gone = gone;
	(void)str_format(e->reason, sizeof(e->reason), "%.200s", reason);
	*report->extras_end = e;
	report->extras_end = &e->next;
	soon(report);
}

void report_gone(struct report *report, uint64_t uid, uint64_t epoch)
{
	add_extra(report, uid, epoch, true, "");
}

void report_refused(struct report *report, uint64_t uid, uint64_t epoch, const char *reason)
{
	add_extra(report, uid, epoch, false, reason);
}

void report_moves(struct report *report)
{
	if (!link_up(report->agent->link) || report->agent->stopping)
		return;
	report->moves = true;
	soon(report);
}

void report_orphans(struct report *report)
{
	if (!link_up(report->agent->link) || report->agent->stopping)
		return;
	report->orphans = true;
	soon(report);
}

void report_blob(struct report *report, const uint8_t id[MANIFEST_HASH], bool added)
{
	struct blob_news *b;

	if (!link_up(report->agent->link)) {
		report->missed = true;
		return;
	}
	b = calloc(1, sizeof(*b));
	if (!b)
		return;
	memcpy(b->id, id, sizeof(b->id));
	b->added = added;
	*report->blobs_end = b;
	report->blobs_end = &b->next;
	soon(report);
}

void report_begin(struct report *report)
{
	report->missed = false;
}

bool report_missed(const struct report *report)
{
	return report->missed;
}

void report_clear(struct report *report)
{
	while (report->marked) {
		struct guest *g = report->marked;

		report->marked = g->reported_next;
		g->reported = false;
	}
	while (report->extras) {
		struct extra *e = report->extras;

		report->extras = e->next;
		free(e);
	}
	while (report->blobs) {
		struct blob_news *b = report->blobs;

		report->blobs = b->next;
		free(b);
	}
	report->marked_end = &report->marked;
	report->extras_end = &report->extras;
	report->blobs_end = &report->blobs;
	report->moves = report->orphans = false;
}

/* ---------------------------------------------------------------- sending */

struct batch {
	Um__Observed observed;
	Um__GuestObserved guests[BATCH_MAX], *guest_list[BATCH_MAX];
	char reasons[BATCH_MAX][GUESTS_REASON];
	ProtobufCBinaryData added[BLOBS_MAX], removed[BLOBS_MAX];
	uint8_t ids[BLOBS_MAX][MANIFEST_HASH];
	size_t blobs;
};

/* Before the guests: they tell of what was before, an older epoch that was refused or is
 * gone. */
static void take_extras(struct report *report, struct batch *b)
{
	while (report->extras && b->observed.n_guests < BATCH_MAX) {
		struct extra *e = report->extras;
		size_t n = b->observed.n_guests++;
		Um__GuestObserved *o = &b->guests[n];

		um__guest_observed__init(o);
		memcpy(b->reasons[n], e->reason, sizeof(e->reason));
		o->uid = e->uid;
		o->epoch = e->epoch;
		o->gone = e->gone;
		o->phase = e->gone ? UM__PHASE__STOPPED : UM__PHASE__FAILED;
		o->reason = b->reasons[n];
		report->extras = e->next;
		if (!report->extras)
			report->extras_end = &report->extras;
		free(e);
	}
}

static void take_guests(struct report *report, struct batch *b)
{
	while (report->marked && b->observed.n_guests < BATCH_MAX) {
		struct guest *g = report->marked;
		size_t n = b->observed.n_guests;
		uint64_t hash = hash_of(g);

		report_forget(g);
		if (hash == g->report_hash)
			continue;
		g->report_hash = hash;
		report_observe(g, &b->guests[n], b->reasons[n]);
		b->observed.n_guests++;
	}
}

static void take_blobs(struct report *report, struct batch *b)
{
	while (report->blobs && b->blobs < BLOBS_MAX) {
		struct blob_news *news = report->blobs;
		ProtobufCBinaryData id = {.len = MANIFEST_HASH, .data = b->ids[b->blobs]};

		memcpy(b->ids[b->blobs++], news->id, MANIFEST_HASH);
		if (news->added)
			b->added[b->observed.n_blobs_added++] = id;
		else
			b->removed[b->observed.n_blobs_removed++] = id;
		report->blobs = news->next;
		if (!report->blobs)
			report->blobs_end = &report->blobs;
		free(news);
	}
}

static void flush(void *arg)
{
	struct report *report = arg;
	struct batch *b;

	if (!link_up(report->agent->link)) {
		report_clear(report);
		return;
	}
	b = calloc(1, sizeof(*b));
	if (!b) {
		loop_timer_arm(report->timer, BUSY_MS);
		return;
	}
	report->sent_at = loop_now(report->agent->loop);
	um__observed__init(&b->observed);
	take_extras(report, b);
	take_guests(report, b);
	take_blobs(report, b);
	if (report->moves)
		b->observed.n_moves =
			moves_observe(report->agent->moves, false, &b->observed.moves);
	if (report->orphans)
		b->observed.n_orphans =
			orphans_observe(report->agent->orphans, false, &b->observed.orphans);
	report->moves = report->orphans = false;
	for (size_t i = 0; i < b->observed.n_guests; i++)
		b->guest_list[i] = &b->guests[i];
	b->observed.guests = b->guest_list;
	b->observed.blobs_added = b->added;
	b->observed.blobs_removed = b->removed;
	/* What cannot be sent is lost: then everything is told anew. */
	if ((b->observed.n_guests || b->observed.n_moves || b->observed.n_orphans || b->blobs) &&
		link_observed(report->agent->link, &b->observed, NULL) < 0)
		link_again(report->agent->link);
	if (b->observed.n_moves)
		moves_told(report->agent->moves);
	if (b->observed.n_orphans)
		orphans_told(report->agent->orphans);
	free(b->observed.moves);
	free(b->observed.orphans);
	free(b);
	if (report->marked || report->extras || report->blobs)
		soon(report);
}

int report_open(struct agent *agent, struct report **out, struct err *err)
{
	struct report *report = calloc(1, sizeof(*report));
	int rc;

	if (!report)
		return err_set(err, -ENOMEM, "memory is short");
	report->agent = agent;
	report_clear(report);
	rc = loop_timer_open(agent->loop, "report", flush, report, &report->timer, err);
	if (rc < 0) {
		free(report);
		return rc;
	}
	*out = report;
	return 0;
}

void report_stop(struct report *report)
{
	if (!report)
		return;
	loop_timer_close(report->timer);
	report_clear(report);
}

void report_free(struct report *report)
{
	free(report);
}
