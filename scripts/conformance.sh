#!/usr/bin/env bash
# Holds the gateway to MCP's official conformance suite, as a server and as a client, in both kinds of revision; then puts
# it before the reference servers.
#
#   scripts/conformance.sh            all of it
#   scripts/conformance.sh SCENARIO…  these client scenarios, in full
set -euo pipefail
cd "$(dirname "$0")/.."

home=$(./scripts/node.sh)
modules=$home/node_modules/@modelcontextprotocol
node=$home/node

# Runs a part, and shows all that it said only if it fails.
part() {
    local name=$1 said=$home/out/$1.txt
    shift
    if "$@" >"$said" 2>&1; then
        echo "$name: $(summary "$said")"
    else
        cat "$said"
        echo "conformance: $name failed" >&2
        failed=1
    fi
}

# In a line. The suite also runs scenarios that it does not require, of extensions and the like: those are not counted.
summary() {
    grep -aE '^(Passed:|server__)' "$1" | cut -c 1-100 || awk '
        /^Not scored/ { others = 1 }
        $1 != "✓" && $1 != "✗" { next }
        others { delete passed[$2 ":"]; delete failed[$2 ":"]; next }
        { passed[$2] = $3; failed[$2] = $5 }
        END {
            for (name in passed) { p += passed[name]; f += failed[name]; n++ }
            print "Passed: " p "/" p + f " in " n " scenarios"
        }' "$1"
}

# What a revision requires of clients, but for OAuth: the gateway has a bearer token or none.
client_scenarios() {
    sed -n '/^client:/,/^not_scored:/s/^  - //p' "$modules/conformance/requirements/$1.yaml" | grep -v '^auth/'
}

cargo build --quiet --locked -p mcp-transport --example conformance
gateway=$(cargo metadata --format-version 1 --no-deps --locked | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/debug/examples/conformance
suite=("$node" "$modules/conformance/dist/index.js")
rm -rf "$home/out"
mkdir "$home/out"
failed=0

client() {
    part "client-$1-$2" "${suite[@]}" client --command "$gateway client" --scenario "$2" --spec-version "$1"
}

if [ $# -gt 0 ]; then
    for scenario in "$@"; do
        "${suite[@]}" client --command "$gateway client" --scenario "$scenario" --verbose
    done
    exit
fi
# Of a revision: the clients', and the plugin's.
server() {
    part "server-$1-plugin-$2" "$gateway" serve "$2" \
        "${suite[@]}" server --url '{url}' --requirements "$1" -o "$home/out/server-$1-plugin-$2"
}

server 2025-11-25 2025-11-25
server 2025-11-25 2026-07-28
server 2026-07-28 2026-07-28
for revision in 2025-11-25 2026-07-28; do
    # Ends here if there are none: then the suite has them elsewhere.
    scenarios=$(client_scenarios "$revision")
    for scenario in $scenarios; do
        client "$revision" "$scenario"
    done
done
part everything "$gateway" smoke echo '{"message": "hello"}' "$node" "$modules/server-everything/dist/index.js" stdio
part filesystem "$gateway" smoke list_directory "{\"path\": \"$home/out\"}" "$node" "$modules/server-filesystem/dist/index.js" "$home/out"
part memory "$gateway" smoke read_graph '{}' env "MEMORY_FILE_PATH=$home/out/memory.json" "$node" "$modules/server-memory/dist/index.js"
exit "$failed"
