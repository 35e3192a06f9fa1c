/* The ways into a group that do not wait for the whole host. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "guest/cgroup_int.h"
#include "lib/str.h"

int cgroup_door_open(struct cgroup *cg, struct cgroup_door *door, struct err *err)
{
	char dir[768], path[800];

	*door = CGROUP_DOOR_INIT;
	for (size_t i = 0; i < cgroup_dir_count(cg) && i < CGROUP_DOORS; i++) {
		bool v2 = cgroup_dir(cg, i, dir, sizeof(dir)) == &cgroup_v2;
		int fd, rc;

		(void)str_format(path, sizeof(path), "%s/%s", dir, v2 ? "cgroup.procs" : "tasks");
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0) {
			rc = err_errno(err, errno, "open %s", path);
			cgroup_door_close(door);
			return rc;
		}
		door->self[door->count] = fd;
		door->v2[door->count++] = v2;
		if (v2) /* without it the child moves itself */
			door->born = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	return 0;
}

int cgroup_door_enter(const struct cgroup_door *door, bool born, struct err *err)
{
	for (size_t i = 0; i < door->count; i++)
		if (!(born && door->v2[i]) && write(door->self[i], "0", 1) != 1)
			return err_errno(err, errno, "join the control group");
	return 0;
}

void cgroup_door_close(struct cgroup_door *door)
{
	for (size_t i = 0; i < door->count; i++)
		(void)close(door->self[i]);
	if (door->born >= 0)
		(void)close(door->born);
	*door = CGROUP_DOOR_INIT;
}
