#!/bin/sh
# Which files there are. Writes index.tsv, which every other node begins with:
#
#     path  size  type  class  language  kind  tracked
#
# type: text, binary, empty, unreadable, link or other; class: plain, test, vendored or generated; kind: code,
# prose, data or other; tracked: 1 when git has it. Sorted by path.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

for tool in awk find grep sed sort stat tr xargs; do
    command -v "$tool" >/dev/null || {
        echo "survey: $tool is not installed (Debian: apt-get install gawk findutils grep sed coreutils)" >&2
        exit 1
    }
done

# What the last node could not do is better said now.
report=${AGENTD_ARG_REPORT:-/dev/null}
if [ -d "$report" ]; then
    echo "survey: the report cannot be written to $report, which is a directory: name a file" >&2
    exit 1
elif [ ! -d "$(dirname -- "$report")" ]; then
    echo "survey: the report cannot be written to $report: there is no such directory" >&2
    exit 1
fi

# The names: what git knows or would add, else all but what tools put there.
names_from='find'
why="the directory is not in a git repository"
: >"$run/tracked"
: >"$run/left-out"
if ! command -v git >/dev/null; then
    why="git is not installed"
elif inside=$(quiet_git rev-parse --is-inside-work-tree 2>"$run/git-error"); then
    if [ "$inside" = true ] && quiet_git ls-files -z --cached >"$run/tracked" 2>"$run/git-error" &&
        quiet_git ls-files -z --others --exclude-standard >"$run/untracked" 2>"$run/git-error"; then
        sort -zu "$run/tracked" "$run/untracked" >"$run/names"
        if [ -s "$run/names" ]; then
            names_from='git'
        else
            why="git ignores this directory"
        fi
    else
        why="git could not list its files"
    fi
elif grep -q 'dubious ownership' "$run/git-error"; then
    why="git refuses to read it, because the repository belongs to another user (see git help safe.directory)"
fi

if [ "$names_from" = find ]; then
    : >"$run/tracked"
    # Directories that tools fill are left out by name, but named in the report. `target` is also a common word:
    # it counts as Cargo's or Maven's when there is a sign of either.
    # shellcheck disable=SC2016,SC2146 # the inner shell is to expand it; the parentheses do group
    find . -mindepth 1 -type d \( \
        -name .git -o -name .hg -o -name .svn -o -name .jj -o -name node_modules -o -name __pycache__ -o -name .venv \
        -o -name .tox -o -name .mypy_cache -o -name .pytest_cache -o -name .gradle -o -name .terraform \
        -o \( -name target -exec sh -c 'test -e "$1/CACHEDIR.TAG" || test -e "$1/../pom.xml"' sh '{}' ';' \) \
        \) -prune -fprint0 "$run/pruned" -o ! -type d -print0 >"$run/found" 2>"$run/find-errors" || :
    sed -z 's|^\./||' "$run/found" | sort -z >"$run/names"
    encode <"$run/pruned" | sed 's|^\./||' | grep -v -E '(^|/)\.(git|hg|svn|jj)$' | sort >"$run/left-out" || :
    # Directories that could not be entered: their files are missing from the survey, and it says so.
    unreadable_dirs=$(grep -c 'Permission denied' "$run/find-errors" || :)
else
    unreadable_dirs=0
fi

# Sizes and types, from the file system: a name that git has may be gone, or be a directory by now. A link is
# not followed, so that a loop of them is no trouble.
sed -z 's|^|./|' "$run/names" | xargs -0r stat --printf='%F\t%s\t%n\0' -- 2>/dev/null >"$run/stat" || :
# In the three columns only the last can hold a tab or a newline.
sed -z 's/%/%25/g; s/\n/%0A/g; s/\t/%09/3g' "$run/stat" | tr '\0' '\n' >"$run/stat.tsv"

# Text is what has no NUL in its first 32 KiB: one grep for all files, which reads no further than that.
sed -zn 's/^regular file\t[0-9]*\t//p' "$run/stat" >"$run/regular"
xargs -0r grep -IlZ -e '' -- <"$run/regular" 2>/dev/null >"$run/text" || :
encode <"$run/text" | sort >"$run/text.list"
encode <"$run/regular" | sort | comm -23 - "$run/text.list" >"$run/others.list"
# shellcheck disable=SC2016 # the inner shell is to expand it
decode <"$run/others.list" |
    xargs -0r sh -c 'for file do [ -r "$file" ] || printf "%s\0" "$file"; done' sh >"$run/unreadable"
encode <"$run/unreadable" >"$run/unreadable.list"
encode <"$run/tracked" >"$run/tracked.list"

survey_awk inventory.awk -v source="$names_from" -v why="$why" -v unreadable_dirs="${unreadable_dirs:-0}" \
    >"$run/section"

keep index.tsv <"$run/index"
keep source <<EOF
$names_from	$why
EOF
finish
cat "$run/section"
