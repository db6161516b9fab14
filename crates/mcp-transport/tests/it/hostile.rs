//! Plugins and clients that mean harm, or might as well.

use crate::support::{World, names, plugin, text};
use mcp_transport::event::Event;
use serde_json::json;

#[tokio::test]
async fn nonsense_from_a_plugin_harms_nobody() {
    let mut one = plugin("one", "legacy");
    one.limits.line_bytes_max = 200_000;
    let world = World::of(vec![one]).await;
    let mut client = world.legacy(json!({})).await;
    assert_eq!(text(&client.call("one__garbage", json!({})).await), "after");
    assert!(
        world
            .gateway
            .stderr("one")
            .unwrap()
            .contains("Starting server...")
    );
    assert_eq!(text(&client.call("one__wrong-ids", json!({})).await), "right");
    let endless = client.call("one__endless-line", json!({"kib": 5000})).await;
    assert!(text(&endless).contains("a message of 51200"), "{endless}");
    assert_eq!(
        text(&client.call("one__flood", json!({"count": 3000})).await),
        "flooded"
    );
    assert_eq!(text(&client.call("one__echo", json!({"text": "x"})).await), "x");
    world.gateway.stop().await;
}

#[tokio::test]
async fn secrets_are_in_no_event_however_they_are_written() {
    let mut world = World::of(vec![plugin("one", "legacy")]).await;
    let mut client = world.legacy(json!({})).await;
    for (tool, arguments, expected) in [
        (
            "one__echo",
            r#"{"text":"\u0073esame","sesam\u0065":["sesame"],"text":"x"}"#,
            r#"{"text":"[redacted]","[redacted]":["[redacted]"],"text":"x"}"#,
        ),
        ("one__fail", "{}", "{}"),
        ("one__refuse", "{}", "{}"),
        ("one__\\u0073esame", "{}", "{}"),
    ] {
        let line = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":99,\"method\":\"tools/call\",\"params\":{{\"name\":\"{tool}\",\"arguments\":{arguments}}}}}\n"
        );
        client.raw(line.as_bytes()).await;
        client.answer(99).await;
        let event = world.call_event().await;
        assert!(!format!("{event:?}").contains("esame"), "{event:?}");
        assert_eq!(event.arguments, expected);
        match tool {
            "one__fail" => assert_eq!(event.error.as_deref(), Some("it failed: [redacted]")),
            "one__refuse" => assert!(event.error.unwrap().contains("{\"[redacted]\":[\"[redacted]\"]}")),
            "one__echo" => assert_eq!(event.error, None),
            _ => assert_eq!(event.tool, "one__[redacted]"),
        }
    }
    // Far behind what is told, and long before its end is known.
    let long = format!("{}sesame", "x".repeat(4094));
    client
        .call("one__echo", json!({"text": long, "more": "y".repeat(600_000)}))
        .await;
    let event = world.call_event().await;
    assert!(
        event.arguments.len() <= 4096 && !event.arguments.contains("ses"),
        "{}",
        event.arguments
    );
    world.gateway.stop().await;
}

#[tokio::test]
async fn too_many_tools_and_impossible_names() {
    let mut world = World::of(vec![
        plugin("many", "thousand"),
        plugin("odd", "names"),
        plugin("pages", "endless-pages"),
    ])
    .await;
    let mut client = world.legacy(json!({})).await;
    let listed = client.ask("tools/list", json!({})).await;
    let all = names(&listed, "tools");
    assert_eq!(all.iter().filter(|name| name.starts_with("many__")).count(), 1000);
    let odd: Vec<_> = all.iter().filter(|name| name.starts_with("odd__")).collect();
    assert_eq!(odd.len(), 8, "{odd:?}");
    let is_legal = |name: &String| {
        name.len() <= 64
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    assert!(all.iter().all(is_legal));
    assert_eq!(
        all.iter().collect::<std::collections::HashSet<_>>().len(),
        all.len()
    );
    let mut warnings = Vec::new();
    while let Ok(event) = world.events.try_recv() {
        if let Event::Warning { message, .. } = event {
            warnings.push(message);
        }
    }
    assert!(
        warnings.iter().any(|message| message.contains("more than 1000")),
        "{warnings:?}"
    );
    for warning in ["two tools", "its tool \"no-schema\" is left out: its inputSchema"] {
        assert!(
            warnings.iter().any(|message| message.contains(warning)),
            "{warnings:?}"
        );
    }
    world.gateway.stop().await;
}

#[tokio::test]
async fn nonsense_from_a_client_is_answered() {
    let world = World::with(vec![plugin("one", "legacy")], |options| {
        options.client_line_bytes_max = 100_000;
    })
    .await;
    let mut client = world.client().await;
    for (bytes, code) in [
        (&b"nonsense\n"[..], -32700),
        (b"\xff\xfe\n", -32700),
        (b"[]\n", -32600),
        (b"{\"id\":5}\n", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":5}\n", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":[],\"method\":\"ping\"}\n", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"x/y\"}\n", -32601),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":6,\"method\":\"tools/call\",\"params\":7}\n",
            -32602,
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/call\"}\n",
            -32602,
        ),
    ] {
        client.raw(bytes).await;
        assert_eq!(client.next().await["error"]["code"], code);
    }
    let long =
        json!({"jsonrpc": "2.0", "id": "long", "method": "tools/call", "params": {"x": "y".repeat(300_000)}});
    client
        .raw(
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":\"first\",{}\n",
                &long.to_string()[1..]
            )
            .as_bytes(),
        )
        .await;
    let refused = client.next().await;
    assert_eq!(
        (&refused["id"], &refused["error"]["code"]),
        (&json!("first"), &json!(-32600))
    );
    // Answers to what was never asked, and taking back what was never begun.
    client
        .say(&json!({"jsonrpc": "2.0", "id": "gateway-0", "result": {}}))
        .await;
    client
        .say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}))
        .await;
    assert_eq!(text(&client.call("one__echo", json!({"text": "x"})).await), "x");
    world.gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_too_much_harms_itself_alone() {
    let world = World::of(vec![plugin("one", "legacy")]).await;
    let mut greedy = world.legacy(json!({})).await;
    for _ in 0..300 {
        greedy.begin("tools/call", json!({"name": "one__hang"})).await;
    }
    let refused = greedy.next().await;
    assert_eq!(refused["error"]["code"], -32000, "{refused}");
    let mut other = world.legacy(json!({})).await;
    assert_eq!(text(&other.call("one__echo", json!({"text": "x"})).await), "x");
    // One that never reads, however much it sends.
    let mut deaf = world.legacy(json!({})).await;
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\"}}\n",
        "x".repeat(1000)
    );
    let flood = tokio::spawn(async move {
        for _ in 0..4000 {
            deaf.raw(line.as_bytes()).await;
        }
    });
    assert_eq!(text(&other.call("one__echo", json!({"text": "x"})).await), "x");
    flood.abort();
    world.gateway.stop().await;
}

#[tokio::test]
async fn sixty_four_at_once_lose_nothing() {
    let world = World::of(vec![plugin("one", "legacy")]).await;
    let mut client = world.legacy(json!({})).await;
    let mut waiting = std::collections::HashMap::new();
    for n in 0..64 {
        let id = client
            .begin(
                "tools/call",
                json!({"name": "one__echo", "arguments": {"text": n.to_string()}}),
            )
            .await;
        waiting.insert(id, n.to_string());
    }
    while !waiting.is_empty() {
        let answer = client.next().await;
        let expected = waiting.remove(&answer["id"].as_u64().unwrap()).unwrap();
        assert_eq!(text(&answer), expected);
    }
    world.gateway.stop().await;
}
