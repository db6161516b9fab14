#!/bin/sh
# Surveys a code base (this one, if no directory is given): installs what the build needs, builds agentd, and runs
# plans/survey.toml with it, in containers where Podman can run them. The same command goes on where it was interrupted.
#
#     scripts/survey.sh [DIRECTORY]
#
# AGENTD_SURVEY_ISOLATION: auto (the default), podman (or not at all), none (as processes of this user).
# AGENTD: an agentd that is there already, instead of building one.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
isolation=${AGENTD_SURVEY_ISOLATION:-auto}
case $isolation in
auto | podman | none) ;;
*)
    echo "survey: AGENTD_SURVEY_ISOLATION is auto, podman or none, not $isolation" >&2
    exit 64
    ;;
esac
dir=${1:-$here}
if [ ! -d "$dir" ]; then
    echo "survey: $dir is not a directory" >&2
    exit 64
fi

agentd=${AGENTD:-}
if [ -z "$agentd" ]; then
    "$here/scripts/setup.sh" build
    [ -x "$here/target/release/agentd" ] || echo "survey: building agentd; this takes some minutes the first time" >&2
    # On a terminal cargo shows how far it is.
    quiet=--quiet
    [ ! -t 2 ] || quiet=
    # shellcheck disable=SC2086 # a word or none
    cargo build --release $quiet --manifest-path "$here/Cargo.toml" -p agentd
    agentd=$here/target/release/agentd
fi

# Of its own: the daemon of every day knows no agent of that name.
state=${AGENTD_HOME:-${HOME:?}/.agentd}/survey
# What the nodes run. Without git there is no history in the survey, here as there.
tools="sh awk basename cat comm cp cut date dirname env find grep head join ls mkdir mv paste printf rm sed sha256sum
sort stat tail tr uniq wc xargs"
command -v git >/dev/null 2>&1 && tools="$tools git"

# Makes an image of this machine's own tools, and runs one container of it as agentd does. Says why not in $why.
containers_work() {
    if ! command -v podman >/dev/null 2>&1; then
        why="Podman is not installed"
        return 1
    fi
    (umask 077 && mkdir -p "$state") || return 1
    # Another image when the tools are others.
    tag=$(
        for tool in $tools; do
            stat -L -c '%n %s %Y' "$(command -v "$tool")" 2>/dev/null || :
        done | cat - "$here/plans/survey/image/etc/gitconfig" | cksum | cut -d ' ' -f 1
    )
    image=localhost/agentd-survey:$tag
    for runtime in '' runc; do
        [ -z "$runtime" ] || command -v "$runtime" >/dev/null 2>&1 || continue
        sed -e "s|^image = .*|image = \"$image\"${runtime:+\\noci_runtime = \"$runtime\"}|" \
            -e "s|^max_sessions = .*|max_sessions = $(nproc)|" "$here/plans/survey/agentd.toml" >"$state/agentd.toml.new"
        mv -- "$state/agentd.toml.new" "$state/agentd.toml"
        if ! timeout 60 podman image exists "$image" 2>/dev/null; then
            # shellcheck disable=SC2046,SC2086 # lists of words
            why=$(in_state image build "$here/plans/survey/image" "$image" $(printf -- '--program %s ' $tools) 2>&1 \
                >/dev/null) || return 1
        fi
        why=$(timeout 120 "$agentd" --home "$state" --config "$state/agentd.toml" run survey 2>&1 >/dev/null) && return 0
        # Not by itself, but perhaps with the other program that starts containers.
    done
    return 1
}

in_state() {
    "$agentd" --home "$state" --config "$state/agentd.toml" "$@"
}

# What is to be seen inside besides the directory: what git needs of a repository may lie above it, or elsewhere.
places_are_free() {
    set -- "$dir"
    for place in --show-toplevel --git-common-dir; do
        if path=$(git -C "$dir" rev-parse --path-format=absolute "$place" 2>/dev/null) && [ -d "$path" ]; then
            set -- "$@" "$path"
        fi
    done
    mine=$(readlink -f -- "${AGENTD_HOME:-${HOME:?}/.agentd}" || :)/
    for path in "$@"; do
        path=$(readlink -f -- "$path")
        case $path in
        / | /home | /tmp | /etc | /run | /proc | /proc/* | /sys | /sys/* | /dev | /dev/*)
            why="a container has something else at $path"
            return 1
            ;;
        esac
        case $mine in
        "$path"/*)
            why="agentd's own files are in $path, and no container is to see them"
            return 1
            ;;
        esac
    done
}

why="AGENTD_SURVEY_ISOLATION=none"
if [ "$isolation" != none ] && places_are_free && containers_work; then
    if [ "$(id -u)" -eq 0 ]; then
        whose="root's Podman containers, each with user ids of its own"
    else
        whose="rootless Podman containers"
    fi
    echo "isolation: $whose, without a network; the directory is read-only in them" >&2
    set -- task run "$here/plans/survey.toml" "$dir" --agent survey
    for place in --show-toplevel --git-common-dir; do
        if path=$(git -C "$dir" rev-parse --path-format=absolute "$place" 2>/dev/null) && [ -d "$path" ]; then
            set -- "$@" --read "$path"
        fi
    done
    exec "$agentd" --home "$state" --config "$state/agentd.toml" "$@"
fi

if [ "$isolation" = podman ]; then
    echo "survey: containers do not work here: $why" >&2
    echo "survey: \`agentd doctor\` names what is missing; AGENTD_SURVEY_ISOLATION=none does without" >&2
    exit 1
fi
echo "isolation: none: as processes of your own user, with no further isolation" >&2
printf '%s\n' "$why" | tail -n 1 | sed 's/^/  because: /' >&2
exec "$agentd" task run "$here/plans/survey.toml" "$dir"
