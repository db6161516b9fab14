#!/bin/sh
# How much of the code is tests, and which packages have none.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

survey_awk tests.awk >"$run/section"
finish
cat "$run/section"
