//! Tools, resources and prompts, through the gateway, in every mix of revisions.

use crate::support::{World, modern, names, plugin, text};
use mcp_transport::event::Outcome;
use mcp_transport::limits::Rate;
use mcp_transport::policy::{Pattern, Rules};
use serde_json::{Value, json};

#[tokio::test]
async fn both_revisions_on_both_sides() {
    let world = World::of(vec![plugin("old", "legacy"), plugin("new", "modern")]).await;
    let mut old = world.legacy(json!({})).await;
    let listed = old.ask("tools/list", json!({})).await;
    let all = names(&listed, "tools");
    assert_eq!(all[0], "old__echo");
    assert_eq!(all.iter().filter(|name| name.starts_with("new__")).count(), 22);
    assert_eq!(all.last().unwrap(), "gateway__read_more");
    let echo = &listed["result"]["tools"][0];
    assert_eq!(echo["unheard-of"], json!({"x": 1}));
    assert_eq!(echo["icons"], json!([{"src": "data:"}]));
    let mut new = world.client().await;
    let discovered = new.ask_modern("server/discover", json!({})).await;
    assert_eq!(discovered["result"]["supportedVersions"][0], "2026-07-28");
    assert!(
        discovered["result"]["instructions"]
            .as_str()
            .unwrap()
            .contains("Be kind.")
    );
    for plugin in ["old", "new"] {
        let echo = json!({"name": format!("{plugin}__echo"), "arguments": {"text": "hé\n"}});
        let by_old = old.ask("tools/call", echo.clone()).await;
        assert_eq!(text(&by_old), "hé\n");
        let by_new = new.ask_modern("tools/call", echo).await;
        assert_eq!(text(&by_new), "hé\n");
        assert_eq!(by_new["result"]["resultType"], "complete");
        let strange = new
            .ask_modern("tools/call", json!({"name": format!("{plugin}__strange")}))
            .await;
        assert_eq!(strange["result"]["unheard-of"], json!({"deep": null}));
        assert_eq!(strange["result"]["structuredContent"], json!({"a": [1.50]}));
        assert_eq!(strange["result"]["_meta"]["x/y"], 1);
        // What each plugin is told.
        let mut params = json!({"name": format!("{plugin}__params"), "arguments": {"n": 1}, "novel": true, "_meta": {"a/b": 2}});
        modern(&mut params);
        let seen: Value = serde_json::from_str(text(&new.ask("tools/call", params).await)).unwrap();
        assert_eq!(
            (&seen["name"], &seen["novel"], &seen["_meta"]["a/b"]),
            (&json!("params"), &json!(true), &json!(2))
        );
        let version = &seen["_meta"]["io.modelcontextprotocol/protocolVersion"];
        assert_eq!(version.is_null(), plugin == "old", "{seen}");
        let plain = old.call(&format!("{plugin}__params"), json!({})).await;
        let seen: Value = serde_json::from_str(text(&plain)).unwrap();
        assert_eq!(seen["_meta"].is_null(), plugin == "old", "{seen}");
    }
    let listed = new.ask_modern("tools/list", json!({})).await;
    assert_eq!(listed["result"]["cacheScope"], "private");
    assert_eq!(new.ask_modern("ping", json!({})).await["error"]["code"], -32601);
    let wrong = json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2030-01-01"}});
    let refused = new.ask("tools/list", wrong).await;
    assert_eq!(refused["error"]["code"], -32022);
    assert_eq!(refused["error"]["data"]["requested"], "2030-01-01");
    world.gateway.stop().await;
}

#[tokio::test]
async fn resources_and_prompts_find_their_plugin() {
    let world = World::of(vec![plugin("old", "legacy"), plugin("new", "modern")]).await;
    let mut client = world.legacy(json!({})).await;
    let resources = client.ask("resources/list", json!({})).await;
    let uris: Vec<&str> = resources["result"]["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["uri"].as_str().unwrap())
        .collect();
    assert_eq!(uris, ["file:///a", "new+file:///a"]);
    for (uri, mode) in [
        ("file:///a", "legacy"),
        ("new+file:///a", "modern"),
        ("row://7", "legacy"),
    ] {
        let read = client.ask("resources/read", json!({"uri": uri})).await;
        assert_eq!(read["result"]["mode"], mode, "{read}");
    }
    let prompts = client.ask("prompts/list", json!({})).await;
    assert_eq!(names(&prompts, "prompts"), ["old__hello", "new__hello"]);
    let prompt = client.ask("prompts/get", json!({"name": "new__hello"})).await;
    assert_eq!(
        (&prompt["result"]["name"], &prompt["result"]["extra"]),
        (&json!("hello"), &json!(1))
    );
    let completed = client
        .ask(
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "old__hello"}, "argument": {}}),
        )
        .await;
    assert_eq!(completed["result"]["completion"]["values"], json!(["hello"]));
    client
        .ask("resources/subscribe", json!({"uri": "file:///a"}))
        .await;
    let updated = client.until("notifications/resources/updated").await;
    assert_eq!(updated["params"]["uri"], "file:///a");
    world.gateway.stop().await;
}

#[tokio::test]
async fn rules_hold_when_listing_and_when_calling() {
    let mut one = plugin("one", "legacy");
    one.tools = Rules {
        allow: Some(vec![Pattern::new("e*"), Pattern::new("fail")]),
        deny: vec![Pattern::new("env")],
    };
    let mut world = World::with(vec![one], |options| {
        options.tools.deny = vec![Pattern::new("one__fail")];
    })
    .await;
    let mut client = world.legacy(json!({})).await;
    let listed = client.ask("tools/list", json!({})).await;
    assert_eq!(
        names(&listed, "tools"),
        ["one__echo", "one__endless-line", "gateway__read_more"]
    );
    for denied in ["one__env", "one__fail", "one__grow"] {
        let answer = client.call(denied, json!({"secret": "sesame"})).await;
        assert!(
            answer["error"]["message"]
                .as_str()
                .unwrap()
                .contains("may not be called"),
            "{answer}"
        );
        let event = world.call_event().await;
        assert_eq!((event.outcome, &*event.plugin), (Outcome::Denied, "one"));
        assert_eq!(event.arguments, r#"{"secret":"[redacted]"}"#);
    }
    let unknown = client.call("one__nothing", json!({})).await;
    assert_eq!(unknown["error"]["code"], -32602);
    world.gateway.stop().await;
}

#[tokio::test]
async fn every_call_is_one_event() {
    let mut world = World::of(vec![plugin("one", "legacy")]).await;
    let mut client = world.legacy(json!({})).await;
    let expected = [
        ("echo", Outcome::Ok),
        ("fail", Outcome::ToolError),
        ("refuse", Outcome::RpcError),
    ];
    for (tool, outcome) in expected {
        let answer = client.call(&format!("one__{tool}"), json!({"text": "x"})).await;
        let event = world.call_event().await;
        assert_eq!((event.tool.as_str(), event.outcome), (tool, outcome), "{answer}");
        assert_eq!(
            (event.arguments.as_str(), event.argument_bytes),
            (r#"{"text":"x"}"#, 12)
        );
    }
    let refused = client.call("one__refuse", json!({})).await;
    assert_eq!(refused["error"]["code"], -32050);
    let _ = world.call_event().await;
    client
        .call("one__echo", json!({"text": "y".repeat(100_000)}))
        .await;
    let event = world.call_event().await;
    assert_eq!((event.arguments.len(), event.argument_bytes), (4096, 100_011));
    world.gateway.stop().await;
}

#[tokio::test]
async fn too_often_is_said_and_not_passed_on() {
    let mut one = plugin("one", "legacy");
    one.limits.rate = Some(Rate {
        per_sec: 0.001,
        burst: 2,
    });
    let mut world = World::of(vec![one]).await;
    let mut client = world.legacy(json!({})).await;
    for outcome in [Outcome::Ok, Outcome::Ok, Outcome::RateLimited] {
        let answer = client.call("one__echo", json!({"text": "x"})).await;
        assert_eq!(world.call_event().await.outcome, outcome, "{answer}");
        assert_eq!(
            answer["result"]["isError"] == true,
            outcome == Outcome::RateLimited
        );
    }
    world.gateway.stop().await;
}

#[tokio::test]
async fn large_output_is_cut_and_read_to_its_end() {
    let mut one = plugin("one", "legacy");
    one.limits.output_bytes_max = 10_000;
    let world = World::of(vec![one]).await;
    let mut client = world.legacy(json!({})).await;
    let answer = client.call("one__big", json!({"bytes": 150_000})).await;
    assert!(answer.to_string().len() < 11_000);
    let mut all = String::new();
    let mut part = text(&answer).to_owned();
    while let Some((shown, marker)) = part.clone().rsplit_once("\n[cut here: ") {
        all.push_str(shown);
        let arguments = &marker[marker.find('{').unwrap()..=marker.rfind('}').unwrap()];
        let more = client
            .call("gateway__read_more", serde_json::from_str(arguments).unwrap())
            .await;
        part = text(&more).to_owned();
    }
    all.push_str(&part);
    assert_eq!(all, "x".repeat(150_000));
    let nothing = client
        .call("gateway__read_more", json!({"id": "../../x", "offset": 0}))
        .await;
    assert_eq!(nothing["result"]["isError"], true);
    assert_eq!(
        std::fs::read_dir(world.dir.path().join("spool")).unwrap().count(),
        1
    );
    world.gateway.stop().await;
}

#[tokio::test]
async fn progress_goes_to_whom_it_belongs() {
    let world = World::of(vec![plugin("old", "legacy"), plugin("new", "modern")]).await;
    let mut first = world.legacy(json!({})).await;
    let mut second = world.legacy(json!({})).await;
    for plugin in ["old", "new"] {
        let params = json!({"name": format!("{plugin}__progress"), "_meta": {"progressToken": "mine"}});
        first.ask("tools/call", params).await;
        let told: Vec<_> = first
            .others
            .drain(..)
            .filter(|m| m["method"] == "notifications/progress")
            .collect();
        assert_eq!(told.len(), 3);
        assert!(told.iter().all(|m| m["params"]["progressToken"] == "mine"));
    }
    second.ask("ping", json!({})).await;
    assert_eq!(second.others, Vec::<Value>::new());
    world.gateway.stop().await;
}

#[tokio::test]
async fn who_takes_a_call_back_gets_no_answer_and_the_plugin_is_told() {
    let mut world = World::of(vec![plugin("one", "legacy")]).await;
    let mut client = world.legacy(json!({})).await;
    let id = client.begin("tools/call", json!({"name": "one__hang"})).await;
    client
        .say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}))
        .await;
    let known = client.call("one__was-cancelled", json!({})).await;
    assert_eq!(text(&known), "1");
    assert!(client.others.iter().all(|message| message["id"] != id));
    assert_eq!(world.call_event().await.outcome, Outcome::Cancelled);
    // A client that goes takes all of its calls back.
    let mut other = world.legacy(json!({})).await;
    other.begin("tools/call", json!({"name": "one__hang"})).await;
    other.ask("ping", json!({})).await;
    drop(other);
    loop {
        let event = world.call_event().await;
        if event.tool == "hang" {
            assert_eq!(event.outcome, Outcome::Cancelled);
            break;
        }
    }
    world.gateway.stop().await;
}

#[tokio::test]
async fn changes_are_told() {
    let world = World::of(vec![plugin("one", "legacy")]).await;
    let mut old = world.legacy(json!({})).await;
    let mut new = world.client().await;
    let mut params = json!({"notifications": {"toolsListChanged": true, "promptsListChanged": true}});
    modern(&mut params);
    let id = new.begin("subscriptions/listen", params).await;
    let accepted = new.until("notifications/subscriptions/acknowledged").await;
    assert_eq!(
        accepted["params"]["notifications"],
        json!({"toolsListChanged": true, "promptsListChanged": true})
    );
    old.call("one__grow", json!({})).await;
    old.until("notifications/tools/list_changed").await;
    let told = new.until("notifications/tools/list_changed").await;
    assert_eq!(
        told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        id
    );
    let listed = old.ask("tools/list", json!({})).await;
    assert!(names(&listed, "tools").contains(&"one__more-0".to_owned()));
    assert_eq!(text(&old.call("one__echo", json!({"text": "x"})).await), "x");
    world.gateway.stop().await;
}

#[tokio::test]
async fn plugins_ask_clients_in_either_way() {
    let world = World::with(
        vec![plugin("old", "legacy"), plugin("new", "modern")],
        |options| {
            options.client_capabilities = json!({"elicitation": {}});
        },
    )
    .await;
    let mut client = world.legacy(json!({"elicitation": {}})).await;
    for plugin in ["old", "new"] {
        let id = client
            .begin("tools/call", json!({"name": format!("{plugin}__ask")}))
            .await;
        let question = client.until("elicitation/create").await;
        assert_eq!(question["params"]["message"], "sure?");
        client
            .say(&json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}))
            .await;
        let answer = client.answer(id).await;
        assert!(text(&answer).contains("accept"), "{answer}");
    }
    // A newer client sees a newer plugin's question as it is.
    let mut new = world.client().await;
    let asked = new.ask_modern("tools/call", json!({"name": "new__ask"})).await;
    assert_eq!(asked["result"]["resultType"], "input_required");
    assert_eq!(asked["result"]["requestState"], "half-way");
    // A client that cannot be asked is not.
    let mut mute = world.legacy(json!({})).await;
    let answer = mute.call("old__ask", json!({})).await;
    assert!(text(&answer).contains("cannot be asked"), "{answer}");
    world.gateway.stop().await;
}

#[tokio::test]
async fn what_is_called_directly() {
    let world = World::of(vec![plugin("one", "legacy")]).await;
    assert_eq!(world.gateway.tools()[0].own_name, "echo");
    let answer = world
        .gateway
        .call("one__echo", json!({"text": "x"}))
        .await
        .unwrap();
    assert_eq!(answer["content"][0]["text"], "x");
    let environment = world.gateway.call("one__env", json!({})).await.unwrap();
    assert_eq!(environment["content"][0]["text"], "FIXTURE=set");
    assert_eq!(
        world
            .gateway
            .call("one__refuse", json!({}))
            .await
            .unwrap_err()
            .code,
        -32050
    );
    world.gateway.stop().await;
}
