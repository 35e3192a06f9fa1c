/* How long the boots of guests took. */
#include <stdlib.h>
#include <string.h>

#include "lib/boottimes.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

/* A guest that waited longer than this before its event was waiting for a place. */
#define WAITED_US 5000u

struct bootseen {
	uint64_t uid;
	struct boottimes times;
	UT_hash_handle hh;
};

static struct bootseen *find(const struct serve *s, uint64_t uid)
{
	struct bootseen *seen;

	HASH_FIND(hh, s->boots, &uid, sizeof(uid), seen);
	return seen;
}

void boots_seen(struct serve *s, const char *host, const Um__GuestObserved *observed)
{
	const struct core_guest *g = core_guest(s->core, observed->uid);
	struct bootseen *seen = find(s, observed->uid);
	uint64_t uid = observed->uid;

	if (!observed->boot || !g || !g->host || strcmp(g->host->name, host) != 0)
		return;
	if (!seen) {
		seen = calloc(1, sizeof(*seen));
		if (!seen)
			return; /* nobody's state depends on it */
		seen->uid = uid;
		HASH_ADD(hh, s->boots, uid, sizeof(seen->uid), seen);
	}
	memset(&seen->times, 0, sizeof(seen->times));
	boottimes_add(&seen->times, observed->boot);
}

static Um__BootTimes *message(const struct boottimes *times, struct arena *a)
{
	Um__BootTimes *out = arena_get(a, sizeof(*out));
	struct boottimes *copy = arena_get(a, sizeof(*copy));

	*copy = *times;
	boottimes_fill(copy, out);
	return out;
}

Um__BootTimes *boots_asked(const struct serve *s, const struct core_guest *g, struct arena *a)
{
	struct boottimes times = {{0}};
	uint64_t now = proc_wall_us(), asked = s->asked_us;
	uint64_t made = g->created_at * 1000;

	if (!g->want_run)
		return NULL;
	/* Its first boot, and it was asked for long before this event. */
	if (!g->started_at && !find(s, g->uid) && made + WAITED_US < asked)
		asked = made;
	times.at[UM__BOOT_STEP__BOOT_ASKED] = asked && asked <= now ? asked : now;
	times.at[UM__BOOT_STEP__BOOT_PLACED] = now;
	return message(&times, a);
}

Um__BootTimes *boots_view(const struct serve *s, uint64_t uid, struct arena *a)
{
	struct bootseen *seen = find(s, uid);

	return seen ? message(&seen->times, a) : NULL;
}

void boots_drop(struct serve *s, uint64_t uid)
{
	struct bootseen *seen = find(s, uid);

	if (!seen)
		return;
	HASH_DEL(s->boots, seen);
	free(seen);
}

void boots_free(struct serve *s)
{
	struct bootseen *seen, *next;

	HASH_ITER (hh, s->boots, seen, next) {
		HASH_DEL(s->boots, seen);
		free(seen);
	}
}
