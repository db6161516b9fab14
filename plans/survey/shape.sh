#!/bin/sh
# What is large: files, functions, lines.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

sort -t "$(printf '\t')" -k5,5nr -k1,1 "$art/lines.tsv" >"$run/by-code"
sort -t "$(printf '\t')" -k4,4nr -k1,1 -k2,2n "$art/functions.tsv" >"$run/by-length"
sort -t "$(printf '\t')" -k9,9nr -k1,1 "$art/lines.tsv" >"$run/by-width"
sort -t "$(printf '\t')" -k2,2nr -k1,1 "$art/index.tsv" >"$run/by-size"
survey_awk shape.awk >"$run/section"
finish
cat "$run/section"
