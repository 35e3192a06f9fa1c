#!/usr/bin/env bash
# Many guests on one machine, with the kernel `fast`, 32 MiB and busybox each, two hosts.
#   loop  100 guests: apply to all ready, against a plain shell loop that starts the same
#         kernels with the same image and waits for the same line: as one would type it, and
#         with the arguments that Umlaut gives them; rounds alternate, medians
#   many  500 guests in one network: time to ready, memory of each in its parts, processors
#         in use while idle, exec in all at once, delete and what it leaves
#   most  100 more at a time, until something stops it
# Arguments: which of these (default: all).  FAST=FILE (default build/kernel/linux-fast),
# ROUNDS=N, GUESTS=N of `many`, MOST=N where `most` ends at the latest, FLOOR=MiB of memory that
# `most` leaves the machine, IDLE=seconds.
. "$(dirname "$0")/../integration/lib.sh"
. "$ROOT/tests/bench/density.sh"
fast=${FAST:-build/kernel/linux-fast} rounds=${ROUNDS:-3} guests=${GUESTS:-500} most=${MOST:-4000} floor=${FLOOR:-1024} idle=${IDLE:-30}
[ -x "$fast" ] || { echo "the kernel 'fast' is not built: make kernel"; exit 1; }
fast=$(realpath "$fast")
parts=${*:-loop many most}

lab() { # GUESTS: a lab of that many
	printf 'name: d\nnetworks: {n: {subnet: 10.50.0.0/16}}\ndefaults: {image: up, memory: 32M, networks: [n]}\nguests: {g: {count: %d}}\n' "$1" \
		> "$STATE/lab.yaml"
}
apply() { ctl apply -f "$STATE/lab.yaml" --wait --timeout "$1" > "$STATE/apply.out" 2>&1; }
delete() { ctl delete d --wait --timeout 120s > "$STATE/delete.out" 2>&1; }
# Memory and processors are promised beyond what there is: what counts is what is used.
testbed_up 2 --memory 256G --cpus 1000
check "kernel" ctl kernel add "$fast" --name fast || exit 1
# The usual image, whose own init says a line when it has done its work.
check "image" ctl image build busybox || exit 1
image=$STATE/image
for f in "$STATE"/bed/scheduler/artefacts/*/data; do
	if [ "$(od -An -tx2 -j1080 -N2 "$f" | tr -d ' ')" = ef53 ]; then cp --sparse=always "$f" "$image"; fi
done
printf '#!/bin/sh\necho guest-is-up > /dev/tty0\n' > "$STATE/S99up"
printf 'cd /etc/init.d\nwrite %s S99up\nset_inode_field S99up mode 0100755\n' "$STATE/S99up" | PATH=$PATH:/usr/sbin debugfs -w -f /dev/stdin "$image" > "$STATE/debugfs.out" 2>&1
check "image that says it is up" ctl image add up --from "$image" || exit 1
lab 4
check "the image and the kernel are on both hosts" apply 60s || exit 1
delete

# The same kernels by a shell loop, in a PID namespace of their own so that all of it ends.
# shellcheck disable=SC2016 # expanded by the shell in there
by_hand() { # GUESTS [ARGUMENT...]: prints the seconds until all have said their line
	local dir=$STATE/hand from
	rm -rf "$dir"; mkdir -p "$dir"
	from=$(now)
	unshare --pid --fork --kill-child bash -c '
		n=$1 kernel=$2 image=$3 dir=$4
		shift 4
		for i in $(seq "$n"); do
			TMPDIR=/dev/shm "$kernel" mem=32M "ubd0=$dir/$i,$image" root=/dev/ubda rw init=/sbin/init console=tty0 con=null con0=null,fd:1 ssl=null quiet \
				"uml_dir=$dir/u" "umid=$i" "$@" >> "$dir/out" 2> /dev/null < /dev/null &
		done
		until [ "$(grep -ac guest-is-up "$dir/out")" -ge "$n" ]; do sleep 0.1; done
		echo all > "$dir/done"
		exec sleep 1000' hand "$1" "$fast" "$image" "$dir" "${@:2}" 2> /dev/null &
	local pid=$!
	if wait_until 60 test -e "$dir/done"; then since "$from"; else echo "only $(grep -ac guest-is-up "$dir/out") of the loop's guests are up" >&2; fi
	kill -KILL "$pid" 2> /dev/null
	wait "$pid" 2> /dev/null
	rm -rf "$dir"
}
# shellcheck disable=SC2317 # called by wait_until
all_said() { [ "$(grep -alx 'guest-is-up.\?' "$STATE"/bed/h?/state/guests/*/console.log | wc -l)" -ge "$1" ]; }
by_umlaut() { # GUESTS
	local from
	lab "$1"
	from=$(now)
	if apply 300s && wait_until 60 all_said "$1"; then since "$from"; else tail -3 "$STATE/apply.out" >&2; fi
	delete
}
# guest/cmdline.c
like_ours=(lpj=40000000 bonding.max_bonds=0 dummy.numdummies=0 ifb.numifbs=0 fb_tunnels=none)
part_loop() {
	local h o l
	: > "$STATE/hand.s"; : > "$STATE/like.s"; : > "$STATE/ours.s"
	for _ in $(seq "$rounds"); do
		by_hand 100 >> "$STATE/hand.s"; echo >> "$STATE/hand.s"
		by_umlaut 100 >> "$STATE/ours.s"; echo >> "$STATE/ours.s"
		by_hand 100 "${like_ours[@]}" >> "$STATE/like.s"; echo >> "$STATE/like.s"
	done
	equal "every round came to its end" $((3 * rounds)) "$(cat "$STATE"/{hand,like,ours}.s | grep -c .)" || return
	h=$(median < "$STATE/hand.s") l=$(median < "$STATE/like.s") o=$(median < "$STATE/ours.s")
	printf '100 guests: a shell loop %s s (%s), with our arguments %s s (%s), umlaut %s s (%s)\n' "$h" "$(xargs < "$STATE/hand.s")" \
		"$l" "$(xargs < "$STATE/like.s")" "$o" "$(xargs < "$STATE/ours.s")"
	goal "100 guests, ratio to a shell loop" "$(awk -v o="$o" -v h="$h" 'BEGIN {printf "%.2f", o / h}')" 1.5
	goal "100 guests, ratio to a shell loop with our arguments" "$(awk -v o="$o" -v h="$l" 'BEGIN {printf "%.2f", o / h}')" 1.5
}

# What one tap on a bridge costs the machine, KiB: measured on 200 made by hand.
tap_cost() {
	local ns=$NAME-taps before after i
	ip netns add "$ns" && ip -n "$ns" link add name bridge0 type bridge
	before=$(($(mem SUnreclaim) + $(mem Percpu)))
	for i in $(seq 200); do ip netns exec "$ns" ip tuntap add "t$i" mode tap vnet_hdr; done
	for i in $(seq 200); do echo "link set t$i master bridge0 up"; done | ip -n "$ns" -batch -
	after=$(($(mem SUnreclaim) + $(mem Percpu)))
	ip netns del "$ns"
	awk -v a="$before" -v b="$after" 'BEGIN {printf "%d", (b - a) / 200}'
}
settle() { # until the machine's memory changes by less than 8 MiB in 2 s
	local last=0 is tries
	for tries in $(seq 15); do
		is=$(mem MemAvailable)
		[ $((is > last ? is - last : last - is)) -gt 8192 ] || return 0
		last=$is
		sleep 2
	done
	: "$tries"
}
memory_parts() { # uses before_*
	local n=$guests k user
	processes "$STATE" > "$STATE/procs"
	equal "runners and their guards are found" $((2 * n)) "$(grep -c ' runner$' "$STATE/procs")"
	held "$STATE/procs" > "$STATE/held"
	part() { awk -v c="$1" '$1 == c {n = $2} END {print n + 0}' "$STATE/held"; }
	# What the guests' programs and their files take of the guests' memory: of ten of them.
	user=$(for k in $(seq 10); do
		ctl exec "d/g-$((k * n / 10))" -- cat /proc/meminfo | awk '/^(AnonPages|Cached|Buffers|PageTables):/ {n += $2} END {print n}'
	done | median)
	awk -v n="$n" -v avail="$((before_avail - $(mem MemAvailable)))" -v shmem="$(($(mem Shmem) - before_shmem))" -v user="$user" \
		-v kernel="$(part kernel)" -v runner="$(part runner)" -v agent="$(($(part agent) - before_agent))" -v sched="$(($(part scheduler) - before_scheduler))" \
		-v tables="$(($(mem PageTables) + $(mem KernelStack) - before_tables))" -v tap="$(tap_cost)" 'BEGIN {
		m = 1024 * n
		row("guest kernel (its memory less user space)", shmem / m - user / 1024)
		row("user space of the guest, its files cached", user / 1024)
		row("kernel process and its stubs on the host", kernel / m)
		row("runner", runner / m)
		row("agents, for each guest", agent / m)
		row("scheduler, for each guest", sched / m)
		row("devices: a tap", tap / 1024)
		row("page tables and stacks of the host", tables / m)
		row("rest: file systems, control groups, sockets", avail / m - shmem / m - (kernel + runner + agent + sched + tables) / m - tap / 1024)
		row("all in", avail / m)
		printf "%.1f\n", avail / m > "/dev/stderr"
		}
		function row(text, x) {printf "  %-46s %6.2f MiB\n", text, x}' 2> "$STATE/each"
	goal "host memory of each guest, MiB" "$(cat "$STATE/each")" 16
}
idle_parts() {
	local a b t0 ours
	processes "$STATE" > "$STATE/procs"
	used "$STATE/procs" > "$STATE/u0"; a=$(all_used); t0=$(now)
	sleep "$idle"
	b=$(all_used); used "$STATE/procs" > "$STATE/u1"
	awk -v s="$(since "$t0")" 'NR == FNR {u[$1] = $2; next} {printf "  %-46s %6.3f core\n", $1, ($2 - u[$1]) / 100 / s; all += $2 - u[$1]}
		END {printf "%.3f\n", all / 100 / s > "/dev/stderr"}' "$STATE/u0" "$STATE/u1" 2> "$STATE/ours"
	ours=$(cat "$STATE/ours")
	awk -v s="$idle" -v all="$((b - a))" -v before="$idle_before" 'BEGIN {
		printf "  %-46s %6.3f core (%.3f before there were guests)\n", "the whole machine", all / 100 / s, before}'
	goal "idle, cores used by everything of Umlaut's" "$ours" 0.15
}
exec_in_all() {
	local from
	from=$(now)
	seq "$guests" | xargs -P "$guests" -I{} sh -c "'$BIN/clusterctl' exec d/g-{} -- echo said > '$STATE/said.{}' 2>&1"
	goal "exec in all $guests at once, s" "$(since "$from")" 20
	equal "all of them answered" "$guests" "$(cat "$STATE"/said.* | grep -cx said)"
	rm -f "$STATE"/said.*
}
# The control groups of this cluster's agents, by what its guests are in; other clusters may
# be on the machine.
own_groups() {
	awk '$2 == "kernel" {print $1}' "$STATE/procs" | while read -r p; do sed -n 's#.*/umlaut/\([^/]*\)/.*#\1#p' "/proc/$p/cgroup" 2> /dev/null; done | sort -u
}
cgroups() { # GROUP...: how many of guests are in them
	local g
	for g in "$@"; do find /sys/fs/cgroup -maxdepth 6 -path "*/umlaut/$g/*" -type d 2> /dev/null; done | grep -c '/[0-9a-f]\{16\}$'
}
taps() { for h in h1 h2; do nsenter --net="$STATE/bed/$h/state/overlay.netns" ip -br link | grep -cE '^t[0-9]'; done | awk '{n += $1} END {print n + 0}'; }
nothing_left() { # NAMESPACES_BEFORE GROUP...
	processes "$STATE" | grep -E ' (kernel|runner)$' > "$STATE/left"
	equal "no process of a guest is left" "" "$(head -3 "$STATE/left")"
	equal "no tap is left" 0 "$(taps)"
	equal "no control group of a guest is left" 0 "$(cgroups "${@:2}")"
	equal "no folder of a guest is left" 0 "$(find "$STATE"/bed/h[12]/state/guests -mindepth 1 -maxdepth 1 | wc -l)"
	equal "no network namespace is left" "$1" "$(ip netns list | wc -l)"
}
part_many() {
	local from spaces a groups=()
	delete > /dev/null 2>&1
	settle
	processes "$STATE" > "$STATE/procs"; held "$STATE/procs" > "$STATE/held"
	before_agent=$(awk '$1 == "agent" {print $2}' "$STATE/held") before_scheduler=$(awk '$1 == "scheduler" {print $2}' "$STATE/held")
	a=$(all_used); sleep 10
	idle_before=$(awk -v a="$a" -v b="$(all_used)" 'BEGIN {print (b - a) / 1000}')
	before_avail=$(mem MemAvailable) before_shmem=$(mem Shmem) before_tables=$(($(mem PageTables) + $(mem KernelStack)))
	spaces=$(ip netns list | wc -l)
	lab "$guests"
	from=$(now)
	check "$guests guests are ready" apply 300s || tail -3 "$STATE/apply.out"
	goal "$guests guests in one network: apply to all ready, s" "$(since "$from")" 60
	settle
	memory_parts
	mapfile -t groups < <(own_groups)
	check "the guests' control groups are found" test "$(cgroups "${groups[@]}")" -ge "$guests"
	idle_parts
	exec_in_all
	from=$(now)
	check "delete" delete
	goal "delete --wait, s" "$(since "$from")" 15
	nothing_left "$spaces" "${groups[@]}"
}
ready() { ctl get guests -o json | jq '[.[] | select(.ready)] | length'; }
part_most() {
	local n from why
	delete > /dev/null 2>&1
	settle
	before_avail=$(mem MemAvailable)
	lab "$guests"
	apply 300s
	n=$guests
	while [ "$n" -lt "$most" ]; do
		if [ "$(mem MemAvailable)" -lt $(((floor + 100 * 12) * 1024)) ]; then why="memory: 100 more would leave less than $floor MiB"; break; fi
		lab $((n + 100))
		from=$(now)
		if ! apply 60s; then
			why="of 100 more these were not ready within 60 s: $(grep -m 3 ':' "$STATE/apply.out" | xargs); $(($(mem MemAvailable) / 1024)) MiB of memory left"
			n=$(ready)
			break
		fi
		n=$((n + 100))
		printf '  %d guests: the last 100 took %s s; %d MiB of memory left; %s cores in use\n' "$n" "$(since "$from")" "$(($(mem MemAvailable) / 1024))" \
			"$(a=$(all_used); sleep 3; awk -v a="$a" -v b="$(all_used)" 'BEGIN {printf "%.2f", (b - a) / 300}')"
	done
	printf 'most: %d guests, %.1f MiB each; %s\n' "$n" "$(awk -v a="$before_avail" -v b="$(mem MemAvailable)" -v n="$n" 'BEGIN {print (a - b) / 1024 / n}')" \
		"${why:-ended here as asked (MOST=$most)}"
	check "so many are ready still" test "$(ready)" -ge "$n"
	from=$(now)
	check "delete of all" delete
	printf 'deleted in %s s\n' "$(since "$from")"
}
for p in $parts; do
	case $p in
	loop | many | most) "part_$p" ;;
	*) echo "b_density: unknown part $p (loop, many, most)"; exit 2 ;;
	esac
done
finish
