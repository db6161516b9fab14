# shellcheck shell=sh
# What every node of the survey begins with. It is sourced, not run.
#
# The environment that it expects is a plan node's: AGENTD_NODE_NAME, AGENTD_ARTIFACTS, AGENTD_RUN_DIR,
# AGENTD_RESULT, AGENTD_ARG_DIR. Files that pass from node to node lie in $art, one record a line, columns
# separated by tabs; a path in them has %, tab and newline written as %25, %09 and %0A (`encode`).

set -eu
# What lies in between says where secrets are: for the user alone. Only the report is written as the user writes files.
# shellcheck disable=SC2034 # report.sh uses it
user_umask=$(umask)
umask 077
LC_ALL=C
export LC_ALL

lib=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
node=${AGENTD_NODE_NAME:?this is a node of plans/survey.toml: run it with agentd task run}
art=${AGENTD_ARTIFACTS:?}
root=${AGENTD_ARG_DIR:?}
run=${AGENTD_RUN_DIR:?}

cd -- "$root" || {
    echo "survey: cannot enter $root: is it there, and may this user read it?" >&2
    exit 1
}

# The two files in which a node's awk leaves what it found: name<TAB>value, and severity<TAB>sentence.
: >"$run/facts"
: >"$run/findings"

# Reads a list of names that end in NUL; writes one encoded name a line.
encode() {
    sed -z 's/%/%25/g; s/\t/%09/g; s/\n/%0A/g' | tr '\0' '\n'
}

# And back.
decode() {
    tr '\n' '\0' | sed -z 's/%09/\t/g; s/%0A/\n/g; s/%25/%/g'
}

# Writes standard input to an artifact, whole or not at all.
keep() {
    cat >"$art/.$1.$$"
    mv -- "$art/.$1.$$" "$art/$1"
}

# Runs awk with the library: survey_awk "FILE.awk FILE.awk" [ARGUMENT...].
export SURVEY_LIB="$lib"
survey_awk() {
    files=$1
    shift
    for file in $files; do
        set -- -f "$lib/$file" "$@"
    done
    awk -f "$lib/lib.awk" "$@"
}

# Ends a node: its findings become an artifact, and the same with its facts the node's JSON value.
finish() {
    keep "$node.findings" <"$run/findings"
    if [ -n "${AGENTD_RESULT:-}" ]; then
        survey_awk json.awk >"$AGENTD_RESULT.part"
        mv -- "$AGENTD_RESULT.part" "$AGENTD_RESULT"
    fi
}

# git, told to read and nothing else: no hook, monitor, pager, prompt, network or index refresh, whatever the
# surveyed repository's own configuration asks for.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_PREFIX GIT_OBJECT_DIRECTORY GIT_COMMON_DIR GIT_NAMESPACE || :
export GIT_OPTIONAL_LOCKS=0 GIT_TERMINAL_PROMPT=0 GIT_NO_LAZY_FETCH=1 GIT_ALLOW_PROTOCOL=none
quiet_git() {
    git --no-pager -c core.fsmonitor=false -c core.hooksPath=/dev/null -c core.untrackedCache=keep \
        -c log.showSignature=false "$@"
}
