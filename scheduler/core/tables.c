#include "scheduler/core/tables.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t mix(uint64_t x)
{
	/* The finisher of SplitMix64. */
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return (uint32_t)(x ^ x >> 31);
}

/* ---------------------------------------------------------------- counts */

static uint32_t home_of(const struct core_counts *c, uint32_t id)
{
	return mix(id) & (c->room - 1);
}

static int counts_grow(struct core_counts *c)
{
	struct core_counts bigger = {.room = c->room ? c->room * 2 : 8, .used = c->used};

	bigger.slots = calloc(bigger.room, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->room; i++) {
		uint32_t k;

		if (!c->slots[i].id)
			continue;
		for (k = home_of(&bigger, c->slots[i].id); bigger.slots[k].id;)
			k = (k + 1) & (bigger.room - 1);
		bigger.slots[k] = c->slots[i];
	}
	free(c->slots);
	*c = bigger;
	return 0;
}

static struct core_count *counts_find(const struct core_counts *c, uint32_t id)
{
	if (!c->room)
		return NULL;
	for (uint32_t i = home_of(c, id); c->slots[i].id; i = (i + 1) & (c->room - 1))
		if (c->slots[i].id == id)
			return &c->slots[i];
	return NULL;
}

static void counts_drop(struct core_counts *c, struct core_count *slot)
{
	uint32_t hole = (uint32_t)(slot - c->slots), mask = c->room - 1;

	for (uint32_t i = (hole + 1) & mask; c->slots[i].id; i = (i + 1) & mask) {
		uint32_t home = home_of(c, c->slots[i].id);

		/* It may fill the hole if its home is not after the hole. */
		if (((i - home) & mask) >= ((i - hole) & mask)) {
			c->slots[hole] = c->slots[i];
			hole = i;
		}
	}
	c->slots[hole] = (struct core_count){0};
	c->used--;
}

int counts_add(struct core_counts *c, uint32_t id, int by)
{
	struct core_count *slot = counts_find(c, id);

	if (!slot) {
		uint32_t i;

		if (by <= 0)
			return 0;
		if ((c->used + 1) * 4 > c->room * 3 && counts_grow(c) < 0)
			return -ENOMEM;
		for (i = home_of(c, id); c->slots[i].id;)
			i = (i + 1) & (c->room - 1);
		c->slots[i] = (struct core_count){.id = id};
		c->used++;
		slot = &c->slots[i];
	}
	slot->count += (uint32_t)by;
	if (!slot->count)
		counts_drop(c, slot);
	return 0;
}

uint32_t counts_of(const struct core_counts *c, uint32_t id)
{
	const struct core_count *slot = counts_find(c, id);

	return slot ? slot->count : 0;
}

void counts_free(struct core_counts *c)
{
	free(c->slots);
	memset(c, 0, sizeof(*c));
}

const struct core_count *counts_next(const struct core_counts *c, uint32_t *pos)
{
	while (*pos < c->room) {
		const struct core_count *slot = &c->slots[(*pos)++];

		if (slot->id)
			return slot;
	}
	return NULL;
}

/* ---------------------------------------------------------------- addresses */

static const struct net_addr *addr_of(const struct core_nic *nic, bool v6)
{
	return v6 ? &nic->ip6 : &nic->ip4;
}

static uint32_t addr_home(const struct core_addrs *a, const struct net_addr *addr)
{
	uint64_t x = 0, part;

	for (size_t i = 0; i < sizeof(addr->bytes); i += sizeof(part)) {
		memcpy(&part, addr->bytes + i, sizeof(part));
		x = x * 0x9e3779b97f4a7c15ull + part;
	}
	return mix(x) & (a->room - 1);
}

static int addrs_grow(struct core_addrs *a, bool v6)
{
	struct core_addrs bigger = {.room = a->room ? a->room * 2 : 8, .used = a->used};

	bigger.slots = calloc(bigger.room, sizeof(struct core_nic *));
	if (!bigger.slots)
		return -ENOMEM;
	for (uint32_t i = 0; i < a->room; i++) {
		uint32_t k;

		if (!a->slots[i])
			continue;
		for (k = addr_home(&bigger, addr_of(a->slots[i], v6)); bigger.slots[k];)
			k = (k + 1) & (bigger.room - 1);
		bigger.slots[k] = a->slots[i];
	}
	free(a->slots);
	*a = bigger;
	return 0;
}

int addrs_add(struct core_addrs *a, struct core_nic *nic, bool v6)
{
	uint32_t i;

	if ((a->used + 1) * 4 > a->room * 3 && addrs_grow(a, v6) < 0)
		return -ENOMEM;
	for (i = addr_home(a, addr_of(nic, v6)); a->slots[i];)
		i = (i + 1) & (a->room - 1);
	a->slots[i] = nic;
	a->used++;
	return 0;
}

void addrs_remove(struct core_addrs *a, struct core_nic *nic, bool v6)
{
	uint32_t mask = a->room - 1, hole;

	if (!a->room)
		return;
	for (hole = addr_home(a, addr_of(nic, v6)); a->slots[hole] != nic; hole = (hole + 1) & mask)
		if (!a->slots[hole])
			return;
	for (uint32_t i = (hole + 1) & mask; a->slots[i]; i = (i + 1) & mask) {
		uint32_t home = addr_home(a, addr_of(a->slots[i], v6));

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			a->slots[hole] = a->slots[i];
			hole = i;
		}
	}
	a->slots[hole] = NULL;
	a->used--;
}

struct core_nic *addrs_find(const struct core_addrs *a, const struct net_addr *addr, bool v6)
{
	if (!a->room)
		return NULL;
	for (uint32_t i = addr_home(a, addr); a->slots[i]; i = (i + 1) & (a->room - 1))
		if (net_addr_equal(addr_of(a->slots[i], v6), addr))
			return a->slots[i];
	return NULL;
}

void addrs_free(struct core_addrs *a)
{
	free(a->slots);
	memset(a, 0, sizeof(*a));
}
