//! What one agent's declaration names on this machine: files, directories, a repository, credentials. Looked at with the
//! eyes of a session's set-up, so that the two cannot disagree.

use super::Finding;
use crate::settings::{Environment, Settings};
use agentd_config::{Agent, RuntimeKind, WorkspaceMode};
use agentd_runner::runtime::engine::Engine;
use agentd_runner::runtime::users::home_number;
use agentd_runner::session::secrets::SecretStore;
use agentd_runner::session::{materials, mission, own, workspace};
use std::os::unix::fs::MetadataExt;

pub(super) fn examine(
    settings: &Settings,
    environment: &Environment,
    engine: Option<&dyn Engine>,
    agent: &Agent,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    program(&mut findings, environment, agent);
    if let Err(error) = mission::check_file(agent) {
        findings.push(Finding::error("prompt_file", error.to_string()));
    }
    let (found, problems) = materials::examine(agent);
    let of_agentd = own::examine(agent, &[&settings.home, &settings.secret_dir]);
    findings.extend(
        problems
            .into_iter()
            .chain(of_agentd)
            .map(|(key, error)| Finding::error(key, error.to_string())),
    );
    findings.extend(
        found
            .warnings
            .into_iter()
            .map(|warning| Finding::warning("skills", warning)),
    );
    workspace(&mut findings, settings, environment, engine, agent);
    credentials(&mut findings, settings, agent);
    findings
}

/// The secret store as a whole.
pub(super) fn store(settings: &Settings) -> Vec<Finding> {
    let key = "daemon.secret_dir";
    match SecretStore::new(settings.secret_dir.clone()).check() {
        Ok(warnings) => warnings
            .into_iter()
            .map(|warning| Finding::warning(key, warning))
            .collect(),
        Err(error) => vec![Finding::error(key, error.to_string())],
    }
}

/// In a container it is the image that has the program.
fn program(findings: &mut Vec<Finding>, environment: &Environment, agent: &Agent) {
    if agent.runtime != RuntimeKind::Process || agent.env.contains_key("PATH") {
        return;
    }
    let Some(program) = agent.command.first() else {
        return;
    };
    let relative = program.contains('/') && !program.starts_with('/');
    if !relative && environment.program(program).is_none() {
        let message = format!("{program} is no program that can be run here");
        findings.push(Finding::error("command", message));
    }
}

fn workspace(
    findings: &mut Vec<Finding>,
    settings: &Settings,
    environment: &Environment,
    engine: Option<&dyn Engine>,
    agent: &Agent,
) {
    let key = "workspace";
    let owner = match workspace::find(agent) {
        Ok(Some(owner)) => owner,
        Ok(None) => return,
        Err(error) => return findings.push(Finding::error(key, error.to_string())),
    };
    if let Some(engine) = engine {
        // A home that is not there yet has no number. What comes of any other is the same, but for its user's id.
        let number = number_of(settings, agent);
        if let Err(error) = engine.users(agent, number.unwrap_or(0), Some(&owner)) {
            let message = match number {
                None if agent.runtime == RuntimeKind::Process && nix::unistd::geteuid().is_root() => format!(
                    "the workspace {} belongs to user {}, and the agent's own user may not write it; which user that is, and the \
                     command that lets it, its first run says; or choose the runtime podman, which works as the workspace's owner",
                    owner.path.display(),
                    owner.uid
                ),
                _ => error.to_string(),
            };
            findings.push(Finding::error(key, message));
        }
    }
    if agent.workspace_mode == WorkspaceMode::Worktree {
        let key = "workspace_mode";
        let path = &owner.path;
        if !path.ancestors().any(|dir| dir.join(".git").exists()) {
            let shown = path.display();
            let message = format!(
                "workspace_mode = \"worktree\", and {shown} is in no git repository; `git init {shown}` makes one"
            );
            findings.push(Finding::error(key, message));
        }
        if environment.program("git").is_none() {
            let message = "workspace_mode = \"worktree\", and git is not installed; `apt-get install git`";
            findings.push(Finding::error(key, message));
        }
    }
}

/// The number of the agent's home, as far as the home tells.
fn number_of(settings: &Settings, agent: &Agent) -> Option<u32> {
    let home = settings.home.join("homes").join(agent.home_name(0));
    home_number(settings.id_range_start, home.metadata().ok()?.uid())
}

/// They are read, and nothing of them is said.
fn credentials(findings: &mut Vec<Finding>, settings: &Settings, agent: &Agent) {
    let key = "credentials";
    let store = SecretStore::new(settings.secret_dir.clone());
    for credential in &agent.credentials {
        match store.read_for(credential) {
            Ok(read) => findings.extend(
                read.warnings
                    .into_iter()
                    .map(|warning| Finding::warning(key, warning)),
            ),
            Err(error) => findings.push(Finding::error(key, error.to_string())),
        }
    }
}
