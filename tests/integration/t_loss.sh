#!/usr/bin/env bash
# Loss of a host: killed whole, cut off, its agent killed or stopped for good.  Guests
# with on_host_loss: restart run elsewhere soon, and at no time twice; the others wait.
. "$(dirname "$0")/lib.sh"

cat > "$STATE/lab.yaml" <<'Y'
name: loss
networks: {n: {subnet: 10.9.0.0/24}}
guests:
  r:
    image: busybox
    memory: 48M
    cpus: 0.1
    count: 6
    networks: [n]
    on_host_loss: restart
    placement: {strategy: spread}
  w: {image: busybox, memory: 48M, cpus: 0.1, networks: [n], on_host_loss: wait, placement: {host: h1}}
  p: {image: busybox, memory: 48M, cpus: 0.1, networks: [n], persistent: true, placement: {host: h1}}
Y
LIMIT=8 # seconds until they run elsewhere, at the default lease of 5 s

# All the while: no guest has two instances.
watch_twice() {
	local two
	while [ -e "$STATE/watching" ]; do
		two=$(instances | awk '{print $2}' | sort | uniq -d)
		[ -z "$two" ] || { echo "$(date +%T.%N) twice: $two"; instances | sort -k2; } >> "$STATE/twice"
		echo >> "$STATE/looks"
		sleep 0.05
	done
}
on_host() { ctl get guests --deployment loss -o json | jq -r --arg h "$1" '.[] | select(.host == $h and (.name | startswith("loss/r"))) | .name'; }
elsewhere() { # HOST NAME...: all of them are ready on other hosts
	local h=$1; shift
	ctl get guests --deployment loss -o json | jq -e --arg h "$h" --args \
		'[.[] | select(.name as $n | $ARGS.positional | index($n))] | length == ($ARGS.positional | length) and all(.ready and .host != $h)' "$@"
}
host_state() { [ "$(ctl get hosts "$1" -o json | jq -r '.[0].state')" = "$2" ]; }
all_there() { all_ready loss 8; }
once_each() { [ "$(instances | awk '{print $2}' | sort | uniq -c | awk '$1 == 1' | wc -l)" = 8 ] && [ "$(instances | wc -l)" = 8 ]; }
lose_and_find() { # TEXT HOST CMD...: guests of HOST run elsewhere in time
	local text=$1 h=$2 began took victims; shift 2
	mapfile -t victims < <(on_host "$h")
	[ "${#victims[@]}" -gt 0 ] || { not_ok "$text: there are guests on $h"; return 1; }
	began=$(now_ms)
	"$@" > /dev/null 2>&1
	if wait_until 40 elsewhere "$h" "${victims[@]}"; then
		took=$(($(now_ms) - began))
		check "$text: ${#victims[@]} guests run elsewhere after $took ms, within ${LIMIT}000" test $took -le ${LIMIT}000
	else
		not_ok "$text: the guests run elsewhere"; ctl get guests; return 1
	fi
}
agent_pid() { pgrep -f -- "umlaut-agent .*$STATE/bed/$1/" | head -1; }

testbed_up 3
images
# Debian's kernel takes seconds to boot: its guests are given that time.
fast=${FAST:-build/kernel/linux-fast}
if [ -x "$fast" ]; then check "kernel fast is added" ctl kernel add "$fast" --name fast; else LIMIT=20; fi
check "apply" ctl apply -f "$STATE/lab.yaml" --wait --timeout 120s || exit 1
touch "$STATE/watching"; : > "$STATE/twice"; : > "$STATE/looks"
watch_twice & watcher=$!

lose_and_find "host killed whole" h1 bed crash h1
check "the host is shown as lost" host_state h1 lost
equal "a guest with 'wait' waits" "lost h1" "$(guest_json loss/w state) $(guest_json loss/w host)"
equal "a persistent guest waits" "lost h1" "$(guest_json loss/p state) $(guest_json loss/p host)"
check "the host comes back" bed start h1
check "so do those that waited" wait_until 60 all_there
check "one instance of each" wait_until 10 once_each

before=$(ctl get guests loss/w -o json | jq -c '.[0] | [.epoch, .started_at, .host]')
ctl apply -f "$STATE/lab.yaml" > /dev/null
for h in h2 h3; do [ -n "$(on_host $h)" ] && break; done
lose_and_find "host cut off" $h bed cut $h
check "its own instances were ended" wait_until 5 once_each
check "heal" bed heal $h
check "the host is up again" wait_until 60 host_state $h up
check "all are ready" wait_until 60 all_there
check "one instance of each after healing" wait_until 10 once_each
equal "who was not there was not touched" "$before" "$(ctl get guests loss/w -o json | jq -c '.[0] | [.epoch, .started_at, .host]')"

for h in h3 h2 h1; do [ -n "$(on_host $h)" ] && break; done
lose_and_find "agent killed for good" $h bed kill $h
check "its guests were ended without it" wait_until 5 once_each
check "the agent starts" bed start $h
check "all are ready again" wait_until 60 all_there

for h in h1 h2 h3; do [ -n "$(on_host $h)" ] && break; done
pid=$(agent_pid $h)
lose_and_find "agent stopped (SIGSTOP)" $h kill -STOP "$pid"
check "its guests were ended without it" wait_until 5 once_each
kill -CONT "$pid"
check "the host is up again" wait_until 60 host_state $h up
check "all are ready again" wait_until 60 all_there
check "one instance of each" wait_until 10 once_each

before=$(ctl get guests --deployment loss -o json | jq -c 'map([.name, .epoch, .started_at, .restarts])')
for h in h1 h2 h3; do bed kill $h; bed start $h; done > /dev/null 2>&1
check "hosts are up" wait_until 30 sh -c "[ \$($BIN/clusterctl get hosts -o json | jq '[.[] | select(.state == \"up\")] | length') = 3 ]"
check "all are ready" wait_until 30 all_there
equal "agents restarted within the lease disturb no guest" "$before" "$(ctl get guests --deployment loss -o json | jq -c 'map([.name, .epoch, .started_at, .restarts])')"

rm "$STATE/watching"; wait $watcher
check "the watcher looked often ($(wc -l < "$STATE/looks") times)" test "$(wc -l < "$STATE/looks")" -gt 50
equal "no guest ran twice at any time" "" "$(head -20 "$STATE/twice")"
check "delete" ctl delete loss --wait
finish
