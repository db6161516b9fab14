#!/bin/sh
# Two agents of different makers want to edit one file at the same time. Needs a running agentd.
#
#     sh examples/two-agents/run.sh          # a file of its own, removed afterwards
#     sh examples/two-agents/run.sh FILE     # a file of yours, which is added to
#
# Neither agent knows the other. Both read the whole file, think, and write the whole file: without the lock, whoever
# writes last would undo the other's work. Exit code 0 when both edits are in the file.

set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

AGENTD_SOCKET_PATH=${AGENTD_SOCKET_PATH:-${AGENTD_HOME:-$HOME/.agentd}/agentd.sock}
export AGENTD_SOCKET_PATH
if [ ! -S "$AGENTD_SOCKET_PATH" ]; then
    echo "there is no socket at $AGENTD_SOCKET_PATH: start agentd first, or set AGENTD_SOCKET_PATH" >&2
    exit 1
fi

if [ $# -gt 0 ]; then
    file=$1
    [ -e "$file" ] || printf '# Notes\n' >"$file"
else
    directory=$(mktemp -d)
    trap 'rm -rf -- "$directory"' EXIT
    file=$directory/notes.md
    printf '# Notes\n' >"$file"
fi
# Both must lock the same key, whichever way they came to the file: its canonical absolute path.
file=$(realpath -- "$file")
before=$(wc -l <"$file")

sh "$here/agent_a.sh" "$file" &
first=$!
python3 "$here/agent_b.py" "$file" &
second=$!
failed=0
wait "$first" || failed=1
wait "$second" || failed=1

echo
echo "the file now:"
sed 's/^/    /' "$file"
added=$(($(wc -l <"$file") - before))
if [ "$failed" -ne 0 ] || [ "$added" -ne 2 ]; then
    echo "two lines were to be added, and $added were" >&2
    exit 1
fi
echo "both edits are there, and neither agent asked the other"
