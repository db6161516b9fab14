#!/usr/bin/env bash
# Calls the reference servers' tools from inside containers that have no network, under runc and under gVisor: with a small
# client over the bridge, the socket and HTTP, and with the inspector. Must be run as root; installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

[ "$(id -u)" -eq 0 ] || {
    echo "containers: run it as root: only then are sessions in gVisor tried, too" >&2
    exit 1
}
./scripts/setup.sh test
installed=$(./scripts/node.sh)
servers=$installed/node_modules/@modelcontextprotocol
cargo build --quiet --locked -p agentd
agentd=$(cargo metadata --format-version 1 --no-deps --locked | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/debug/agentd

# Short: sockets are below it.
work=$(mktemp -d /tmp/adc.XXXXXX)
chmod 755 "$work"
mkdir -p "$work/home" "$work/files" "$work/image" "$work/podman"
podman=(podman --root "$work/podman/root" --runroot "$work/podman/run" --tmpdir "$work/podman/tmp")

clear_up() {
    # Sessions outlive the script when it is interrupted.
    pgrep -f "^agentd __session $work/" | xargs --no-run-if-empty kill -KILL || true
    "${podman[@]}" rm --force --all --time 0 >/dev/null 2>&1 || true
    awk -v below="$work/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r place; do
        umount --lazy "$place" || true
    done
    rm -rf "$work"
}
trap clear_up EXIT
# After the command that runs, which ends its session.
trap 'exit 130' INT TERM

cat >"$work/containers.conf" <<EOF
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
EOF
export CONTAINERS_CONF=$work/containers.conf HOME=$work/home
unset AGENTD_HOME AGENTD_CONFIG AGENTD_SOCKET_PATH AGENTD_DATABASE_URL AGENTD_ENV_FILE

# What the agent does. Each tool is called by its name behind the gateway.
cat >"$work/image/agent" <<'EOF'
#!/bin/sh
set -eu
port=8931
context=$AGENTD_RUN_DIR/context
"$AGENTD_MCP_BRIDGE" --http 127.0.0.1:$port &
"$NODE" "$context/client/client.mjs" $port

inspect() {
    "$NODE" "$context/node_modules/@modelcontextprotocol/inspector/clients/cli/build/index.js" "$@"
}
expect() {
    wanted=$1
    shift
    said=$(inspect "$@" 2>&1) || { echo "the inspector failed: $*: $said"; exit 1; }
    case $said in
        *"$wanted"*) ;;
        *) echo "no $wanted: $*: $said"; exit 1 ;;
    esac
}
expect memory__read_graph "$AGENTD_MCP_BRIDGE" --method tools/list
expect 'Echo: a word' "$AGENTD_MCP_BRIDGE" --method tools/call --tool-name everything__echo --tool-arg 'message=a word'
expect "http-2026-07-28-$AGENTD_SESSION_ID" "$AGENTD_MCP_BRIDGE" --method tools/call --tool-name filesystem__list_directory --tool-arg "path=$FILES"
expect 'from inside' --transport http --server-url http://127.0.0.1:$port/mcp --header "Authorization: Bearer $AGENTD_MCP_TOKEN" \
    --method tools/call --tool-name memory__read_graph
echo "the inspector: over stdio and HTTP"
EOF
chmod 755 "$work/image/agent"

agent() {
    cat <<EOF
[[agents]]
name = "$1"
runtime = "podman"
image = "localhost/node:1"
harness = "custom"
prompt = "p"
command = ["/agent"]
network = "none"
timeout = "5m"
context = ["$root/tests/containers/client", "$installed/node_modules"]
plugins = ["everything", "filesystem", "memory"]
$2
[agents.env]
FILES = "$work/files"
# A program of this machine has the same path in the image.
NODE = "$installed/node"

EOF
}

mkdir -p "$work/home/.agentd"
{
    printf '[daemon]\npodman = ["%s"' "${podman[0]}"
    printf ', "%s"' "${podman[@]:1}"
    cat <<EOF
]

[[plugins]]
name = "everything"
command = ["$installed/node", "$servers/server-everything/dist/index.js", "stdio"]

[[plugins]]
name = "filesystem"
command = ["$installed/node", "$servers/server-filesystem/dist/index.js", "$work/files"]
tools = { deny = ["move_file"] }

[[plugins]]
name = "memory"
command = ["$installed/node", "$servers/server-memory/dist/index.js"]
env = { MEMORY_FILE_PATH = "$work/memory.json" }

EOF
    agent runc ''
    agent gvisor 'oci_runtime = "runsc"'
} >"$work/home/.agentd/agentd.toml"

"$agentd" image build "$work/image" localhost/node:1 --busybox --program "$installed/node" >/dev/null
for agent in runc gvisor; do
    echo "== in a container of $agent"
    "$agentd" run "$agent"
done
# The servers ran outside: what they wrote is here, of each way and revision, of both containers.
files=$(find "$work/files" -type f | wc -l)
[ "$files" -eq 12 ] || {
    echo "containers: 12 files were to be written through the gateway, and there are $files" >&2
    exit 1
}
grep -q 'from inside' "$work/memory.json"
# Plugins work in directories of the session.
for cwd in /proc/[0-9]*/cwd; do
    case $(readlink "$cwd" || true) in
        "$work"/*)
            echo "containers: a process is left behind: $(tr '\0' ' ' <"${cwd%cwd}cmdline")" >&2
            exit 1
            ;;
    esac
done
