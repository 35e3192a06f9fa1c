/* What of moves is on the target's disk: <state>/moves/<number>/ (moves.h). */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/crash.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/str.h"
#include "node-agent/desired.h"
#include "node-agent/movelog.h"
#include "node-agent/moves_int.h"

#define OFFER_MAX (16u << 20)
#define SEAL_MAX 4096u

int moves_dir(const char *state, uint64_t number, char out[PATH_MAX - 64])
{
	return str_format(out, PATH_MAX - 64, "%s/moves/%016" PRIx64, state, number);
}

/* 1: read; 0: not there.  What is there and cannot be read is an error: taken for missing
 * it would cost a disk. */
static int read_record(
	const char *dir, const char *name, size_t max, struct buf *out, struct err *err)
{
	char path[PATH_MAX];
	int rc = fs_join(path, sizeof(path), dir, name, err);

	if (rc == 0)
		rc = fs_read(path, max, out, err);
	return rc == -ENOENT ? 0 : rc < 0 ? rc : 1;
}

/* *OUT is NULL when there is none, or it is no good. */
int moves_read_seal(const char *dir, Um__MoveSeal **out, struct err *err)
{
	Um__MoveSeal *seal = NULL;
	struct buf data;
	int rc;

	buf_init(&data);
	rc = read_record(dir, MOVERECV_SEALED, SEAL_MAX, &data, err);
	if (rc > 0)
		seal = um__move_seal__unpack(NULL, data.size, data.data);
	buf_free(&data);
	if (seal && seal->digest.len != MOVE_DIGEST) {
		um__move_seal__free_unpacked(seal, NULL);
		seal = NULL;
	}
	*out = seal;
	return rc < 0 ? rc : 0;
}

/* ---------------------------------------------------------------- taking */

int moves_take(
	const char *state, uint64_t number, const char *dir, Um__MoveSeal **seal, struct err *err)
{
	char from[PATH_MAX - 64], old[PATH_MAX], new[PATH_MAX];
	int rc;

	if (moves_dir(state, number, from) < 0)
		return err_set(err, -ENAMETOOLONG, "the state folder's path is too long");
	rc = moves_read_seal(from, seal, err);
	if (rc < 0)
		return rc;
	if (!*seal)
		return err_set(err, -ENOENT,
			"the disk of move %" PRIu64 " is not here, or not whole", number);
	rc = movelog_rename(from, dir, err);
	if (rc == 0)
		rc = fs_join(old, sizeof(old), from, "cow", err);
	if (rc == 0)
		rc = fs_join(new, sizeof(new), dir, "cow", err);
	/* Not there: it was renamed before a restart. */
	if (rc == 0 && rename(old, new) < 0 && (errno != ENOENT || access(new, F_OK) < 0))
		rc = err_errno(err, errno, "rename %s", old);
	if (rc == 0)
		rc = fs_sync_dir(dir, err);
	crash_point("move-rename");
	if (rc < 0) {
		um__move_seal__free_unpacked(*seal, NULL);
		*seal = NULL;
	}
	return rc;
}

void moves_make_room(const char *state, uint64_t number)
{
	char dir[PATH_MAX - 64], path[PATH_MAX];

	if (moves_dir(state, number, dir) >= 0 &&
		fs_join(path, sizeof(path), dir, MOVES_RESERVE, NULL) == 0)
		(void)unlink(path);
}

/* ---------------------------------------------------------------- at the start */

/* *OUT is NULL when there is none, or it is no good. */
static int read_offer(const char *dir, uint64_t number, Um__MoveTarget **out, struct err *err)
{
	Um__MoveTarget *offer = NULL;
	struct buf data;
	int rc;

	buf_init(&data);
	rc = read_record(dir, MOVES_OFFER, OFFER_MAX, &data, err);
	if (rc > 0)
		offer = um__move_target__unpack(NULL, data.size, data.data);
	buf_free(&data);
	if (offer &&
		(offer->move != number || !offer->guest || offer->source_key.len != CURVE_KEY ||
			desired_check(offer->guest, NULL) < 0)) {
		um__move_target__free_unpacked(offer, NULL);
		offer = NULL;
	}
	*out = offer;
	return rc < 0 ? rc : 0;
}

/* Of what cannot be read nobody knows what it is, or whose: it stays, and the guest that is to
 * take it waits.  The others do not. */
static int load_unread(struct moves *moves, uint64_t number, const struct err *why, struct err *err)
{
	struct move *m = moves_add(moves, number, 0, UM__MOVE_SIDE__MOVE_TARGET);

	if (!m)
		return err_set(err, -ENOMEM, "memory is short");
	log_error("a move cannot be read", LOG_U64("move", number), LOG_ERR(why));
	moves_fail(m, why);
	return 0;
}

/* Without its offer: a whole copy may be all that there is of a disk, and a guest that
 * takes it needs no offer. */
static int forget_one(struct moves *moves, const char *dir, uint64_t number, struct err *err)
{
	Um__MoveSeal *seal = NULL;
	struct err why = ERR_INIT;

	if (moves_read_seal(dir, &seal, &why) < 0)
		return load_unread(moves, number, &why, err);
	if (seal) {
		log_warn("a copy without the record of its move is left alone",
			LOG_STR("folder", dir));
		um__move_seal__free_unpacked(seal, NULL);
		return 0;
	}
	log_warn("a move that was never begun is forgotten", LOG_STR("folder", dir));
	(void)fs_remove_tree(dir, NULL);
	return 0;
}

static int load_one(struct moves *moves, const char *dir, uint64_t number, struct err *err)
{
	Um__MoveTarget *offer = NULL;
	struct err why = ERR_INIT;
	struct move *m;

	if (read_offer(dir, number, &offer, &why) < 0)
		return load_unread(moves, number, &why, err);
	if (!offer)
		return forget_one(moves, dir, number, err);
	m = moves_add(moves, number, offer->guest->uid, UM__MOVE_SIDE__MOVE_TARGET);
	if (!m) {
		um__move_target__free_unpacked(offer, NULL);
		return err_set(err, -ENOMEM, "memory is short");
	}
	m->target = offer;
	m->dirty = true;
	move_in_step(m);
	return 0;
}

int moves_load(struct moves *moves, struct err *err)
{
	char path[PATH_MAX], one[PATH_MAX - 64];
	struct dirent *entry;
	DIR *dir;
	int rc = agent_path(moves->agent, "moves", path, err);

	if (rc < 0)
		return rc;
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, errno, "%s", path);
	while (rc == 0 && (entry = readdir(dir))) {
		uint8_t raw[8];
		uint64_t number = 0;

		if (strlen(entry->d_name) != 16 || str_unhex(raw, sizeof(raw), entry->d_name) < 0)
			continue;
		for (size_t i = 0; i < sizeof(raw); i++)
			number = number << 8 | raw[i];
		if (moves_dir(moves->agent->config.state, number, one) >= 0)
			rc = load_one(moves, one, number, err);
	}
	(void)closedir(dir);
	return rc;
}
