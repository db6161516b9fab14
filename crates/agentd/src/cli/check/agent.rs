//! What one agent's declaration names on this machine: files, directories, a repository, credentials. Looked at with the
//! eyes of a session's set-up, so that the two cannot disagree.

use super::Finding;
use crate::daemon::sessions::{self, homes_with_users};
use crate::settings::{Environment, Settings};
use agentd_config::{Agent, RuntimeKind, WorkspaceMode};
use agentd_runner::runtime::engine::{Engine, EngineError, Owner, Users};
use agentd_runner::session::secrets::SecretStore;
use agentd_runner::session::{materials, mission, own, workspace, worktree};
use agentd_store::sqlite::HomeNumbers;
use agentd_supervisor::start_error;
use agentd_supervisor::tools::ProcessUser;
use std::ffi::OsStr;
use std::process::Command;

pub(super) fn examine(
    settings: &Settings,
    environment: &Environment,
    engine: Option<&dyn Engine>,
    homes: &mut HomeNumbers,
    agent: &Agent,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    program(&mut findings, environment, engine, agent);
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
    workspace(&mut findings, homes, environment, engine, agent);
    credentials(&mut findings, settings, agent);
    findings
}

/// How many of an agent's users are asked about: each replica has one.
const USERS_MAX: usize = 16;

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

/// In a container it is the image that has the program. One that is named from the working directory is not looked for.
fn program(
    findings: &mut Vec<Finding>,
    environment: &Environment,
    engine: Option<&dyn Engine>,
    agent: &Agent,
) {
    let (RuntimeKind::Process, Some(program), Some(engine)) = (agent.runtime, agent.command.first(), engine)
    else {
        return;
    };
    if program.contains('/') && !program.starts_with('/') {
        return;
    }
    let mut command = Command::new(program);
    command.current_dir("/");
    let own = agent.env.get("PATH").map(OsStr::new);
    if let Some(path) = own.or_else(|| environment.get("PATH")) {
        command.env("PATH", path);
    }
    // The users of all homes are alike to the programs of this machine.
    let user = engine.users(agent, 0, None).ok().map(|users| ProcessUser {
        uid: users.host_uid,
        gid: users.host_gid,
        groups: Vec::new(),
    });
    if let Some(error) = start_error::examine(&command, user.as_ref()) {
        findings.push(Finding::error("command", format!("{program}: {}", error.why)));
    }
}

fn workspace(
    findings: &mut Vec<Finding>,
    homes: &mut HomeNumbers,
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
    let Some(engine) = engine else { return };
    let mut known: Vec<Users> = Vec::new();
    for users in users(homes, engine, agent, &owner) {
        match users {
            Ok(users) => known.push(users),
            Err(error) => findings.push(Finding::error(key, error.to_string())),
        }
    }
    if agent.workspace_mode == WorkspaceMode::Worktree {
        findings.extend(worktrees(environment, agent, &owner, &known));
    }
}

/// Whether worktrees can be made of the workspace, asked as a session's set-up would.
fn worktrees(environment: &Environment, agent: &Agent, owner: &Owner, users: &[Users]) -> Vec<Finding> {
    let key = "workspace_mode";
    if environment.program("git").is_none() {
        let message = "workspace_mode = \"worktree\", and git is not installed; `apt-get install git`";
        return vec![Finding::error(key, message)];
    }
    let git = sessions::git(environment);
    let mut findings: Vec<Finding> = Vec::new();
    for users in users {
        let found = worktree::check(&git, &agent.name, owner, users.of_worktree());
        let found = match found {
            Ok(warnings) => warnings
                .into_iter()
                .map(|warning| Finding::warning(key, warning))
                .collect(),
            Err(error) => vec![Finding::error(key, error.to_string())],
        };
        // What is wrong with the repository is the same for all of an agent's users.
        findings.extend(
            found
                .into_iter()
                .filter(|new| {
                    let said = findings.iter().map(|finding| &finding.message);
                    !said.clone().any(|message| *message == new.message)
                })
                .collect::<Vec<_>>(),
        );
    }
    findings
}

/// Whether the agent's users can work on its workspace, asked as a session's set-up would. What comes of the number of a
/// home where it does not decide the user is the same for any.
fn users(
    homes: &mut HomeNumbers,
    engine: &dyn Engine,
    agent: &Agent,
    owner: &Owner,
) -> Vec<Result<Users, EngineError>> {
    let mut numbers: Vec<u32> = homes_with_users(agent).map(|home| homes.number(&home)).collect();
    numbers.truncate(USERS_MAX);
    if numbers.is_empty() {
        numbers.push(0);
    }
    let users = |number: u32| engine.users(agent, number, Some(owner));
    numbers.into_iter().map(users).collect()
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
