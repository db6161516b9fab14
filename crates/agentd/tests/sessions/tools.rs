//! Tools for agents in containers that have no network at all.

use crate::site::{Site, contained};
use crate::support::wait_gone;
use crate::tools_support::{CLIENT, SECRET, plugin};
use serde_json::{Value, json};

/// `http TOKEN` calls `t__say` over HTTP, on the container's own loopback.
const HTTP: &str = r#"
"$AGENTD_MCP_BRIDGE" --http 127.0.0.1:8931 &
http() {
  /bin/busybox wget -q -O - --header "Authorization: Bearer $1" --header 'Content-Type: application/json' \
    --header 'Accept: application/json, text/event-stream' --header 'MCP-Protocol-Version: 2026-07-28' \
    --header 'Mcp-Method: tools/call' --header 'Mcp-Name: t__say' --post-data '{"jsonrpc":"2.0","id":1,"method":"tools/call",
    "params":{"name":"t__say","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
    "io.modelcontextprotocol/clientInfo":{"name":"wget","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}' \
    http://127.0.0.1:8931/mcp
}
"#;

#[test]
fn agents_without_a_network_call_tools_from_inside() {
    // What is in its environment; what it can read; and what the tools say.
    let script = format!(
        "{CLIENT}tool t__say '{{}}'; tool t__hidden '{{}}'; tool agentd__whoami '{{}}'; \
         env | grep -c '^AGENTD_MCP_TOKEN=.'; [ ! -e /run/secrets/TOKEN ] || exit 3\n{HTTP}\
         tries=0; until http \"$AGENTD_MCP_TOKEN\" 2>/dev/null; do \
         tries=$((tries + 1)); [ $tries -lt 200 ] || exit 4; sleep 0.05; done; http other 2>&1 && exit 5; exit 0"
    );
    let more = "network = \"none\"\nplugins = [\"t\"]\n";
    let mut site = Site::new("", &[]);
    site.stop();
    site.env.write(".agentd/secrets/TOKEN", SECRET);
    let plugin = plugin(&site.env.path("plugin"), "");
    let agents = [
        plugin,
        contained("runc", &script, more),
        contained("gvisor", &script, &format!("{more}oci_runtime = \"runsc\"\n")),
    ];
    // A process that has nothing of the plugin's: neither its parent, nor its session, nor its environment.
    let left = site.env.path("left");
    let leaves = format!(
        "(setsid env -i \"$(command -v sh)\" -c 'echo $$ >{0}; exec sleep 1000' >/dev/null 2>&1 </dev/null &) ; \
         until [ -s {0} ]; do sleep 0.01; done",
        left.display()
    );
    site.env.write("plugin.start", &leaves);
    site.declare("", &agents);
    site.start();
    let home = site.env.state().join("plugins/t");
    for agent in ["runc", "gvisor"] {
        let said = site.env.ok(&["run", agent]);
        let lines: Vec<&str> = said.lines().collect();
        let answer = format!("the token is [redacted], home is <{}>", home.display());
        assert!(lines[0].contains(&answer), "{agent}: {said}");
        assert!(lines[1].contains("may not be called"), "{agent}: {said}");
        assert!(lines[2].contains("session_id"), "{agent}: {said}");
        assert_eq!(lines[3], "1", "{agent}: {said}");
        assert!(lines[4].contains(&answer), "{agent}: {said}");
        assert!(lines[5].contains("401"), "{agent}: {said}");
        assert!(!said.contains(SECRET), "{agent}: {said}");
        wait_gone(std::fs::read_to_string(&left).unwrap().trim().parse().unwrap());
        std::fs::remove_file(&left).unwrap();
    }
    let mut wire = site.env.connect();
    let page = wire.call("ReadJournal", json!({ "action_types": ["SESSION_TOOL_CALL"] }));
    let entries = page["entries"].as_array().unwrap();
    let tools: Vec<&Value> = entries.iter().map(|entry| &entry["payload"]["tool"]).collect();
    assert_eq!(tools, [["say", "hidden", "whoami", "say"]; 2].concat());
    site.assert_nothing_is_left();
}
