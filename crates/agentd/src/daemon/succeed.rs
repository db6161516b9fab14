//! Starting where something else is the daemon already.
//!
//! An `agentd run` or `task run` that found no daemon is one itself, and makes way when it is asked: sessions go on under
//! their supervisors, leases are in the database. A daemon that was started as one stays.

use super::{Instance, StartError, Tenure};
use crate::cli::Context;
use crate::endpoint::{PAUSE_MAX, PAUSE_MIN, TAKEN_PATIENCE};
use crate::failure::Failure;
use agentd_client::Client;
use agentd_protocol::Method;
use agentd_protocol::requests::NoParams;
use agentd_protocol::results::Ok as Done;
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// How long a run may take to answer that it makes way.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Starts the daemon, in the place of a run that was one if need be.
///
/// # Errors
/// What is in the way.
pub(super) async fn start(context: &Context) -> Result<Instance, Failure> {
    let taken = match Instance::start(context, Tenure::Stays).await {
        Err(StartError::Taken(failure)) => failure,
        started => return started.map_err(Failure::from),
    };
    let asked = async {
        let mut client = Client::connect(&context.settings.socket).await?;
        client.call::<_, Done>(Method::StepAside, &NoParams {}).await
    };
    // Whatever else it is that answers there: it stays.
    let Ok(Ok(_)) = tokio::time::timeout(ANSWER_MAX, asked).await else {
        return Err(taken);
    };
    info!("a run that was the daemon meanwhile makes way");
    let began = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        match Instance::start(context, Tenure::Stays).await {
            Err(StartError::Taken(_)) if began.elapsed() < TAKEN_PATIENCE => {}
            started => return started.map_err(Failure::from),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What to do about the process that is the daemon, when that was not started as one.
pub(super) fn hint_about(pid: i32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = line
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let run = run_of(words.get(1..)?.iter().map(AsRef::as_ref))?;
    Some(format!(
        "process {pid} is an `agentd {run}` that is the daemon itself until its work is done, and does not make way now: wait \
         for its end, or stop it (Ctrl-C there, or `kill -INT {pid}`), and start this one again"
    ))
}

/// The command of a command line of ours that makes its process a daemon.
fn run_of<'a>(words: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let mut words = words.skip_while(|word| !["run", "task", "daemon"].contains(word));
    match (words.next()?, words.next()) {
        ("run", _) => Some("run"),
        ("task", Some("run")) => Some("task run"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_from_a_daemon() {
        let of = |line: &'static str| run_of(line.split(' '));
        assert_eq!(of("run reviewer"), Some("run"));
        assert_eq!(of("--home /srv/a task run plan.toml"), Some("task run"));
        assert_eq!(of("daemon --retention-days 3"), None);
        assert_eq!(of("task list"), None);
        assert_eq!(of(""), None);
    }
}
