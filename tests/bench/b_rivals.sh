#!/usr/bin/env bash
# What a user would take instead, in one run: Mininet (Debian's package, Linux bridges) and
# QEMU microvm with the same user space (busybox), for N nodes on one switch, beside
# Umlaut.  For each: from the command to all nodes usable, memory of the machine a node
# takes, and a ping matrix of 10 sources (or N) with 10 targets each, the same for all.
#   rivals N...: default 10 50 100 200.  FAST=FILE (default build/kernel/linux-fast),
#   ONLY="umlaut mininet microvm" (default all; what cannot run here says why), VM_WAIT=seconds.
# Mininet's nodes share the host's kernel and file system; the others have their own.
. "$(dirname "$0")/../integration/lib.sh"
. "$ROOT/tests/bench/density.sh"
fast=${FAST:-build/kernel/linux-fast} sizes=${*:-10 50 100 200} only=${ONLY:-umlaut mininet microvm} vm_wait=${VM_WAIT:-60}
[ -x "$fast" ] || { echo "the kernel 'fast' is not built: make kernel"; exit 1; }
fast=$(realpath "$fast")

settled() { # MemAvailable in KiB when it has come to rest
	local last=0 is i
	for i in $(seq 10); do
		is=$(mem MemAvailable)
		[ $((is > last ? is - last : last - is)) -gt 4096 ] || break
		last=$is
		sleep 1
	done
	echo "$is"
	: "$i"
}
row() { # WHO N START_S KIB PINGS OK SECONDS
	awk -v who="$1" -v n="$2" -v s="$3" -v kib="$4" -v pings="$5" -v good="$6" -v t="$7" 'BEGIN {
		printf "%-8s %4d   %7.2f s   %7.2f MiB   %4d of %4d answered in %6.2f s\n", who, n, s, kib / 1024 / n, good, pings, t}'
	equal "$1, $2 nodes: every ping of the matrix is answered" "$5" "$6"
}
# The matrix: source i (of at most 10, spread over all) asks 10 others.
sources() { awk -v n="$1" 'BEGIN {k = n < 10 ? n : 10; for (i = 0; i < k; i++) print int(i * n / k) + 1}'; }
targets() { # N SOURCE
	awk -v n="$1" -v s="$2" 'BEGIN {k = n - 1 < 10 ? n - 1 : 10; for (j = 1; j <= k; j++) printf "%d ", (s - 1 + int((j * (n - 1)) / k)) % n + 1}'
}
pings() { local s; for s in $(sources "$1"); do targets "$1" "$s"; done | wc -w; }

# ---------------------------------------------------------------- Umlaut
begin_umlaut() {
	testbed_up 1 --memory 256G --cpus 1000
	check "kernel" ctl kernel add "$fast" --name fast || exit 1
	check "image" ctl image build busybox || exit 1
	lab 1
	check "kernel and image are on the host" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s || exit 1
	ctl delete r --wait > /dev/null 2>&1
}
lab() {
	printf 'name: r\nnetworks: {n: {subnet: 10.60.0.0/16}}\ndefaults: {image: busybox, memory: 32M, networks: [n]}\nguests: {g: {count: %d}}\n' "$1" > "$STATE/lab.yaml"
}
run_umlaut() { # N
	local before from start kib s good=0 t
	before=$(settled)
	lab "$1"
	from=$(now)
	ctl apply -f "$STATE/lab.yaml" --wait --timeout 120s > /dev/null 2>&1 || not_ok "umlaut: $1 guests"
	start=$(since "$from")
	kib=$((before - $(settled)))
	ctl get guests --deployment r -o json | jq -r '.[] | .name + " " + .networks[0].address' | sed 's/^r.g-//' > "$STATE/addresses"
	name_of() { if [ "$n_nodes" = 1 ]; then echo r/g; else echo "r/g-$1"; fi; }
	n_nodes=$1
	from=$(now)
	for s in $(sources "$1"); do
		t=$(for x in $(targets "$1" "$s"); do awk -v x="$x" '$1 == x {print $2}' "$STATE/addresses"; done | xargs)
		good=$((good + $(ctl exec "$(name_of "$s")" -- sh -c "n=0; for t in $t; do ping -c 1 -W 2 \$t > /dev/null && n=\$((n + 1)); done; echo \$n")))
	done
	row umlaut "$1" "$start" "$kib" "$(pings "$1")" "$good" "$(since "$from")"
	ctl delete r --wait > /dev/null 2>&1
}

# ---------------------------------------------------------------- Mininet
begin_mininet() {
	if ! /usr/bin/python3 -c 'import mininet.net' 2> /dev/null || ! command -v brctl > /dev/null; then
		echo "mininet: skipped: not installed (apt-get install mininet bridge-utils)"
		return 1
	fi
	cat > "$STATE/nodes.py" <<-'P'
		import sys, time
		from mininet.net import Mininet
		from mininet.topo import SingleSwitchTopo
		from mininet.nodelib import LinuxBridge
		from mininet.log import setLogLevel
		setLogLevel('error')
		began = time.time()
		net = Mininet(topo=SingleSwitchTopo(int(sys.argv[1])), switch=LinuxBridge, controller=None)
		net.start()
		print('%.2f' % (time.time() - began), flush=True)
		for line in sys.stdin:
		    words = line.split()
		    if words[0] == 'end':
		        break
		    h = net.get('h' + words[0])
		    targets = ' '.join(net.get('h' + w).IP() for w in words[1:])
		    print(h.cmd('n=0; for t in %s; do ping -c 1 -W 2 $t > /dev/null && n=$((n + 1)); done; echo $n' % targets).strip(), flush=True)
		net.stop()
		print('stopped', flush=True)
	P
}
host_kernel() { echo $(($(mem SUnreclaim) + $(mem Percpu) + $(mem PageTables) + $(mem KernelStack))); } # KiB
mn_pss() { # of all processes of Mininet's PID namespace
	local ns p
	ns=$(readlink "/proc/$(pgrep -P "$MN_PID" | head -1)/ns/pid")
	for p in /proc/[0-9]*; do
		[ "$(readlink "$p/ns/pid" 2> /dev/null)" != "$ns" ] || awk '/^Pss:/ {print $2}' "$p/smaps_rollup" 2> /dev/null
	done | awk '{n += $1} END {print n + 0}'
}
run_mininet() { # N
	local kernel start kib s good=0 got from
	kernel=$(host_kernel)
	# Namespaces of its own: whatever happens, all of it ends.
	coproc MN { unshare --net --mount --pid --fork --mount-proc --kill-child /usr/bin/python3 "$STATE/nodes.py" "$1" 2> "$STATE/mininet.err"; }
	if ! read -r -t 120 start <&"${MN[0]}"; then not_ok "mininet: $1 nodes"; cat "$STATE/mininet.err"; return; fi
	# Its nodes are smaller than the noise of the machine's free memory: their shells' Pss, and
	# what the host's kernel has more.
	kib=$(($(mn_pss) + $(host_kernel) - kernel))
	from=$(now)
	for s in $(sources "$1"); do
		echo "$s $(targets "$1" "$s")" >&"${MN[1]}"
		read -r -t 60 got <&"${MN[0]}" && good=$((good + got))
	done
	row mininet "$1" "$start" "$kib" "$(pings "$1")" "$good" "$(since "$from")"
	echo end >&"${MN[1]}"
	read -r -t 120 got <&"${MN[0]}" # stopped
	wait "$MN_PID" 2> /dev/null
}

# ---------------------------------------------------------------- QEMU microvm
microvm() { # INDEX, in the namespace of its taps: its serial line is FIFOs
	local i=$1 d=$STATE/vm
	rm -f "$d/$i.in" "$d/$i.out"
	mkfifo "$d/$i.in" "$d/$i.out"
	ip netns exec "$NAME-vm" qemu-system-x86_64 -M microvm,acpi=on,pcie=on,rtc=off -accel kvm -cpu host,-arch-capabilities -m 64 -smp 1 -nodefaults \
		-no-user-config -display none -kernel "$vmlinuz" -initrd "$d/initrd" -serial "pipe:$d/$i" \
		-append "console=ttyS0 quiet reboot=t panic=-1 addr=10.61.$((i / 250)).$((i % 250 + 1))" \
		-netdev "tap,id=n,ifname=v$i,script=no,downscript=no" -device "virtio-net-pci,netdev=n,mac=02:00:00:01:$(printf %02x:%02x $((i / 256)) $((i % 256))),romfile=" \
		< /dev/null > /dev/null 2>> "$d/log" &
	vm_pids+=($!)
}
vm_network() { # N
	ip netns add "$NAME-vm"
	ip -n "$NAME-vm" link add name bridge0 type bridge
	ip -n "$NAME-vm" link set bridge0 up
	for i in $(seq "$1"); do
		ip netns exec "$NAME-vm" ip tuntap add "v$i" mode tap
		ip -n "$NAME-vm" link set "v$i" master bridge0 up
	done
}
vm_end() {
	[ ${#vm_pids[@]} -eq 0 ] || kill -KILL "${vm_pids[@]}" 2> /dev/null
	wait "${vm_pids[@]}" 2> /dev/null
	vm_pids=()
	ip netns del "$NAME-vm" 2> /dev/null
}
vm_pids=()
begin_microvm() {
	local skip="microvm: skipped:" d=$STATE/vm m
	command -v qemu-system-x86_64 > /dev/null || { echo "$skip no qemu-system-x86_64 (apt-get install qemu-system-x86)"; return 1; }
	[ -w /dev/kvm ] || { echo "$skip no /dev/kvm"; return 1; }
	mkdir -p "$d/tree"/{bin,proc,sys,dev,m}
	vmlinuz=$(find /boot -name "vmlinuz-*amd64" | sort -V | tail -1) modules=/lib/modules
	if [ -z "$vmlinuz" ]; then # Debian's, for clouds; not installed, only unpacked here
		(cd "$d" && apt-get download -qq "$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ {print $2; exit}')" 2> /dev/null && dpkg-deb -x ./*.deb x)
		vmlinuz=$(find "$d/x/boot" -name "vmlinuz-*" 2> /dev/null) modules=$d/x/lib/modules
	fi
	[ -f "$vmlinuz" ] || { echo "$skip no kernel for it (linux-image-cloud-amd64)"; return 1; }
	cp /bin/busybox "$d/tree/bin/"
	for m in sh mount insmod ip ping cat; do ln -sf busybox "$d/tree/bin/$m"; done
	for m in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net; do
		find "$modules/${vmlinuz##*/vmlinuz-}" -name "$m.ko" -exec cp {} "$d/tree/m/" \;
	done
	cat > "$d/tree/init" <<-'I'
		#!/bin/sh
		mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
		for m in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net; do
			[ ! -e /m/$m.ko ] || insmod /m/$m.ko
		done
		for w in $(cat /proc/cmdline); do case $w in addr=*) a=${w#addr=} ;; esac; done
		ip link set lo up; ip addr add $a/16 dev eth0; ip link set eth0 up
		stty -echo 2> /dev/null
		echo guest-is-up
		while read -r line; do sh -c "$line"; done
	I
	chmod +x "$d/tree/init"
	ln -sf busybox "$d/tree/bin/stty"
	(cd "$d/tree" && find . | cpio -o -H newc --quiet | gzip -1) > "$d/initrd"
	# /dev/kvm may be there and of no use: one has to come up.
	vm_network 1
	microvm 1
	timeout "$vm_wait" tee "$d/serial" < "$d/1.out" | grep -qam1 guest-is-up
	local rc=${PIPESTATUS[1]}
	vm_end
	[ "$rc" -eq 0 ] || {
		echo "$skip /dev/kvm is there, but a microvm did not reach user space in $vm_wait s; it said:"
		{ tail -2 "$d/log"; tr -d '\r\0' < "$d/serial" | tail -3; } | cut -c1-120 | sed 's/^/    /'
		return 1
	}
}
run_microvm() { # N
	local before from start kib i s good=0 got t d=$STATE/vm
	before=$(settled)
	from=$(now)
	vm_network "$1"
	for i in $(seq "$1"); do microvm "$i"; done
	for i in $(seq "$1"); do
		timeout 120 grep -qam1 guest-is-up "$d/$i.out" || { not_ok "microvm $i of $1 came up"; vm_end; return; }
	done
	start=$(since "$from")
	kib=$((before - $(settled)))
	from=$(now)
	for s in $(sources "$1"); do
		t=$(for i in $(targets "$1" "$s"); do echo "10.61.$((i / 250)).$((i % 250 + 1))"; done | xargs)
		exec 8<> "$d/$s.out"
		echo "n=0; for t in $t; do ping -c 1 -W 2 \$t > /dev/null && n=\$((n + 1)); done; echo answered \$n" > "$d/$s.in"
		while read -r -t 60 got <&8; do
			case $got in "answered "[0-9]*) good=$((good + $(tr -dc 0-9 <<< "$got"))); break ;; esac
		done
		exec 8<&-
	done
	row microvm "$1" "$start" "$kib" "$(pings "$1")" "$good" "$(since "$from")"
	vm_end
}
# shellcheck disable=SC2317 # called by the trap
at_end() {
	local status=$?
	vm_end
	(exit $status)
	cleanup
}
trap at_end EXIT

able=()
for who in $only; do
	case $who in
	umlaut | mininet | microvm) if "begin_$who"; then able+=("$who"); fi ;;
	*) echo "b_rivals: unknown: $who"; exit 2 ;;
	esac
done
printf '%-8s %4s   %9s   %11s   %s\n' "" nodes start "of each" "ping matrix"
for n in $sizes; do
	for who in "${able[@]}"; do "run_$who" "$n"; done
done
finish
