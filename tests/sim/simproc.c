/* Clocks, random numbers and keys: of the machine and the seed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sodium/crypto_scalarmult.h>
#include <string.h>

#include "lib/curve.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "tests/sim/event.h"

#define WRAP(type, name, ...) type __wrap_##name(__VA_ARGS__)

WRAP(void, proc_random, void *data, size_t size);
WRAP(uint64_t, proc_random_u64, void);
WRAP(uint64_t, proc_mono_ms, void);
WRAP(uint64_t, proc_boot_ms, void);
WRAP(uint64_t, proc_wall_ms, void);
WRAP(uint64_t, proc_wall_us, void);
WRAP(int, proc_boot_id, uint8_t out[16], struct err *err);
WRAP(void, curve_generate, struct curve_pair *out);
WRAP(int, curve_load_or_make, const char *path, struct curve_pair *out, struct err *err);
WRAP(time_t, time, time_t *out);
WRAP(void, log_write, enum log_level level, const char *msg, const struct log_field *fields);
WRAP(bool, log_enabled, enum log_level level);
WRAP(bool, log_rate_pass, struct log_rate *rate);

void __wrap_proc_random(void *data, size_t size)
{
	uint8_t *p = data;

	for (size_t i = 0; i < size; i++)
		p[i] = (uint8_t)sim_draw(sim_here(), DRAW_ID);
}

uint64_t __wrap_proc_random_u64(void)
{
	return sim_draw(sim_here(), DRAW_ID) | 1;
}

uint64_t __wrap_proc_mono_ms(void)
{
	return sim_mono_us(sim_here()) / 1000;
}

/* No machine is suspended in here. */
uint64_t __wrap_proc_boot_ms(void)
{
	return sim_mono_us(sim_here()) / 1000;
}

uint64_t __wrap_proc_wall_ms(void)
{
	return sim_wall_us(sim_here()) / 1000;
}

uint64_t __wrap_proc_wall_us(void)
{
	return sim_wall_us(sim_here());
}

time_t __wrap_time(time_t *out)
{
	time_t now = (time_t)(sim_wall_us(sim_here()) / 1000000);

	if (out)
		*out = now;
	return now;
}

int __wrap_proc_boot_id(uint8_t out[16], struct err *err)
{
	struct sim_machine *m = sim_here();

	(void)err;
	memset(out, 0, 16);
	memcpy(out, &m->index, sizeof(m->index));
	memcpy(out + 8, &m->boots, sizeof(m->boots));
	return 0;
}

void __wrap_curve_generate(struct curve_pair *out)
{
	__wrap_proc_random(out->secret_key, sizeof(out->secret_key));
	(void)crypto_scalarmult_base(out->public_key, out->secret_key);
}

/* Its window is of real time. */
bool __wrap_log_rate_pass(struct log_rate *rate)
{
	(void)rate;
	return true;
}

int __wrap_curve_load_or_make(const char *path, struct curve_pair *out, struct err *err)
{
	struct buf data;
	int rc;

	buf_init(&data);
	rc = fs_read(path, sizeof(*out), &data, err);
	if (rc == 0 && data.size == sizeof(*out)) {
		memcpy(out, data.data, sizeof(*out));
	} else if (rc == -ENOENT) {
		__wrap_curve_generate(out);
		rc = fs_write_atomic(path, out, sizeof(*out), 0600, err);
	}
	buf_free(&data);
	return rc;
}

bool __wrap_log_enabled(enum log_level level)
{
	return sim && sim->options.trace && level >= LOG_DEBUG && sim_alive();
}

void __wrap_log_write(enum log_level level, const char *msg, const struct log_field *fields)
{
	char text[300];
	size_t at = 0;

	(void)level;
	text[0] = '\0';
	for (; fields->kind != LOG_KIND_END && at + 80 < sizeof(text); fields++) {
		int n = fields->kind == LOG_KIND_STR
				? snprintf(text + at, 79, " %s=%s", fields->key, fields->v.str)
				: snprintf(text + at, 79, " %s=%lld", fields->key,
					  (long long)fields->v.i64);

		at += n > 78 ? 78 : n > 0 ? (size_t)n : 0;
	}
	sim_note("  %s: %s%s", sim_here()->name, msg, text);
}
