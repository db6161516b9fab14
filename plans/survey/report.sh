#!/bin/sh
# Joins the parts into one report: what deserves attention first, then the tables.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

inputs=${AGENTD_INPUTS:?}

# The order of the chapters; the findings of equal weight come in it, too.
chapters='inventory languages shape hotspots tests credentials markers duplicates dependencies documentation history'

: >"$run/all-findings"
for chapter in $chapters; do
    cat "$art/$chapter.findings" >>"$run/all-findings"
done
sort -s -t "$(printf '\t')" -k1,1n "$run/all-findings" >"$run/sorted-findings"

head=
if [ "$(cut -f1 "$art/source")" = git ]; then
    branch=$(quiet_git symbolic-ref --quiet --short HEAD 2>/dev/null || echo 'a detached head')
    commit=$(quiet_git rev-parse --short HEAD 2>/dev/null || :)
    head="${branch}${commit:+ at $commit}"
fi

{
    survey_awk report.awk -v head="$head" -v today="$(date -u +%Y-%m-%d)" </dev/null
    for chapter in $chapters; do
        cat "$inputs/$chapter.out"
    done
    cat <<'EOF'
## How this was counted

Lines are told apart by a scan that knows comments and strings of each language, not by its compiler; functions are found
by their indentation. Tests are files whose path or name says so, and Rust's `#[cfg(test)]` modules. A credential is
found by its form. Generated and vendored files are known by their names and their first lines. What is said here to be
there is there; what is not found may still be.
EOF
} >"$run/report"

keep report.md <"$run/report"

# Where the user asked for it, besides: whole or not at all, too. What is not a file (/dev/null, the default) is
# written to and not replaced.
target=${AGENTD_ARG_REPORT:-/dev/null}
if [ -e "$target" ] && [ ! -f "$target" ]; then
    cat "$run/report" >"$target"
else
    (umask "$user_umask" && cat "$run/report" >"$target.part.$$")
    mv -- "$target.part.$$" "$target"
fi

# The result of the plan is the text that a person reads; the same for programs lies beside it.
AGENTD_RESULT=$run/report.json finish
keep report.json <"$run/report.json"
cat "$run/report"
echo
# Where the user finds it, who may be outside of the container that this runs in.
echo "This report is kept in ${AGENTD_ARTIFACTS_ON_HOST:-$art}/report.md."
