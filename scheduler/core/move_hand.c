/* Moves: the guest changes sides, at the hand-over and when it is given back; its end. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "scheduler/core/move_int.h"

/* What is held is its disk from now on. */
static void only_disk(struct core *core, struct core_move *m)
{
	struct core_host *host = m->held;

	if (!host)
		return;
	host->memory_reserved -= m->held_memory;
	host->cpu_reserved -= m->held_cpu;
	host->exclusive_count -= m->held_exclusive;
	m->held_memory = m->held_cpu = 0;
	m->held_exclusive = false;
	index_moved(core, host);
	core->place_due = true;
}

/* What the source has is told to go, under the newest epoch. */
void move_drop(struct core *core, struct core_move *m, uint64_t now, struct core_out *out)
{
	uint64_t epoch = m->guest->epoch;

	/* It was told not to run it. */
	if (core_move_recalled(m))
		out_tell_guest(out, m->guest);
	m->reason[0] = '\0';
	m->phase = CORE_MOVE_DROP;
	m->running_at = now;
	move_let_go(core, m);
	only_disk(core, m);
	move_dirty(m, out);
	out_tell_remove(out, m->source, m->uid, epoch);
	move_tell(m, m->target, out);
	if (move_lost(core, m->source))
		move_finish(core, m, now, out);
}

/* It is on the host that all it needs was held on, and that is held where it was. */
static void change_sides(
	struct core *core, struct core_move *m, const char *because, struct core_out *out)
{
	struct core_host *from = m->guest->host, *to = m->held;
	struct core_guest *guest = m->guest;

	move_uncount_coming(m);
	move_release(core, m);
	netplan_leaving(guest, out);
	guest_set_ready(guest, false);
	guest_detach_host(guest);
	guest_attach_host(guest, to);
	guest->epoch = ++core->meta.next_epoch;
	guest->unfenced = guest->final = false;
	guest->troubles = 0;
	text_set(core, &guest->placed_because, because);
	guest_set_phase(guest, CORE_PLACED, because);
	move_hold(core, m, from, true);
	out_dirty(out, CORE_KIND_META, "meta");
	out_dirty_guest(out, guest);
	netplan_placed(guest, out);
	core->place_due = true;
}

void move_hand_over(struct core *core, struct core_move *m, uint64_t now, struct core_out *out)
{
	struct core_guest *guest = m->guest;
	char text[CORE_REASON];

	if (m->has_digest[CORE_MOVE_SOURCE] && m->has_digest[CORE_MOVE_TARGET] &&
		memcmp(m->digests[0], m->digests[1], CORE_DIGEST) != 0) {
		move_back(core, m, now, out, "the copy is not equal to what it was made of");
		return;
	}
	guest->from_move = m->number;
	m->reason[0] = '\0';
	(void)snprintf(text, sizeof(text), "moved here from %s", m->source);
	change_sides(core, m, text, out);
	move_count_coming(m);
	m->phase = CORE_MOVE_START;
	core->moves_due = true;
	core->drain_due |= m->counts;
	move_dirty(m, out);
	out_tell_guest(out, guest);
	move_say(m, "HandedOver", false, out);
}

void move_abandon(struct core *core, struct core_move *m, struct core_out *out)
{
	m->phase = CORE_MOVE_BACK;
	move_say(m, "MoveFailed", true, out);
	move_finish(core, m, m->heard_at, out);
}

void move_recall(struct core_move *m, struct core_out *out, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(m->reason, sizeof(m->reason), fmt, ap);
	va_end(ap);
	move_dirty(m, out);
	out_tell_guest(out, m->guest);
	move_say(m, "Recalled", !m->cancelled, out);
}

void move_give_back(struct core *core, struct core_move *m, struct core_out *out)
{
	struct core_guest *guest = m->guest;
	uint64_t epoch = guest->epoch;
	char text[CORE_REASON];

	(void)snprintf(text, sizeof(text), "back from %s, where it never ran", m->target);
	guest->from_move = 0;
	change_sides(core, m, text, out);
	m->phase = CORE_MOVE_BACK;
	move_let_go(core, m);
	move_dirty(m, out);
	/* In this order: of the end alone the source would make that it has to run the guest
	 * under the epoch of before. */
	out_tell_guest(out, guest);
	move_tell(m, m->source, out);
	out_tell_remove(out, m->target, m->uid, epoch);
	move_tell(m, m->target, out);
	move_say(m, "GivenBack", true, out);
	if (move_lost(core, m->target))
		move_finish(core, m, m->heard_at, out);
}
