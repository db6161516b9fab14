//! A plugin and a client of tools, both scripts of `sh`: JSON, one message a line.

use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What the plugin knows and nobody else may.
pub(crate) const SECRET: &str = "open-sesame-1234";

/// A plugin's program. Its tools: `say` what is in its environment, `wait` until the file `go` is in its directory, `die`,
/// `hidden`.
const PLUGIN: &str = r#"
echo $$ >pid
[ -e "$START_AS" ] && . "$START_AS"
answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
text() { answer "{\"content\":[{\"type\":\"text\",\"text\":\"$1\"}]}"; }
while IFS= read -r line; do
  id=${line#*'"id":'}; id=${id%%,*}; id=${id%%\}*}
  case $line in
    *'"server/discover"'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}\n' "$id";;
    *'"initialize"'*) answer '{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"t","version":"1"}}';;
    *'"tools/list"'*) answer '{"tools":[{"name":"say","inputSchema":{"type":"object"}},{"name":"wait","inputSchema":{"type":"object"}},{"name":"die","inputSchema":{"type":"object"}},{"name":"hidden","inputSchema":{"type":"object"}}]}';;
    *'"tools/call"'*'"die"'*|*'"die"'*'"tools/call"'*) echo "last words" >&2; exit 3;;
    *'"tools/call"'*'"wait"'*|*'"wait"'*'"tools/call"'*) until [ -e go ]; do sleep 0.02; done; text waited;;
    *'"tools/call"'*) text "the token is $TOKEN, home is <$HOME>";;
  esac
done
"#;

/// What an agent's script begins with: `ask METHOD PARAMS` and `tool NAME ARGUMENTS` print the answer.
pub(crate) const CLIENT: &str = r#"
F=/tmp/$AGENTD_SESSION_ID; mkfifo "$F.in" "$F.out"
"$AGENTD_MCP_BRIDGE" <"$F.in" >"$F.out" & exec 3>"$F.in" 4<"$F.out"; rm "$F.in" "$F.out"
ask() {
  printf '{"jsonrpc":"2.0","id":"mine","method":"%s","params":%s}\n' "$1" "$2" >&3
  while IFS= read -r answer <&4; do case $answer in *'"mine"'*) printf '%s\n' "$answer"; return;; esac; done
}
tool() { ask tools/call "{\"name\":\"$1\",\"arguments\":$2}"; }
greet() { ask initialize '{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"sh","version":"1"}}' >/dev/null; }
greet
"#;

/// Writes the plugin's program, and gives the table that declares it as `t`.
pub(crate) fn plugin(at: &Path, more: &str) -> String {
    fs::write(at, format!("#!/bin/sh\n{PLUGIN}")).expect("a script");
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).expect("a mode");
    let start_as = at.with_extension("start");
    format!(
        "[[plugins]]\nname = \"t\"\ncommand = [{}]\ncredentials = [\"TOKEN\"]\nenv = {{ START_AS = {} }}\n\
         tools = {{ deny = [\"hidden\"] }}\n{more}\n\n",
        json!(at),
        json!(start_as)
    )
}
