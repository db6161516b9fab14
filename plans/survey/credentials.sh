#!/bin/sh
# What looks like a secret in the clear. No value reaches the report, the facts or an artifact: only the kind and
# the place do.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

survey_awk "index.awk credentials.awk" >"$run/section"
finish
cat "$run/section"
