#include "node-agent/guests.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "node-agent/agent.h"
#include "node-agent/life.h"

#define FENCES "fences"
#define FENCES_BYTES_MAX (8u << 20)

struct fence {
	uint64_t uid, epoch;
	UT_hash_handle hh;
};

struct guests {
	struct agent *agent;
	struct guest *all;
	uint64_t slots[GUESTS_SLOTS / 64];
	uint32_t slot_hint; /* no free slot below */
	struct guest *touched;
	struct loop_defer *sweep;
	bool frozen, hold, stopped;
	/* Boot queue. */
	struct guest *boot_head, *boot_tail;
	uint32_t boots, boots_max;
	struct fence *fences; /* oldest first */
};

/* ---------------------------------------------------------------- marks */

static void sweep(void *arg)
{
	struct guests *guests = arg;
	struct guest *g = guests->touched;

	if (guests->frozen || guests->stopped)
		return;
	guests->touched = NULL;
	while (g) {
		struct guest *next = g->touched_next;

		g->touched = false;
		g->touched_next = NULL;
		life_step(g);
		g = next;
	}
}

void guests_touch(struct guest *g)
{
	struct guests *guests = g->agent->guests;

	if (g->touched || guests->stopped)
		return;
	g->touched = true;
	g->touched_next = guests->touched;
	guests->touched = g;
	loop_defer_run(guests->sweep);
}

void guests_freeze(struct guests *guests, bool frozen)
{
	guests->frozen = frozen;
	if (!frozen && guests->touched)
		loop_defer_run(guests->sweep);
}

void guests_hold(struct guests *guests, bool hold)
{
	struct guest *g;

	if (guests->hold == hold)
		return;
	guests->hold = hold;
	for (g = guests->all; g; g = g->hh.next)
		guests_touch(g);
}

bool guests_held(const struct guests *guests)
{
	return guests->hold;
}

/* ---------------------------------------------------------------- fences */

static void fence_note(struct guests *guests, uint64_t uid, uint64_t epoch)
{
	struct fence *f = NULL;

	HASH_FIND(hh, guests->fences, &uid, sizeof(uid), f);
	if (f) {
		if (epoch > f->epoch)
			f->epoch = epoch;
		return;
	}
	if (HASH_COUNT(guests->fences) >= GUESTS_FENCES) {
		f = guests->fences;
		HASH_DEL(guests->fences, f);
		free(f);
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return;
	f->uid = uid;
	f->epoch = epoch;
	HASH_ADD(hh, guests->fences, uid, sizeof(f->uid), f);
}

uint64_t guests_fence(struct guests *guests, uint64_t uid)
{
	struct fence *f = NULL;

	HASH_FIND(hh, guests->fences, &uid, sizeof(uid), f);
	return f ? f->epoch : 0;
}

void guests_fence_set(struct guests *guests, uint64_t uid, uint64_t epoch)
{
	fence_note(guests, uid, epoch);
}

int guests_fence_write(const char *state, uint64_t uid, uint64_t epoch, struct err *err)
{
	char path[PATH_MAX], line[64];
	int fd, n, rc = fs_join(path, sizeof(path), state, FENCES, err);

	if (rc < 0)
		return rc;
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	n = snprintf(line, sizeof(line), "%016" PRIx64 " %" PRIu64 "\n", uid, epoch);
	if (write(fd, line, (size_t)n) != n || fdatasync(fd) < 0)
		rc = err_errno(err, errno ? errno : EIO, "write %s", path);
	(void)close(fd);
	return rc;
}

/* A torn last line is no line. */
static int load_fences(struct guests *guests, struct err *err)
{
	char path[PATH_MAX];
	struct buf text;
	struct fence *f, *next;
	size_t lines = 0;
	int rc = agent_path(guests->agent, FENCES, path, err);

	if (rc < 0 || access(path, F_OK) < 0)
		return rc;
	buf_init(&text);
	rc = fs_read(path, FENCES_BYTES_MAX, &text, err);
	buf_add_byte(&text, '\0');
	for (const char *at = (const char *)text.data; rc == 0 && at && *at; lines++) {
		const char *end = strchr(at, '\n');
		char *space, *last;
		uint64_t uid, epoch;

		if (!end)
			break;
		uid = strtoull(at, &space, 16);
		epoch = strtoull(space, &last, 10);
		if (space > at && *space == ' ' && last > space && last == end)
			fence_note(guests, uid, epoch);
		at = end + 1;
	}
	buf_free(&text);
	if (rc < 0 || lines < GUESTS_FENCES)
		return rc;
	/* Too long: written anew with what counts. */
	buf_init(&text);
	HASH_ITER (hh, guests->fences, f, next)
		buf_printf(&text, "%016" PRIx64 " %" PRIu64 "\n", f->uid, f->epoch);
	rc = fs_write_atomic(path, text.data, text.size, 0600, err);
	buf_free(&text);
	return rc;
}

/* ---------------------------------------------------------------- the table */

int guests_open(struct agent *agent, struct guests **out, struct err *err)
{
	struct guests *guests = calloc(1, sizeof(*guests));
	uint32_t cpus = proc_cpus(), promised = (agent->config.cpu_milli + 999) / 1000;
	int rc;

	if (!guests)
		return err_set(err, -ENOMEM, "memory is short");
	guests->agent = agent;
	/* Two for each processor: a boot waits for the disk and for its agent as well. */
	if (promised && promised < cpus)
		cpus = promised;
	guests->boots_max = agent->config.boots ? agent->config.boots : 2 * cpus;
	rc = load_fences(guests, err);
	if (rc == 0)
		rc = loop_defer_open(agent->loop, "guests", sweep, guests, &guests->sweep, err);
	if (rc < 0) {
		guests_free(guests);
		return rc;
	}
	*out = guests;
	return 0;
}

void guests_stop(struct guests *guests)
{
	struct guest *g;

	if (!guests || guests->stopped)
		return;
	guests->stopped = true;
	loop_defer_close(guests->sweep);
	for (g = guests->all; g; g = g->hh.next) {
		if (g->run)
			guests->agent->driver.ops->close(g->run);
		g->run = NULL;
		loop_timer_close(g->timer);
		g->timer = NULL;
	}
}

static void free_guest(struct guest *g)
{
	if (g->assign)
		um__guest_assign__free_unpacked(g->assign, NULL);
	free(g);
}

void guests_free(struct guests *guests)
{
	struct guest *g, *next;
	struct fence *f, *fnext;

	if (!guests)
		return;
	HASH_ITER (hh, guests->all, g, next) {
		HASH_DEL(guests->all, g);
		free_guest(g);
	}
	HASH_ITER (hh, guests->fences, f, fnext) {
		HASH_DEL(guests->fences, f);
		free(f);
	}
	free(guests);
}

struct guest *guests_find(struct guests *guests, uint64_t uid)
{
	struct guest *g = NULL;

	HASH_FIND(hh, guests->all, &uid, sizeof(uid), g);
	return g;
}

size_t guests_count(const struct guests *guests)
{
	return HASH_COUNT(guests->all);
}

struct guest *guests_first(struct guests *guests)
{
	return guests->all;
}

struct guest *guests_next(struct guest *g)
{
	return g->hh.next;
}

struct guest *guests_add(struct guests *guests, uint64_t uid, struct err *err)
{
	struct guest *g = calloc(1, sizeof(*g));
	int rc;

	if (!g) {
		(void)err_set(err, -ENOMEM, "memory is short");
		return NULL;
	}
	g->agent = guests->agent;
	g->uid = uid;
	g->slot = GUESTS_SLOTS;
	g->revision = 1;
	if (str_format(g->dir, sizeof(g->dir), "%s/guests/%016" PRIx64, guests->agent->config.state,
		    uid) < 0)
		rc = err_set(err, -ENAMETOOLONG, "the state folder's path is too long");
	else
		rc = loop_timer_open(
			guests->agent->loop, "guest", life_on_timer, g, &g->timer, err);
	if (rc < 0) {
		free(g);
		return NULL;
	}
	HASH_ADD(hh, guests->all, uid, sizeof(g->uid), g);
	return g;
}

static void unlink_touched(struct guests *guests, struct guest *g)
{
	struct guest **at = &guests->touched;

	if (!g->touched)
		return;
	while (*at && *at != g)
		at = &(*at)->touched_next;
	if (*at)
		*at = g->touched_next;
}

void guests_drop(struct guest *g)
{
	struct guests *guests = g->agent->guests;

	guests_boot_done(g);
	unlink_touched(guests, g);
	HASH_DEL(guests->all, g);
	if (g->slot < GUESTS_SLOTS) {
		guests->slots[g->slot / 64] &= ~(UINT64_C(1) << (g->slot % 64));
		if (g->slot < guests->slot_hint)
			guests->slot_hint = g->slot;
	}
	loop_timer_close(g->timer);
	free_guest(g);
}

int guests_claim_slot(struct guests *guests, uint32_t slot, struct err *err)
{
	uint64_t bit = UINT64_C(1) << (slot % 64);

	if (slot >= GUESTS_SLOTS)
		return err_set(err, -ERANGE, "slot %u", slot);
	if (guests->slots[slot / 64] & bit)
		return err_set(err, -EEXIST, "slot %u is taken", slot);
	guests->slots[slot / 64] |= bit;
	return (int)slot;
}

int guests_take_slot(struct guests *guests, struct err *err)
{
	for (uint32_t i = guests->slot_hint; i < GUESTS_SLOTS; i++) {
		if (i % 64 == 0 && guests->slots[i / 64] == UINT64_MAX) {
			i += 63;
			continue;
		}
		if (guests_claim_slot(guests, i, NULL) >= 0) {
			guests->slot_hint = i + 1;
			return (int)i;
		}
	}
	return err_set(err, -ENOSPC, "a host has at most %u guests", GUESTS_SLOTS);
}

/* ---------------------------------------------------------------- boot slots */

static void queue_unlink(struct guests *guests, struct guest *g)
{
	*(g->boot_prev ? &g->boot_prev->boot_next : &guests->boot_head) = g->boot_next;
	*(g->boot_next ? &g->boot_next->boot_prev : &guests->boot_tail) = g->boot_prev;
	g->boot_prev = g->boot_next = NULL;
}

static void grant(struct guests *guests)
{
	while (guests->boot_head && guests->boots < guests->boots_max) {
		struct guest *g = guests->boot_head;

		queue_unlink(guests, g);
		g->boot = BOOT_GRANTED;
		guests->boots++;
		guests_touch(g);
	}
}

void guests_boot_wait(struct guest *g)
{
	struct guests *guests = g->agent->guests;

	if (g->boot != BOOT_NONE)
		return;
	g->boot = BOOT_WAITS;
	g->boot_prev = guests->boot_tail;
	*(guests->boot_tail ? &guests->boot_tail->boot_next : &guests->boot_head) = g;
	guests->boot_tail = g;
	grant(guests);
}

void guests_boot_done(struct guest *g)
{
	struct guests *guests = g->agent->guests;

	if (g->boot == BOOT_WAITS)
		queue_unlink(guests, g);
	else if (g->boot == BOOT_GRANTED)
		guests->boots--;
	g->boot = BOOT_NONE;
	if (!guests->stopped)
		grant(guests);
}

/* ---------------------------------------------------------------- values */

void guest_status_set(struct guest_status *to, const Um__RunnerStatus *from)
{
	*to = (struct guest_status){.phase = from->phase,
		.ready = from->ready,
		.by_request = from->by_request,
		.final = from->final,
		.started_at = from->started_at,
		.exit_status = from->exit_status,
		.boots = from->boots};
	boottimes_add(&to->times, from->boot);
	(void)snprintf(to->reason, sizeof(to->reason), "%s", from->reason ? from->reason : "");
}

bool guest_status_ended(const struct guest_status *status)
{
	return status->phase == UM__PHASE__STOPPED || status->phase == UM__PHASE__FAILED;
}

uint64_t guest_epoch(const struct guest *g)
{
	uint64_t epoch = g->assign ? g->assign->epoch : 0;

	return g->gone_epoch > epoch ? g->gone_epoch : epoch;
}
