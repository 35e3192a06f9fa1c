#include "lib/curve.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zmq.h>

#include "lib/fs.h"
#include "lib/proc.h"
#include "lib/str.h"

void curve_generate(struct curve_pair *out)
{
	/* CurveZMQ keys are X25519 keys (RFC 26). */
	proc_random(out->secret_key, CURVE_KEY);
	(void)crypto_scalarmult_base(out->public_key, out->secret_key);
}

void curve_text(char out[CURVE_TEXT], const uint8_t key[CURVE_KEY])
{
	(void)zmq_z85_encode(out, key, CURVE_KEY);
}

int curve_parse(const char *text, uint8_t out[CURVE_KEY], struct err *err)
{
	uint8_t key[CURVE_KEY];

	if (strnlen(text, CURVE_TEXT) != CURVE_TEXT - 1 || !zmq_z85_decode(key, text))
		return err_set(err, -EINVAL, "not a key (40 characters of Z85)");
	memcpy(out, key, CURVE_KEY);
	return 0;
}

void curve_wipe(struct curve_pair *pair)
{
	explicit_bzero(pair, sizeof(*pair));
}

static int parse_pair(char *text, const char *path, struct curve_pair *out, struct err *err)
{
	static const char *const labels[] = {"public ", "secret "};
	uint8_t keys[2][CURVE_KEY], derived[CURVE_KEY];
	char *line = text;

	for (int i = 0; i < 2; i++) {
		char *end = strchr(line, '\n');

		if (end)
			*end = 0;
		if (!str_starts(line, labels[i]) ||
			curve_parse(line + strlen(labels[i]), keys[i], NULL) < 0)
			return err_set(err, -EBADMSG, "%s:%d: expected '%sKEY' (Z85)", path, i + 1,
				labels[i]);
		line = end ? end + 1 : line + strlen(line);
	}
	(void)crypto_scalarmult_base(derived, keys[1]);
	if (memcmp(derived, keys[0], CURVE_KEY) != 0)
		return err_set(err, -EBADMSG, "%s: the two keys do not belong together", path);
	memcpy(out->public_key, keys[0], CURVE_KEY);
	memcpy(out->secret_key, keys[1], CURVE_KEY);
	explicit_bzero(keys, sizeof(keys));
	return 0;
}

int curve_load_or_make(const char *path, struct curve_pair *out, struct err *err)
{
	char text[2 * (8 + CURVE_TEXT)], public_text[CURVE_TEXT], secret_text[CURVE_TEXT];
	struct curve_pair pair;
	struct stat st;
	struct buf file;
	int rc;

	if (stat(path, &st) == 0) {
		if (st.st_mode & 077)
			return err_set(err, -EPERM,
				"%s may be read by others: chmod 600 it, and replace the key if "
				"they had the time",
				path);
		buf_init(&file);
		rc = fs_read(path, 4096, &file, err);
		if (rc == 0) {
			(void)buf_text(&file);
			rc = parse_pair((char *)file.data, path, out, err);
			explicit_bzero(file.data, file.size);
		}
		buf_free(&file);
		return rc;
	}
	if (errno != ENOENT)
		return err_errno(err, errno, "%s", path);
	curve_generate(&pair);
	curve_text(public_text, pair.public_key);
	curve_text(secret_text, pair.secret_key);
	rc = str_format(text, sizeof(text), "public %s\nsecret %s\n", public_text, secret_text);
	if (rc > 0)
		rc = fs_write_atomic(path, text, (size_t)rc, 0600, err);
	explicit_bzero(secret_text, sizeof(secret_text));
	explicit_bzero(text, sizeof(text));
	if (rc == 0)
		*out = pair;
	curve_wipe(&pair);
	return rc;
}

/* ---------------------------------------------------------------- tokens */

/* Z85 has ':' among its characters, an endpoint too: the two keys are the last
 * 40 characters each, between colons at known places. */
#define TOKEN_PREFIX "umlaut1:"
#define TOKEN_TAIL (2 * (CURVE_TEXT - 1) + 2) /* ":KEY:KEY" */

int curve_token_text(char out[CURVE_TOKEN_MAX], const struct curve_token *token, struct err *err)
{
	char server[CURVE_TEXT], secret[CURVE_TEXT];

	curve_text(server, token->server_key);
	curve_text(secret, token->pair.secret_key);
	if (str_format(out, CURVE_TOKEN_MAX, TOKEN_PREFIX "%s:%s:%s", token->endpoint, server,
		    secret) < 0)
		return err_set(err, -ENAMETOOLONG, "the endpoint is too long for a token");
	return 0;
}

int curve_token_parse(const char *text, struct curve_token *out, struct err *err)
{
	struct curve_token token = {0};
	char server[CURVE_TEXT], secret[CURVE_TEXT];
	size_t n = strcspn(text, " \t\r\n"), head = strlen(TOKEN_PREFIX);
	const char *tail;

	if (!str_starts(text, TOKEN_PREFIX) || n < head + TOKEN_TAIL + 1 || n >= CURVE_TOKEN_MAX)
		goto bad;
	tail = text + n - TOKEN_TAIL;
	if (tail[0] != ':' || tail[CURVE_TEXT] != ':')
		goto bad;
	memcpy(server, tail + 1, CURVE_TEXT - 1);
	memcpy(secret, tail + 1 + CURVE_TEXT, CURVE_TEXT - 1);
	server[CURVE_TEXT - 1] = secret[CURVE_TEXT - 1] = 0;
	if (str_format(token.endpoint, sizeof(token.endpoint), "%.*s",
		    (int)(tail - text - (long)head), text + head) < 0 ||
		curve_parse(server, token.server_key, NULL) < 0 ||
		curve_parse(secret, token.pair.secret_key, NULL) < 0)
		goto bad;
	(void)crypto_scalarmult_base(token.pair.public_key, token.pair.secret_key);
	*out = token;
	return 0;
bad:
	return err_set(err, -EINVAL,
		"not a join token (one line, umlaut1:ENDPOINT:KEY:KEY, from 'clusterctl token "
		"create')");
}

/* ---------------------------------------------------------------- ZAP */

struct curve_zap {
	struct loop *loop;
	struct zctx *ctx;
	void *zmq;
	struct loop_fd *watch;
	struct loop_defer *pump;
	curve_allow_fn *allow;
	void *arg;
};

#define ZAP_PARTS 8

/* Frames of a request (RFC 27): version, request id, domain, address, identity,
 * mechanism, credentials. */
static void answer(struct curve_zap *zap, zmq_msg_t *parts, size_t count)
{
	char address[128] = "", user[64] = "", id[CURVE_TEXT + 64] = "";
	const char *status = "400", *text = "this key is not known here";
	bool curve = count == 7 && zmq_msg_size(&parts[5]) == 5 &&
		     memcmp(zmq_msg_data(&parts[5]), "CURVE", 5) == 0 &&
		     zmq_msg_size(&parts[6]) == CURVE_KEY;

	if (curve) {
		size_t n = zmq_msg_size(&parts[3]);

		if (n < sizeof(address))
			memcpy(address, zmq_msg_data(&parts[3]), n);
		if (zap->allow(zap->arg, zmq_msg_data(&parts[6]), address, user) == 0) {
			char key[CURVE_TEXT];

			user[sizeof(user) - 1] = 0;
			curve_text(key, zmq_msg_data(&parts[6]));
			/* zsock.c takes it apart again. */
			(void)str_format(id, sizeof(id), "%s%s", key, user);
			status = "200";
			text = "OK";
		}
	} else {
		text = "only CURVE is spoken here";
	}
	(void)zmq_send(zap->zmq, "1.0", 3, ZMQ_DONTWAIT | ZMQ_SNDMORE);
	(void)zmq_send(zap->zmq, count > 1 ? zmq_msg_data(&parts[1]) : "",
		count > 1 ? zmq_msg_size(&parts[1]) : 0, ZMQ_DONTWAIT | ZMQ_SNDMORE);
	(void)zmq_send(zap->zmq, status, 3, ZMQ_DONTWAIT | ZMQ_SNDMORE);
	(void)zmq_send(zap->zmq, text, strlen(text), ZMQ_DONTWAIT | ZMQ_SNDMORE);
	(void)zmq_send(zap->zmq, id, strlen(id), ZMQ_DONTWAIT | ZMQ_SNDMORE);
	(void)zmq_send(zap->zmq, "", 0, ZMQ_DONTWAIT);
}

static bool zap_one(struct curve_zap *zap)
{
	zmq_msg_t parts[ZAP_PARTS];
	size_t count = 0;
	bool more = true;

	while (more && count < ZAP_PARTS) {
		(void)zmq_msg_init(&parts[count]);
		if (zmq_msg_recv(&parts[count], zap->zmq, ZMQ_DONTWAIT) < 0) {
			(void)zmq_msg_close(&parts[count]);
			break;
		}
		more = zmq_msg_more(&parts[count]);
		count++;
	}
	if (count)
		answer(zap, parts, count);
	for (size_t i = 0; i < count; i++)
		(void)zmq_msg_close(&parts[i]);
	return count > 0;
}

static void zap_run(void *arg)
{
	struct curve_zap *zap = arg;

	while (zap_one(zap))
		;
}

static void zap_woken(void *arg, unsigned events)
{
	(void)events;
	zap_run(arg);
}

int curve_zap_open(struct loop *loop, struct zctx *ctx, curve_allow_fn *allow, void *arg,
	struct curve_zap **out, struct err *err)
{
	struct curve_zap *zap = calloc(1, sizeof(*zap));
	int fd, linger = 0, rc;
	size_t size = sizeof(fd);

	if (!zap)
		return err_set(err, -ENOMEM, "memory is short");
	zap->loop = loop;
	zap->ctx = ctx;
	zap->allow = allow;
	zap->arg = arg;
	zap->zmq = zmq_socket(zctx_raw(ctx), ZMQ_REP);
	if (zap->zmq)
		zctx_count(ctx, 1);
	if (!zap->zmq || zmq_setsockopt(zap->zmq, ZMQ_LINGER, &linger, sizeof(linger)) < 0 ||
		zmq_bind(zap->zmq, "inproc://zeromq.zap.01") < 0 ||
		zmq_getsockopt(zap->zmq, ZMQ_FD, &fd, &size) < 0) {
		rc = err_set(err, -EIO, "ZAP handler: %s", zmq_strerror(zmq_errno()));
		goto fail;
	}
	rc = loop_defer_open(loop, "zap", zap_run, zap, &zap->pump, err);
	if (rc == 0)
		rc = loop_fd_open(loop, "zap", fd, zap_woken, zap, &zap->watch, err);
	if (rc < 0)
		goto fail;
	(void)loop_fd_want(zap->watch, LOOP_READ);
	loop_defer_run(zap->pump);
	*out = zap;
	return 0;
fail:
	curve_zap_close(zap);
	return rc;
}

void curve_zap_close(struct curve_zap *zap)
{
	if (!zap)
		return;
	loop_fd_close(zap->watch);
	loop_defer_close(zap->pump);
	if (zap->zmq) {
		(void)zmq_close(zap->zmq);
		zctx_count(zap->ctx, -1);
	}
	free(zap);
}
