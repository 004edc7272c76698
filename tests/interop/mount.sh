# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scripts about snapctl remote mount stand on, above lib.sh.
need nbdfuse libnbd-bin
need nbdkit nbdkit
need mkfs.ext4 e2fsprogs
why=$(no_devices)
[ -z "$why" ] || skip "$why"

export SNAPWIRE_RUNTIME=$dir/run
if [ -n "$preload" ]; then # the plugin is built with a sanitizer, nbdkit is not
    mkdir "$dir/bin"
    real=$(command -v nbdkit)
    printf '#!/bin/sh\nLD_PRELOAD=%s exec %s "$@"\n' "$preload" "$real" >"$dir/bin/nbdkit"
    chmod +x "$dir/bin/nbdkit"
    PATH=$dir/bin:$PATH
fi
mnt=$dir/mnt
mkdir -p "$mnt/a" "$mnt/b" "$mnt/c" "$mnt/with space"

tool=$BUILD/snapctl
mount_() { timeout 100 "$tool" -q remote mount "$@"; }
umount_() { timeout 100 "$tool" -q remote umount "$@"; }
undo() {
    local i
    for i in "$mnt"/*; do umount "$i" 2>/dev/null; "$tool" -q remote umount "$i" 2>/dev/null; done
    umount "$dir"/run/*/fuse 2>/dev/null
    true
}
cleanups+=(undo)
# nothing of any mount is left: folder, loop device, FUSE, process
clean() {
    [ -z "$(ls -A "$dir/run")" ] || { ls -R "$dir/run"; return 1; }
    ! grep -F "$dir/run" /proc/self/mountinfo || return 1
    ! grep -F "$mnt" /proc/self/mountinfo || return 1
    ! grep -lF "$dir/run" /sys/block/loop*/loop/backing_file 2>/dev/null || return 1
    ! grep -lF "$dir/run/" /proc/[0-9]*/cmdline 2>/dev/null || return 1
}
# code WANTED TEXT COMMAND…: it exits with that and says that
code() {
    local want=$1 text=$2 rc=0
    shift 2
    "$@" >"$dir/out.log" 2>&1 || rc=$?
    [ $rc -eq "$want" ] || fail "exit $rc, not $want, of: $*"
    grep -qF -- "$text" "$dir/out.log" || fail "'$text' is not said by: $*"
}
