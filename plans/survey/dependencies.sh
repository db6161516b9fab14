#!/bin/sh
# What the code is built from: manifests, their lock files, versions that disagree.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

survey_awk "index.awk dependencies.awk" >"$run/section"
finish
cat "$run/section"
