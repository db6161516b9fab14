#!/bin/sh
# Surveys a code base (this one, if no directory is given): installs what the build needs, builds agentd, and runs
# plans/survey.toml with it. The same command goes on where it was interrupted.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$here/scripts/setup.sh" build
cargo build --release --quiet --manifest-path "$here/Cargo.toml" -p agentd
exec "$here/target/release/agentd" task run "$here/plans/survey.toml" "${1:-$here}"
