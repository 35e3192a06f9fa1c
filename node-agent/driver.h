/* driver: what the agent needs of the machine below it: runners, disks, networks.
 * One vtable, so that everything above runs unchanged over real guests
 * (driver_real.c: guest/runnerctl, guest/cow, overlay) and over pretended ones
 * (tests, simulation).
 *
 * A `struct driver_run` stands for the runner of one guest, from start() or
 * adopt() to close(); its events come on the loop.  What they mean, and the life
 * of a runner, is told in guest/runnerctl.h; functions marked "pool" block and are
 * called in the loop's pool, the others do not block for long.
 */
#ifndef UMLAUT_NODE_AGENT_DRIVER_H
#define UMLAUT_NODE_AGENT_DRIVER_H

#include <sys/types.h>

#include "guest/runnerctl.h"
#include "lib/loop.h"
#include "lib/wire.h"
#include "node-agent/overlay.h"

struct driver_run; /* the driver's own */

struct driver_events {
	void (*on_hello)(void *arg);
	void (*on_status)(void *arg, const Um__RunnerStatus *status);
	void (*on_message)(void *arg, const Um__Envelope *env);
	void (*on_lost)(void *arg, const struct err *err);
	void (*on_gone)(void *arg, const Um__RunnerStatus *last);
};

/* A guest's disk. */
struct driver_disk {
	const char *path;    /* of the COW file */
	const char *backing; /* the base image, on the host */
	uid_t uid;	     /* owner */
	bool fresh;	     /* anew, whatever is there */
};

struct driver_usage {
	uint64_t memory_bytes;
	uint64_t cpu_us; /* grows */
};

struct driver_ops {
	/* What is in a guest's folder: see runnerctl_look(). */
	int (*look)(void *self, const char *dir, enum runnerctl_found *found,
		Um__RunnerStatus **last, struct err *err);
	int (*start)(void *self, struct loop *loop, const char *dir, const Um__RunnerSpec *spec,
		const struct driver_events *events, void *arg, struct driver_run **out,
		struct err *err);
	int (*adopt)(void *self, struct loop *loop, const char *dir,
		const struct driver_events *events, void *arg, struct driver_run **out,
		struct err *err);
	void (*close)(struct driver_run *run);
	bool (*up)(const struct driver_run *run);
	int (*stop)(struct driver_run *run, uint32_t timeout_ms, bool force, struct err *err);
	int (*forget)(struct driver_run *run, struct err *err);
	int (*hosts)(struct driver_run *run, const Um__HostsUpdate *update, struct err *err);
	uint64_t (*id)(struct driver_run *run);
	int (*send)(struct driver_run *run, Um__Envelope *env, struct err *err);
	int (*kill)(void *self, const char *dir, struct err *err);
	int (*discard)(void *self, const char *dir, struct err *err);		  /* pool */
	int (*disk)(void *self, const struct driver_disk *disk, struct err *err); /* pool */

	/* See overlay.h. */
	const char *(*netns)(void *self);
	int (*net)(void *self, uint32_t vni, const char *name, uint32_t mtu, struct err *err);
	int (*guard)(void *self, uint32_t vni, const struct overlay_guard *guard, struct err *err);
	int (*net_remove)(void *self, uint32_t vni, struct err *err);
	int (*members)(void *self, uint32_t vni, bool full, const struct overlay_member *members,
		size_t count, const struct net_mac *removed, size_t removed_count, struct err *err);
	int (*port)(void *self, uint32_t vni, uint32_t slot, uint32_t nic, uid_t uid,
		const struct overlay_member *member, char ifname[OVERLAY_IFNAME], struct err *err);
	int (*port_remove)(void *self, uint32_t slot, uint32_t nic, struct err *err);
	int (*keep_only)(void *self, const uint32_t *vnis, size_t vni_count, const uint32_t *slots,
		size_t slot_count, struct err *err);

	/* The host's lease goes on until UNTIL (proc_boot_ms()): unless this is called again
	 * by then, runners of fenced guests end, whatever becomes of the agent (fencer.h).
	 * What is left of it in milliseconds, also of an earlier agent's. */
	int (*lease)(void *self, struct loop *loop, uint64_t until, struct err *err);
	uint64_t (*lease_left)(void *self);

	/* Of all guests together. */
	int (*usage)(void *self, struct driver_usage *out, struct err *err);
};

struct driver {
	const struct driver_ops *ops;
	void *self;
};

/* The real one. */
struct driver_real_config {
	const char *state;	/* the agent's folder */
	const char *runner;	/* path of umlaut-guest */
	const char *netns_path; /* of the overlay's namespace */
	const char *cgroup;	/* name of the agent's group, below umlaut's */
	struct net_addr vtep;
	uint16_t vxlan_port;
};
int driver_real_open(const struct driver_real_config *config, struct driver *out, struct err *err);
/* Before the loop is freed. */
void driver_real_stop(struct driver *driver);
/* Leaves guests and devices as they are. */
void driver_real_close(struct driver *driver);

#endif
