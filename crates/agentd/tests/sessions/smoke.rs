//! That a container works at all.

use crate::podman::{IMAGE, Podman};
use crate::support::TestEnvironment;
use serde_json::json;

#[test]
fn a_session_runs_in_a_container_and_nothing_is_left() {
    let mut env = TestEnvironment::new();
    let podman = Podman::new(&mut env);
    let script = json!("echo said: $1");
    env.write(
        ".agentd/agentd.toml",
        &format!(
            "[daemon]\n{}\n[[agents]]\nname = \"a\"\nruntime = \"podman\"\nimage = \"{IMAGE}\"\nharness = \"custom\"\n\
             prompt = \"p\"\ncommand = [\"/bin/sh\", \"-c\", {script}, \"agent\"]\n",
            podman.setting()
        ),
    );
    let daemon = env.daemon();
    let out = env.ok(&["run", "a", "--prompt", "hello"]);
    assert_eq!(out, "said: hello\n");
    assert!(podman.containers().is_empty());
    daemon.stop();
}
