#!/bin/sh
# Installs the Debian packages that building (`setup.sh build`) or testing (`setup.sh test`) needs, if any is missing.
set -eu

packages="gcc libc6-dev git"
programs="cc git"
if [ "${1:-build}" = test ]; then
    packages="$packages netcat-openbsd python3 procps util-linux shellcheck"
    programs="$programs nc python3 ps prlimit setsid shellcheck"
fi

missing=
for program in $programs; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
# Debian has two netcats; only OpenBSD's speaks to Unix sockets.
if [ "${1:-build}" = test ] && ! nc -h 2>&1 | grep -q -- '-U'; then
    missing="$missing nc"
fi
[ -n "$missing" ] || exit 0

echo "installing what is missing:$missing" >&2
as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
fi
$as_root apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >&2
