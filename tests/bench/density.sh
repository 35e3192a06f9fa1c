# shellcheck shell=bash
# Sourced by b_density.sh and b_rivals.sh, after tests/integration/lib.sh: which processes
# belong to a guest, what they hold of the machine's memory and use of its processors.

# Every process below those whose command line holds WORD, with a class:
# "PID CLASS", CLASS one of kernel runner agent scheduler.
processes() { # WORD
	local word=$1
	{
		for p in /proc/[0-9]*; do
			{ tr '\0' ' ' < "$p/cmdline"; echo; } 2> /dev/null | grep -qF -- "$word" && echo "root ${p#/proc/}"
		done
		awk '{pid = $1; match($0, /\(.*\)/); name = substr($0, RSTART + 1, RLENGTH - 2); gsub(/ /, "_", name)
			rest = substr($0, RSTART + RLENGTH + 1); split(rest, f, " "); print "proc", pid, f[2], name}' /proc/[0-9]*/stat 2> /dev/null
	} | awk '
		$1 == "root" {ours[$2] = 1}
		$1 == "proc" {parent[$2] = $3; name[$2] = $4}
		function mine(p, n) {for (n = 0; p > 1 && n < 20; n++) {if (p in ours) return 1; p = parent[p]}; return 0}
		END {for (p in name) if (mine(p)) {
			c = name[p]
			k = ""
			if (c ~ /^umlaut-sched/) k = "scheduler"
			else if (c == "umlaut-agent") k = "agent"
			else if (c == "umlaut-guest" || c == "umlaut-reaper") k = "runner"
			else if (c == "kernel" || c ~ /^(uml-userspace|memfd:|linux)/) k = "kernel"
			if (k) print p, k}}'
}
# "CLASS KIB" of private and shared parts, each page counted once: Pss without tmpfs, which
# is the guests' own memory and counted by /proc/meminfo.
held() { # file of processes
	while read -r p c; do
		awk -v c="$c" '/^Pss_(Anon|File):/ {n += $2} END {print c, n + 0}' "/proc/$p/smaps_rollup" 2> /dev/null
	done < "$1" | awk '{n[$1] += $2} END {for (c in n) print c, n[c]}'
}
# "CLASS TICKS" of processor time so far.
used() { # file of processes
	while read -r p c; do
		awk -v c="$c" '{sub(/.*\) /, ""); print c, $12 + $13}' "/proc/$p/stat" 2> /dev/null
	done < "$1" | awk '{n[$1] += $2} END {for (c in n) print c, n[c]}'
}
all_used() { awk '/^cpu / {print $2 + $3 + $4 + $7 + $8}' /proc/stat; } # ticks of the machine
mem() { awk -v k="$1:" '$1 == k {print $2}' /proc/meminfo; } # KIB
now() { echo "$EPOCHREALTIME"; }
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}'; }
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
at_most() { awk -v a="$1" -v b="$2" 'BEGIN {exit !(a <= b)}'; }
goal() { # TEXT VALUE LIMIT
	if at_most "$2" "$3"; then ok "$1: $2 (at most $3)"; else not_ok "$1: $2 (goal: at most $3)"; fi
}
