#!/bin/sh
# Agent A ("claude", by Anthropic): shell and netcat. agent_a.sh FILE

set -eu
file=$1
thinking_secs=${THINKING_SECS:-1}

say() { echo "claude | $*"; }

# One request, one answer, one connection.
if nc -h 2>&1 | grep -q -e '-U' && nc -h 2>&1 | grep -q -e '-N'; then
    rpc() { printf '%s\n' "$1" | nc -N -U "$AGENTD_SOCKET_PATH"; }
else
    # Without OpenBSD's netcat (Debian: apt-get install netcat-openbsd).
    rpc() {
        printf '%s\n' "$1" | python3 -c '
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["AGENTD_SOCKET_PATH"])
s.sendall(sys.stdin.buffer.read())
s.shutdown(socket.SHUT_WR)
sys.stdout.write(s.makefile().read())'
    }
fi

# A path as the inside of a JSON string.
key=file:$(printf '%s' "$file" | sed 's/\\/\\\\/g; s/"/\\"/g')

# acquire SECONDS: prints the answer; its result is null when somebody else has the lock (for all that time).
acquire() {
    rpc '{"id":1,"method":"AcquireResourceLock","params":{"resource_key":"'"$key"'","owner":"claude","provider":"anthropic","ttl_secs":60,"wait_secs":'"$1"',"metadata":{"why":"add a heading"}}}'
}

say "wants $file"
answer=$(acquire 0)
while :; do
    case $answer in
    *'"error"'*)
        say "was refused: $answer"
        exit 1
        ;;
    *'"lease_id"'*) break ;;
    *'"result":null'*)
        say "got null: somebody else has it. Waits in line"
        answer=$(acquire 30)
        ;;
    *)
        say "got no answer"
        exit 1
        ;;
    esac
done
lease=$(printf '%s' "$answer" | sed 's/.*"lease_id":"\([^"]*\)".*/\1/')
say "has the lock (for 60 s; work that takes longer sends HeartbeatResourceLock)"

# Whatever was read before the lock was held may be out of date.
content=$(cat -- "$file")
say "has read $(printf '%s\n' "$content" | wc -l) lines and thinks"
sleep "$thinking_secs"
printf '%s\n- claude was here\n' "$content" >"$file.claude"
mv -- "$file.claude" "$file"
say "has written"

rpc '{"id":2,"method":"ReleaseResourceLock","params":{"resource_key":"'"$key"'","lease_id":"'"$lease"'"}}' >/dev/null
say "has given the lock back"
