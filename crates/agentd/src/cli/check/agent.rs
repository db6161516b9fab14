//! What one agent's declaration names on this machine: files, directories, a repository, credentials.

use super::Finding;
use crate::settings::{Environment, Settings};
use agentd_config::file::{FileError, read_text};
use agentd_config::parse::check_template;
use agentd_config::{Agent, RuntimeKind, WorkspaceMode};
use agentd_protocol::limits::PROMPT_BYTES_MAX;
use nix::unistd::{AccessFlags, access};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The longest secret, in bytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;
/// A shorter value would be found everywhere, so that it cannot be kept out of transcripts.
const REDACTED_BYTES_MIN: usize = 8;

pub(super) fn examine(settings: &Settings, environment: &Environment, agent: &Agent) -> Vec<Finding> {
    let mut findings = Vec::new();
    program(&mut findings, environment, agent);
    prompt(&mut findings, agent);
    for (key, paths) in [("context", &agent.context), ("skills", &agent.skills)] {
        for path in paths {
            readable(&mut findings, key, path);
        }
    }
    for skill in agent.skills.iter().filter(|skill| skill.is_dir()) {
        if !skill.join("SKILL.md").is_file() {
            let message = format!(
                "there is no SKILL.md in {}; most harnesses pass it over",
                skill.display()
            );
            findings.push(Finding::warning("skills", message));
        }
    }
    for skill in agent.skills.iter().filter(|skill| skill.is_file()) {
        let message = format!(
            "{} is a file; a skill is a directory with a SKILL.md in it",
            skill.display()
        );
        findings.push(Finding::error("skills", message));
    }
    workspace(&mut findings, environment, agent);
    for credential in &agent.credentials {
        credential_of(&mut findings, &settings.secret_dir, &credential.name);
    }
    findings
}

/// The secret store as a whole.
pub(super) fn store(secret_dir: &Path) -> Option<Finding> {
    let metadata = secret_dir.metadata().ok()?;
    let shown = secret_dir.display();
    let key = "daemon.secret_dir";
    if !metadata.is_dir() {
        return Some(Finding::error(key, format!("{shown} is not a directory")));
    }
    let by = match metadata.mode() & 0o022 {
        0 => return None,
        0o020 => "its group",
        _ => "everybody",
    };
    let message = format!(
        "{shown} can be written by {by}, who could choose what agents are given; `chmod 700 {shown}`"
    );
    Some(if metadata.mode() & 0o002 != 0 {
        Finding::error(key, message)
    } else {
        Finding::warning(key, message)
    })
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

fn prompt(findings: &mut Vec<Finding>, agent: &Agent) {
    let Some(path) = &agent.prompt_file else { return };
    let shown = path.display();
    let key = "prompt_file";
    match read_text(path, PROMPT_BYTES_MAX as u64) {
        Err(error) => findings.push(Finding::error(key, format!("{shown} cannot be read: {error}"))),
        Ok((text, _)) => {
            if let Err(why) = check_template(&text) {
                findings.push(Finding::error(key, format!("{shown}: {why}")));
            }
            if text.contains('\0') {
                findings.push(Finding::error(key, format!("{shown} has a NUL character in it")));
            }
        }
    }
}

/// Context and skills may be files or directories.
fn readable(findings: &mut Vec<Finding>, key: &'static str, path: &Path) -> bool {
    let shown = path.display();
    let message = match path.metadata() {
        Err(error) => format!("{shown} cannot be used: {error}"),
        Ok(metadata) => {
            let needed = if metadata.is_dir() {
                AccessFlags::R_OK | AccessFlags::X_OK
            } else {
                AccessFlags::R_OK
            };
            match access(path, needed) {
                Ok(()) if metadata.is_dir() || metadata.is_file() => return true,
                Ok(()) => format!("{shown} is neither a file nor a directory"),
                Err(error) => format!("{shown} cannot be read by this user: {}", error.desc()),
            }
        }
    };
    findings.push(Finding::error(key, message));
    false
}

fn workspace(findings: &mut Vec<Finding>, environment: &Environment, agent: &Agent) {
    let Some(path) = &agent.workspace else { return };
    let key = "workspace";
    let shown = path.display();
    if !readable(findings, key, path) {
        return;
    }
    let Ok(metadata) = path.metadata() else { return };
    if !metadata.is_dir() {
        findings.push(Finding::error(key, format!("{shown} is not a directory")));
        return;
    }
    let is_root = environment.uid == 0;
    if is_root && metadata.uid() == 0 && !agent.allow_root_workspace {
        let message = format!(
            "{shown} belongs to root: an agent that writes there acts as root does; give it to the user that the agent is to \
             act as (`chown -R USER {shown}`), or say allow_root_workspace = true"
        );
        findings.push(Finding::error(key, message));
    }
    if !is_root && let Err(error) = access(path, AccessFlags::W_OK) {
        let message = format!("{shown} cannot be written by this user: {}", error.desc());
        findings.push(Finding::error(key, message));
    }
    if agent.workspace_mode == WorkspaceMode::Worktree {
        if !path.ancestors().any(|dir| dir.join(".git").exists()) {
            let message = format!(
                "workspace_mode = \"worktree\", and {shown} is in no git repository; `git init {shown}` makes one"
            );
            findings.push(Finding::error("workspace_mode", message));
        }
        if environment.program("git").is_none() {
            let message = "workspace_mode = \"worktree\", and git is not installed; `apt-get install git`";
            findings.push(Finding::error("workspace_mode", message));
        }
    }
}

/// Only the value's length is of interest, and nothing of the value is said.
fn credential_of(findings: &mut Vec<Finding>, secret_dir: &Path, name: &str) {
    let key = "credentials";
    let path = secret_dir.join(name);
    let shown = path.display();
    let length = match length(&path) {
        Ok((length, mode)) => {
            if mode & 0o044 != 0 {
                let message = format!("others can read the secret {shown}; `chmod 600 {shown}`");
                findings.push(Finding::warning(key, message));
            }
            length
        }
        Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            let dir = secret_dir.display();
            let message = format!(
                "there is no secret {name}; make it: `install -d -m 700 {dir} && (umask 077 && cat > {shown})`, then type the \
                 value and press Ctrl-D"
            );
            findings.push(Finding::error(key, message));
            return;
        }
        Err(error) => {
            findings.push(Finding::error(
                key,
                format!("the secret {shown} cannot be read: {error}"),
            ));
            return;
        }
    };
    if length < REDACTED_BYTES_MIN {
        let message = format!(
            "the secret {name} has {length} bytes; what is shorter than {REDACTED_BYTES_MIN} cannot be kept out of transcripts"
        );
        findings.push(Finding::warning(key, message));
    }
}

/// How many bytes a secret's value has, without the newlines at its end, and the file's mode.
fn length(path: &Path) -> Result<(usize, u32), FileError> {
    let nonblock = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(nonblock).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile);
    }
    let mut value = Vec::with_capacity(SECRET_BYTES_MAX + 1);
    file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut value)?;
    if value.len() > SECRET_BYTES_MAX {
        return Err(FileError::TooLong {
            bytes_max: SECRET_BYTES_MAX as u64,
        });
    }
    let newlines = value
        .iter()
        .rev()
        .take_while(|byte| b"\r\n".contains(byte))
        .count();
    Ok((value.len() - newlines, metadata.mode()))
}
