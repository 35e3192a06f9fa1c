/* completion: what a shell needs to complete a command line. */
#include <stdio.h>
#include <string.h>

#include "clusterctl/ctl.h"
#include "clusterctl/show.h"
#include "lib/buf.h"

/* Names come from the cluster, quietly, and not at all when it does not answer. */
static const char script[] =
	"_clusterctl() {\n"
	"	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb='' i\n"
	"	COMPREPLY=()\n"
	"	for ((i = 1; i < COMP_CWORD; i++)); do\n"
	"		case ${COMP_WORDS[i]} in\n"
	"		--server|--context) ((i++)) ;;\n"
	"		-*) ;;\n"
	"		*) verb=${COMP_WORDS[i]}; break ;;\n"
	"		esac\n"
	"	done\n"
	"	_clusterctl_names() { timeout 2 clusterctl get \"$1\" -o name 2> /dev/null; }\n"
	"	case $prev in\n"
	"	-o|--output) COMPREPLY=($(compgen -W 'table wide json yaml name' -- \"$cur\")); "
	"return ;;\n"
	"	-f|--file) [ \"$verb\" = logs ] || { COMPREPLY=($(compgen -f -- \"$cur\")); "
	"return; } ;;\n"
	"	-d|--deployment) COMPREPLY=($(compgen -W \"$(_clusterctl_names deployments)\" -- "
	"\"$cur\")); return ;;\n"
	"	--host) COMPREPLY=($(compgen -W \"$(_clusterctl_names hosts)\" -- \"$cur\")); "
	"return ;;\n"
	"	esac\n"
	"	case $verb in\n"
	"	'') COMPREPLY=($(compgen -W \"$_clusterctl_verbs --server --context --help\" -- "
	"\"$cur\")) ;;\n"
	"	get|describe)\n"
	"		if ((COMP_CWORD == i + 1)); then\n"
	"			COMPREPLY=($(compgen -W \"$_clusterctl_kinds\" -- \"$cur\"))\n"
	"		else\n"
	"			COMPREPLY=($(compgen -W \"$(_clusterctl_names "
	"\"${COMP_WORDS[i+1]}\")\" -- "
	"\"$cur\"))\n"
	"		fi ;;\n"
	"	boot-report|memory|why|logs|exec|console|start|stop|restart)\n"
	"		COMPREPLY=($(compgen -W \"$(_clusterctl_names guests)\" -- \"$cur\")) ;;\n"
	"	prune) COMPREPLY=($(compgen -W \"--all $(_clusterctl_names orphans)\" -- "
	"\"$cur\")) ;;\n"
	"	cordon|uncordon|drain) COMPREPLY=($(compgen -W \"$(_clusterctl_names hosts)\" -- "
	"\"$cur\")) ;;\n"
	"	host) COMPREPLY=($(compgen -W \"rm $(_clusterctl_names hosts)\" -- \"$cur\")) ;;\n"
	"	cp) COMPREPLY=($(compgen -f -- \"$cur\") $(compgen -W \"$(_clusterctl_names "
	"guests)\" -S : "
	"-- \"$cur\")) ;;\n"
	"	delete) COMPREPLY=($(compgen -W \"$(_clusterctl_names deployments)\" -- \"$cur\")) "
	";;\n"
	"	image) COMPREPLY=($(compgen -W 'build add ls rm' -- \"$cur\")) ;;\n"
	"	kernel) COMPREPLY=($(compgen -f -W 'add build inspect ls rm' -- \"$cur\")) ;;\n"
	"	context) COMPREPLY=($(compgen -W 'ls show use' -- \"$cur\")) ;;\n"
	"	token) COMPREPLY=($(compgen -W 'create' -- \"$cur\")) ;;\n"
	"	completion) COMPREPLY=($(compgen -W 'bash' -- \"$cur\")) ;;\n"
	"	help) COMPREPLY=($(compgen -W \"$_clusterctl_verbs\" -- \"$cur\")) ;;\n"
	"	*) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n"
	"	esac\n"
	"}\n"
	"complete -F _clusterctl clusterctl\n";

int cmd_completion(struct ctl *ctl, int argc, char **argv)
{
	const struct opt opts[] = {OPT_LAST};
	int n = opt_parse(ctl, argc, argv, opts, NULL);

	if (n < 0)
		return -n;
	if (n > 2 || (n == 2 && strcmp(argv[1], "bash") != 0))
		return ctl_usage(ctl, "only bash is known");
	(void)fputs("_clusterctl_verbs='", stdout);
	for (const struct verb *v = verbs; v->name; v++)
		(void)printf("%s%s", v == verbs ? "" : " ", v->name);
	(void)fputs("'\n_clusterctl_kinds='", stdout);
	for (const char *p = kind_names(); *p; p++)
		if (*p != ',')
			(void)putchar(*p);
	(void)fputs("'\n", stdout);
	(void)fputs(script, stdout);
	return EXIT_OK;
}
