#!/bin/sh
# What the authors themselves left to do: notes in comments.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

survey_awk "index.awk comments.awk markers.awk" >"$run/section"
finish
cat "$run/section"
