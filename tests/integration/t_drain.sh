#!/usr/bin/env bash
# A host with 30 guests is emptied: cancelled half-way, then to the end.  All the while a
# guest on another host pings each of them: none is silent for longer than it stood still
# for its own move.  Rules hold; who can go nowhere stays, and it is said why.
. "$(dirname "$0")/lib.sh"

INTERVAL=100 # ms between two pings of one guest
NOISE=1000   # ms for which this machine may be silent by itself, at most, for the pings to tell anything

# On other hosts from the beginning; the first pings.
cat > "$STATE/first.yaml" <<'Y'
name: d
networks: {n: {subnet: 10.8.0.0/24}}
defaults: {image: busybox, memory: 48M, cpus: 0.05, networks: [n]}
guests:
  probe: {placement: {host: h3}}
  y: {count: 2, placement: {apart: y, where: "host in (h2, h3)"}}
  z: {placement: {host: h2}}
Y
# 30 that can leave h1: 3 of them only for h3, two not for the same host.  And two that can
# not: other hosts have a y each, and one is fixed.
cat > "$STATE/second.yaml" <<'Y'
  g: {count: 25}
  a: {count: 3, placement: {apart: z}}
  c: {}
  e: {}
  stuck: {placement: {apart: y}}
  fixed: {placement: {host: h1}}
Y
cat "$STATE/first.yaml" "$STATE/second.yaml" > "$STATE/lab.yaml"

ms_of='def ms: capture("^(?<s>.*)[.](?<m>[0-9]+)Z$") | (.s + "Z" | fromdateiso8601) * 1000 + (.m | tonumber);'
on() { ctl get guests -d d -o json | jq "[.[] | select(.host == \"$1\")] | length"; }
on_is() { [ "$(on "$1")" = "$2" ]; }
host() { ctl get hosts "$1" -o json | jq -r ".[0] | $2"; }
host_is() { [ "$(host "$1" "$2")" = "$3" ]; }
moves() { ctl get migrations -o json | jq "[.[] | select($1)] | length"; }
some_moved() { [ "$(moves '.state == "done"')" -ge "$1" ]; }
none_moves() { [ "$(moves '.ended_at == null')" = 0 ]; }
hosts_of() { ctl get guests -d d -o json | jq -r "[.[] | select(.name | test(\"^d/($1)(-[0-9]+)?\$\")) | .host] | unique | join(\" \")"; }

testbed_up 3
images
fast_kernel "a drain at its pace"
if has_fast; then limit=60; else limit=180; fi
check "the pinger is built" gcc -std=gnu11 -O2 -static -o "$STATE/pinger" tests/integration/pinger.c || exit 1

check "the first guests start on h2 and h3" ctl apply -f "$STATE/first.yaml" --wait --timeout ${limit}s || exit 1
check "cordon" ctl cordon h2 h3
check "32 more start on h1" ctl apply -f "$STATE/lab.yaml" --wait --timeout ${limit}s || exit 1
equal "all of them there" 32 "$(on h1)"
check "uncordon" ctl uncordon h2 h3
sed -i 's/^  c: {}/  c: {placement: {apart: e}}/' "$STATE/lab.yaml"
check "two are to keep apart from now on" ctl apply -f "$STATE/lab.yaml"
ctl stop d/g-25 > /dev/null
check "one is stopped" wait_until 30 sh -c "$BIN/clusterctl get guests d/g-25 -o json | jq -e '.[0].state == \"stopped\"'"
ctl get guests -d d -o json | jq -r '.[] | select(.host == "h1" and .ready) | [.name, .networks[0].address] | @tsv' > "$STATE/addresses"
equal "31 of them answer" 31 "$(wc -l < "$STATE/addresses")"
# Three that stay where they are: their silence is the machine's own.
ctl get guests -d d -o json | jq -r '.[] | select(.name | test("^d/(y-|z)")) | .networks[0].address' > "$STATE/others"
before=$(ctl get guests -d d -o json | jq -c '[.[] | select(.host != "h1") | [.name, .epoch, .started_at]]')

ctl drain h1 --dry-run > "$STATE/dry" 2>&1
equal "the dry run says where 30 would go, and two not" "30 2" "$(grep -c 'would move from h1 to' "$STATE/dry") $(grep -c 'cannot move' "$STATE/dry")"
check "and begins nothing" host_is h1 .state up
ctl drain nobody > "$STATE/out" 2>&1; equal "an unknown host is 'not found'" 3 $?

check "cp of the pinger" ctl cp "$STATE/pinger" d/probe:/root/pinger
# shellcheck disable=SC2046 # addresses
ctl exec d/probe -- /root/pinger $INTERVAL /root/pings $(cut -f 2 "$STATE/addresses") $(cat "$STATE/others") > "$STATE/pinger.log" 2>&1 &
pinger=$!
# shellcheck disable=SC2016
check "it pings all" wait_until 20 sh -c "[ \"\$($BIN/clusterctl exec d/probe -- awk '\$3 > 5' /root/pings | wc -l)\" = 34 ]"

# Half-way, and no further.
began=$SECONDS
check "drain" ctl drain h1
check "the host is said to be draining" host_is h1 .state draining
check "guests leave" wait_until 60 some_moved 8
check "cancel" ctl drain h1 --cancel
check "the host takes no guests still" host_is h1 .state cordoned
check "what was under way ends" wait_until 60 none_moves
left=$(on h1)
check "$left guests have stayed" test "$left" -gt 2 -a "$left" -le 24
check "all of them run" wait_until 60 all_ready d 35
equal "nothing of a cancelled move is left" "" "$(find "$STATE"/bed/h[23]/state/moves -mindepth 1 2> /dev/null)"
equal "it stays so" "$left" "$(sleep 1; on h1)"

# To the end: with at most two at once, watched, and the watching interrupted.
(while [ ! -e "$STATE/enough" ]; do moves '.ended_at == null and .state != "back" and .state != "dropping"'; sleep 0.2; done) > "$STATE/at-once" &
watcher=$!
# A job of a script ignores SIGINT unless told otherwise.
timeout -s INT 3 "$BIN/clusterctl" drain h1 --parallel 2 --wait > "$STATE/out" 2> "$STATE/err"
check "the watching ends by Ctrl-C, the drain does not" grep -q 'the moves go on' "$STATE/err"
check "all others leave" wait_until 90 on_is h1 2
touch "$STATE/enough"; wait $watcher
check "never more than two at once ($(sort -rn "$STATE/at-once" | head -1))" test "$(sort -rn "$STATE/at-once" | head -1)" -le 2
drained=$((SECONDS - began))
check "two are said to be stuck" wait_until 10 host_is h1 .drain.stuck 2
check "and why" test -n "$(host h1 .drain.reason)"
ctl drain h1 --wait --timeout 4s > "$STATE/out" 2> "$STATE/err"; equal "waiting for it ends in time" 4 $?
check "and tells of them" grep -Eq 'h1: 2 left, [0-9]+ moving, 2 cannot leave: .*d/(stuck|fixed)' "$STATE/err" || cat "$STATE/err"
equal "who keeps off z is on h3" h3 "$(hosts_of a)"
equal "who is to be apart is" "h2 h3" "$(hosts_of 'c|e')"
check "all of them run" wait_until 60 all_ready d 35

# The silence of each against its own standstill.
ctl exec d/probe -- killall pinger
wait $pinger
ctl exec d/probe -- cat /root/pings > "$STATE/pings"
ctl get migrations -o json | jq -r "$ms_of"' group_by(.guest)[] | [.[0].guest,
	([.[] | select(.frozen_at) | ((.running_at // .ended_at) | ms) - (.frozen_at | ms)] | max // 0),
	([.[] | select(.state == "done")] | length)] | @tsv' > "$STATE/stops"
noise=$(awk 'NR == FNR {other[$1]; next} $1 in other && $4 > n {n = $4} END {print n + 0}' "$STATE/others" "$STATE/pings")
# Name, silence, standstill.
awk -v OFS='\t' 'FILENAME ~ /pings$/ {gap[$1] = $4; next} FILENAME ~ /stops$/ {stop[$1] = $2; next} {print $1, gap[$2], stop[$1] + 0}' \
	"$STATE/pings" "$STATE/stops" "$STATE/addresses" > "$STATE/silence"
margin=$((2 * INTERVAL + noise))
equal "30 guests have moved, once" "30 30" "$(awk '$3 == 1' "$STATE/stops" | wc -l) $(moves '.state == "done" and .drain')"
awk '{d = $2 - $3; if (d > w) w = d; if ($2 > g) g = $2; s += $3; n++} END {printf "  (longest silence %d ms, mean standstill %d ms, at most %d ms apart; those that stayed were silent for up to %d ms)\n", g, s / n, w, '"$noise"'}' "$STATE/silence"
if [ "$noise" -le $NOISE ]; then
	equal "none was silent for longer than its standstill and $margin ms" "" "$(awk -v m=$margin '$2 > $3 + m' "$STATE/silence")"
else
	skip "how long guests were silent: so were those that did not move, for $noise ms"
fi
equal "who was not there was not touched" "$before" "$(ctl get guests -d d -o json | jq -c '[.[] | select(.name | test("^d/(probe|y-|z)")) | [.name, .epoch, .started_at]]')"
echo "  ($drained s for the whole)"

# Room is made for them.
sed -i 's/y: {count: 2/y: {count: 1/; /^  fixed:/d' "$STATE/lab.yaml"
check "who was in the way goes" ctl apply -f "$STATE/lab.yaml"
check "the drain comes to its end" ctl drain h1 --wait --timeout 60s
equal "the host is drained" "drained 0" "$(host h1 .state) $(on h1)"
check "h1 has no guest process" wait_until 20 sh -c "! pgrep -f '$STATE/bed/h1/state/guest[s]/' > /dev/null"
equal "nor any folder of one" "" "$(find "$STATE"/bed/h1/state/guests "$STATE"/bed/h1/state/moves -mindepth 1 2> /dev/null)"
check "the scheduler restarts" bed kill scheduler
bed start scheduler > /dev/null 2>&1
check "the host is drained still" wait_until 20 host_is h1 .state drained
check "the stopped guest starts where it is now" ctl start d/g-25
check "and runs" wait_until 60 sh -c "$BIN/clusterctl get guests d/g-25 -o json | jq -e '.[0].ready and .[0].host != \"h1\"'"
check "uncordon" ctl uncordon h1
check "the host is up" host_is h1 .state up
check "and takes guests" ctl migrate d/g-1 --to h1 --wait
check "delete" ctl delete d --wait
finish
