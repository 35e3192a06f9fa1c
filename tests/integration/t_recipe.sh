#!/usr/bin/env bash
# guest/kernel/build, the recipe of the kernel `fast`, with an archive, a source and a
# compiler that are scripts: what is built of what is offered, what is kept, and what becomes
# of it when something fails or it is interrupted.  What it "compiles" is Debian's kernel.
. "$(dirname "$0")/lib.sh"
cp -r "$ROOT/guest/kernel" "$STATE/kernel"
build=$STATE/kernel/build dest=$STATE/out stub=$STATE/stub cache=$STATE/cache
mkdir -p "$stub/bin" "$dest"
printf '7.3 7.3.4-1\n6.12 6.12.9-1\n' > "$stub/offers"
# Each says in $stub/calls that it was called; $stub/fail-X makes X fail.
# shellcheck disable=SC2016 # expanded in the script
tool() { { echo '#!/bin/bash'; echo "stub=$stub"; echo 'echo "${0##*/} $*" >> "$stub/calls"'; cat; } > "$stub/bin/$1"; chmod +x "$stub/bin/$1"; }
tool apt-get <<'S'
for a in "$@"; do case $a in Dir::State=*) lists=${a#*=}/lists ;; linux-source-*) package=$a ;; esac; done
case "$*" in
*update*) for s in bookworm bookworm-backports trixie-backports sid; do : > "$lists/x_dists_${s}_main_binary-amd64_Packages"; done ;;
*download*) if [ -e "$stub/fail-fetch-${package%%=*}" ]; then echo "E: Failed to fetch it" >&2; exit 100; fi
	: > "${package%%=*}_1.deb" ;;
esac
S
tool apt-cache <<'S'
case "$*" in
*search*) while read -r v d; do echo "linux-source-$v - source"; done ;;
*madison*) while read -r v d; do case "$*" in *"linux-source-$v") echo "linux-source-$v | $d | x" ;; esac; done ;;
*show*) echo 'Size: 1000000' ;;
esac < "$stub/offers"
S
tool dpkg-deb <<'S'
v=${2##*linux-source-} v=${v%_1.deb}
mkdir -p "$3/usr/src" "$3/t/linux-source-$v"
echo "$v" > "$3/t/linux-source-$v/version"
tar -cJf "$3/usr/src/linux-source-$v.tar.xz" -C "$3/t" "linux-source-$v"
S
tool patch <<'S'
case "$*" in *" -R "*) exit 1 ;; esac
S
tool make <<'S'
for a in "$@"; do case $a in O=*) obj=${a#O=} ;; KCONFIG_ALLCONFIG=*) fragment=${a#*=} ;; esac; done
case "$*" in *allnoconfig) cp "$fragment" "$obj/.config"; exit ;; esac
v=$(cat "$2/version")
for i in $(seq 200); do echo "  CC      kernel/$i.o"; done
if [ -e "$stub/slow" ]; then echo $$ > "$stub/making"; sleep 1000; fi
if [ -e "$stub/fail-build-$v" ]; then cat "$stub/fail-build-$v" >&2; exit 2; fi
cp /usr/bin/linux.uml "$obj/linux"
S
recipe() { PATH=$stub/bin:$PATH "$build" --out "$dest" --cache "$cache" "$@" > "$STATE/said" 2>&1; }
quick() { recipe --no-boot-test "$@"; }
says() { grep -q -- "$1" "$STATE/said" || { cat "$STATE/said"; return 1; }; }
asked() { grep -c '^apt-get' "$stub/calls"; }
version() { head -1 "$dest/linux-fast.id" | cut -d' ' -f1; }

# ------------------------------------------------------------ what is built
mkdir "$dest/obj-x86" "$dest/deb" "$dest/source-7.3"; echo mine > "$dest/obj-x86/f"
check "the newest is built, and boots" recipe
check "which is said" says 'boots to user space and off again in [0-9]* ms'
check "and how far it is, and how long it will be" says '^ *[0-9]* %, .* left'
equal "it is the newest" "7.3" "$(version)"
check "it is a kernel" "$dest/linux-fast" --version
check "with its configuration" grep -qx CONFIG_UML_NET_VECTOR=y "$dest/linux-fast.config"
check "what was in that folder is there still" test -f "$dest/obj-x86/f" -a -d "$dest/deb" -a -d "$dest/source-7.3"
check "nothing but the lists is left of the work" sh -c "! ls -d '$dest'/.work/obj '$dest'/.work/source '$dest'/.work/deb 2> /dev/null | grep ."
n=$(asked)
check "again" quick
check "it ends, being up to date" says 'is up to date'
equal "without asking any archive" "$n" "$(asked)"
first=$dest dest=$STATE/other
check "in another folder" quick
check "it is taken from the cache" says 'taken from'
equal "without asking any archive" "$n" "$(asked)"
check "it is the same" cmp "$first/linux-fast" "$dest/linux-fast"
check "the archive is asked when that is wanted" quick --newest
check "it has nothing newer" says 'is up to date'
equal "it was asked" "$((n + 1))" "$(asked)"

printf '7.3 7.3.9-1\n6.12 6.12.9-1\n' > "$stub/offers"
check "a newer package of the same source" quick --newest
equal "is built" "7.3 7.3.9-1" "$(head -1 "$dest/linux-fast.id" | cut -d' ' -f1,2)"
sed -i 's/^CONFIG_NET_SCH_SFQ=y.*//' "$STATE/kernel/fast.config"
check "another configuration" quick
check "is built" says 'building 7.3'
check "an older one, if it is asked for" quick --source 6.12
equal "is built" "6.12" "$(version)"
check "and is no longer what is wanted without" quick --newest
equal "which is the newest, from the cache" "7.3" "$(version)"

# ------------------------------------------------------------ what fails
dest=$STATE/third cache=$STATE/none
touch "$stub/fail-fetch-linux-source-7.3"
check "the newest cannot be fetched: the next" quick
equal "is built" "6.12" "$(version)"
check "and that is said" says 'linux-source-7.3 cannot be fetched then, so this is an older one'
check "each time" quick
check "it is" says 'linux-source-7.3 cannot be fetched then, so this is an older one'
rm "$stub/fail-fetch-linux-source-7.3"
check "until it can be" quick --newest
equal "it is the newest now" "7.3" "$(version)"
printf '7.4 7.4.1-1\n7.3 7.3.9-1\n6.12 6.12.9-1\n' > "$stub/offers"
echo 'arch/um/x.c:1: error: it does not compile' > "$stub/fail-build-7.4"
check "one that does not compile" quick --newest
check "is told" says 'it does not compile'
equal "the newest that does stays" "7.3" "$(version)"
sed -i 's/^CONFIG_NET_SCH_RED=y.*//' "$STATE/kernel/fast.config"
touch "$stub/fail-fetch-linux-source-7.3"
equal "and never becomes an older one" "1 7.3" "$(quick; echo $?) $(version)"
check "which is said" says 'stays'
rm "$stub/fail-fetch-linux-source-7.3"
echo 'fatal: error writing to x.s: No space left on device' > "$stub/fail-build-7.4"
equal "a full disk is no fault of the source" "1 7.3" "$(quick; echo $?) $(version)"
check "which is said" says 'it is the machine that has to be mended'
rm "$stub/fail-build-7.4"
: > "$stub/offers"
equal "an archive with nothing" "1 7.3" "$(quick --newest; echo $?) $(version)"
printf '7.4 7.4.1-1\n' > "$stub/offers"

# ------------------------------------------------------------ interrupted, two at once
before=$(sha256sum "$dest"/linux-fast*)
ended() { ! kill -0 "$1" 2> /dev/null; }
for signal in TERM INT HUP; do
	touch "$stub/slow"; rm -f "$stub/making"
	# A job of a script ignores SIGINT unless told otherwise.
	PATH=$stub/bin:$PATH env --default-signal=INT "$build" --out "$dest" --no-cache --no-boot-test > "$STATE/said" 2>&1 &
	pid=$!
	check "it compiles" wait_until 20 test -s "$stub/making"
	kill -$signal $pid
	check "SIG$signal ends it" wait_until 5 ended $pid
	wait $pid; status=$?
	equal "its status tells" $((128 + $(kill -l $signal))) $status
	check "its compiler has ended as well" wait_until 5 ended "$(cat "$stub/making")"
	equal "what was there is as it was" "$before" "$(sha256sum "$dest"/linux-fast*)"
	check "no object is left" test ! -e "$dest/.work/obj"
done
rm -f "$stub/making"
PATH=$stub/bin:$PATH "$build" --out "$dest" --no-cache --no-boot-test > "$STATE/first" 2>&1 &
pid=$!
check "one compiles" wait_until 20 test -s "$stub/making"
PATH=$stub/bin:$PATH "$build" --out "$dest" --no-cache --no-boot-test > "$STATE/said" 2>&1 &
second=$!
check "a second waits" wait_until 10 says 'another build is under way'
rm "$stub/slow"; pkill -P "$(cat "$stub/making")" sleep
wait $pid; equal "the first ends well" 0 $?
wait $second; equal "so does the second" 0 $?
check "it has found it up to date" says 'is up to date'
equal "it is the newest" "7.4" "$(version)"

# ------------------------------------------------------------ the cluster; what is asked wrongly
touch "$stub/slow"; rm -f "$stub/making"
testbed_up 1
PATH=$stub/bin:$PATH "$BIN/clusterctl" kernel build --out "$STATE/fourth" --source 7.4 > "$STATE/said" 2>&1 &
pid=$!
check "clusterctl kernel build compiles" wait_until 20 test -s "$stub/making"
kill -TERM $pid
wait $pid; equal "SIGTERM ends it" 143 $?
check "and the compiler" wait_until 5 ended "$(cat "$stub/making")"
dest="$STATE/with space"
equal "a path that Kbuild does not take" "1" "$(quick; echo $?)"
check "is told" says 'spaces or colons'
dest=$STATE/out
for wrong in "--jobs x" "--source ../x" "--out" "--sorce 7.3"; do
	# shellcheck disable=SC2086
	equal "wrong: $wrong" 2 "$(quick $wrong; echo $?)"
done
check "help" recipe --help
check "has the options" says '--newest'
finish
