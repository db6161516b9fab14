//! The official SDK's client, in both revisions, and the bridge.

use crate::support::{MAX, World, plugin};
use rmcp::model::CallToolRequestParams;
use rmcp::service::{ClientLifecycleMode, ClientServiceExt};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use tokio::net::UnixStream;
use tokio::time::timeout;

#[tokio::test]
async fn the_official_client_in_both_revisions() {
    let world = World::of(vec![plugin("old", "legacy"), plugin("new", "modern")]).await;
    for mode in [
        ClientLifecycleMode::Initialize,
        ClientLifecycleMode::Discover {
            preferred_versions: vec![rmcp::model::ProtocolVersion::LATEST],
        },
    ] {
        let stream = UnixStream::connect(world.dir.path().join("mcp.sock"))
            .await
            .unwrap();
        let client = timeout(MAX, ().serve_with_lifecycle(stream, mode))
            .await
            .unwrap()
            .unwrap();
        let tools = timeout(MAX, client.list_all_tools()).await.unwrap().unwrap();
        assert_eq!(tools.len(), 45);
        for name in ["old__echo", "new__echo"] {
            let arguments = serde_json::json!({"text": "hello"}).as_object().cloned().unwrap();
            let params = CallToolRequestParams::new(name).with_arguments(arguments);
            let result = timeout(MAX, client.call_tool(params)).await.unwrap().unwrap();
            assert_eq!(result.content[0].as_text().unwrap().text, "hello");
        }
        client.cancel().await.unwrap();
    }
    world.gateway.stop().await;
}

#[tokio::test]
async fn the_bridge_copies_in_both_directions() {
    let world = World::of(vec![plugin("one", "legacy")]).await;
    let socket = world.dir.path().join("mcp.sock");
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    let bridge = tokio::task::spawn_blocking(move || {
        let input = theirs.try_clone().unwrap();
        mcp_transport::bridge::stdio(&socket, input, theirs)
    });
    let asked = tokio::task::spawn_blocking(move || {
        let mut writer = ours.try_clone().unwrap();
        writer
            .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}\n")
            .unwrap();
        let mut line = String::new();
        BufReader::new(&ours).read_line(&mut line).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        line
    });
    let line = timeout(MAX, asked).await.unwrap().unwrap();
    assert!(line.contains("one__echo"), "{line}");
    timeout(MAX, bridge).await.unwrap().unwrap().unwrap();
    world.gateway.stop().await;
}

/// As from a pipe of a shell's: the requests, and the end.
#[tokio::test]
async fn what_was_asked_before_the_end_of_the_input_is_answered() {
    let world = World::of(vec![plugin("one", "legacy")]).await;
    let socket = world.dir.path().join("mcp.sock");
    let meta = serde_json::json!({
        "io.modelcontextprotocol/protocolVersion": rmcp::model::ProtocolVersion::LATEST,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let listen = serde_json::json!({"_meta": meta, "notifications": {"toolsListChanged": true}});
    let echo = |text: &str| serde_json::json!({"name": "one__echo", "arguments": {"text": text}});
    let requests = [
        ("subscriptions/listen", listen),
        ("tools/call", echo("first")),
        ("tools/call", echo("second")),
    ];
    let lines: Vec<String> = (1..)
        .zip(requests)
        .map(|(id, (method, params))| {
            serde_json::json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
        })
        .collect();
    let piped = tokio::task::spawn_blocking(move || {
        let mut output = Vec::new();
        let input = std::io::Cursor::new(lines.join("\n") + "\n");
        mcp_transport::bridge::stdio(&socket, input, &mut output).map(|()| output)
    });
    let output = timeout(MAX, piped).await.unwrap().unwrap().unwrap();
    let output = String::from_utf8(output).unwrap();
    for text in ["subscriptions/acknowledged", "first", "second"] {
        assert!(output.contains(text), "{text}: {output}");
    }
    world.gateway.stop().await;
}

#[tokio::test]
async fn a_lazy_plugin_is_started_by_the_first_request() {
    let late = || {
        let mut late = plugin("late", "legacy");
        late.lazy = true;
        late
    };
    let world = World::of(vec![late()]).await;
    assert_eq!(world.gateway.tools(), []);
    let listed = world.gateway.request("tools/list", serde_json::json!({}));
    let listed = timeout(MAX, listed).await.unwrap().unwrap();
    let name = listed["tools"][0]["name"].as_str().unwrap();
    assert!(name.starts_with("late__"), "{listed}");
    world.gateway.stop().await;
    // One that nobody wanted.
    let world = World::of(vec![late()]).await;
    timeout(MAX, world.gateway.stop()).await.unwrap();
}
