#!/bin/sh
# Installs the Debian packages that building (`setup.sh build`) or testing (`setup.sh test`) needs, if any is missing. For
# testing it also makes the user `agentd-test`, with subordinate ids, as whom the tests run rootless containers.
set -eu

packages="gcc libc6-dev git"
programs="cc git"
user=
if [ "${1:-build}" = test ]; then
    user=agentd-test
    packages="$packages netcat-openbsd python3 python3-venv procps util-linux shellcheck acl"
    programs="$programs nc python3 ps prlimit setsid shellcheck setfacl"
    packages="$packages podman runc runsc conmon netavark aardvark-dns iptables uidmap slirp4netns fuse-overlayfs busybox-static"
    programs="$programs podman runc runsc conmon iptables newuidmap slirp4netns fuse-overlayfs busybox"
fi

# Some of them are in directories that an ordinary user's PATH leaves out.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
missing=
for program in $programs; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
# A compiler can be there without what it includes.
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
if [ -n "$user" ]; then
    # Without it, Python makes no environments with pip in them.
    python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
    # Debian has two netcats; only OpenBSD's speaks to Unix sockets. Of busybox, the static one runs in an empty image.
    nc -h 2>&1 | grep -q -- '-U' || missing="$missing nc"
    dpkg -s busybox-static >/dev/null 2>&1 || missing="$missing busybox"
    [ -x /usr/lib/podman/netavark ] || missing="$missing netavark"
    [ -x /usr/lib/podman/aardvark-dns ] || missing="$missing aardvark-dns"
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
fi
# Before anything that only root can do.
root_is_needed() {
    [ -z "$as_root" ] || command -v sudo >/dev/null 2>&1 || {
        echo "setup: $1: run scripts/setup.sh ${2:-build} as root, or install sudo" >&2
        exit 1
    }
}
if [ -n "$missing" ]; then
    root_is_needed "missing:$missing" "${1:-build}"
    command -v apt-get >/dev/null 2>&1 || {
        echo "setup: missing:$missing; this is no Debian: install them as your system does" >&2
        exit 1
    }
    echo "installing what is missing:$missing" >&2
    $as_root apt-get update -qq -o DPkg::Lock::Timeout=120
    # shellcheck disable=SC2086 # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=120 --no-install-recommends $packages >&2
fi

if [ -n "$user" ]; then
    if ! id "$user" >/dev/null 2>&1; then
        root_is_needed "there is no user $user" test
        $as_root useradd --create-home --shell /usr/sbin/nologin "$user"
    fi
    for file in /etc/subuid /etc/subgid; do
        grep -q "^$user:" "$file" 2>/dev/null && continue
        root_is_needed "$user has no ids in $file" test
        # Behind the ranges that others have.
        first=100000
        if [ -e "$file" ]; then
            first=$(awk -F: '$2 + $3 > end { end = $2 + $3 } END { print (end > 100000 ? end : 100000) }' "$file")
        fi
        echo "$user:$first:65536" | $as_root tee -a "$file" >/dev/null
    done
fi
