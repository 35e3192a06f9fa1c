#!/usr/bin/env bash
# Kernels: what is read from a binary, stored, sent, shown, refused; guests of two
# kernels in one lab.  Where the kernel `fast` (FAST) is not built, a copy of Debian's under
# another name and content stands in for it.
. "$(dirname "$0")/lib.sh"
fast=$FAST
testbed_up 2
images
if has_fast; then
	check "kernel fast is added under its file's name" ctl kernel add "$fast"
else
	no_fast "kernels of two releases, \`kernel build\`; a changed copy of Debian's stands in for it"
	{ cat /usr/bin/linux.uml; echo more; } > "$STATE/linux-fast"
	chmod +x "$STATE/linux-fast"
	fast=$STATE/linux-fast
	check "kernel fast is added under its file's name" ctl kernel add "$fast" --modules /usr/lib/uml/modules
fi
release=$("$fast" --version)
debian=$(/usr/bin/linux.uml --version)

# What is shown of them.
equal "ls shows both" "debian fast" "$(ctl kernel ls -o name | sort | xargs)"
equal "get kernels tells the release" "$debian" "$(ctl get kernels debian -o json | jq -r '.[0].release')"
check "and the features" sh -c "'$BIN/clusterctl' get kernels debian -o json | jq -e '.[0].features | index(\"vector\") and index(\"nftables=m\")'"
check "but not the whole configuration" sh -c "'$BIN/clusterctl' get kernels -o json | jq -e '[.[].meta | has(\"config\")] | any | not'"
check "the table has the release" sh -c "'$BIN/clusterctl' get kernels | grep -q '^fast  *$release '"
check "inspect NAME shows release and features" sh -c "'$BIN/clusterctl' kernel inspect fast | grep -q 'release:  *$release'"
ctl kernel inspect debian --config > "$STATE/config"
equal "inspect --config has the configuration, as the binary tells it" \
	"$(/usr/bin/linux.uml --showconfig | grep -c '^CONFIG_')" "$(grep -c '^CONFIG_' "$STATE/config")"
equal "inspect FILE needs no cluster" "$release" \
	"$(UMLAUT_SERVER=ipc:///nonexistent ctl kernel inspect "$(realpath "$fast")" -o json | jq -r .release)"
equal "inspect -o json of the cluster's" y "$(ctl kernel inspect fast -o json | jq -r .config.CONFIG_UML)"

# What is refused.
refused() { local out want=${want:?}; if out=$("$@" 2>&1); then return 1; fi; printf '%s\n' "$out"; printf '%s\n' "$out" | grep -q "$want"; }
want="does not print" check "no kernel: refused" refused ctl kernel add /bin/true --name x
want="no such file" check "no file: refused" refused ctl kernel add /nonexistent
printf '#!/bin/sh\necho 6.1.0\n' > "$STATE/script"; : > "$STATE/empty"; chmod +x "$STATE/script" "$STATE/empty"
head -c 3000000 /usr/bin/linux.uml > "$STATE/cut"; chmod +x "$STATE/cut"
kernels=$(ctl get kernels -o name | sort)
want="a script" check "a script: refused, and not run" refused ctl kernel add "$STATE/script" --name x
want="an empty file" check "an empty file: refused" refused ctl kernel add "$STATE/empty" --name x
want="cut short" check "half a kernel: refused" refused ctl kernel add "$STATE/cut" --name x
want="a folder" check "a folder: refused" refused ctl kernel add "$STATE" --name x
equal "nothing of them is left" "$kernels" "$(ctl get kernels -o name | sort)"
want="other content" check "a taken name: refused" refused ctl kernel add /usr/bin/linux.uml --name fast
want="no kernel 'nope'" check "inspect of nothing: refused" refused ctl kernel inspect nope
check "the same again: nothing changes" ctl kernel add "$fast" --name fast

# One lab, two kernels, on two hosts.
cat > "$STATE/lab.yaml" <<'Y'
name: mix
networks: {n: {subnet: 10.40.0.0/24}}
defaults: {image: busybox, memory: 96M, cpus: 1, networks: [n]}
guests:
  old: {kernel: debian, placement: {host: h1}}
  new: {kernel: fast, placement: {host: h2}}
  any: {}
Y
check "a lab of both kernels is ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 120s || exit 1
equal "old runs Debian's" "$debian" "$(ctl exec mix/old -- uname -r)"
equal "new runs fast" "$release" "$(ctl exec mix/new -- uname -r)"
equal "who names none runs fast" "$release" "$(ctl exec mix/any -- uname -r)"
check "they reach each other" ctl exec mix/old -- ping -c 2 -W 5 new
check "the other way, full size" ctl exec mix/new -- ping -c 2 -W 5 -s 1400 old
# Where the time of a boot went.
phases() { ctl boot-report mix/new -o json | jq -r '.[0].phases | map(.phase) | join(" ")'; }
equal "boot-report has every phase, in order" \
	"asked placed accepted saved fetched disk slot network runner jail kernel hello config root nics files init ready" "$(phases)"
check "the phases add up to the total" sh -c "'$BIN/clusterctl' boot-report mix/new -o json |
	jq -e '.[0] | .ready and ((.total_ms - ([.phases[].ms] | add)) | fabs < 0.1) and .total_ms > 20 and .total_ms < 120000'"
check "boot-report of many: a median" sh -c "'$BIN/clusterctl' boot-report -d mix | grep -q '3 guests, 3 ready, after'"
check "stop" ctl stop mix/new
check "stopped" wait_until 15 sh -c "'$BIN/clusterctl' get guests mix/new -o json | jq -e '.[0].state == \"stopped\"'"
check "start" ctl start mix/new
check "ready again" wait_until 30 all_ready mix 3
equal "its last boot needed neither fetch nor disk" "true" \
	"$(ctl boot-report mix/new -o json | jq '[.[0].phases[] | select(.phase == "fetched" or .phase == "disk" or .phase == "placed") | .ms] | add < 20')"
want="no such guest" check "boot-report of nothing: refused" refused ctl boot-report mix/nope
equal "used by two" 2 "$(ctl get kernels fast -o json | jq '.[0].used_by')"
want="used by 2 guests" check "rm refuses while in use" refused ctl kernel rm fast
check "it stands still" sh -c "'$BIN/clusterctl' get kernels -o name | grep -qx fast"
check "delete the lab" ctl delete mix --wait
check "rm" ctl kernel rm fast

# `kernel build`: with nothing to do it ends at once, and the kernel is in the cluster.
if [ -f "$(dirname "$fast")/linux-fast.id" ]; then
	began=$EPOCHREALTIME
	check "kernel build ends at once" ctl kernel build --out "$(dirname "$fast")"
	equal "within three seconds" 1 "$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN {print b - a < 3}')"
	equal "it is kernel fast" "$release" "$(ctl get kernels fast -o json | jq -r '.[0].release')"
	check "rm again" ctl kernel rm fast
fi
equal "it is gone" debian "$(ctl kernel ls -o name | xargs)"
finish
