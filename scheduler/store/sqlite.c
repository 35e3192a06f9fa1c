/* The default store: one SQLite file (https://sqlite.org/wal.html). */
#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "scheduler/store/backend.h"

#define SCHEMA_VERSION 1
/* Room for what is under way when the disk gets full: some thousand changes of guests. */
#define RESERVE_BYTES (8u << 20)

struct backend {
	sqlite3 *db;
	sqlite3_stmt *get, *put, *del, *rev;
	char path[512], reserve[544];
	bool reserved;
};

static int fail(struct backend *b, struct err *err, const char *what)
{
	int code = sqlite3_errcode(b->db) & 0xff;

	if (code == SQLITE_IOERR &&
		(sqlite3_system_errno(b->db) == ENOSPC || sqlite3_system_errno(b->db) == EDQUOT))
		code = SQLITE_FULL;
	switch (code) {
	case SQLITE_FULL:
		return err_set(err, -ENOSPC, "store %s: the disk is full", b->path);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return err_set(err, -EBUSY,
			"store %s is in use by another scheduler: stop that one first", b->path);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return err_set(err, -EBADMSG, "store %s is damaged (%s): restore it from a backup",
			b->path, sqlite3_errmsg(b->db));
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_CANTOPEN:
		return err_set(err, -EACCES, "store %s cannot be opened for writing: %s", b->path,
			sqlite3_errmsg(b->db));
	default:
		return err_set(err, -EIO, "store %s: %s: %s", b->path, what, sqlite3_errmsg(b->db));
	}
}

static int run(struct backend *b, const char *sql, struct err *err)
{
	if (sqlite3_exec(b->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return fail(b, err, sql);
	return 0;
}

static int number(struct backend *b, const char *sql, int64_t *out, struct err *err)
{
	sqlite3_stmt *stmt;
	int rc = 0;

	if (sqlite3_prepare_v2(b->db, sql, -1, &stmt, NULL) != SQLITE_OK)
		return fail(b, err, sql);
	if (sqlite3_step(stmt) == SQLITE_ROW)
		*out = sqlite3_column_int64(stmt, 0);
	else
		rc = fail(b, err, sql);
	(void)sqlite3_finalize(stmt);
	return rc;
}

static int schema(struct backend *b, struct err *err)
{
	int64_t version = 0;
	int rc = number(b, "PRAGMA user_version", &version, err);

	if (rc < 0)
		return rc;
	if (version > SCHEMA_VERSION)
		return err_set(err, -EPROTO,
			"store %s was written by a newer Umlaut (schema %" PRId64
			", we know %d): upgrade this scheduler",
			b->path, version, SCHEMA_VERSION);
	if (version == SCHEMA_VERSION)
		return 0;
	return run(b,
		"BEGIN IMMEDIATE;"
		"CREATE TABLE kv (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL,"
		" revision INTEGER NOT NULL) WITHOUT ROWID;"
		"CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1),"
		" revision INTEGER NOT NULL);"
		"INSERT INTO meta VALUES (1, 0);"
		"PRAGMA user_version = 1;"
		"COMMIT",
		err);
}

static int prepare(struct backend *b, struct err *err)
{
	const struct {
		sqlite3_stmt **stmt;
		const char *sql;
	} all[] = {
		{&b->get, "SELECT revision FROM kv WHERE key = ?1"},
		{&b->put, "INSERT INTO kv VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET"
			  " value = excluded.value, revision = excluded.revision"},
		{&b->del, "DELETE FROM kv WHERE key = ?1"},
		{&b->rev, "UPDATE meta SET revision = ?1"},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (sqlite3_prepare_v3(b->db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT,
			    all[i].stmt, NULL) != SQLITE_OK)
			return fail(b, err, all[i].sql);
	return 0;
}

static void sqlite_close(struct backend *b)
{
	if (!b)
		return;
	(void)sqlite3_finalize(b->get);
	(void)sqlite3_finalize(b->put);
	(void)sqlite3_finalize(b->del);
	(void)sqlite3_finalize(b->rev);
	(void)sqlite3_close(b->db);
	free(b);
}

/* What is in the write-ahead log goes into the database, and its space is free. */
static void shrink(struct backend *b)
{
	(void)sqlite3_exec(b->db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
}

static int sqlite_reserve(struct backend *b, bool wanted, struct err *err)
{
	struct statvfs fs;
	uint64_t room;
	int fd, rc;

	if (!wanted) {
		bool had = b->reserved;

		b->reserved = false;
		return unlink(b->reserve) == 0 || had;
	}
	if (b->reserved)
		return 0;
	if (statvfs(b->path, &fs) == 0) {
		room = (uint64_t)fs.f_bavail * fs.f_frsize;
		if (room < 2 * (uint64_t)RESERVE_BYTES && access(b->reserve, F_OK) != 0) {
			shrink(b);
			return err_set(err, -ENOSPC,
				"the disk with the cluster's state (%s) is about full: %" PRIu64
				" KiB are left",
				b->path, room >> 10);
		}
	}
	fd = open(b->reserve, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	rc = fd < 0 ? errno : posix_fallocate(fd, 0, RESERVE_BYTES);
	if (fd >= 0)
		(void)close(fd);
	if (rc) {
		(void)unlink(b->reserve);
		return err_errno(err, rc, "space set aside in %s", b->reserve);
	}
	b->reserved = true;
	return 0;
}

static int begin_life(struct backend *b, struct err *err)
{
	/* The exclusive lock keeps a second scheduler out for as long as we live. */
	return run(b,
		"PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
		"PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;"
		"BEGIN EXCLUSIVE; COMMIT",
		err);
}

static int sqlite_open(const char *path, struct backend **out, uint64_t *revision, struct err *err)
{
	struct backend *b = calloc(1, sizeof(*b));
	int64_t n = 0;
	int rc;

	if (!b)
		return err_set(err, -ENOMEM, "memory is short for the store");
	(void)sqlite3_snprintf(sizeof(b->path), b->path, "%s", path);
	(void)sqlite3_snprintf(sizeof(b->reserve), b->reserve, "%s.reserve", b->path);
	if (sqlite3_open_v2(path, &b->db,
		    SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
		    NULL) != SQLITE_OK) {
		rc = fail(b, err, "open");
		goto out;
	}
	rc = begin_life(b, err);
	/* Full, and nobody was here to give up the reserve. */
	if (rc == -ENOSPC && sqlite_reserve(b, false, NULL) > 0)
		rc = begin_life(b, err);
	if (rc == 0)
		rc = schema(b, err);
	if (rc == 0)
		rc = prepare(b, err);
	if (rc == 0)
		rc = number(b, "SELECT revision FROM meta", &n, err);
out:
	if (rc < 0) {
		sqlite_close(b);
		return rc;
	}
	*revision = (uint64_t)n;
	*out = b;
	return 0;
}

static int sqlite_range(
	struct backend *b, const char *prefix, store_each_fn *fn, void *arg, struct err *err)
{
	sqlite3_stmt *stmt;
	size_t n = strlen(prefix);
	int rc = 0, step;

	if (sqlite3_prepare_v2(b->db,
		    "SELECT key, value, revision FROM kv WHERE key >= ?1 ORDER BY key", -1, &stmt,
		    NULL) != SQLITE_OK)
		return fail(b, err, "range");
	(void)sqlite3_bind_text(stmt, 1, prefix, -1, SQLITE_STATIC);
	while (rc == 0 && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		const char *key = (const char *)sqlite3_column_text(stmt, 0);
		const void *value = sqlite3_column_blob(stmt, 1);

		if (!key || strncmp(key, prefix, n) != 0)
			break;
		/* SQLite gives NULL for no bytes; here NULL is "not there". */
		rc = fn(arg, key, value ? value : "", (size_t)sqlite3_column_bytes(stmt, 1),
			(uint64_t)sqlite3_column_int64(stmt, 2));
	}
	if (rc == 0 && step != SQLITE_ROW && step != SQLITE_DONE)
		rc = fail(b, err, "range");
	(void)sqlite3_finalize(stmt);
	return rc;
}

static int sqlite_begin(struct backend *b, struct err *err)
{
	return run(b, "BEGIN IMMEDIATE", err);
}

static int finish(struct backend *b, sqlite3_stmt *stmt, struct err *err)
{
	int step = sqlite3_step(stmt), rc = 0;

	if (step != SQLITE_DONE)
		rc = fail(b, err, "write");
	(void)sqlite3_reset(stmt);
	(void)sqlite3_clear_bindings(stmt);
	return rc;
}

static int sqlite_revision_of(
	struct backend *b, const char *key, uint64_t *revision, struct err *err)
{
	int step, rc = 0;

	(void)sqlite3_bind_text(b->get, 1, key, -1, SQLITE_STATIC);
	step = sqlite3_step(b->get);
	if (step == SQLITE_ROW)
		*revision = (uint64_t)sqlite3_column_int64(b->get, 0);
	else if (step == SQLITE_DONE)
		*revision = 0;
	else
		rc = fail(b, err, "read");
	(void)sqlite3_reset(b->get);
	return rc;
}

static int sqlite_apply(
	struct backend *b, const struct store_op *op, uint64_t revision, struct err *err)
{
	sqlite3_stmt *stmt = op->value ? b->put : b->del;

	(void)sqlite3_bind_text(stmt, 1, op->key, -1, SQLITE_STATIC);
	if (op->value) {
		(void)sqlite3_bind_blob64(stmt, 2, op->value, op->size, SQLITE_STATIC);
		(void)sqlite3_bind_int64(stmt, 3, (int64_t)revision);
	}
	return finish(b, stmt, err);
}

static int sqlite_commit(struct backend *b, uint64_t revision, struct err *err)
{
	int rc;

	(void)sqlite3_bind_int64(b->rev, 1, (int64_t)revision);
	rc = finish(b, b->rev, err);
	return rc < 0 ? rc : run(b, "COMMIT", err);
}

static void sqlite_rollback(struct backend *b)
{
	/* SQLite may have rolled back by itself (a full disk): no matter. */
	(void)sqlite3_exec(b->db, "ROLLBACK", NULL, NULL, NULL);
}

const struct backend_ops backend_sqlite = {
	.open = sqlite_open,
	.close = sqlite_close,
	.range = sqlite_range,
	.begin = sqlite_begin,
	.revision_of = sqlite_revision_of,
	.apply = sqlite_apply,
	.commit = sqlite_commit,
	.rollback = sqlite_rollback,
	.reserve = sqlite_reserve,
};
