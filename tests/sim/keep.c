/* Disks that must not go: what may be removed of what guests wrote (docs/simulation.md). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/str.h"
#include "lib/wire.h"
#include "scheduler/core/core_int.h"
#include "scheduler/serve/serve_int.h"
#include "tests/sim/guests.h"
#include "tests/sim/keep.h"

/* What a guest wrote on its disk: "RUNS GENERATION EPOCH". */
bool keep_read(const char *data, size_t size, struct keep_disk *out)
{
	char text[80], *end;

	*out = (struct keep_disk){0};
	if (!data || !size)
		return true;
	(void)str_format(text, sizeof(text), "%.*s", (int)(size < 79 ? size : 79), data);
	out->runs = strtoull(text, &end, 10);
	out->generation = strtoull(end, &end, 10);
	out->epoch = strtoull(end, &end, 10);
	return !*end;
}

void keep_write(const struct keep_disk *d, char text[80])
{
	(void)str_format(
		text, 80, "%" PRIu64 " %" PRIu64 " %" PRIu64, d->runs, d->generation, d->epoch);
}

static bool durable_orphan(uint64_t epoch, uint32_t *state)
{
	char key[40];
	const void *data;
	size_t size;
	Um__StoredOrphan *o;

	(void)str_format(key, sizeof(key), "orphan/%016" PRIx64, epoch);
	data = store_sim_get(sim->store, key, &size);
	o = data ? um__stored_orphan__unpack(NULL, size, data) : NULL;
	if (!o)
		return false;
	*state = o->state;
	um__stored_orphan__free_unpacked(o, NULL);
	return true;
}

/* The guest's disk in the folder of guests. */
static void guest_disk(const struct sim_machine *m, uint64_t uid, const struct keep_disk *d)
{
	char key[40];
	const void *data;
	size_t size;
	uint32_t state;
	Um__StoredGuest *g;

	if (durable_orphan(d->epoch, &state) && state == CORE_ORPHAN_EXPECTED)
		sim_fail("%s removes the disk of guest %016" PRIx64 " (epoch %" PRIu64
			 "), which is to be kept",
			m->name, uid, d->epoch);
	(void)str_format(key, sizeof(key), "guest/%016" PRIx64, uid);
	data = store_sim_get(sim->store, key, &size);
	g = data ? um__stored_guest__unpack(NULL, size, data) : NULL;
	/* Deleted; gave way to others; replaced, or started elsewhere from its image; moved. */
	/* An older copy of it may have come back with a power loss. */
	if (g && !g->deleting && !g->evicted && g->disk_generation == d->generation &&
		strcmp(g->host, m->name) == 0 && d->runs == check_disk_runs(uid, d->generation))
		sim_fail("%s removes the disk of %s, which is there and is wanted", m->name,
			g->name);
	if (g)
		um__stored_guest__free_unpacked(g, NULL);
}

/* ---------------------------------------------------------------- moves */

/* A guest left a lost host, under that epoch: what it wrote there may be gone, be it that
 * it starts from its image, or goes on where it came from. */
struct sim_left {
	uint64_t epoch, uid, generation; /* of its disk since then */
	bool used;
	UT_hash_handle hh;
};

/* New ones are the last: back to the first that is known. */
void keep_heard(struct serve *s)
{
	struct core_orphan *all = s->core->orphans, *o = all;

	if (all)
		o = ELMT_FROM_HH(all->hh.tbl, all->hh.tbl->tail);
	for (; o; o = o->hh.prev) {
		const struct core_guest *g = core_guest(s->core, o->facts.uid);
		struct sim_left *left;

		HASH_FIND(hh, sim->left, &o->epoch, sizeof(o->epoch), left);
		if (left)
			return;
		left = calloc(1, sizeof(*left));
		if (!left)
			abort();
		left->epoch = o->epoch;
		left->uid = o->facts.uid;
		left->generation = g && o->state == CORE_ORPHAN_EXPECTED ? g->disk_generation : 0;
		left->used = !g || o->state != CORE_ORPHAN_EXPECTED;
		HASH_ADD(hh, sim->left, epoch, sizeof(left->epoch), left);
	}
}

bool keep_given_back(uint64_t uid, uint64_t generation, uint64_t epoch)
{
	struct sim_left *left;

	HASH_FIND(hh, sim->left, &epoch, sizeof(epoch), left);
	if (!left || left->uid != uid || left->generation != generation || left->used)
		return false;
	left->used = true;
	return true;
}

void keep_free(void)
{
	struct sim_left *left, *next;

	HASH_ITER (hh, sim->left, left, next) {
		HASH_DEL(sim->left, left);
		free(left);
	}
}

/* It was given up with what a lost host had of it, not by a user's wish. */
static bool given_up(uint64_t uid, uint64_t generation)
{
	for (const struct sim_left *left = sim->left; left; left = left->hh.next)
		if (left->uid == uid &&
			(left->generation == generation || left->generation == generation + 1))
			return true;
	return false;
}

/* KIND: guests, moves, orphans; NUMBER: the folder's. */
static bool has_disk(const struct sim_machine *m, const char *kind, uint64_t number, bool sealed,
	const struct keep_disk *d)
{
	struct keep_disk found;
	const void *data;
	char path[96];
	size_t size;

	(void)str_format(path, sizeof(path), "/sim/%s/state/%s/%016" PRIx64 "/sealed.pb", m->name,
		kind, number);
	if (sealed && !fs_exists(m, path))
		return false;
	(void)str_format(
		path, sizeof(path), "/sim/%s/state/%s/%016" PRIx64 "/cow", m->name, kind, number);
	data = fs_peek(m, path, &size);
	return data && keep_read(data, size, &found) && found.generation == d->generation &&
	       found.runs >= d->runs;
}

/* Of guest UID, as it was moved by MOVE from where it was under EPOCH. */
struct moving {
	uint64_t uid, move, epoch;
};

/* A disk that is moving is whole on two hosts: the one goes only when the other is there, or
 * was run. */
static void moving_disk(
	const struct sim_machine *m, const struct moving *of, const struct keep_disk *d)
{
	Um__StoredGuest *g;
	const void *data;
	char key[40];
	size_t size;
	bool wanted;

	(void)str_format(key, sizeof(key), "guest/%016" PRIx64, of->uid);
	data = store_sim_get(sim->store, key, &size);
	g = data ? um__stored_guest__unpack(NULL, size, data) : NULL;
	wanted = g && !g->deleting && !g->evicted &&
		 (g->disk_generation == d->generation || given_up(of->uid, d->generation));
	um__stored_guest__free_unpacked(g, NULL);
	if (!wanted || d->runs != check_disk_runs(of->uid, d->generation))
		return;
	for (size_t i = 1; i < sim->machine_count; i++) {
		const struct sim_machine *other = &sim->machines[i];

		if (other != m && (has_disk(other, "guests", of->uid, false, d) ||
					  has_disk(other, "moves", of->move, true, d) ||
					  has_disk(other, "orphans", of->epoch, false, d)))
			return;
	}
	sim_fail("%s removes the disk of guest %016" PRIx64 ", which moved (%" PRIu64
		 "), and it is nowhere else",
		m->name, of->uid, of->move);
}

/* Handed over, and not yet seen to run: both disks are wanted. */
static bool is_starting(uint64_t move)
{
	Um__StoredMove *r;
	const void *data;
	char key[40];
	size_t size;
	bool starting;

	(void)str_format(key, sizeof(key), "move/%016" PRIx64, move);
	data = store_sim_get(sim->store, key, &size);
	r = data ? um__stored_move__unpack(NULL, size, data) : NULL;
	starting = r && r->phase == CORE_MOVE_START;
	um__stored_move__free_unpacked(r, NULL);
	return starting;
}

/* The guest's disk, which is frozen for a move. */
static void frozen_disk(const struct sim_machine *m, uint64_t uid, const struct keep_disk *d)
{
	struct moving of = {.uid = uid};
	Um__AgentGuest *local;
	const void *data;
	char path[96];
	size_t size;

	(void)str_format(
		path, sizeof(path), "/sim/%s/state/guests/%016" PRIx64 "/local.pb", m->name, uid);
	data = fs_peek(m, path, &size);
	local = data ? um__agent_guest__unpack(NULL, size, data) : NULL;
	if (!local)
		return;
	of.move = local->frozen_move;
	of.epoch = local->frozen_epoch;
	um__agent_guest__free_unpacked(local, NULL);
	if (of.move && is_starting(of.move))
		sim_fail("%s removes the disk of guest %016" PRIx64
			 ", which is not known to run where it moved to",
			m->name, uid);
	if (of.move)
		moving_disk(m, &of, d);
}

/* The seal of a copy: without it the copy is none. */
static void seal_removed(const struct sim_machine *m, const char *path)
{
	struct moving of = {.move = 0};
	Um__MoveTarget *offer = NULL;
	struct keep_disk d;
	const void *data;
	char other[96];
	size_t size;

	if (sscanf(path, "/sim/%*[^/]/state/moves/%16" SCNx64, &of.move) != 1)
		return;
	(void)str_format(
		other, sizeof(other), "/sim/%s/state/moves/%016" PRIx64 "/cow", m->name, of.move);
	data = fs_peek(m, other, &size);
	if (!keep_read(data, size, &d) || !d.runs)
		return; /* taken by its guest */
	(void)str_format(other, sizeof(other), "/sim/%s/state/moves/%016" PRIx64 "/offer.pb",
		m->name, of.move);
	data = fs_peek(m, other, &size);
	if (data)
		offer = um__move_target__unpack(NULL, size, data);
	if (offer && offer->guest) {
		of.uid = offer->guest->uid;
		of.epoch = offer->guest->epoch;
		moving_disk(m, &of, &d);
	}
	um__move_target__free_unpacked(offer, NULL);
}

void keep_removed(const struct sim_machine *m, const char *path)
{
	const char *name = strrchr(path, '/');
	struct keep_disk d;
	const void *data;
	uint32_t state;
	uint64_t number;
	size_t size;
	char kind[8], *end;

	if (name && strcmp(name, "/sealed.pb") == 0)
		seal_removed(m, path);
	if (!name || strcmp(name, "/cow") != 0)
		return;
	/* .../state/guests/UID/cow, .../state/orphans/EPOCH/cow */
	if (sscanf(path, "/sim/%*[^/]/state/%7[a-z]/%*16[0-9a-f]/cow", kind) != 1)
		return;
	number = strtoull(name - 16, &end, 16);
	data = fs_peek(m, path, &size);
	if (end != name || !keep_read(data, size, &d) || !d.runs)
		return;
	if (strcmp(kind, "guests") == 0) {
		guest_disk(m, number, &d);
		frozen_disk(m, number, &d);
	} else if (strcmp(kind, "orphans") == 0 &&
		   (!durable_orphan(number, &state) || state != CORE_ORPHAN_PRUNED)) {
		sim_fail("%s removes the orphan %" PRIu64 ", which nobody pruned", m->name, number);
	}
}

/* ---------------------------------------------------------------- in the end */

bool keep_settled(const struct serve *s, const struct sim_machine *m, char *why, size_t size)
{
	char path[80];
	size_t listed = 0;

	for (const struct core_orphan *o = core_orphans(s->core); o; o = o->hh.next) {
		if (strcmp(o->host, m->name) != 0)
			continue;
		listed++;
		(void)str_format(path, sizeof(path), "/sim/%s/state/orphans/%016" PRIx64 "/cow",
			m->name, o->epoch);
		if (o->state == CORE_ORPHAN_KEPT && fs_exists(m, path))
			continue;
		if (why)
			(void)str_format(why, size, "the orphan of %s on %s is %s%s", o->facts.name,
				m->name,
				o->state == CORE_ORPHAN_EXPECTED ? "expected still"
				: o->state == CORE_ORPHAN_PRUNED ? "to be pruned still"
								 : "listed",
				fs_exists(m, path) ? "" : " and is not there");
		return false;
	}
	(void)str_format(path, sizeof(path), "/sim/%s/state/orphans", m->name);
	if (fs_folders(m, path) == listed)
		return true;
	if (why)
		(void)str_format(why, size, "%s has %zu orphans of which %zu are listed", m->name,
			fs_folders(m, path), listed);
	return false;
}
