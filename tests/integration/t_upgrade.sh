#!/usr/bin/env bash
# Programs are replaced in place, as a package manager does it, while guests ping each
# other, somebody has a command running in one, and another moves: no guest notices, nor
# does one that would be ended and started elsewhere were its host lost.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/moves.sh"
cp -r "$BIN" "$STATE/bin"
BIN=$STATE/bin
OLD=$("$BIN/clusterctl" --version | cut -d' ' -f2) NEW=9.1.0 # the linker lets other texts share its tail

cat > "$STATE/lab.yaml" <<'Y'
name: u
networks: {n: {subnet: 10.8.0.0/24}}
defaults: {image: busybox, memory: 48M, cpus: 0.1, networks: [n]}
guests:
  a: {placement: {host: h1}}
  b: {placement: {host: h2}}
  m: {placement: {where: "host in (h1, h2)"}}
  r: {count: 2, on_host_loss: restart, placement: {strategy: spread}}
Y
# A program of another version: a file of its own, renamed over the old one.
replace() { # PROGRAM
	LC_ALL=C sed "s/${OLD//./\\.}/$NEW/g" "$BIN/$1" > "$BIN/$1.new"
	chmod 755 "$BIN/$1.new"
	mv "$BIN/$1.new" "$BIN/$1"
}
view() { ctl get guests u/a u/b u/r-1 u/r-2 -o json | jq -c 'map([.name, .host, .state, .ready, .epoch, .restarts, .started_at, .networks]) | sort'; }
versions() { ctl get hosts -o json | jq -r 'sort_by(.name) | map(.agent_version) | join(" ")'; }
# shellcheck disable=SC2317 # called by wait_until
are_new() { [ "$(versions)" = "$NEW $NEW" ]; }
hosts_up() { [ "$(ctl get hosts -o json | jq '[.[] | select(.state == "up")] | length')" = 2 ]; }
pinged() { ctl exec u/a -- sh -c 'grep -c seq= /dev/shm/pings' | tr -d '\r'; }
goes_on() { # the pings: more than before
	local n; n=$(pinged)
	wait_until 10 sh -c "[ \$($BIN/clusterctl exec u/a -- grep -c seq= /dev/shm/pings | tr -d '\r') -gt $((n + 20)) ]"
}

testbed_up 2
images
fast_kernel "an upgrade under its guests"
equal "programs are of version" "$OLD $OLD" "$(versions)"
check "a lab is ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 2m || exit 1
ctl exec u/m -- dd if=/dev/urandom of=/root/big bs=1M count=6 conv=fsync > /dev/null 2>&1
check "a guest pings one on the other host, 20 times a second" ctl exec u/a -- sh -c "
	ping -i 0.05 $(guest_json u/b 'networks[0].address') > /dev/shm/pings 2>&1 &"
check "and has answers" goes_on
before=$(view)
who=$(runners | grep -v "$(guest_json u/m uid)" | sort)

# Somebody has a command running there, which the agent carries.
"$BIN/clusterctl" exec u/b -- sh -c 'while :; do echo x; sleep 0.1; done' > "$STATE/stream" 2> "$STATE/said" < /dev/null &
stream=$!
check "a command runs in a guest" wait_until 10 grep -q x "$STATE/stream"
to=$([ "$(guest_json u/m host)" = h1 ] && echo h2 || echo h1)
check "a guest moves" ctl migrate u/m --to "$to" --rate 1M
check "it copies" move_gets 10 u/m copying

for p in umlaut-agent umlaut-guest umlaut-init umlaut-scheduler; do replace $p; done
for h in h1 h2; do
	check "the agent on $h is stopped, as a service is" bed stop $h
	check "and started" bed start $h
done
check "hosts are up" wait_until 20 hosts_up
check "agents are of the new version" wait_until 20 are_new || versions
wait $stream
equal "the command's stream ended with a failure" yes "$([ $? -ne 0 ] && echo yes)"
check "and said why" test -s "$STATE/said"
equal "a new one works" hello "$(ctl exec u/b -- echo hello | tr -d '\r')"
check "the pings go on" goes_on
equal "no guest has changed" "$before" "$(view)"
equal "nor has its process" "$who" "$(runners | grep -v "$(guest_json u/m uid)" | sort)"
check "the move came to its end" move_gets 60 u/m 'done'
check "the moved guest is ready there" wait_until 30 sh -c "[ \"\$($BIN/clusterctl get guests u/m -o json | jq -r '.[0] | \"\\(.host) \\(.ready)\"')\" = '$to true' ]"

check "the scheduler is stopped" bed stop scheduler
check "and started, new" bed start scheduler
check "hosts are up again" wait_until 20 hosts_up
check "it is of the new version" grep -q "$NEW" <(ctl version)
check "the pings still go on" goes_on
equal "no guest has changed by it" "$before" "$(view)"
ctl exec u/a -- killall ping > /dev/null 2>&1
# Each number once, none left out; busybox's ping counts from 0.
lost=$(ctl exec u/a -- cat /dev/shm/pings | tr -d '\r' | awk 'match($0, /seq=[0-9]+/) {s = substr($0, RSTART + 4, RLENGTH - 4) + 0; if (s != n) {print n "-" s - 1; n = s} n++} END {if (!n) print "all"}')
equal "no ping was lost over all of it" "" "$lost"
check "delete" ctl delete u --wait
finish
