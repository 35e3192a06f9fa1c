#!/usr/bin/env bash
# Nothing dies with its watcher: kill -9 of the scheduler, of agents, of all at
# once, while guests count; kill -9 of a kernel is mended by policy.
. "$(dirname "$0")/lib.sh"

cat > "$STATE/lab.yaml" <<'Y'
name: count
networks: {n: {subnet: 10.3.0.0/24}}
guests:
  c:
    image: busybox
    memory: 48M
    cpus: 0.1
    count: 6
    networks: [n]
    placement: {strategy: spread}
    run: |
      (i=0; while :; do i=$((i + 1)); echo $i > /dev/shm/m; mv /dev/shm/m /dev/shm/n; sleep 0.2; done) > /dev/null 2>&1 &
  once: {image: busybox, memory: 48M, cpus: 0.1, networks: [n], restart: never}
Y
view() { ctl get guests -o json | jq -c 'map([.name, .host, .state, .ready, .epoch, .restarts, .started_at, .networks]) | sort'; }
counters() { for i in 1 2 3 4 5 6; do ctl exec count/c-$i -- cat /dev/shm/n || echo 0; done | paste -sd' '; }
rose() { # BEFORE AFTER: each number grew
	local i; for i in 1 2 3 4 5 6; do
		[ "$(cut -d' ' -f$i <<< "$2")" -gt "$(cut -d' ' -f$i <<< "$1")" ] || { echo "before: $1; after: $2"; return 1; }
	done
}
# shellcheck disable=SC2317 # called by wait_until
went_on() { now=$(counters 2> /dev/null); rose "$count" "$now" > /dev/null; }
same_again() { # WHAT: after the kill, everything is as before and every counter went on
	check "$1: hosts are up again" wait_until 30 sh -c "[ \$($BIN/clusterctl get hosts -o json | jq '[.[] | select(.state == \"up\")] | length') = 3 ]"
	check "$1: get guests is as before" wait_until 30 sh -c "[ '$before' = \"\$($BIN/clusterctl get guests -o json | jq -c 'map([.name, .host, .state, .ready, .epoch, .restarts, .started_at, .networks]) | sort')\" ]" ||
		{ echo "$before"; view; }
	# A host that is up may still have to connect.
	wait_until 15 went_on
	check "$1: every counter went on" rose "$count" "$now"
	count=$now
}

testbed_up 3
images
check "apply" ctl apply -f "$STATE/lab.yaml" --wait --timeout 120s || exit 1
before=$(view)
count=$(counters)

bed kill scheduler; bed start scheduler
same_again "kill -9 of the scheduler"
for h in h1 h2 h3; do
	bed kill $h; bed start $h
	same_again "kill -9 of the agent on $h"
done
bed kill all; bed start all
same_again "kill -9 of all of them together"
bed kill all
for i in 1 2 3; do bed start h$i & done; wait; bed start scheduler
same_again "agents first, then the scheduler"
check "the network still works" ctl exec count/c-1 -- ping -c 2 -W 5 c-2

# kill -9 of one UML kernel: a new boot, same address, same disk.
victim=count/c-2
ctl exec $victim -- sh -c 'echo kept > /root/kept; sync'
host=$(guest_json $victim host) address=$(guest_json $victim 'networks[0].address') restarts=$(guest_json $victim restarts)
kill_kernel() { # GUEST: the main process of the kernel in the guest's jail
	local dir uid pid
	uid=$(ctl get guests "$1" -o json | jq -r '.[0].uid')
	dir=$STATE/bed/$(guest_json "$1" host)/state/guests/$uid
	[ -d "$dir" ] || { echo "no folder $dir"; return 1; }
	# The main process has the kernel's arguments, and a parent that has not; it
	# descends from the runner.  (Its stubs have its arguments too; pids wrap.)
	pid=$(pgrep -f "umid=" | while read -r p; do
		q=$(awk '/^PPid/ {print $2}' "/proc/$p/status" 2> /dev/null || echo 0)
		tr '\0' ' ' < "/proc/$q/cmdline" 2> /dev/null | grep -q "umid=" && continue
		q=$p; while [ "$q" -gt 1 ]; do
			tr '\0' ' ' < "/proc/$q/cmdline" 2> /dev/null | grep -q -- "--dir $dir" && { echo "$p"; break; }
			q=$(awk '/^PPid/ {print $2}' "/proc/$q/status" 2> /dev/null || echo 0)
		done
	done | head -1)
	[ -n "$pid" ] || { echo "no kernel process found below $dir"; return 1; }
	kill -KILL "$pid"
}
check "kill -9 of a guest's kernel" kill_kernel $victim
check "it is restarted by policy" wait_until 60 sh -c "$BIN/clusterctl get guests $victim -o json | jq -e '.[0] | .ready and .restarts == $((restarts + 1))'"
equal "on the same host" "$host" "$(guest_json $victim host)"
equal "with the same address" "$address" "$(guest_json $victim 'networks[0].address')"
equal "with the same disk" kept "$(ctl exec $victim -- cat /root/kept)"
check "it answers its neighbour" ctl exec count/c-1 -- ping -c 1 -W 5 c-2
check "kill -9 of the kernel of a guest with restart: never" kill_kernel count/once
check "it becomes failed, with a reason" wait_until 30 sh -c "$BIN/clusterctl get guests count/once -o json | jq -e '.[0] | .state == \"failed\" and (.reason | length > 0)'"
check "delete" ctl delete count --wait
finish
