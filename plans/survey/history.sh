#!/bin/sh
# Who changed what, how often and when, if git knows. Writes churn.tsv (path, commits, last change, authors), empty
# without a history.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

# The newest so many commits are looked at: enough for any judgement, and bounded.
commits_max=20000

why=
: >"$run/log.list"
if [ "$(cut -f1 "$art/source")" != git ]; then
    why=$(cut -f2 "$art/source")
elif ! quiet_git rev-parse --verify --quiet HEAD >/dev/null 2>&1; then
    why="nothing has been committed yet"
elif ! quiet_git log -z --no-merges --no-renames --name-only --relative --no-ext-diff --no-textconv \
    --max-count="$commits_max" --format='%x01%at %aN' -- . >"$run/log" 2>"$run/git-error"; then
    why="git log failed"
    cat "$run/git-error" >&2
else
    encode <"$run/log" >"$run/log.list"
fi

shallow=$(quiet_git rev-parse --is-shallow-repository 2>/dev/null || :)
survey_awk history.awk -v why="$why" -v shallow="$shallow" -v commits_max="$commits_max" >"$run/section"
keep churn.tsv <"$run/churn"
finish
cat "$run/section"
