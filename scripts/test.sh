#!/bin/sh
# Installs what the tests need and runs all of them, or those that arguments for `cargo test` choose.
set -eu
cd -- "$(dirname -- "$0")/.."
./scripts/setup.sh test
[ $# -gt 0 ] || set -- --workspace
exec cargo test --locked "$@"
