/* The verbs of clusterctl and their help: one table. */
#include <stdio.h>
#include <string.h>

#include "clusterctl/ctl.h"

const struct verb verbs[] = {
	{"apply", "make the cluster as a lab file says", cmd_apply,
		"usage: clusterctl apply -f FILE [--dry-run] [--wait] [--timeout TIME]\n"
		"\n"
		"Reads a lab (docs/reference/yaml.md), shows what it changes (+ create, ~ change,\n"
		"! replace with a new disk, - delete) and carries it out.  The same file again\n"
		"changes nothing.\n"
		"\n"
		"  -f, --file FILE  a file, a folder of *.yaml, or - for standard input; may be "
		"repeated\n"
		"  --dry-run        only show the plan, and whether it fits\n"
		"  --wait           until all guests are ready; ends at once, with exit status 1, "
		"when\n"
		"                   some have failed for good, and says which, why and what to do\n"
		"  --timeout TIME   of --wait (default 5m); exit status 4 when it passes\n"
		"\n"
		"examples:\n"
		"  clusterctl apply -f lab.yaml --wait\n"
		"  sed s/count:.3/count:.9/ lab.yaml | clusterctl apply -f - --dry-run\n"},
	{"delete", "remove a deployment with its guests and disks", cmd_delete,
		"usage: clusterctl delete DEPLOYMENT... | -f FILE [--dry-run] [--wait] [--timeout "
		"TIME]\n"
		"\n"
		"Ends the guests and removes their disks and networks.\n"
		"\n"
		"  -f, --file FILE  the deployments that these lab files name\n"
		"  --dry-run        only show what would go\n"
		"  --wait           until nothing is left\n"
		"  --timeout TIME   of --wait (default 5m)\n"
		"\n"
		"example: clusterctl delete hello --wait\n"},
	{"get", "list hosts, guests, networks, images, kernels, deployments, events ...", cmd_get,
		"usage: clusterctl get KIND [NAME...] [-o FORMAT] [--watch] [filters]\n"
		"\n"
		"KIND: hosts, guests, networks, images, kernels, deployments, events, "
		"migrations,\n"
		"orphans (also in the singular).  Guests are named DEPLOYMENT/GUEST.\n"
		"\n"
		"  -o, --output FORMAT    table (default), wide, json, yaml, name\n"
		"  -w, --watch            then the changes as they come; json: an object a line\n"
		"  -d, --deployment NAME  only of this deployment\n"
		"  --host NAME            only on this host\n"
		"  --state STATE          only in this state (running, pending, failed, ready "
		"...)\n"
		"  -n, --limit N          events: the newest N\n"
		"  -s, --sort FIELD       by a field of the JSON; -FIELD: the largest first\n"
		"\n"
		"JSON is a contract: docs/reference/clusterctl.md lists the fields.\n"
		"\n"
		"examples:\n"
		"  clusterctl get guests --deployment hello -o json | jq '.[].name'\n"
		"  clusterctl get guests --sort -memory_bytes\n"
		"  clusterctl get events -w\n"},
	{"describe", "all about one object, with its latest events", cmd_describe,
		"usage: clusterctl describe KIND NAME\n"
		"\n"
		"Of a guest that waits for a host also what 'clusterctl why' tells.\n"
		"\n"
		"example: clusterctl describe guest hello/web-1\n"},
	{"why", "why a guest is where it is, or has no host", cmd_why,
		"usage: clusterctl why GUEST [-o FORMAT]\n"
		"\n"
		"Of a guest that waits: why hosts refuse it, how many for each reason, the host\n"
		"that is nearest to fitting and how far it is, and what would help.  Of one that\n"
		"is placed: why there.\n"
		"\n"
		"  -o, --output FORMAT  table (default), json, yaml\n"
		"\n"
		"example: clusterctl why hello/web-1\n"},
	{"boot-report", "where the time of a boot went", cmd_boot_report,
		"usage: clusterctl boot-report GUEST... | -d DEPLOYMENT [-o table|json]\n"
		"\n"
		"The phases of a guest's last boot, from the request to ready, with their\n"
		"milliseconds; of several guests, the median and the worst of each phase.  A boot\n"
		"by restart policy begins at its host, a reboot from inside in its kernel.\n"
		"\n"
		"example: clusterctl boot-report hello/web-1\n"},
	{"memory", "what guests hold of their hosts' memory, in parts", cmd_memory,
		"usage: clusterctl memory [GUEST...] [-d DEPLOYMENT] [--host HOST] [--inside] [-o "
		"table|json]\n"
		"\n"
		"MiB: of each guest its memory as far as it was touched, its kernel's process,\n"
		"its runner, and page tables; of each host the sum with its agent, and caches\n"
		"that the host can take back.  Measured when asked.\n"
		"\n"
		"  -d, --deployment NAME  only of this deployment\n"
		"      --host NAME        only on this host\n"
		"  -i, --inside           ask the guests too: programs, files kept, kernel and "
		"free\n"
		"  -o, --output FORMAT    table (default), json\n"
		"\n"
		"example: clusterctl memory hello/web-1 --inside\n"},
	{"logs", "the console of a guest", cmd_logs,
		"usage: clusterctl logs [-f] [--tail N] GUEST\n"
		"\n"
		"  -f, --follow    go on with what comes\n"
		"  -n, --tail N    only the last N lines\n"
		"\n"
		"example: clusterctl logs -f --tail 20 hello/router\n"},
	{"exec", "run a command in a guest", cmd_exec,
		"usage: clusterctl exec [-i] [-t] [-e NAME=VALUE] [-w FOLDER] GUEST [--] COMMAND "
		"[ARGUMENT...]\n"
		"\n"
		"Runs it out of band: the guest needs no network.  The exit status is the\n"
		"command's; 128 + N when signal N ended it.  Ctrl-C goes to the command; a second\n"
		"one ends clusterctl.\n"
		"\n"
		"  -i, --stdin           pass on standard input\n"
		"  -t, --tty             with a terminal\n"
		"  -e, --env NAME=VALUE  more environment; may be repeated\n"
		"  -w, --workdir FOLDER  run it there\n"
		"\n"
		"examples:\n"
		"  clusterctl exec hello/web-1 -- ip addr\n"
		"  clusterctl exec -it hello/web-1 -- sh\n"
		"  tar c . | clusterctl exec -i hello/web-1 -- tar x -C /srv\n"},
	{"console", "the console of a guest, both ways", cmd_console,
		"usage: clusterctl console GUEST\n"
		"\n"
		"Ctrl-] leaves it, and so does ~. at the beginning of a line.\n"},
	{"cp", "copy files and folders into and out of guests", cmd_cp,
		"usage: clusterctl cp SOURCE TARGET\n"
		"\n"
		"One of them is GUEST:PATH.  Folders are copied whole, with modes and links.  A\n"
		"TARGET that is a folder gets the source in it, another name becomes the "
		"source's.  - is standard input or output, for one file.  What comes from a guest\n"
		"never leaves TARGET, and belongs to you.\n"
		"\n"
		"examples:\n"
		"  clusterctl cp site hello/web-1:/www\n"
		"  clusterctl cp hello/web-1:/etc/hosts .\n"
		"  clusterctl cp hello/web-1:/var/log/messages - | grep error\n"},
	{"start", "start stopped or failed guests", cmd_start,
		"usage: clusterctl start GUEST...   ('DEPLOYMENT/*': all of a deployment)\n"},
	{"stop", "shut guests down cleanly; their disks stay", cmd_stop,
		"usage: clusterctl stop GUEST...   ('DEPLOYMENT/*': all of a deployment)\n"},
	{"restart", "restart guests; their disks stay", cmd_restart,
		"usage: clusterctl restart GUEST...   ('DEPLOYMENT/*': all of a deployment)\n"},
	{"recover", "start guests elsewhere whose host is lost", cmd_recover,
		"usage: clusterctl recover GUEST... --discard-disk [--host HOST]\n"
		"\n"
		"For guests that wait for their host (persistent, or on_host_loss: wait or none).\n"
		"They start from their image on another host.  When the lost host comes back, "
		"what\n"
		"it has of them is ended at once, and its disk kept ('get orphans').\n"
		"\n"
		"Nobody but you can know that the host is off.  If it is only cut off, the guest\n"
		"may still run there, and then runs twice, until the host is back.  "
		"'DEPLOYMENT/*'\n"
		"is all guests of a deployment whose host is lost.  --host: the host that you "
		"know\n"
		"to be off; a guest that is elsewhere by now is left alone.\n"},
	{"migrate", "move guests to other hosts, with their disks", cmd_migrate,
		"usage: clusterctl migrate GUEST... [--to HOST] [--rate SIZE] [--max-downtime "
		"TIME]\n"
		"                              [--dry-run] [--cancel] [--wait] [--timeout TIME]\n"
		"\n"
		"With their disks.  A guest runs while its disk is copied, is shut down for the\n"
		"last of it, and starts on the other host; what it wrote is there, its memory is\n"
		"not.  Without --to, each goes where its own rules place it.  Guests that have to\n"
		"be with it (`placement: with`), and would be left behind, go along.\n"
		"\n"
		"  -t, --to HOST            there, if its rules allow it\n"
		"      --rate SIZE          at most so many bytes a second, for each that runs\n"
		"      --max-downtime TIME  for the last copy, or the move fails; when it is not\n"
		"                           given, 300ms is aimed at\n"
		"      --dry-run            only say where\n"
		"      --cancel             put back; not once it has started on the other host\n"
		"  -w, --wait               until all have ended, and say how\n"
		"      --timeout TIME       not longer than this (exit status 4); the moves go on\n"
		"\n"
		"examples:\n"
		"  clusterctl migrate hello/web-1 --wait\n"
		"  clusterctl migrate hello/web-1 --to host3 --rate 50M\n"},
	{"drain", "move everything off a host", cmd_drain,
		"usage: clusterctl drain HOST [--parallel N] [--rate SIZE] [--max-downtime TIME]\n"
		"                             [--dry-run] [--wait] [--timeout TIME]\n"
		"       clusterctl drain HOST --cancel\n"
		"\n"
		"The host gets no guests any more, and those that are there are moved to where\n"
		"their rules let them go.  A guest that no host takes stays and runs, and is "
		"tried\n"
		"again.  The host stays as it is, also when it is empty, until 'uncordon'.  Given\n"
		"again, it goes on with the new numbers.\n"
		"\n"
		"      --parallel N         moves at once (4)\n"
		"      --rate SIZE          at most so many bytes a second, for all together\n"
		"      --max-downtime TIME  for the last copy, or a move fails; when it is not\n"
		"                           given, 300ms is aimed at\n"
		"      --dry-run            only say where each would go, one after the other\n"
		"      --cancel             no more moves; those not handed over are put back\n"
		"  -w, --wait               until nothing is left there; or, without --timeout, "
		"until\n"
		"                           nobody of the rest can leave, twice: says who, and "
		"why\n"
		"      --timeout TIME       not longer than this (exit status 4); the moves go on\n"
		"\n"
		"examples:\n"
		"  clusterctl drain host2 --wait\n"
		"  clusterctl drain host2 --parallel 2 --rate 100M\n"},
	{"prune", "remove disks that guests left on lost hosts", cmd_prune,
		"usage: clusterctl prune GUEST...|--all [--host HOST] [--older-than TIME] "
		"[--dry-run]\n"
		"\n"
		"A guest that was started elsewhere while its host was lost leaves its disk "
		"there:\n"
		"an orphan, kept until it is pruned.  'get orphans' lists them, 'describe orphan'\n"
		"tells where the files are.  An epoch names one of several of a guest.  On hosts\n"
		"that are away they go when these are back.\n"
		"\n"
		"  --all              of all guests\n"
		"  --host HOST        only those there\n"
		"  --older-than TIME  only those kept for longer\n"
		"  --dry-run          only say what would go\n"
		"\n"
		"examples:\n"
		"  clusterctl prune hello/db\n"
		"  clusterctl prune --all --older-than 30d\n"},
	{"cordon", "place no new guests on hosts", cmd_cordon,
		"usage: clusterctl cordon HOST...\n"
		"\n"
		"Guests that are there go on.\n"},
	{"uncordon", "place guests on hosts again", cmd_uncordon,
		"usage: clusterctl uncordon HOST...\n"},
	{"host", "forget hosts", cmd_host,
		"usage: clusterctl host rm HOST... [--force]\n"
		"\n"
		"A host that is lost, or has not come back since the scheduler started, and has\n"
		"no guests.  It may join again.\n"
		"\n"
		"  --force  a lost host with all that is there, as it never comes back: its "
		"guests\n"
		"           are started elsewhere, from their images, also persistent ones; its "
		"key\n"
		"           is refused from now on.  Make sure that it is off: if it is only cut\n"
		"           off, they may run there as well until its agent is told\n"},
	{"image", "build, add, list and remove images", cmd_image,
		"usage: clusterctl image build busybox [--name NAME] [--size SIZE] [--replace]\n"
		"       clusterctl image add NAME --from FOLDER|TAR|RAW [--size SIZE] [--replace]\n"
		"       clusterctl image ls [-o FORMAT]\n"
		"       clusterctl image rm NAME... [--force]\n"
		"\n"
		"An image is the root file system of guests.  Neither root nor loop devices are\n"
		"needed.\n"
		"\n"
		"  --size SIZE  of the file system; default: what is needed, and some room\n"
		"  --replace    give a name that is taken to the new one; guests keep the old\n"
		"  --force      remove the name though guests use it\n"
		"\n"
		"example: docker export c1 > root.tar; clusterctl image add my --from root.tar\n"},
	{"kernel", "add, build, look into, list and remove kernels", cmd_kernel,
		"usage: clusterctl kernel add FILE [--name NAME] [--modules FOLDER] [--replace]\n"
		"       clusterctl kernel build [--source VERSION] [--newest] [-j JOBS] [--out "
		"FOLDER]\n"
		"       clusterctl kernel inspect NAME|FILE [--config] [-o json]\n"
		"       clusterctl kernel ls [-o FORMAT]\n"
		"       clusterctl kernel rm NAME... [--force]\n"
		"\n"
		"Any User-Mode Linux binary; release, configuration and features are read from\n"
		"it.  Kernels are stored and sent like images, and one lab may mix them.  Guests\n"
		"that name none get 'fast', else 'debian'.  rm refuses while guests use it.\n"
		"build makes 'fast' from Debian's newest linux-source (5 to 10 minutes, once) and\n"
		"adds it.  inspect takes a name of the cluster, or a file when it has a / or a "
		"dot.\n"
		"\n"
		"  --name NAME       default: NAME of a file linux-NAME, else linux-RELEASE\n"
		"  --modules FOLDER  its modules (such as /usr/lib/uml/modules), for /lib/modules\n"
		"  --replace         give a name that is taken to the new one; guests keep the "
		"old\n"
		"  --source VERSION  build this one (7.2, 6.12, 6.1), not the newest\n"
		"  --newest          ask whether there is a newer source than that of the kernel\n"
		"                    which is there\n"
		"  --config          also the options of its configuration\n"
		"  --force           remove the name though guests use it\n"
		"\n"
		"examples:\n"
		"  clusterctl kernel add /usr/bin/linux.uml --name debian --modules "
		"/usr/lib/uml/modules\n"
		"  clusterctl kernel inspect debian --config | grep NETEM\n"},
	{"token", "make a token with which a host or a user joins", cmd_token,
		"usage: clusterctl token create [--role agent|viewer|operator|admin] [--ttl TIME]\n"
		"\n"
		"Prints one line.  A host joins with: umlaut-agent --token TOKEN ...\n"},
	{"context", "which clusters are known", cmd_context,
		"usage: clusterctl context [ls | show | use NAME]\n"
		"\n"
		"Contexts are kept in a file ('clusterctl help' says where):\n"
		"\n"
		"  current: lab\n"
		"  contexts:\n"
		"    lab:\n"
		"      endpoint: tcp://10.0.0.1:7711\n"
		"      server_key: KEY       # 'public' of the scheduler's scheduler.key\n"
		"      key_file: admin.key   # made when it is not there; beside this file\n"
		"    student:\n"
		"      token: umlaut1:...    # of 'clusterctl token create --role operator'\n"
		"    here:\n"
		"      endpoint: ipc:///run/umlaut/scheduler.sock\n"},
	{"completion", "completion of command lines for bash", cmd_completion,
		"usage: clusterctl completion bash\n"
		"\n"
		"example: source <(clusterctl completion bash)\n"},
	{"version", "versions of this program and of the scheduler", cmd_version,
		"usage: clusterctl version [--client]\n"},
	{"help", "this, or a verb's help", cmd_help, "usage: clusterctl help [VERB]\n"},
	{NULL, NULL, NULL, NULL},
};

const struct verb *verb_find(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}

void verbs_show(FILE *to)
{
	(void)fprintf(to, "usage: clusterctl [--server ENDPOINT | --context NAME] VERB ...\n"
			  "Runs labs of Linux machines on an Umlaut cluster.\n\nVerbs:\n");
	for (const struct verb *v = verbs; v->name; v++)
		(void)fprintf(to, "  %-11s %s\n", v->name, v->summary);
	(void)fprintf(to,
		"\n'clusterctl VERB --help' tells more of each.\n"
		"\nWhich cluster: --server ENDPOINT (UMLAUT_SERVER), else --context NAME\n"
		"(UMLAUT_CONTEXT) or the current one of the first file of: $UMLAUT_CONFIG,\n"
		"umlaut-context.yaml above the program's folder, ~/.config/umlaut/contexts.yaml,\n"
		"/etc/umlaut/contexts.yaml; else ipc:///run/umlaut/scheduler.sock.\n"
		"\nExit status: 0 success, 1 failure, 2 wrong usage, 3 not found, 4 timeout,\n"
		"5 the scheduler cannot be reached, 6 refused for this key; exec: that of the\n"
		"command, 128 + N when signal N ended it.\n");
}

int cmd_help(struct ctl *ctl, int argc, char **argv)
{
	const struct verb *v;

	if (argc < 2) {
		verbs_show(stdout);
		return EXIT_OK;
	}
	v = verb_find(argv[1]);
	if (!v)
		return ctl_usage(ctl, "no verb '%s'", argv[1]);
	(void)fputs(v->help, stdout);
	return EXIT_OK;
}
