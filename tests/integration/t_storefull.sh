#!/usr/bin/env bash
# The disk with the cluster's state is full: guests and leases go on, what is asked for is
# refused and nothing of it is done, a restart of the scheduler changes nothing; and once
# there is room all goes on by itself.
. "$(dirname "$0")/lib.sh"

status=0
folder=$STATE/bed/scheduler
trap 'status=$?; bed down > /dev/null 2>&1; umount "$folder" 2> /dev/null; (exit $status); cleanup' EXIT
mkdir -p "$folder"
mount -t tmpfs -o size=400M none "$folder"
lab() { # GUESTS...
	printf 'name: s\nnetworks: {n: {subnet: 10.6.0.0/24}}\ndefaults: {image: busybox, memory: 40M, networks: [n]}\nguests:\n'
	for g in "$@"; do printf '  %s: {}\n' "$g"; done
}
lab a b > "$STATE/lab.yaml"
lab a b c > "$STATE/more.yaml"
fill() { dd if=/dev/zero of="$folder/filler" bs=64k oflag=append conv=notrunc status=none 2> /dev/null; [ "$(df --output=avail "$folder" | tail -1)" -eq 0 ]; }
trouble() { ctl version | sed -n 's/^trouble *//p'; }
# A host that is cordoned and uncordoned is recorded each time: until nothing can be.
use_up() { for _ in $(seq 2000); do fill; timeout 3 "$BIN/clusterctl" cordon h2 > /dev/null 2>&1 || return 0; ctl uncordon h2 > /dev/null 2>&1 || return 0; done; return 1; }
# A host that cannot be recorded as here after a restart is still expected, with a lease.
none_lost() { ctl get hosts -o json | jq -e 'length == 2 and all(.state | IN("up", "cordoned", "joining"))'; }
sessions() { cat "$STATE"/bed/log/h?.log | grep -c 'in the cluster'; }
here() { [ "$(sessions)" -ge $((had + 2)) ]; }
view() { ctl get guests -o json | jq -c 'map([.name, .host, .state, .ready, .epoch, .restarts, .started_at]) | sort'; }
refused() { # COMMAND...
	ctl "$@" > "$STATE/out" 2>&1 && return 1
	grep -q 'this was not done: the scheduler has no room' "$STATE/out" || { cat "$STATE/out"; return 1; }
}

testbed_up 2
images
check "a lab is ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 2m || exit 1
before=$(view)
who=$(runners | sort)
equal "there is no trouble" "" "$(trouble)"
check "there is a reserve" test -s "$folder/cluster.db.reserve"

check "the disk is filled" fill
check "what is recorded next uses the reserve" ctl cordon h2
check "and is done" sh -c "$BIN/clusterctl get hosts h2 -o json | jq -e '.[0].state == \"cordoned\"'"
check "which is told" grep -q 'full' <(trouble)
check "more guests are refused" refused apply -f "$STATE/more.yaml"
check "not the look at what would be done" ctl apply -f "$STATE/more.yaml" --dry-run
check "guests can be taken out of their host all the same" ctl uncordon h2

check "the rest is used up" use_up
check "a change is refused" refused delete s
check "another" refused restart s/a
check "and another" refused drain h1
check "a guest can be worked in" ctl exec s/a -- true
sleep 8 # longer than a lease: leases go on
check "no host is lost" none_lost
equal "no guest has changed" "$before" "$(view)"
had=$(sessions)
check "the scheduler is killed" bed kill scheduler
check "and begins again, full" bed start scheduler
check "hosts are in the cluster again" wait_until 10 here
check "what room it had found is used up" use_up
check "changes are refused still" refused delete s
sleep 8
equal "no guest has changed, nor its host" "$before" "$(view)"
equal "nor was one started again" "$who" "$(runners | sort)"
check "no host is lost by it" none_lost
check "a host is lost meanwhile" bed crash h2

rm -f "$folder/filler"
check "with room there is no trouble any more" wait_until 10 sh -c "! $BIN/clusterctl version | grep -q trouble"
check "the host's loss is noticed" wait_until 20 sh -c "$BIN/clusterctl get hosts h2 -o json | jq -e '.[0].state == \"lost\"'"
check "it comes back" bed start h2
check "all are up" wait_until 20 sh -c "$BIN/clusterctl get hosts -o json | jq -e 'all(.state == \"up\" or .state == \"cordoned\")'"
ctl uncordon h2 > /dev/null
check "the larger lab is taken now" ctl apply -f "$STATE/more.yaml" --wait --timeout 2m
check "there is a reserve again" test -s "$folder/cluster.db.reserve"
check "delete" ctl delete s --wait
check "the scheduler is stopped" bed stop scheduler
equal "the state is whole" ok "$(sqlite3 "$folder/cluster.db" 'PRAGMA integrity_check')"
bed down > /dev/null 2>&1
umount "$folder"
check "down" bed down
finish
