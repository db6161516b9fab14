//! What is left of sessions whose makers were killed is found and removed; what is not ours is not touched.

use crate::support::{INSTANCE, Kind, Running, World, agent, script, session_id};
use agentd_runner::runtime::engine::{Engine, EngineError, Environment};
use agentd_runner::runtime::podman::{Podman, PodmanSettings};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use std::fs;
use std::time::{Duration, Instant};

const WAITING: &str = "echo ready; while :; do sleep 1; done";

async fn running(world: &World, order: &Environment) -> Running {
    let mut running = world
        .start(world.launch(order, &script(WAITING, "")).await)
        .unwrap();
    running.wait_for("ready");
    running
}

#[tokio::test]
async fn running_sessions_are_found_and_cleared() {
    for kind in [Kind::Root, Kind::Ordinary] {
        let world = World::new(kind).await;
        let (first, second) = (
            world.order(&agent("a"), 0, None),
            world.order(&agent("b"), 1, None),
        );
        let one = running(&world, &first).await;
        let _two = running(&world, &second).await;
        assert_eq!(
            world.engine.found().await.unwrap(),
            [first.session, second.session]
        );
        world.engine.clear(first.session).await.unwrap();
        assert!(kill(one.init, None::<Signal>).is_err());
        assert_eq!(world.engine.found().await.unwrap(), [second.session]);
        // Of what left nothing nothing is removed.
        world.engine.clear(first.session).await.unwrap();
        world.engine.clear(session_id(99)).await.unwrap();
        world.engine.clear(second.session).await.unwrap();
        assert_eq!(world.containers(), "");
    }
}

#[tokio::test]
async fn a_killed_monitor_is_not_in_the_way() {
    for kind in [Kind::Root, Kind::Ordinary] {
        let world = World::new(kind).await;
        let order = world.order(&agent("a"), 0, None);
        let session = running(&world, &order).await;
        kill(session.monitor, Signal::SIGKILL).unwrap();
        waitpid(session.monitor, None).unwrap();
        world.engine.clear(order.session).await.unwrap();
        // It was this test's child when its monitor was gone.
        let _ = waitpid(session.init, None);
        assert!(kill(session.init, None::<Signal>).is_err());
        assert_eq!(world.containers(), "");
    }
}

#[tokio::test]
async fn a_session_whose_every_process_was_killed_is_cleared() {
    let world = World::new(Kind::Root).await;
    let order = world.order(&agent("a"), 0, None);
    let session = running(&world, &order).await;
    for process in [session.monitor, session.init] {
        kill(process, Signal::SIGKILL).unwrap();
        waitpid(process, None).unwrap();
    }
    assert_eq!(world.engine.found().await.unwrap(), [order.session]);
    world.engine.clear(order.session).await.unwrap();
    assert_eq!(world.containers(), "");
}

#[tokio::test]
async fn what_is_not_ours_is_not_touched() {
    let world = World::new(Kind::Root).await;
    let name = format!("agentd-{}", session_id(1));
    let create = |labels: &[&str]| {
        let mut line = vec!["create", "--name", &name, "--network", "none"];
        line.extend(labels);
        line.extend([crate::support::IMAGE, "/bin/true"]);
        let output = world.podman(&line);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    create(&[
        "--label",
        "agentd.instance=another",
        "--label",
        &format!("agentd.session={}", session_id(1)),
    ]);
    assert_eq!(world.engine.found().await.unwrap(), []);
    world.engine.clear(session_id(1)).await.unwrap();
    assert_eq!(world.containers().trim(), name);
    world.podman(&["rm", &name]);
    // With our labels and a session's name it is.
    create(&[
        "--label",
        &format!("agentd.instance={INSTANCE}"),
        "--label",
        &format!("agentd.session={}", session_id(1)),
    ]);
    assert_eq!(world.engine.found().await.unwrap(), [session_id(1)]);
    world.engine.clear(session_id(1)).await.unwrap();
    assert_eq!(world.containers(), "");
}

#[tokio::test]
async fn a_workspaces_mount_goes_and_the_workspace_stays() {
    let world = World::new(Kind::Root).await;
    let workspace = world.dir("work", 0o700, Some(1234));
    crate::support::write(&workspace.join("precious"), b"x", 0o600, (1234, 1234));
    let order = world.order(&agent("a"), 0, Some(&workspace));
    world.engine.prepare(&order).await.unwrap();
    // Killed here, and again half-way: the mounts are all that is there of the session.
    world.engine.prepare(&order).await.unwrap();
    assert_eq!(world.engine.found().await.unwrap(), [order.session]);
    // Sessions of other tests have the same number.
    let place = world.settings.mounts.join(order.session.to_string());
    let mounted = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let lines = table
            .lines()
            .filter(|line| line.contains(place.to_str().unwrap()));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_ne!(mounted(), [""; 0]);
    world.engine.clear(order.session).await.unwrap();
    assert_eq!(mounted(), [""; 0]);
    assert!(workspace.join("precious").exists());
    assert_eq!(world.engine.found().await.unwrap(), []);
}

#[tokio::test]
async fn an_engine_that_hangs_is_given_up() {
    let world = World::new(Kind::Root).await;
    let engine = Podman::new(PodmanSettings {
        command: ["sh", "-c", "exec sleep 1000", "podman"]
            .map(str::to_owned)
            .to_vec(),
        call_timeout: Duration::from_millis(300),
        ..world.settings.clone()
    });
    let begun = Instant::now();
    for result in [
        engine.clear(session_id(1)).await.err(),
        engine.found().await.err(),
        engine.probe().await.err(),
    ] {
        assert!(matches!(result, Some(EngineError::TimedOut { .. })), "{result:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    let not_ready = engine.ready().await.unwrap_err();
    assert!(matches!(not_ready, EngineError::TimedOut { .. }), "{not_ready:?}");
}

#[tokio::test]
async fn an_engine_that_is_missing_or_mad_is_said_to_be() {
    let world = World::new(Kind::Root).await;
    for (command, said) in [
        (vec!["/nowhere/podman"], "no such program"),
        (vec!["sh", "-c", "echo 'it broke' >&2; exit 3"], "it broke"),
        (vec!["sh", "-c", "echo nonsense"], "cannot be understood"),
        (vec!["sh", "-c", "cat /dev/zero"], "more than"),
    ] {
        let engine = Podman::new(PodmanSettings {
            command: command.into_iter().map(str::to_owned).collect(),
            ..world.settings.clone()
        });
        let error = engine.probe().await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        let error = engine.ready().await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
