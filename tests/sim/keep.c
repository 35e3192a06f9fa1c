/* Disks that must not go: what may be removed of what guests wrote (docs/simulation.md). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/str.h"
#include "lib/wire.h"
#include "scheduler/core/orphan.h"
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

void keep_removed(const struct sim_machine *m, const char *path)
{
	const char *name = strrchr(path, '/');
	struct keep_disk d;
	const void *data;
	uint32_t state;
	uint64_t number;
	size_t size;
	char kind[8], *end;

	if (!name || strcmp(name, "/cow") != 0)
		return;
	/* .../state/guests/UID/cow, .../state/orphans/EPOCH/cow */
	if (sscanf(path, "/sim/%*[^/]/state/%7[a-z]/%*16[0-9a-f]/cow", kind) != 1)
		return;
	number = strtoull(name - 16, &end, 16);
	data = fs_peek(m, path, &size);
	if (end != name || !keep_read(data, size, &d) || !d.runs)
		return;
	if (strcmp(kind, "guests") == 0)
		guest_disk(m, number, &d);
	else if (strcmp(kind, "orphans") == 0 &&
		 (!durable_orphan(number, &state) || state != CORE_ORPHAN_PRUNED))
		sim_fail("%s removes the orphan %" PRIu64 ", which nobody pruned", m->name, number);
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
