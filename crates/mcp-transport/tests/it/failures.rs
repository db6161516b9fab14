//! Plugins that fail.

use crate::support::{MAX, World, is_alive, names, plugin, text};
use mcp_transport::event::{Event, Outcome};
use mcp_transport::{Gateway, GatewayOptions, StartError};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

#[tokio::test]
async fn a_plugin_that_cannot_start_says_why() {
    for (mode, expected) in [
        ("die-at-start", "no configuration"),
        ("no-lists", "exit status 5"),
    ] {
        let mut options = GatewayOptions::new(vec![plugin("good", "legacy"), plugin("bad", mode)]);
        options.redact = Arc::new(|text: &str| text.replace("sesame", "[redacted]"));
        let logs = tempfile::tempdir().unwrap();
        options.log_dir = Some(logs.path().to_owned());
        let error = timeout(MAX, Gateway::start(options)).await.unwrap().unwrap_err();
        let StartError::Plugin { plugin, why, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(plugin, "bad");
        assert!(why.contains(expected) && !why.contains("sesame"), "{why}");
        if mode == "die-at-start" {
            // It was started twice, the second time in the older way.
            assert_eq!(why.matches(expected).count(), 1, "{why}");
            let log = std::fs::read_to_string(logs.path().join("bad.log")).unwrap();
            assert_eq!(log, "no configuration; token=[redacted]\n".repeat(2));
        }
    }
    for name in ["", "a__b", "gateway"] {
        let error = Gateway::start(GatewayOptions::new(vec![plugin(name, "legacy")]))
            .await
            .unwrap_err();
        assert!(matches!(error, StartError::Name(_)), "{error}");
    }
}

#[tokio::test]
async fn older_plugins_that_do_not_bear_the_probe() {
    let mut silent = plugin("silent", "silent-probe");
    silent.limits.probe_max = Duration::from_millis(50);
    let world = World::of(vec![silent, plugin("dies", "dies-of-probe")]).await;
    for name in ["silent", "dies"] {
        let answer = world
            .gateway
            .call(&format!("{name}__echo"), json!({"text": "x"}))
            .await
            .unwrap();
        assert_eq!(answer["content"][0]["text"], "x");
    }
    world.gateway.stop().await;
}

#[tokio::test]
async fn death_in_mid_call_is_told_and_mended() {
    let mut world = World::of(vec![plugin("one", "legacy")]).await;
    let mut client = world.legacy(json!({})).await;
    let hanging = client.begin("tools/call", json!({"name": "one__hang"})).await;
    let dying = client.begin("tools/call", json!({"name": "one__die"})).await;
    for id in [hanging, dying] {
        let answer = match client.others.iter().position(|other| other["id"] == id) {
            Some(at) => client.others.remove(at),
            None => client.answer(id).await,
        };
        let said = text(&answer);
        assert!(
            said.contains("exit status 9") && said.contains("dying now; token=[redacted]"),
            "{said}"
        );
        assert_eq!(world.call_event().await.outcome, Outcome::PluginFailed);
    }
    assert_eq!(
        text(&client.call("one__echo", json!({"text": "back"})).await),
        "back"
    );
    assert!(
        !client
            .others
            .iter()
            .any(|other| other["method"] == "notifications/tools/list_changed")
    );
    world.gateway.stop().await;
}

#[tokio::test]
async fn one_that_dies_too_often_is_withdrawn() {
    let mut one = plugin("one", "legacy");
    one.limits.restarts_max = 2;
    let mut world = World::of(vec![one, plugin("two", "legacy")]).await;
    let mut client = world.legacy(json!({})).await;
    for _ in 0..3 {
        let answer = client.call("one__die", json!({})).await;
        assert!(text(&answer).contains("exit status 9"), "{answer}");
    }
    client.until("notifications/tools/list_changed").await;
    let listed = client.ask("tools/list", json!({})).await;
    assert!(
        names(&listed, "tools")
            .iter()
            .all(|name| !name.starts_with("one__"))
    );
    assert_eq!(text(&client.call("two__echo", json!({"text": "x"})).await), "x");
    // Whoever has not heard of it yet is told why.
    let answer = client.call("one__die", json!({})).await;
    for said in [
        "plugin \"one\"",
        "given up",
        "exit status 9",
        "dying now; token=[redacted]",
    ] {
        assert!(text(&answer).contains(said), "{answer}");
    }
    let unknown = client.call("none__die", json!({})).await;
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    loop {
        if let Event::PluginGivenUp { plugin, reason } = world.event().await {
            assert_eq!(plugin, "one");
            assert!(
                reason.contains("dying now") && !reason.contains("sesame"),
                "{reason}"
            );
            break;
        }
    }
    let mut last = world.call_event().await;
    while !last.error.as_ref().is_some_and(|why| why.contains("given up")) {
        last = world.call_event().await;
    }
    assert_eq!((&*last.plugin, &*last.tool), ("one", "die"));
    assert_eq!(last.outcome, Outcome::PluginFailed);
    assert_eq!(world.call_event().await.outcome, Outcome::Denied);
    world.gateway.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_none_fails_its_call_at_once() {
    let mut world = World::of(vec![plugin("one", "legacy")]).await;
    let mut client = world.legacy(json!({})).await;
    for (tool, why) in [
        ("no-list", "content is no list"),
        ("no-objects", "content is no list of objects"),
        ("no-text", "not UTF-8"),
    ] {
        let answer = client.call(&format!("one__{tool}"), json!({})).await;
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        let said = text(&answer);
        assert!(
            said.contains("plugin \"one\": its answer is malformed") && said.contains(why),
            "{said}"
        );
        let event = world.call_event().await;
        assert_eq!(event.outcome, Outcome::PluginFailed);
        assert_eq!(event.error.as_deref(), Some(said));
    }
    world.gateway.stop().await;
}

#[tokio::test]
async fn no_answer_is_an_answer_in_time() {
    let mut one = plugin("one", "legacy");
    one.limits.call_max = Duration::from_millis(300);
    let mut world = World::of(vec![one]).await;
    let mut client = world.legacy(json!({})).await;
    for tool in ["hang", "malformed"] {
        let answer = client.call(&format!("one__{tool}"), json!({})).await;
        assert_eq!(answer["result"]["isError"], true, "{answer}");
    }
    assert_eq!(world.call_event().await.outcome, Outcome::TimedOut);
    assert_eq!(world.call_event().await.outcome, Outcome::PluginFailed);
    // It was told that nobody waits.
    assert_eq!(text(&client.call("one__was-cancelled", json!({})).await), "1");
    world.gateway.stop().await;
}

#[tokio::test]
async fn what_a_plugin_leaves_behind_goes_with_it() {
    let mut fork = plugin("fork", "fork");
    fork.limits.stop_grace = Duration::from_millis(200);
    let mut stubborn = plugin("stubborn", "stubborn");
    stubborn.limits.stop_grace = Duration::from_millis(200);
    let world = World::of(vec![fork, stubborn]).await;
    let child = |world: &World| -> i32 {
        let said = world.gateway.stderr("fork").unwrap();
        said.trim().rsplit(' ').next().unwrap().parse().unwrap()
    };
    let first = child(&world);
    assert!(is_alive(first));
    let died = world.gateway.call("fork__die", json!({})).await.unwrap();
    assert_eq!(died["isError"], true);
    world
        .gateway
        .call("fork__echo", json!({"text": "x"}))
        .await
        .unwrap();
    gone(first).await;
    let second = child(&world);
    assert_ne!(first, second);
    let begun = Instant::now();
    world.gateway.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    gone(second).await;
}

/// Killed processes may still be on their way out.
async fn gone(pid: i32) {
    let handle = rustix::process::Pid::from_raw(pid)
        .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK).ok());
    if let Some(handle) = handle {
        let waited = tokio::task::spawn_blocking(move || {
            let mut fds = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
            let max = rustix::event::Timespec {
                tv_sec: 30,
                tv_nsec: 0,
            };
            rustix::event::poll(&mut fds, Some(&max)).unwrap()
        });
        assert_eq!(waited.await.unwrap(), 1, "a process was left behind");
    }
    assert!(!is_alive(pid));
}
