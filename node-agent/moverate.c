#include "node-agent/moverate.h"

#include <errno.h>

#include "lib/units.h"

#define ENOUGH (1u << 20) /* bytes; of fewer no rate can be told */

void moverate_init(struct moverate *r, uint64_t rate, uint32_t max_ms, bool strict)
{
	*r = (struct moverate){
		.rate = rate, .max_ms = max_ms, .strict = strict, .expected_ms = UINT32_MAX};
}

void moverate_set(struct moverate *r, uint64_t rate)
{
	r->rate = rate;
	r->next_at = 0;
}

void moverate_anew(struct moverate *r)
{
	r->rounds = 0;
	r->last_bytes = r->last_ms = 0;
}

void moverate_round(struct moverate *r, uint64_t now)
{
	r->rounds++;
	r->began = now;
	r->idle = r->idle_since = 0;
}

uint64_t moverate_wait(struct moverate *r, uint64_t now, bool idle)
{
	if (r->free || r->next_at <= now)
		return 0;
	if (idle && !r->idle_since)
		r->idle_since = now;
	return r->next_at - now;
}

void moverate_sent(struct moverate *r, uint64_t now, uint64_t bytes)
{
	if (r->idle_since)
		r->idle += now - r->idle_since;
	r->idle_since = 0;
	if (r->rate)
		r->next_at = (r->next_at > now ? r->next_at : now) + bytes * 1000 / r->rate;
}

static int never(const struct moverate *r, uint64_t bytes, uint64_t ms, bool look, struct err *err)
{
	char writes[UNITS_TEXT], rate[UNITS_TEXT], would[UNITS_TEXT], most[UNITS_TEXT];

	(void)units_duration(would, ms);
	(void)units_duration(most, r->max_ms);
	if (look)
		return err_set(err, -ETIMEDOUT,
			"the last copy would take %s, as the whole disk is read once more, and "
			"may take %s; raise --max-downtime",
			would, most);
	return err_set(err, -ETIMEDOUT,
		"does not converge: the guest writes %s/s, the rate is %s/s, and the last copy "
		"would take %s of %s; raise --rate or --max-downtime",
		units_size(writes, bytes * 1000 / (r->last_ms ? r->last_ms : 1)),
		units_size(rate, r->measured), would, most);
}

/* The last difference is read and sent as this round was, but for the waits that the rate
 * made; it is about as much at most, and the disk is looked at once more.  So it takes what
 * this round took.  Of that, more rounds can only shorten the sending. */
static int judge(struct moverate *r, uint64_t bytes, uint64_t busy, struct err *err)
{
	uint64_t copy = r->link ? bytes * 1000 / r->link : busy;
	uint64_t look = copy < busy ? busy - copy : 0;
	bool shrinks = !r->last_ms || bytes < r->last_bytes - r->last_bytes / 10;
	bool more = r->rounds < MOVERATE_ROUNDS;

	r->expected_ms = busy < UINT32_MAX ? (uint32_t)busy : UINT32_MAX;
	if (busy <= r->max_ms)
		return 0;
	if (r->strict && (look > r->max_ms || !more))
		return never(r, bytes, busy, look > r->max_ms, err);
	return more &&
	       (r->strict || (copy > r->max_ms && (shrinks || copy > 2 * (uint64_t)r->max_ms)));
}

int moverate_end(struct moverate *r, uint64_t now, bool first, uint64_t bytes, struct err *err)
{
	uint64_t ms = now - r->began + 1, busy = ms > r->idle ? ms - r->idle : 1;
	int rc = 1;

	if (bytes >= ENOUGH) {
		r->measured = bytes * 1000 / ms;
		if (bytes * 1000 / busy > r->link)
			r->link = bytes * 1000 / busy;
	}
	/* The first one has all that is there: it says nothing of the next. */
	if (!first)
		rc = judge(r, bytes, busy, err);
	r->last_bytes = bytes;
	r->last_ms = ms;
	return rc;
}
