#!/usr/bin/env bash
# A host that is short of memory has its guests give up their caches (node-agent/pressure.h):
# what an idle guest has read once and keeps comes back to the host when that needs it.
. "$(dirname "$0")/lib.sh"
. "$ROOT/tests/bench/density.sh"
fast=${FAST:-build/kernel/linux-fast}
group=''
# shellcheck disable=SC2317 # called by the trap
at_end() {
	local status=$?
	[ -z "$group" ] || { wait_until 5 test ! -s "$group/cgroup.procs"; rmdir "$group"; }
	(exit $status)
	cleanup
}
if [ ! -e /proc/pressure/memory ]; then
	echo "  the host's kernel does not tell of pressure"
	echo "skip pressure" >> "$RESULT"
	finish
fi
if [ ! -x "$fast" ]; then
	echo "  the kernel 'fast' is not built, and Debian's gives nothing back"
	echo "skip pressure" >> "$RESULT"
	finish
fi
# Eight programs on the host share what is enough for none.
check "the thrasher is built" gcc -O2 -o "$STATE/thrash" tests/integration/thrash.c || exit 1
if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ] || [ -d /sys/fs/cgroup/memory ]; then
	group=/sys/fs/cgroup/memory/$NAME limit=memory.limit_in_bytes
else
	group=/sys/fs/cgroup/$NAME limit=memory.max
fi
mkdir "$group" && echo 12M > "$group/$limit" || exit 1
trap at_end EXIT
thrash() { # SECONDS
	echo "$BASHPID" > "$group/cgroup.procs"
	head -c 200M /dev/zero > "$STATE/large"
	for _ in 1 2 3 4 5 6 7 8; do "$STATE/thrash" "$STATE/large" "$1" > /dev/null & done
	wait
}
stalled() { sed -n 's/^some .*total=//p' /proc/pressure/memory; }
was=$(stalled)
(thrash 3)
check "the host was short of memory, before there was an agent" test "$(stalled)" -gt $((was + 150000))
testbed_up 1
images
check "kernel fast is added" ctl kernel add "$fast" --name fast || exit 1
cat > "$STATE/lab.yaml" <<'Y'
name: p
networks: {n: {subnet: 10.64.0.0/24}}
defaults: {image: busybox, kernel: fast, memory: 256M, networks: [n]}
guests: {a: {}, b: {memory: 64M}}
Y
check "two guests are ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s || exit 1
# Too little to tell of, but the host's kernel looks again.
was=$(stalled)
a_little() { (echo "$BASHPID" > "$group/cgroup.procs"; dd if="$STATE/large" of=/dev/null bs=1M count=40 iflag=fullblock; test "$(stalled)" -gt "$was"); }
check "somebody stands still for a moment" wait_until 10 a_little
shmem() { # GUEST: MiB of its kernel's memory
	processes "$STATE/bed/h1/state/guests/$(guest_json "p/$1" uid)" | awk '$2 == "kernel" {print $1}' |
		while read -r p; do awk '/^RssShmem:/ {print int($2 / 1024)}' "/proc/$p/status"; done | sort -n | tail -1
}
# shellcheck disable=SC2317 # called by wait_until
holds_at_most() { [ "$(shmem a)" -le "$1" ]; }
before=$(shmem a)
check "a guest writes 40 MiB, and keeps them in its cache" ctl exec p/a -- sh -c 'dd if=/dev/zero of=/root/f bs=1M count=40 conv=fsync && cat /root/f > /dev/null'
check "the host's memory is taken" test "$(shmem a)" -ge $((before + 35))
check "while nobody needs it, it stays so; nor is a trouble before the agent's start told" sh -c "! grep -q 'short of memory' '$STATE/bed/log/h1.log'"

(thrash 8) &
thrash=$!
check "the agent hears that the host is short of memory" wait_until 30 grep -q 'short of memory' "$STATE/bed/log/h1.log"
check "the guest's caches come back to the host" wait_until 20 holds_at_most $((before + 10)) || echo "      before $before MiB, now $(shmem a)"
wait $thrash
check "once, not all the time" test "$(grep -c 'short of memory' "$STATE/bed/log/h1.log")" -le 2
equal "the file is whole" $((40 << 20)) "$(ctl exec p/a -- sh -c 'cat /root/f | wc -c' | tr -d '\r')"
check "both guests live" all_ready p 2
check "delete" ctl delete p --wait
finish
