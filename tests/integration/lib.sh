# shellcheck shell=bash
# Sourced by the integration tests: a testbed of its own for each, checks that
# print and count, waiting for conditions.  A test reads top to bottom:
#
#   . "$(dirname "$0")/lib.sh"
#   testbed_up 3
#   check "hosts are up" test "$(ctl get hosts -o name | wc -l)" = 3
#   ...
#   finish
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
ROOT=$PWD
BIN=${BIN:-$ROOT/build/bin}
FAST=${FAST:-$ROOT/build/kernel/linux-fast} # tests/run builds it
NAME=t$$
STATE=$(mktemp -d "/tmp/umlaut-$NAME.XXXX")
RESULT=${RESULT:-/dev/null}
failures=0
SERVER=ipc:///run/umlaut/$NAME/scheduler.sock
export UMLAUT_SERVER=$SERVER UMLAUT_CONFIG=/dev/null

bed() { "$ROOT/deploy/testbed/testbed" --name "$NAME" --dir "$STATE/bed" --bin "$BIN" "$@"; }
ctl() { "$BIN/clusterctl" "$@"; }

cleanup() {
	local status=$?
	if [ "${KEEP:-}" = 1 ] && [ $failures -gt 0 ]; then
		echo "kept: name $NAME, state $STATE; remove with: deploy/testbed/testbed --name $NAME --dir $STATE/bed down"
		exit 1
	fi
	if [ $failures -gt 0 ] || [ $status -ne 0 ]; then
		for f in "$STATE"/bed/log/*.log; do [ -f "$f" ] && { echo "--- $f"; tail -n "${LOG_LINES:-15}" "$f"; }; done
	fi
	[ -d "$STATE/bed" ] && bed down > "$STATE/down.log" 2>&1 || true
	leftovers || { echo "not ok nothing is left behind"; echo "not ok" >> "$RESULT"; failures=$((failures + 1)); cat "$STATE/down.log" 2> /dev/null; }
	rm -rf "$STATE"
	# In a trap, exit alone would give the status from before it.
	[ $failures -eq 0 ] || status=1
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Says what of this test's is still there: processes, namespaces, mounts, cgroups.
leftovers() {
	local found=0 x
	x=$(pgrep -af "$STATE/bed" | grep -v pgrep); [ -z "$x" ] || { echo "left running: $x"; found=1; }
	x=$(ip netns list | grep "^$NAME-"); [ -z "$x" ] || { echo "left namespaces: $x"; found=1; }
	x=$(grep "$STATE" /proc/self/mounts); [ -z "$x" ] || { echo "left mounts: $x"; found=1; }
	[ ! -e "/run/umlaut/$NAME" ] || { echo "left /run/umlaut/$NAME"; found=1; }
	return $found
}

ok() { echo "  ok $*"; echo "ok $*" >> "$RESULT"; }
not_ok() { echo "  NOT OK $*"; echo "not ok $*" >> "$RESULT"; failures=$((failures + 1)); }
skip() { echo "  SKIP $*"; echo "skip $*" >> "$RESULT"; } # counted: tests/run shows how many
# check TEXT CMD...: the command succeeds.  Its output is shown when it does not.
check() {
	local text=$1 out; shift
	if out=$("$@" 2>&1); then ok "$text"; else not_ok "$text"; printf '%s\n' "$out" | tail -20 | sed 's/^/      /'; return 1; fi
}
# equal TEXT WANTED GOT
equal() { if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1"; printf '      wanted: %s\n      got:    %s\n' "$2" "$3"; return 1; fi; }
# wait_until SECONDS CMD...: the command succeeds before that many seconds are over.
wait_until() {
	local until=$((SECONDS + $1)); shift
	until "$@" > /dev/null 2>&1; do [ $SECONDS -lt $until ] || return 1; sleep 0.1; done
}
testbed_up() { # HOSTS [testbed options]
	local n=$1; shift
	check "a testbed of $n hosts comes up" bed up --hosts "$n" "$@" || exit 1
}
images() { # the default kernel and image
	check "the default kernel is added" ctl kernel add /usr/bin/linux.uml --name debian --modules /usr/lib/uml/modules || exit 1
	check "the default image is built" ctl image build busybox || exit 1
}
# The guest kernel `fast`: what a test shows without it is less, and counts as skipped.
has_fast() { [ -x "$FAST" ]; }
no_fast() { skip "the kernel 'fast' is not built ($FAST)${1:+: $1}"; } # [WHAT is not shown]
fast_kernel() { # [WHAT is not shown without it]: given to the cluster
	if has_fast; then check "kernel fast is added" ctl kernel add "$FAST" --name fast; else no_fast "$@"; fi
}
guest_json() { ctl get guests "$1" -o json | jq -r ".[0].$2"; }
ready_count() { ctl get guests ${1:+--deployment "$1"} -o json | jq '[.[] | select(.ready)] | length'; }
all_ready() { [ "$(ready_count "$1")" = "$2" ]; }
now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
# Processes of runners, one line each: PID HOST UID.  A runner names its folder in its
# arguments, and so does the jail's first process; the kernel is below that.
runners() {
	local p dir args state
	for p in $(pgrep -f -- "umlaut-guest --dir $STATE/bed"); do
		args=()
		{ mapfile -d '' args < "/proc/$p/cmdline" && read -r state < "/proc/$p/stat"; } 2> /dev/null
		dir=${args[*]} dir=${dir#*--dir } dir=${dir%% *}
		# After its end there are no arguments, and it is a zombie.
		[[ $dir = "$STATE"/bed/* && ${state##*) } != Z* ]] || continue
		dir=${dir#"$STATE"/bed/}
		echo "$p ${dir%%/*} ${dir##*/}"
	done
}
# Guests that run, one line an instance: HOST UID.  A runner whose guest has ended has no
# children.
instances() {
	local p rest children
	runners | while read -r p rest; do
		children=''
		read -r children 2> /dev/null < "/proc/$p/task/$p/children"
		[ -z "$children" ] || echo "$rest"
	done | sort -u
}
finish() { exit 0; }
