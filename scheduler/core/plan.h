/* plan: what an apply would change, and whether it can be done.  Changes nothing. */
#ifndef UMLAUT_SCHEDULER_CORE_PLAN_H
#define UMLAUT_SCHEDULER_CORE_PLAN_H

#include "scheduler/core/core_int.h"

/* HAVE is NULL for a new deployment. */
int plan_make(const struct core_deployment *have, const struct core_apply *apply,
	struct core_plan *plan, struct err *err);
/* After it succeeded, carrying out can fail only for want of memory. */
int plan_check(const struct core_deployment *have, const struct core_apply *apply, struct err *err);

/* The networks differ in who may send from which address, and in nothing else. */
bool plan_only_guard(const struct core_netspec *old, const struct core_netspec *new);
enum core_op plan_network(
	const struct core_netspec *old, const struct core_netspec *new, char detail[CORE_REASON]);
enum core_op plan_group(const struct core_groupspec *old, const struct core_groupspec *new,
	char detail[CORE_REASON]);
bool plan_same_nics(const struct core_groupspec *a, const struct core_groupspec *b);
/* Guests of a group. */
uint32_t plan_numbers(const struct core_groupspec *spec);
const struct core_groupspec *plan_find_group(const struct core_apply *apply, const char *name);

#endif
