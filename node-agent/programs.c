#include "node-agent/programs.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int find(char path[AGENTCONF_PATH], const char *name, struct err *err)
{
	static const char *const places[] = {"", "../lib/umlaut/"};
	char self[AGENTCONF_PATH];
	ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (path[0])
		return access(path, X_OK) < 0 ? err_errno(err, errno, "%s", path) : 0;
	if (size < 0)
		return err_errno(err, errno, "/proc/self/exe");
	self[size] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		slash[1] = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		char candidate[2 * AGENTCONF_PATH];

		if (str_format(candidate, sizeof(candidate), "%s%s%s", self, places[i], name) > 0 &&
			access(candidate, X_OK) == 0)
			return str_copy(path, AGENTCONF_PATH, candidate) < 0
				       ? err_set(err, -ENAMETOOLONG, "%s: path is too long", name)
				       : 0;
	}
	return err_set(err, -ENOENT, "%s is neither in %s nor in %s../lib/umlaut: give --%s", name,
		self, self, strcmp(name, "umlaut-guest") == 0 ? "runner" : "init");
}

int programs_find(struct agentconf *config, struct err *err)
{
	int rc = find(config->runner, "umlaut-guest", err);

	return rc < 0 ? rc : find(config->init, "umlaut-init", err);
}
