//! Calls of Podman's for images, with the program and the surroundings that sessions have.

use crate::cli::Context;
use crate::cli::said::beginning;
use crate::failure::{Exit, Failure};
use agentd_runner::runtime::podman::PodmanSettings;
use std::fs::File;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Nobody's images are so many that a list is longer.
const OUTPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A question. The first one of a user makes that user's storage.
pub(super) const QUESTION_MAX: Duration = Duration::from_secs(60);

/// What goes in and out of a call.
#[derive(Debug)]
pub(super) enum Talk {
    /// Nothing goes in, and what it says is kept.
    Question,
    /// This goes in, for as long as it takes.
    Feed(File),
    /// What it says goes to standard error, for a person.
    Shown,
}

/// Calls Podman, and gives what it wrote to stdout.
///
/// # Errors
/// When there is none, or it fails.
pub(super) async fn call(context: &Context, arguments: &[&str], talk: Talk) -> Result<String, Failure> {
    let words = &context.settings.podman;
    let program = words.first().map_or("podman", String::as_str);
    let limit = matches!(talk, Talk::Question).then_some(QUESTION_MAX);
    let (stdin, stderr) = match talk {
        Talk::Question => (Stdio::null(), Stdio::piped()),
        Talk::Feed(file) => (file.into(), Stdio::piped()),
        Talk::Shown => (Stdio::null(), Stdio::inherit()),
    };
    let mut child = Command::new(program)
        .args(words.iter().skip(1))
        .args(arguments)
        .env_clear()
        .envs(PodmanSettings::environment_of(context.environment.variables()))
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(stderr)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| not_started(program, &error))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let talked = async {
        let (out, err) = tokio::try_join!(
            beginning(stdout, OUTPUT_BYTES_MAX),
            beginning(stderr, OUTPUT_BYTES_MAX)
        )?;
        Ok::<_, std::io::Error>((child.wait().await?, out, err))
    };
    let what = format!("{program} {}", arguments.first().copied().unwrap_or_default());
    let ended = match limit {
        Some(limit) => tokio::time::timeout(limit, talked).await.map_err(|_| {
            let message = format!("{what} did not answer within {} s", limit.as_secs());
            Failure::new(Exit::Timeout, message)
        })?,
        None => talked.await,
    };
    let (status, out, err) =
        ended.map_err(|error| Failure::new(Exit::Failed, format!("{what} failed: {error}")))?;
    if status.success() {
        return Ok(out);
    }
    let said = err.lines().rev().find(|line| !line.trim().is_empty());
    let said = said.map_or_else(|| status.to_string(), |line| line.chars().take(1000).collect());
    Err(failed(&what, &said))
}

fn failed(what: &str, said: &str) -> Failure {
    let failure = Failure::new(
        Exit::Failed,
        format!("{what} failed: {}", crate::console::one_line(said)),
    );
    if said.contains("no space left") {
        failure.hint("make room where Podman keeps its images, and where TMPDIR (else /var/tmp) is; `podman info` names the place")
    } else {
        failure.hint("`agentd doctor` says what Podman lacks on this machine")
    }
}

fn not_started(program: &str, error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::config(format!(
            "there is no {program} on this machine, which makes and keeps images"
        ))
        .hint("Debian: apt-get install podman; `agentd doctor` names the other packages that it takes"),
        _ => Failure::config(format!("cannot run {program}: {error}"))
            .hint("the setting `podman` in agentd.toml names it"),
    }
}
