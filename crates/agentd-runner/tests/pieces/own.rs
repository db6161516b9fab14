//! What a container is never shown.

use crate::agent::plain_agent;
use agentd_config::{Agent, RuntimeKind, WorkspaceMode};
use agentd_runner::session::own::examine;
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn what_holds_agentds_own_files_is_for_no_container() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let own = home.join(".agentd");
    let beside = home.join("work");
    for dir in [&own.join("secrets"), &beside] {
        fs::create_dir_all(dir).unwrap();
    }
    symlink(&own, beside.join("link")).unwrap();
    let secrets = own.join("secrets");
    let mut agent = plain_agent();
    agent.runtime = RuntimeKind::Podman;
    agent.workspace_mode = WorkspaceMode::Directory;
    agent.workspace = Some(home.clone());
    agent.context = vec![own.clone(), beside.clone()];
    agent.skills = vec![secrets.clone(), beside.join("link"), place.path().join("absent")];
    let refused = |agent: &Agent| -> Vec<&'static str> {
        let found = examine(agent, &[&own]);
        found.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(refused(&agent), ["workspace", "context", "skills", "skills"]);
    let error = &examine(&agent, &[&own])[0].1;
    assert!(error.to_string().contains("agentd's own files are in"), "{error}");
    // A checkout has none of them; a process sees what its user may.
    agent.workspace_mode = WorkspaceMode::Worktree;
    assert_eq!(refused(&agent), ["context", "skills", "skills"]);
    agent.runtime = RuntimeKind::Process;
    assert_eq!(refused(&agent), [""; 0]);
}
