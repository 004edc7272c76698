# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the interop scripts stand on: a daemon with TLS, volumes, nbdkit with the plugin.
#
# A script sources this, says what it `need`s, makes volumes, serves them, and does its checks,
# each a line that begins with `ok`. It ends with `failed: …` and 1 at the first thing that is not
# as it should be; with `skipped: …` and 77 where its peer is not there.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
BUILD=$(realpath "${BUILD:-build/gcc}")
self=$(basename "$0")
dir=$(mktemp -d /tmp/snapwire-interop.XXXXXX)
export SNAPWIRE_CONFIG=$dir/remotes.conf LC_ALL=C.UTF-8
unset SNAPWIRE_REMOTE
daemon_pid= daemon_port=0 daemon_config= pids=() nbdkit_extra=() served=0

# the sanitizers' library must be the first of a program that is not built with them
preload=
case $(ldd "$BUILD/nbdkit-snapwire-plugin.so") in
*libasan*) preload=$(gcc -print-file-name=libasan.so) ;;
*libtsan*) preload=$(gcc -print-file-name=libtsan.so) ;;
esac
[ -z "$preload" ] || export ASAN_OPTIONS="detect_leaks=0:${ASAN_OPTIONS:-}"

# -- how it ends --

say_logs() {
    local log
    for log in "$dir"/*.log; do
        [ -s "$log" ] || continue
        echo "--- ${log##*/}"
        tail -n 30 "$log"
    done
}
# end_process SECONDS PID…: all at once, by force what is not over by then, as that which waits for
# a daemon that was killed, and nbdkit with a preloaded libasan, whatever the plugin
end_process() {
    local within=$1 pid
    shift
    kill "$@" 2>/dev/null
    for pid in "$@"; do
        wait_for "$within" test ! -e "/proc/$pid/fd/0" || {
            kill -KILL "$pid"
            within=1
        }
        wait "$pid" 2>/dev/null
    done
}
cleanups=()
finish() {
    local rc=$? i
    set +e
    for ((i = ${#cleanups[@]} - 1; i >= 0; i--)); do ${cleanups[i]}; done
    end_process 10 "${pids[@]}"
    [ -z "$daemon_pid" ] || end_process 30 "$daemon_pid"
    if grep -lE 'ERROR: (Address|Leak)Sanitizer|runtime error:|WARNING: ThreadSan' "$dir"/*.log \
        2>/dev/null; then
        echo "failed: $self: a sanitizer has something to say"
        [ $rc -ne 0 ] || rc=1
        say_logs
    elif [ $rc -ne 0 ] && [ $rc -ne 77 ]; then
        say_logs
    fi
    rm -rf "$dir"
    exit $rc
}
trap finish EXIT
trap 'exit 1' INT TERM

fail() {
    echo "failed: $self: $*"
    exit 1
}
skip() {
    echo "skipped: $self: $*"
    exit 77
}
# without REASON: what follows cannot be done here; the rest of the script can
without() {
    echo "skipped: $self: $*"
}
has() { # PROGRAM
    command -v "$1" >/dev/null 2>&1
}
need() { # PROGRAM PACKAGE
    has "$1" || skip "no $1 here; it is in Debian's $2"
}
ok() {
    echo "ok $*"
}
# expect WHAT COMMAND…: it must succeed
expect() {
    local what=$1
    shift
    "$@" >"$dir/out.log" 2>&1 || fail "$what: exit $? of: $*"
    ok "$what"
}
# refuse WHAT COMMAND…: it must not
refuse() {
    local what=$1
    shift
    ! "$@" >"$dir/out.log" 2>&1 || fail "$what: no error of: $*"
    ok "$what"
}
# same WHAT A B: two texts
same() {
    [ "$2" = "$3" ] || fail "$1: got '$2', not '$3'"
    ok "$1"
}
wait_for() { # SECONDS COMMAND…
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# -- the daemon --

snapctl() {
    "$BUILD/snapctl" -q "$@" >"$dir/snapctl.log" 2>&1 || fail "snapctl $*"
}
pki_make() {
    snapctl pki init "$dir/pki"
    snapctl pki issue "$dir/pki" --server localhost
    snapctl pki issue "$dir/pki" --client ann
    snapctl pki issue "$dir/pki" --client bob
}
daemon_run() { # on the port that it had before
    cat >"$dir/snapwired.conf" <<EOF
state_dir = "$dir/state"
listen = {"127.0.0.1:$daemon_port", "unix:$dir/s"}
tls {
    ca = "$dir/pki/ca.crt"
    certificate = "$dir/pki/server-localhost.crt"
    key = "$dir/pki/server-localhost.key"
}
$daemon_config
EOF
    : >"$dir/daemon.log"
    "$BUILD/snapwired" --config "$dir/snapwired.conf" >>"$dir/daemon.log" 2>&1 </dev/null &
    daemon_pid=$!
    wait_for 30 grep -q 'snapwired ready' "$dir/daemon.log" || fail "the daemon does not come up"
    daemon_port=$(sed -n 's/.*\(127\.0\.0\.1\|localhost\):\([0-9][0-9]*\).*/\2/p' \
        "$dir/daemon.log" | head -n 1)
    [ -n "$daemon_port" ] || fail "the daemon's log names no port"
}
# A daemon, and `ann` who may do everything: the chosen remote is over TLS.
daemon_start() {
    mkdir -p "$dir/state"
    pki_make
    daemon_run
    snapctl remote add here "localhost:$daemon_port" --ca "$dir/pki/ca.crt" \
        --cert "$dir/pki/client-ann.crt" --key "$dir/pki/client-ann.key"
    snapctl remote add admin "unix:$dir/s"
    snapctl remote --on admin grant ann admin '*'
}
daemon_kill() {
    kill -KILL "$daemon_pid"
    wait "$daemon_pid" 2>/dev/null || true
    daemon_pid=
}
volume() { # NAME SIZE [OPTION…]
    local name=$1 size=$2
    shift 2
    snapctl remote create "$name" --hosted --size "$size" "$@"
}

# -- nbdkit --

# run_nbdkit PLUGIN ARG…: nbdkit on a socket of its own, or where nbdkit_extra says; sets $socket,
# $nbdkit_pid and uri(). The status of nbdkit when it does not start.
run_nbdkit() {
    local plugin=$1
    shift
    served=$((served + 1))
    socket=$dir/nbd$served
    local where=("${nbdkit_extra[@]}")
    [ ${#where[@]} -gt 0 ] || where=(-U "$socket")
    LD_PRELOAD=$preload nbdkit -f "${where[@]}" -P "$dir/pid$served" --exit-with-parent \
        "$BUILD/$plugin" "$@" >"$dir/nbdkit$served.log" 2>&1 </dev/null &
    nbdkit_pid=$!
    pids+=("$nbdkit_pid")
    wait_for 30 sh -c "test -s '$dir/pid$served' || test ! -e /proc/$nbdkit_pid/fd/0"
    test -s "$dir/pid$served"
}
serve() { # ARG…: volumes and snapshots
    run_nbdkit nbdkit-snapwire-plugin.so "$@" || fail "nbdkit does not come up"
}
guard() { # ARG…: a live disk
    run_nbdkit nbdkit-snapwire-guard-plugin.so "$@" || fail "the guard does not come up"
}
uri() { # [EXPORT]
    echo "nbd+unix:///${1:-}?socket=$socket"
}
# An image of random 4 KiB blocks, half of them holes; the same for the same name.
image() { # FILE MEGABYTES
    python3 - "$1" "$2" <<'EOF'
import random, sys
path, size = sys.argv[1], int(sys.argv[2]) << 20
rng = random.Random(path.rsplit("/", 1)[1])
with open(path, "wb") as f:
    f.truncate(size)
    for at in range(0, size, 65536):
        if rng.randrange(2):
            f.seek(at)
            f.write(rng.randbytes(rng.choice((4096, 20480, 65536))))
EOF
}

# -- block devices of this host --

loops=() mounts=()
# Why there is no FUSE, or no block devices, for these scripts; empty: there is
no_fuse() {
    if ! has nbdfuse; then
        echo "no nbdfuse here; it is in Debian's libnbd-bin"
    elif [ "$(id -u)" -ne 0 ]; then
        echo "mounting needs root"
    elif ! (exec 3<>/dev/fuse) 2>/dev/null; then
        echo "no FUSE here (/dev/fuse cannot be opened)"
    fi
}
no_devices() {
    local loop
    no_fuse | grep . || {
        loop=$(losetup -f 2>/dev/null) && (exec 3<>"$loop") 2>/dev/null
    } || echo "no loop device here"
}
undo_devices() {
    local i
    # nothing may wait for a daemon that is not there
    [ -n "$daemon_pid" ] || for i in "${pids[@]}"; do kill "$i" 2>/dev/null; done
    for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do
        mountpoint -q "${mounts[i]}" && wait_for 5 umount "${mounts[i]}"
    done
    for i in "${loops[@]}"; do losetup -d "$i" 2>/dev/null; done
    for i in "$dir"/fuse/*; do umount "$i" 2>/dev/null; done
    true
}
cleanups+=(undo_devices)
# as_file EXPORT [OPTION…]: nbdfuse; sets $file
as_file() {
    local at=$dir/fuse/$1
    mkdir -p "$at"
    nbdfuse "${@:2}" "$at/" "$(uri "$1")" >"$dir/nbdfuse-$1.log" 2>&1 </dev/null &
    pids+=($!)
    file=$at/nbd
    wait_for 20 test -s "$file" || fail "nbdfuse $1"
}
# attach EXPORT [OPTION…]: sets $device
attach() {
    local ro=
    as_file "$@"
    [ "${2:-}" = -r ] && ro=-r
    device=$(losetup $ro -f --show "$file" 2>"$dir/losetup.log") ||
        fail "no loop device can be had: $(cat "$dir/losetup.log")"
    loops+=("$device")
}
# detach EXPORT: what attach has made last
detach() {
    losetup -d "${loops[-1]}" || fail "losetup -d ${loops[-1]}"
    unset 'loops[-1]'
    wait_for 10 umount "$dir/fuse/$1" || fail "nbdfuse of $1 does not end"
}
at() { # DIR [OPTION…]: mount $device there
    mkdir -p "$1"
    mount "${@:2}" "$device" "$1" 2>"$dir/mount.log" || fail "mount: $(cat "$dir/mount.log")"
    mounts+=("$1")
}

# -- content --

pick() { echo $((RANDOM * 32768 + RANDOM)); }
# scribble URI FILE BYTES TIMES: the same random writes, zeros and reads to both
scribble() {
    local to=$1 file=$2 size=$3 args=() files=() i at len pattern
    for ((i = 0; i < $4; i++)); do
        at=$(($(pick) % size)) len=$(($(pick) % 70000 + 1)) pattern=$(($(pick) % 255 + 1))
        ((at + len <= size)) || len=$((size - at))
        case $((RANDOM % 6)) in
        0) args+=(-c "write -q -z $at $len") files+=(-c "write -q -z $at $len") ;;
        1) args+=(-c "write -q -z -u $at $len") files+=(-c "write -q -z $at $len") ;;
        2)
            args+=(-c "write -q -f -P $pattern $at $len")
            files+=(-c "write -q -P $pattern $at $len")
            ;;
        *)
            args+=(-c "write -q -P $pattern $at $len")
            files+=(-c "write -q -P $pattern $at $len")
            ;;
        esac
        args+=(-c "read -q $at $len")
    done
    qemu-io -f raw "${args[@]}" -c flush "$to" >>"$dir/io.log" 2>&1 || fail "qemu-io $to"
    qemu-io -f raw "${files[@]}" "$file" >>"$dir/io.log" 2>&1 || fail "qemu-io $file"
}
