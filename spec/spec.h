/* spec: the lab model on Um__DeploymentSpec: what is valid, what the defaults
 * are, which guests it means, and what of a guest decides that it must be
 * restarted or given a new disk.  Used by clusterctl before it sends a spec and
 * by the scheduler on what it receives; both get the same answers.
 *
 * A path names a place in the spec as the YAML writes it: "networks.lan.subnet",
 * "guests.web.networks[0].address", "guests.web.env.PATH".  Where names are
 * missing or not unique, the list's index stands instead ("guests[3]").
 *
 * Pure but for malloc.  Limits beside those of proto/umlaut.proto: below.
 */
#ifndef UMLAUT_SPEC_SPEC_H
#define UMLAUT_SPEC_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/buf.h"
#include "lib/err.h"
#include "lib/str.h"
#include "proto/umlaut.pb-c.h"

#define SPEC_NETWORKS_MAX 4096
#define SPEC_GROUPS_MAX 65536
#define SPEC_GUESTS_MAX 1000000 /* of one deployment */
#define SPEC_NICS_MAX 32
#define SPEC_MEMORY_MIN (UINT64_C(16) << 20)
#define SPEC_MEMORY_MAX (UINT64_C(1) << 40)
#define SPEC_MEMORY_STEP (UINT64_C(1) << 20)
#define SPEC_CPU_MIN 10u /* milli */
#define SPEC_CPU_MAX 1024000u
#define SPEC_DISK_MIN (UINT64_C(1) << 20)
#define SPEC_DISK_MAX (UINT64_C(16) << 40)
#define SPEC_DISK_STEP 4096u
#define SPEC_ENV_MAX 1024
#define SPEC_ENV_BYTES (64u << 10)
#define SPEC_FILES_MAX 1024
#define SPEC_FILES_BYTES (4u << 20)
#define SPEC_PATH_MAX 1023 /* bytes of a file's path in the guest */
#define SPEC_RUN_BYTES (1u << 20)
#define SPEC_ROUTES_MAX 256
#define SPEC_LABELS_MAX 64
#define SPEC_HOST_LABELS_MAX 16
#define SPEC_EXPRS_MAX 16  /* where, prefer and host_labels together */
#define SPEC_VALUES_MAX 16 /* of one expression */
#define SPEC_TOLERATIONS_MAX 16
#define SPEC_AFFINITIES_MAX 16 /* with and apart together */
#define SPEC_SPREADS_MAX 4
#define SPEC_HOST_LABEL_MAX 63 /* bytes of a host's label's value */
#define SPEC_LABEL_KEY_MAX 63
#define SPEC_LABEL_VALUE_MAX 255
#define SPEC_KERNEL_ARGS_MAX 1024
#define SPEC_FEATURES_MAX 64 /* of a kernel that a guest asks for */
#define SPEC_FEATURE_MAX 32  /* bytes of one */
#define SPEC_EXEC_MAX 64
#define SPEC_EXEC_BYTES 4096
#define SPEC_HOSTNAME_MAX 63
#define SPEC_MTU_MIN 576u
#define SPEC_MTU6_MIN 1280u /* of a network with IPv6, RFC 8200 */
#define SPEC_MTU_MAX 65000u
#define SPEC_PRIORITY_MAX 1000000
#define SPEC_STOP_TIMEOUT_MAX 3600000u /* ms */
#define SPEC_READY_MIN_INTERVAL 10u
#define SPEC_READY_MAX_MS 86400000u

/* What a spec means where it says nothing. */
#define SPEC_DEFAULT_MEMORY (UINT64_C(128) << 20)
#define SPEC_DEFAULT_CPU 500u
#define SPEC_DEFAULT_FILE_MODE 0644u
#define SPEC_DEFAULT_READY_INTERVAL 500u
#define SPEC_DEFAULT_STOP_TIMEOUT 10000u

/* ---- errors ---- */

#define SPEC_ERRORS_MAX 1000 /* more are counted, not kept */

struct spec_error {
	char *path, *message; /* owned by the list; always valid UTF-8 */
};

struct spec_errors {
	struct spec_error *items;
	size_t count, capacity;
	size_t dropped;
	bool failed; /* memory was short */
};

void spec_errors_init(struct spec_errors *errors);
void spec_errors_free(struct spec_errors *errors);
/* Adds "PATH" and a message. */
void spec_errors_add(struct spec_errors *errors, const char *path, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- validity ---- */

/* Collects every error of SPEC (not only the first).  Returns how many there
 * are: 0 is a valid spec.  -ENOMEM when memory was short.  To be called after
 * spec_defaults(): zero memory or CPU is an error here. */
int spec_check(const Um__DeploymentSpec *spec, struct spec_errors *out);
/* What becomes of it when its host is lost; never LOSS_DEFAULT. */
Um__OnHostLoss spec_on_loss(const Um__GuestSpec *guest);

/* A name of an image or kernel: 1..127 of [a-z0-9._:-], starting with a letter
 * or digit; or an id, "sha256:" and 64 hex digits. */
int spec_check_artefact(const char *what, const char *name, struct err *err);
bool spec_is_artefact_id(const char *name);

/* Kernel arguments: printable ASCII, and none that Umlaut sets itself.  *TEXT:
 * the offending one, within ARGS, and its length (NULL and 0 for other errors). */
int spec_check_kernel_args(const char *args, const char **text, size_t *length, struct err *err);

/* ---- requirements of placement as texts ---- */

/* 1 to 63 letters, digits, '.', '_', '/' or '-'. */
bool spec_is_label_key(const char *key);
/* An expression over the hosts' labels:
 *   "zone = a"  "zone != a"  "zone in (a, b)"  "zone not in (a, b)"
 *   "ssd"  "!ssd" or "not ssd"  "cores >= 8"  "cores <= 8"
 * A value that is no plain word stands in quotes.  OUT was initialised; its key
 * and values are malloc'd, `preferred` stays.  -EINVAL: *AT is the byte of TEXT
 * where the mistake is; OUT may be half filled. */
int spec_expr_parse(const char *text, Um__LabelExpr *out, size_t *at, struct err *err);
void spec_expr_text(const Um__LabelExpr *expr, struct buf *out);
/* "KEY", "KEY=VALUE", "*".  As above. */
int spec_toleration_parse(const char *text, Um__Toleration *out, size_t *at, struct err *err);
void spec_toleration_text(const Um__Toleration *toleration, struct buf *out);
/* A line for each part that says something: "where: zone = a, ssd". */
void spec_placement_text(const Um__Placement *placement, struct buf *out);

/* ---- defaults ---- */

/* Fills in what is not given, in place (strings with malloc, so that
 * um__deployment_spec__free_unpacked(spec, NULL) frees them).  Idempotent. */
int spec_defaults(Um__DeploymentSpec *spec, struct err *err);

/* ---- guests of a group ---- */

/* How many guests a group means: 1, or its count. */
uint32_t spec_group_size(const Um__GroupSpec *group);
/* Name within the deployment of the I-th (0-based) guest: "web", or "web-1" ...
 * -ENAMETOOLONG. */
int spec_guest_name(const Um__GroupSpec *group, uint32_t i, char out[STR_NAME_MAX + 1]);
/* The group that NAME belongs to, and which of its guests it is; NULL: none. */
const Um__GroupSpec *spec_find_guest(const Um__DeploymentSpec *spec, const char *name, uint32_t *i);

/* ---- what a change means ---- */

/* clang-format off */
/*  effect   what it takes                                 fields
 *  NONE     nothing changed
 *  LIVE     noted; nothing happens to running guests      restart, placement, labels,
 *                                                         stop_timeout, persistent
 *  RESTART  the guest is restarted, its disk is kept      kernel, memory, cpus, networks,
 *                                                         env, files, run, routes, hostname,
 *                                                         init, ready, kernel_args
 *  DISK     the guest is restarted with a new disk        image, disk
 */
/* clang-format on */
enum spec_effect { SPEC_NONE, SPEC_LIVE, SPEC_RESTART, SPEC_DISK };

/* Equal exactly when no field of that effect differs (64 bits of SHA-256 over a
 * canonical form, in which maps are sorted).  Never 0. */
uint64_t spec_boot_hash(const Um__GuestSpec *spec);
uint64_t spec_disk_hash(const Um__GuestSpec *spec);
uint64_t spec_live_hash(const Um__GuestSpec *spec);
/* The whole deployment. */
uint64_t spec_hash(const Um__DeploymentSpec *spec);

/* The strongest effect of turning OLD into NEW.  FN (may be NULL) is called for
 * each field that differs with a text for a plan: "memory: 64M -> 128M". */
typedef void spec_change_fn(void *arg, enum spec_effect effect, const char *text);
enum spec_effect spec_guest_diff(
	const Um__GuestSpec *old, const Um__GuestSpec *new, spec_change_fn *fn, void *arg);

#endif
