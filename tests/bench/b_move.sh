#!/usr/bin/env bash
# Moves: how long a guest is gone that has 256 MiB of its own on its disk and writes 5 MB/s,
# against a restart of it in place, both seen by a ping from a guest on a third host; what is
# sent for what changed, by the move's numbers and by the underlay's counters; a rate kept.
#   FAST=FILE (default build/kernel/linux-fast, else Debian's), ROUNDS=N (default 5)
. "$(dirname "$0")/../integration/lib.sh"
. "$ROOT/tests/bench/density.sh"
fast=${FAST:-build/kernel/linux-fast} rounds=${ROUNDS:-5}
[ -x "$fast" ] || fast=/usr/bin/linux.uml
testbed_up 3
check "kernel" ctl kernel add "$(realpath "$fast")" --name k || exit 1
check "image" ctl image build busybox || exit 1
cat > "$STATE/lab.yaml" <<'Y'
name: m
networks: {n: {subnet: 10.53.0.0/24}}
defaults: {image: busybox, memory: 192M, cpus: 1, networks: [n]}
guests:
  # Writes 1 MB five times a second to a ring of 64 MiB within its 256, once /root/go is there.
  g:
    disk: 800M
    placement: {where: "host in (h1, h2)"}
    run: |
      (i=0; while :; do
        [ ! -e /root/go ] || { dd if=/dev/urandom of=/root/data bs=64k seek=$((i % 64 * 16)) count=16 conv=notrunc,fsync; i=$((i + 1)); }
        sleep 0.18
      done) > /dev/null 2>&1 &
  p: {placement: {host: h3}}
Y
check "guests" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s || exit 1
address=$(guest_json m/g 'networks[0].address')

host() { guest_json m/g host; }
other() { [ "$(host)" = h1 ] && echo h2 || echo h1; }
# Bytes that the host has sent and received on the underlay.
underlay() { bed run "$1" cat /proc/net/dev | awk '$1 ~ /:$/ && $1 != "lo:" {n += $10} END {printf "%d\n", n}'; }
agents_ticks() { processes "$STATE/bed" | awk '$2 == "agent"' > "$STATE/agents"; used "$STATE/agents" | awk '{n += $2} END {print n + 0}'; }
last() { ctl get migrations -o json | jq -r "sort_by(.number) | .[-1].$1"; }
allocated() { local f; f=$(ls "$STATE/bed/$(host)"/state/guests/*/cow | while read -r f; do case $f in */$(guest_json m/g uid)/*) echo "$f" ;; esac; done); du -B1 "$f" | cut -f1; }
# The longest gap between answers while CMD runs, in ms: pings are counted, and the time of
# one is what all of them took.
gone() { # CMD...
	local began
	timeout 120 "$BIN/clusterctl" exec m/p -- sh -c "ping -i 0.02 $address" > "$STATE/ping" 2> /dev/null &
	local pinger=$!
	began=$EPOCHREALTIME
	wait_until 10 sh -c "[ \$(grep -c seq= '$STATE/ping') -gt 20 ]"
	"$@" > "$STATE/out" 2>&1 || { cat "$STATE/out"; kill $pinger; return 1; }
	local n; n=$(grep -c seq= "$STATE/ping")
	wait_until 20 sh -c "[ \$(grep -c seq= '$STATE/ping') -gt $((n + 20)) ]"
	awk -v a="$began" -v b="$EPOCHREALTIME" '
		match($0, /seq=[0-9]+/) {s = substr($0, RSTART + 4, RLENGTH - 4); if (n++ && s - l > g) g = s - l; l = s}
		END {printf "%.0f\n", l ? g * (b - a) * 1000 / l : 99999}' "$STATE/ping"
	kill $pinger 2> /dev/null; wait $pinger 2> /dev/null
	ctl exec m/p -- killall ping > /dev/null 2>&1
	return 0
}
move() { timeout 120 "$BIN/clusterctl" migrate m/g --to "$(other)" --wait "$@"; }
again() { [ "$(guest_json m/g started_at)" != "$1" ] && [ "$(guest_json m/g ready)" = true ]; }
restart() {
	local before; before=$(guest_json m/g started_at)
	ctl restart m/g && wait_until 60 again "$before"
}

# Nothing changed: there and back.
check "a move to a host that has the image not yet" move
for i in 1 2; do
	tx=$(underlay "$(host)") from=$(host)
	check "a move of a guest that wrote nothing" move
	printf '%s: %d bytes sent, underlay %d\n' "$from" "$(last wire_bytes)" "$(($(underlay "$from") - tx))"
	goal "traffic of the disk of a guest that wrote nothing, bytes" "$(last wire_bytes)" 262144
done

check "256 MiB of incompressible data" ctl exec m/g -- sh -c 'dd if=/dev/urandom of=/root/data bs=1M count=256 2> /dev/null; sync'
# Everything of it, at rest.
for i in 1 2 3; do
	changed=$(allocated) from=$(host) tx=$(underlay "$from") ticks=$(agents_ticks) began=$(now)
	check "a move at rest" move
	took=$(since "$began") sent=$(($(underlay "$from") - tx))
	printf 'at rest: %d bytes allocated, %d sent (on the underlay %d), %s s, %s MB/s, agents %s s of CPU, gone %s ms (its own word)\n' "$changed" "$(last wire_bytes)" "$sent" "$took" \
		"$(awk -v b="$changed" -v s="$took" 'BEGIN {printf "%.0f", b / s / 1e6}')" "$(awk -v t="$(($(agents_ticks) - ticks))" 'BEGIN {print t / 100}')" "$(last downtime_ms)"
	awk -v s="$(last wire_bytes)" -v c="$changed" 'BEGIN {printf "%.3f\n", s / c}' >> "$STATE/ratio"
	awk -v s="$sent" -v c="$changed" 'BEGIN {printf "%.3f\n", s / c}' >> "$STATE/ratio-underlay"
done
goal "sent for what changed, by the move's numbers" "$(median < "$STATE/ratio")" 1.05
goal "sent for what changed, by the underlay's counter" "$(median < "$STATE/ratio-underlay")" 1.10

# A rate.
tx=$(underlay "$(host)") from=$(host) began=$(now)
check "a move with --rate 20M" move --rate 20M
took=$(since "$began") sent=$(($(underlay "$from") - tx))
goal "bytes a second with --rate 20M" "$(awk -v b="$sent" -v s="$took" 'BEGIN {printf "%.0f", b / s}')" 23068672
check "and not less than three quarters of it" awk -v b="$sent" -v s="$took" 'BEGIN {exit !(b / s > 15728640)}'

# Under load.
ctl exec m/g -- touch /root/go
for i in $(seq "$rounds"); do
	gone restart >> "$STATE/restart"
	ticks=$(agents_ticks) began=$(now)
	gone move >> "$STATE/move"
	last downtime_ms >> "$STATE/told"
	last expected_ms >> "$STATE/expected"
	since "$began" >> "$STATE/took"; echo >> "$STATE/took"
	printf 'round %d: restart %s ms, move %s ms gone (told %s, copying expected %s), %s rounds, %s sent, %s s\n' "$i" "$(tail -1 "$STATE/restart")" \
		"$(tail -1 "$STATE/move")" "$(last downtime_ms)" "$(last expected_ms)" "$(last round)" "$(last wire_bytes)" "$(sed '/^$/d' "$STATE/took" | tail -1)"
done
restart=$(median < "$STATE/restart") moved=$(median < "$STATE/move")
printf 'gone, medians: restart in place %s ms (%s), move %s ms (%s); told by get migrations: %s ms (%s)\n' "$restart" "$(paste -sd' ' "$STATE/restart")" \
	"$moved" "$(paste -sd' ' "$STATE/move")" "$(median < "$STATE/told")" "$(paste -sd' ' "$STATE/told")"
goal "a move takes the guest away longer than a restart in place, ms" "$((moved - restart))" 500
finish
