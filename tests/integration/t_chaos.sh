#!/usr/bin/env bash
# Rounds of kill, cut, heal and restart over 5 hosts with 30 guests, which are moved and
# drained meanwhile.  After each round all is healed; then every guest is there exactly
# once, whole, where the cluster says, and nothing else is.
#
#   SEED=N ROUNDS=M t_chaos.sh     replays; what is done in a round follows from its seed
#   ROUNDS=100 tests/run integration chaos
#
# Seconds at most: 900 + 150 * ROUNDS
set -u
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/moves.sh"
SEED=${SEED:-$((RANDOM * 32768 + RANDOM))} ROUNDS=${ROUNDS:-10}
HOSTS=5 EACH=10
BOUND=120 # seconds until all is settled
has_fast || EACH=3 # Debian's kernel takes seconds to boot
echo "SEED=$SEED ROUNDS=$ROUNDS"

lab() { # COUNT of each kind
	echo 'name: c'
	echo 'networks: {n: {subnet: 10.9.0.0/24}}'
	echo 'guests:'
	local policy
	for policy in restart wait none; do
		cat <<-Y
		  $policy:
		    image: busybox
		    memory: 40M
		    cpus: 0.05
		    count: $1
		    networks: [n]
		    on_host_loss: $policy
		    placement: {strategy: spread}
		    run: |
		Y
		writer 6 'sleep 1'
	done
}
lab $EACH > "$STATE/lab.yaml"
lab $((EACH - 1)) > "$STATE/less.yaml"
COUNT=$((EACH * 3))

# ------------------------------------------------------------ what happens
# One action a line: MILLISECONDS before it, then what.  From RANDOM alone, whose own
# seed has 32 bits of a hash: seeds that follow each other make rounds that have nothing
# in common.
seed_random() { RANDOM=$((16#$(sha256sum <<< "$1" | cut -c1-8))); }
plan() { # SEED
	seed_random "$1"
	local i kinds=(restart wait none) h o scheduler='' n
	n=$((2 + RANDOM % 4))
	# Now and then a host is to be empty in the end, whatever happens meanwhile.
	if [ $((RANDOM % 3)) = 0 ]; then echo "0 empty h$((1 + RANDOM % HOSTS))"; fi
	for ((i = 0; i < 2 + RANDOM % 4; i++)); do
		echo "0 migrate c/${kinds[RANDOM % 3]}-$((1 + RANDOM % EACH))"
	done
	for ((i = 0; i < n; i++)); do
		h=h$((1 + RANDOM % HOSTS)) o=h$((1 + RANDOM % HOSTS))
		printf '%d ' $((RANDOM % 800))
		case $((RANDOM % 15)) in
		0) echo "kill $h" ;;
		1) echo "kill scheduler"; scheduler=dead ;;
		2 | 3) echo "crash $h" ;;
		4) echo "cut $h" ;;
		5) echo "block $h $o" ;;
		6) if [ $((RANDOM % 2)) = 0 ]; then echo "block $h scheduler"; else echo "block scheduler $h"; fi ;;
		7) echo "start $h" ;;
		8) echo "heal $h" ;;
		9) echo "cancel c/${kinds[RANDOM % 3]}-$((1 + RANDOM % EACH))" ;;
		10) echo "drain $h" ;;
		11) echo "uncordon $h" ;;
		12) echo "less" ;;
		13) echo "migrate c/${kinds[RANDOM % 3]}-$((1 + RANDOM % EACH))" ;;
		14) echo "prune" ;;
		esac
		if [ "$scheduler" = dead ] && [ $((RANDOM % 2)) = 0 ]; then echo "$((RANDOM % 2000)) start scheduler"; scheduler=''; fi
	done
	# Before the healing: mostly within the lease, now and then longer.
	if [ $((RANDOM % 3)) = 0 ]; then echo "8000 nothing"; else echo "$((RANDOM % 3000)) nothing"; fi
	if [ $((RANDOM % 4)) = 0 ]; then echo "0 pruned"; fi
}
# Of users: not waited for, and may fail.
asks() { timeout 20 "$BIN/clusterctl" "$@" >> "$STATE/asked" 2>&1 & asking+=($!); }
# None of them may be heard after the healing.
asked() {
	[ ${#asking[@]} = 0 ] || kill "${asking[@]}" 2> /dev/null
	[ ${#asking[@]} = 0 ] || wait "${asking[@]}"
	asking=()
}
act() {
	case $1 in
	migrate) asks migrate "$2" ;;
	cancel) asks migrate "$2" --cancel ;;
	empty) empty=$2; asks drain "$2" ;;
	drain | uncordon) asks "$1" "$2" ;;
	less) asks apply -f "$STATE/less.yaml" ;;
	prune) asks prune --all ;;
	pruned) pruned=1 ;;
	heal) bed heal "$2"; bed unblock "$2" ;;
	nothing) ;;
	*) bed "$@" ;;
	esac >> "$STATE/acts" 2>&1
}
heal() {
	local h
	asked
	for h in scheduler $(seq -f h%g $HOSTS); do bed unblock "$h"; [ "$h" = scheduler ] || bed heal "$h"; done
	bed start scheduler
	bed start agents
	wait_until 30 answers
	# The drain that is to come to its end goes on, unless it was never begun or was ended.
	for h in $(seq -f h%g $HOSTS); do [ "$h" = "$empty" ] || ctl uncordon "$h"; done
	[ -z "$empty" ] || drain_goes_on || ctl drain "$empty"
	ctl apply -f "$STATE/lab.yaml"
} >> "$STATE/acts" 2>&1
answers() { ctl get hosts -o name; }
drain_goes_on() { ctl get hosts "$empty" -o json | jq -e '.[0].drain != null'; }

# ------------------------------------------------------------ what must hold
empty_at_last() { # the host is drained: it has no guest, process, folder or move
	[ "$(ctl get hosts "$empty" -o json | jq -r '.[0] | "\(.state) \(.guests)"')" = "drained 0" ] &&
		! ctl get guests -o json | jq -e --arg h "$empty" 'any(.[]; .host == $h)' &&
		! { runners; folders; } | grep "\b$empty "
}
expected() { ctl get guests -o json | jq -r '.[] | "\(.host) \(.uid)"' | sort; }
# Guests with 'none' are not started again by themselves.
start_those_left() {
	ctl get guests -o json | jq -r '.[] | select((.name | startswith("c/none-")) and (.ready | not) and (.state | IN("stopped", "failed", "lost"))).name' |
		xargs -r "$BIN/clusterctl" start > /dev/null 2>&1
}
folders() { local h; for h in $(seq -f h%g $HOSTS); do ls "$(state_dir "$h")/guests" | sed "s/^/$h /"; done | sort; }
processes() { runners | cut -d' ' -f2- | sort -u; }
# Says what is not settled yet.
unsettled() {
	local e x
	start_those_left
	x=$(ctl get hosts -o json | jq -r '.[] | select(.state != "up" and (.name != $empty or .state != "drained")) | "\(.name) is \(.state)"' --arg empty "$empty"); [ -z "$x" ] || { echo "$x"; return; }
	x=$(ctl get guests -o json | jq -r '.[] | select(.ready and .state == "running" | not) | "\(.name) \(.host) \(.state): \(.reason)"'); [ -z "$x" ] || { echo "$x"; return; }
	x=$(ctl get migrations -o json | jq -r '.[] | select(.state | IN("done", "failed", "cancelled") | not) | "move \(.number) of \(.guest): \(.state) \(.reason)"'); [ -z "$x" ] || { echo "$x"; return; }
	e=$(expected)
	[ "$(wc -l <<< "$e")" = $COUNT ] || { echo "$(wc -l <<< "$e") guests of $COUNT"; return; }
	[ "$e" = "$(instances)" ] || { echo "instances:"; diff <(echo "$e") <(instances); return; }
	[ "$e" = "$(processes)" ] || { echo "processes:"; diff <(echo "$e") <(processes); return; }
	[ "$e" = "$(folders)" ] || { echo "folders:"; diff <(echo "$e") <(folders); return; }
	x=$(ls -d "$STATE"/bed/h*/state/moves/* 2> /dev/null); [ -z "$x" ] || { echo "left: $x"; return; }
	# Every host is up: what is kept is there, and nothing is there that is not known.
	x=$(diff <(ctl get orphans -o json | jq -r '.[] | "\(.host) \(.epoch) \(.state)"' | sort) <(orphans_on_disk)) || { echo "orphans:"; echo "$x"; return; }
}
orphans_on_disk() {
	local h d
	for h in $(seq -f h%g $HOSTS); do
		for d in "$(state_dir "$h")"/orphans/*; do [ ! -e "$d" ] || echo "$h $((16#${d##*/})) kept"; done
	done | sort
}
is_settled() { [ -z "$(unsettled)" ]; }
# Guests that were started from their image since event SEQ, by name.
started_elsewhere() { ctl get events -o json | jq -r --argjson s "$1" '.[] | select(.kind == "guest" and .reason == "StartedElsewhere" and .seq > $s).name' | sort -u; }
last_event() { ctl get events -o json | jq 'map(.seq) | max // 0'; }

declare -A floor address
events_before=0
# Each guest's records are all there: not fewer than at any time before, nor than it has
# said on its console, without a gap.
# One with 'restart' begins anew when it was started elsewhere meanwhile, and then only.
records_hold() {
	local until anew name uid host addr last n said bad=0
	until=$(last_event)
	anew=$(started_elsewhere $events_before)
	[ -z "$(grep -v '^c/restart-' <<< "$anew")" ] || { echo "started elsewhere:" $anew; bad=1; }
	while read -r name uid host addr; do
		# On the disk when it was said.
		said=$(tr -d '\r' < "$(guest_dir "$host" "$uid")/console.log" | awk '/^record [0-9]+$/ && $2 > n {n = $2} END {print n + 0}')
		last=$(ctl exec "$name" -- awk '$0 != NR {print "line", NR, "is", $0; bad = 1; exit} END {if (!bad) print NR}' /records 2>&1 | tr -d '\r')
		n=${floor[$uid]:-0}
		[ "$said" -le "$n" ] || n=$said
		! grep -qxF -e "$name" <<< "$anew" || n=0
		[[ $last =~ ^[0-9]+$ ]] && [ "$last" -ge "$n" ] || { echo "$name: records: $last; there were ${floor[$uid]:-0}, $said were said"; bad=1; }
		[ "${address[$uid]:-$addr}" = "$addr" ] || { echo "$name: address $addr, was ${address[$uid]}"; bad=1; }
		floor[$uid]=$last address[$uid]=$addr
	done < <(ctl get guests -o json | jq -r '.[] | "\(.name) \(.uid) \(.host) \(.networks[0].address)/\(.networks[0].mac)"')
	events_before=$until
	return $bad
}
reach() { # each other: some of them
	local names i a b
	mapfile -t names < <(ctl get guests -o name)
	for i in 1 2 3 4; do
		a=${names[RANDOM % COUNT]} b=${names[RANDOM % COUNT]}
		ctl exec "$a" -- ping -c 1 -W 5 "$(guest_json "$b" 'networks[0].address')" || { unreached "$a" "$b"; return 1; }
	done
}
unreached() { # A B: does it stay so, and what do both hosts know of them?
	local g h
	echo "$1 on $(guest_json "$1" host) does not reach $2 on $(guest_json "$2" host); tried again:"
	ctl exec "$1" -- ping -c 3 "$(guest_json "$2" 'networks[0].address')"
	ctl exec "$1" -- ip neigh
	for h in $(guest_json "$1" host) $(guest_json "$2" host); do
		for g in "$1" "$2"; do
			echo "$h of $g:"
			nsenter --net="$(state_dir "$h")/overlay.netns" sh -c "bridge fdb; ip neigh" |
				grep -iE "$(guest_json "$g" 'networks[0].mac')"
		done
		nsenter --net="$(state_dir "$h")/overlay.netns" sh -c "ip -br link; bridge fdb | grep 00:00:00:00:00:00"
	done
}
# All the while: no guest runs twice.
watch_twice() {
	local two
	while [ -e "$STATE/watching" ]; do
		two=$(instances | awk '{print $2}' | sort | uniq -d)
		[ -z "$two" ] || { echo "$(date +%T.%N) twice: $two"; instances | sort -k2; } >> "$STATE/twice"
		sleep 0.3
	done
}
no_orphans() { [ "$(ctl get orphans -o json)" = '[]' ] && [ -z "$(orphans_on_disk)" ]; }
show() { # what was done, and how it is
	echo "      SEED=$SEED, round $round, its seed $seed:"
	sed 's/^/      /' "$STATE/plan"
	unsettled | sed 's/^/      /'
	sed 's/^/      twice: /' "$STATE/twice"
}
one_round() {
	local began=$SECONDS wait what
	seed=$((SEED + round)) empty='' pruned=''
	plan $seed > "$STATE/plan"
	: > "$STATE/acts"
	while read -r wait what; do
		sleep "$((wait / 1000)).$(printf %03d $((wait % 1000)))"
		# shellcheck disable=SC2086
		act $what < /dev/null
	done < "$STATE/plan"
	heal
	if [ -n "$empty" ]; then
		if ! wait_until $BOUND empty_at_last; then not_ok "round $round (seed $seed): $empty is drained"; ctl describe host "$empty"; show; return 1; fi
		emptied=$((emptied + 1))
	fi
	if ! wait_until $BOUND is_settled; then not_ok "round $round (seed $seed): all is settled"; show; return 1; fi
	if ! records_hold > "$STATE/out"; then not_ok "round $round (seed $seed): no record is lost or repeated"; cat "$STATE/out"; show; return 1; fi
	if ! reach > "$STATE/out" 2>&1; then not_ok "round $round (seed $seed): guests reach each other"; cat "$STATE/out"; show; return 1; fi
	if [ -s "$STATE/twice" ]; then not_ok "round $round (seed $seed): no guest ran twice"; show; return 1; fi
	if [ -n "$empty" ] && ! ctl uncordon "$empty" > "$STATE/out" 2>&1; then not_ok "round $round (seed $seed): uncordon"; cat "$STATE/out"; return 1; fi
	if [ -n "$pruned" ]; then
		ctl prune --all >> "$STATE/acts" 2>&1
		if ! wait_until 30 no_orphans; then not_ok "round $round (seed $seed): no orphan is left when all are pruned"; ctl get orphans; orphans_on_disk; return 1; fi
	fi
	ok "round $round (seed $seed): $(cut -d' ' -f2- "$STATE/plan" | paste -sd';'): whole after $((SECONDS - began)) s"
}

testbed_up $HOSTS
images
fast_kernel "30 guests, there are $COUNT"
check "$COUNT guests are ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 3m || exit 1
: > "$STATE/twice"; touch "$STATE/watching"
watch_twice & watcher=$!
check "their records are whole" records_hold
asking=() emptied=0
for ((round = 1; round <= ROUNDS; round++)); do one_round || break; done
rm "$STATE/watching"; wait $watcher
moves=$(ctl get migrations -o json | jq -r 'map(.state) | group_by(.) | map("\(length) \(.[0])") | join(", ")')
echo "      of the last moves: $moves; drained to the end: $emptied; hosts lost: $(ctl get events -o json | jq '[.[] | select(.kind == "host" and .reason == "Lost")] | length')"
check "delete" ctl delete c --wait
finish
