#!/bin/sh
# What there is to read: the usual files, comments, and links in Markdown that lead nowhere.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

survey_awk documentation.awk -v pass=collect >"$run/links"
# What is not in the index may still be there (ignored by git, say).
decode <"$run/links" >"$run/links.z"
# shellcheck disable=SC2016 # the inner shell is to expand it
xargs -0r sh -c 'for path do [ -e "./$path" ] || printf "%s\0" "$path"; done' sh <"$run/links.z" >"$run/missing.z"
encode <"$run/missing.z" >"$run/missing"
survey_awk documentation.awk -v pass=report >"$run/section"
finish
cat "$run/section"
