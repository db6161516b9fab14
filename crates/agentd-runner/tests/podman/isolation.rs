//! What an agent cannot reach, tried from inside; and what cannot be seen of it from outside.

use crate::support::{Kind, World, agent, script};
use agentd_runner::runtime::engine::Engine;
use std::fs;

const SECRET: &str = "s3cret-Value-8a1f";
const PROMPT: &str = "a prompt with p1anted-w0rds";

#[tokio::test]
async fn nothing_of_a_session_stands_in_its_inspection_or_in_command_lines() {
    for kind in [Kind::Root, Kind::Ordinary] {
        let world = World::new(kind).await;
        let mut order = world.order(&agent("a"), 0, None);
        world.secret(&mut order, "token", SECRET);
        let mut program = script("echo ready; while :; do sleep 1; done", PROMPT);
        program.secret_env.insert("TOKEN".into(), "token".into());
        program.env.insert("PLAIN".into(), "p1ain-Value".into());
        let mut running = world.start(world.launch(&order, &program).await).unwrap();
        running.wait_for("ready");
        let name = format!("agentd-{}", order.session);
        let inspected = world.podman(&["inspect", &name]);
        assert!(inspected.status.success());
        let inspected = String::from_utf8(inspected.stdout).unwrap();
        assert!(inspected.contains(&name), "{inspected}");
        let hidden = [SECRET, "p1anted-w0rds", "p1ain-Value"];
        for text in hidden {
            assert!(!inspected.contains(text), "{text} is in the inspection");
        }
        // The agent's own command line holds its prompt; nobody else's does, and nobody's holds the secret.
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            assert!(!line.contains(SECRET), "{line}");
            assert!(
                !line.contains("p1anted-w0rds") || line.starts_with("/bin/sh\0-c"),
                "{line}"
            );
        }
        assert!(world.call(&running.launch.kill).status.success());
        running.wait();
    }
}

#[tokio::test]
async fn another_agents_home_and_the_hosts_processes_are_out_of_reach() {
    let world = World::new(Kind::Root).await;
    let other = world.order(&agent("other"), 1, None);
    let own = (other.users.host_uid, other.users.host_gid);
    crate::support::write(&other.home.join("diary"), b"dear diary", 0o644, own);
    let mut order = world.order(&agent("a"), 0, None);
    assert_ne!(order.users.host_uid, other.users.host_uid);
    // Even with all homes before its eyes.
    order
        .context
        .insert("homes".into(), other.home.parent().unwrap().to_owned());
    let text = "
        ls /run/agentd/context/homes 2>&1 || echo 'no list'
        cat /run/agentd/context/homes/other/diary 2>&1 || echo 'no diary'
        cat /run/agentd/context/homes/a/own && echo 'own read'
        echo \"programs $(cat /proc/[0-9]*/comm)\"; echo that is all
        mount -t tmpfs none /tmp 2>/dev/null || echo 'no mount'
    ";
    crate::support::write(
        &order.home.join("own"),
        b"own",
        0o600,
        (order.users.host_uid, order.users.host_gid),
    );
    let ended = world.session(&order, &script(text, "")).await;
    for line in ["no list", "no diary", "ownown read", "no mount"] {
        assert!(
            ended.output.contains(&format!("{line}\n")),
            "{line:?} is missing from:\n{}",
            ended.output
        );
    }
    assert!(!ended.output.contains("dear diary"));
    let (_, programs) = ended.output.split_once("programs ").unwrap();
    let (programs, _) = programs.split_once("that is all").unwrap();
    let mut programs: Vec<&str> = programs.split_whitespace().collect();
    programs.sort_unstable();
    programs.dedup();
    assert_eq!(programs, ["cat", "init", "sh"]);
}

#[tokio::test]
async fn more_processes_than_allowed_do_not_begin() {
    let world = World::new(Kind::Root).await;
    let mut agent = agent("a");
    agent.pids = Some(20);
    let text = "i=0; while [ $i -lt 40 ]; do sleep 30 & i=$((i+1)); done; echo all begun";
    let order = world.order(&agent, 0, None);
    let ended = world.session(&order, &script(text, "")).await;
    assert!(!ended.output.contains("all begun"), "{}", ended.output);
    assert_ne!(ended.code, 0);
}

#[tokio::test]
async fn memory_is_limited_and_the_init_tells_of_the_end() {
    let world = World::new(Kind::Root).await;
    let mut agent = agent("a");
    agent.memory_bytes = Some(32 * 1024 * 1024);
    // A shell's variable that doubles.
    let text = "x=0123456789abcdef; while :; do x=$x$x; done";
    let order = world.order(&agent, 0, None);
    let ended = world.session(&order, &script(text, "")).await;
    assert_eq!(
        ended.status.as_deref(),
        Some("signal 9\n"),
        "{} {}",
        ended.code,
        ended.output
    );
    assert_eq!(ended.code, 137);
    assert_eq!(world.engine.found().await.unwrap(), []);
}
