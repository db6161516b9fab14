//! What the daemon allows a client is what the kernel says it is.

use crate::client::{BOTH, Client};
use crate::support::TestEnvironment;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Nobody's.
const UID: u32 = 65_534;

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_observer_looks_and_is_told_why_it_may_not_touch() {
    // Only root can be another user.
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let task = daemon
        .connect()
        .call("RegisterTask", json!({ "goal": "g", "initial_nodes": [{}] }));
    daemon.connect().call(
        "AcquireResourceLock",
        json!({ "resource_key": "k", "owner": "root" }),
    );
    for dir in [env.home().parent().unwrap(), &env.home(), &env.state()] {
        open(dir, 0o755);
    }
    open(&env.socket(), 0o666);
    let program = env.path("agentd");
    fs::copy(env!("CARGO_BIN_EXE_agentd"), &program).unwrap();
    for lifecycle in BOTH {
        let mut command = Command::new(&program);
        command.arg("mcp");
        env.prepare(&mut command);
        command
            .env("HOME", "/nonexistent")
            .env("AGENTD_SOCKET_PATH", env.socket())
            .uid(UID)
            .gid(UID);
        let mut client = Client::with(command, "visitor", lifecycle);
        assert_eq!(client.call("whoami", json!({}))["daemon"]["role"], "observer");
        let status = client.call("task_status", json!({ "task_id": task["task_id"] }));
        assert_eq!(status["counts"]["PENDING"], 1);
        assert_eq!(client.call("locks_list", json!({}))["locks"][0]["owner"], "root");
        for (tool, arguments) in [
            ("task_register", json!({ "goal": "g" })),
            (
                "task_control",
                json!({ "task_id": task["task_id"], "action": "cancel" }),
            ),
            ("node_acquire", json!({ "wait_secs": 600 })),
            ("lock_acquire", json!({ "key": "other", "wait_secs": 600 })),
        ] {
            let refusal = client.refused(tool, arguments);
            assert_eq!(refusal["error"]["reason"], "forbidden", "{tool}");
            assert!(
                refusal["error"]["next"]
                    .as_str()
                    .unwrap()
                    .contains("ask the person")
            );
        }
        assert!(client.close().success());
    }
}
