/* curve: CURVE key pairs in files, join tokens, and the ZAP handler.
 *
 * ZAP is RFC 27 (https://rfc.zeromq.org/spec/27/), CURVE RFC 26.
 */
#ifndef UMLAUT_LIB_CURVE_H
#define UMLAUT_LIB_CURVE_H

#include "lib/zsock.h"

#define CURVE_KEY 32
#define CURVE_TEXT 41 /* Z85 with NUL */

struct curve_pair {
	uint8_t public_key[CURVE_KEY];
	uint8_t secret_key[CURVE_KEY];
};

void curve_generate(struct curve_pair *out);
/* Reads PATH (mode 0600 enforced), or makes it when it is not there.  Two
 * lines: "public Z85", "secret Z85". */
int curve_load_or_make(const char *path, struct curve_pair *out, struct err *err);
void curve_text(char out[CURVE_TEXT], const uint8_t key[CURVE_KEY]);
int curve_parse(const char *text, uint8_t out[CURVE_KEY], struct err *err);
void curve_wipe(struct curve_pair *pair);

/* A one-line token: "umlaut1:ENDPOINT:SERVERKEY:SECRETKEY", where the secret
 * key belongs to a key that the scheduler knows with a role. */
#define CURVE_TOKEN_MAX 320
struct curve_token {
	char endpoint[160];
	uint8_t server_key[CURVE_KEY];
	struct curve_pair pair;
};
int curve_token_text(char out[CURVE_TOKEN_MAX], const struct curve_token *token, struct err *err);
int curve_token_parse(const char *text, struct curve_token *out, struct err *err);

/* Answers ZAP requests of all server sockets of CTX on LOOP.  One per context,
 * opened before the first server socket is bound.  ALLOW fills USER (at most 63
 * bytes, becomes zpeer.user) and returns 0 to let the key in. */
struct curve_zap;
typedef int curve_allow_fn(
	void *arg, const uint8_t pubkey[CURVE_KEY], const char *address, char user[64]);
int curve_zap_open(struct loop *loop, struct zctx *ctx, curve_allow_fn *allow, void *arg,
	struct curve_zap **out, struct err *err);
void curve_zap_close(struct curve_zap *zap);

#endif
