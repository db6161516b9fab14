#!/bin/sh
# Installs the Debian packages that building (`setup.sh build`) or testing (`setup.sh test`) needs, if any is missing. For
# testing it also makes the user `agentd-test`, with subordinate ids, as whom the tests run rootless containers.
set -eu

packages="gcc libc6-dev git"
programs="cc git"
user=
if [ "${1:-build}" = test ]; then
    user=agentd-test
    packages="$packages netcat-openbsd python3 procps util-linux shellcheck"
    programs="$programs nc python3 ps prlimit setsid shellcheck"
    packages="$packages podman runc runsc conmon netavark aardvark-dns iptables uidmap slirp4netns fuse-overlayfs busybox-static"
    programs="$programs podman runc runsc conmon iptables newuidmap slirp4netns fuse-overlayfs busybox"
fi

# Some of them are in directories that an ordinary user's PATH leaves out.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
missing=
for program in $programs; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
if [ -n "$user" ]; then
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
if [ -n "$missing" ]; then
    echo "installing what is missing:$missing" >&2
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >&2
fi

if [ -n "$user" ]; then
    id "$user" >/dev/null 2>&1 || $as_root useradd --create-home --shell /usr/sbin/nologin "$user"
    for file in /etc/subuid /etc/subgid; do
        grep -q "^$user:" "$file" 2>/dev/null && continue
        # Behind the ranges that others have.
        first=$(awk -F: '$2 + $3 > end { end = $2 + $3 } END { print (end > 100000 ? end : 100000) }' "$file" 2>/dev/null || echo 100000)
        echo "$user:$first:65536" | $as_root tee -a "$file" >/dev/null
    done
fi
