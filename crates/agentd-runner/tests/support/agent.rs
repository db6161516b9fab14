//! An agent of which nothing is declared, for tests to say what matters to them.

use agentd_config::{Agent, Network, RuntimeKind, ToolPatterns, Uncommitted, WorkspaceMode, WorktreePolicy};
use std::collections::BTreeMap;

pub(crate) fn plain_agent() -> Agent {
    Agent {
        name: String::new(),
        runtime: RuntimeKind::Podman,
        image: None,
        oci_runtime: None,
        harness: "custom".into(),
        command: Vec::new(),
        prompt: None,
        prompt_file: None,
        workspace: None,
        workspace_mode: WorkspaceMode::Directory,
        worktree_policy: WorktreePolicy::Keep,
        uncommitted: Uncommitted::Keep,
        on_unmerged: None,
        workdir: None,
        allow_root_workspace: false,
        credentials: Vec::new(),
        context: Vec::new(),
        skills: Vec::new(),
        network: Network::None,
        memory_bytes: None,
        pids: None,
        cpus: None,
        timeout: None,
        grace_period: Agent::GRACE_PERIOD_DEFAULT,
        replicas: 1,
        capabilities: Vec::new(),
        max_sessions: 1,
        home_quota_bytes: None,
        env: BTreeMap::new(),
        plugins: Vec::new(),
        tools: ToolPatterns::default(),
    }
}
