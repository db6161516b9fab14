//! Tools for agents in containers that have no network at all.

use crate::site::{Site, contained};
use crate::tools_support::{CLIENT, SECRET, plugin};
use serde_json::{Value, json};

#[test]
fn agents_without_a_network_call_tools_from_inside() {
    // What is in its environment; what it can read; and what the tools say.
    let script = format!(
        "{CLIENT}tool t__say '{{}}'; tool t__hidden '{{}}'; tool agentd__whoami '{{}}'; \
         env | grep -c '^AGENTD_MCP_TOKEN=.'; [ ! -e /run/secrets/TOKEN ]"
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
    site.declare("", &agents);
    site.start();
    for agent in ["runc", "gvisor"] {
        let said = site.env.ok(&["run", agent]);
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            lines[0].contains("the token is [redacted], home is <>"),
            "{agent}: {said}"
        );
        assert!(lines[1].contains("may not be called"), "{agent}: {said}");
        assert!(lines[2].contains("session_id"), "{agent}: {said}");
        assert_eq!(lines[3], "1", "{agent}: {said}");
        assert!(!said.contains(SECRET), "{agent}: {said}");
    }
    let mut wire = site.env.connect();
    let page = wire.call("ReadJournal", json!({ "action_types": ["SESSION_TOOL_CALL"] }));
    let entries = page["entries"].as_array().unwrap();
    let tools: Vec<&Value> = entries.iter().map(|entry| &entry["payload"]["tool"]).collect();
    assert_eq!(tools, ["say", "hidden", "whoami", "say", "hidden", "whoami"]);
    site.assert_nothing_is_left();
}
