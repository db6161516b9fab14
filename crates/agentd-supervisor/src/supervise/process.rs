//! An agent as a child of its supervisor, with all that it starts.
//!
//! Every process of the agent's tree hangs, directly or through others, below the supervisor, because the orphaned ones
//! are given to it: "no child left" is the end of the tree. Plugins are children, too; they and what is in their sessions
//! are not of the tree.

use super::children::{Children, Ending};
use super::launch;
use super::pump;
use super::secrets::Secrets;
use super::shared::{Shared, StopOrder};
use super::stops::Stops;
use crate::proc::{self, Process};
use crate::record::{Exited, StopCause, What};
use crate::records::Durability;
use crate::spec::ProcessLaunch;
use crate::start_error;
use crate::tools::ProcessUser;
use crate::wire::Doing;
use agentd_protocol::OutputStream;
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// How long killing goes on. What is left then waits inside the kernel for a device.
const KILLING_MAX: Duration = Duration::from_secs(10);
/// How often killing looks for processes that escaped a round. Each death wakes it as well; this is for those that are
/// born between.
const KILLING_ROUND: Duration = Duration::from_millis(50);

/// Starts the agent and returns when nothing is left of it.
pub(super) async fn run(
    shared: &Arc<Shared>,
    children: &Children,
    stops: &mut Stops,
    order: &ProcessLaunch,
    secrets: &mut Secrets,
) -> Exited {
    let started = start(order, secrets);
    // Only patterns of them are needed from here on.
    secrets.forget();
    let started = started.and_then(|mut child| {
        let pid = i32::try_from(child.id()).map_err(|_| "a process number that is none".to_owned())?;
        children.expect(pid);
        let stream = |pipe: Option<OwnedFd>| {
            let pipe = pipe.ok_or_else(|| "the agent was started without its pipes".to_owned())?;
            Receiver::from_owned_fd(pipe).map_err(|error| format!("its output cannot be read: {error}"))
        };
        let stdout = stream(child.stdout.take().map(OwnedFd::from));
        let stderr = stream(child.stderr.take().map(OwnedFd::from));
        stops
            .agent_began()
            .map_err(|error| format!("no timer for its timeout: {error}"))?;
        Ok((pid, stdout?, stderr?))
    });
    let (pid, stdout, stderr) = match started {
        Ok(started) => started,
        Err(message) => {
            // If it was the supervisor's part that failed after the start, it goes no further.
            let mut leftovers = HashSet::new();
            kill(children, None, &mut leftovers).await;
            return Exited {
                start_error: Some(message),
                ..Exited::default()
            };
        }
    };
    let over = watch::Sender::new(false);
    let pumps = [(OutputStream::Stdout, stdout), (OutputStream::Stderr, stderr)].map(|(stream, pipe)| {
        let shared = Arc::clone(shared);
        pump::start(pipe, over.subscribe(), move |bytes| {
            shared.take_output(stream, bytes);
        })
    });
    *shared.doing() = (Doing::Running, Some(pid));
    shared.record(What::Started { pid }, Durability::Kernel);

    let stop = until_end(shared, children, stops, pid).await;
    let mut leftovers = HashSet::new();
    let survivors = kill(children, Some(pid), &mut leftovers).await;
    over.send_replace(true);
    for pump in pumps {
        // A pump that panicked has lost its output; the agent's end is told all the same.
        let _ = pump.await;
    }
    let mut exited = Exited {
        stop,
        leftovers: u32::try_from(leftovers.len()).unwrap_or(u32::MAX),
        survivors,
        ..Exited::default()
    };
    match children.ending(pid) {
        Some(Ending::Code(code)) => exited.code = Some(code),
        Some(Ending::Signal(signal)) => exited.signal = Some(signal),
        None => exited.lost = Some("it could not be killed: it waits inside the kernel for a device".into()),
    }
    exited
}

/// Returns when what is left of the tree is to be killed.
async fn until_end(shared: &Shared, children: &Children, stops: &mut Stops, pid: i32) -> Option<StopCause> {
    let mut stopping: Option<(StopCause, Instant)> = None;
    loop {
        let kill_at = stopping.map(|(_, kill_at)| kill_at);
        tokio::select! {
            biased;
            // Whatever an agent that ended by itself left in the background was never promised a life of its own. A tree
            // that is being stopped keeps its grace.
            _ = children.ended(pid), if stopping.is_none() => return None,
            () = children.tree_gone(), if stopping.is_some() => break,
            StopOrder { cause, grace } = stops.next() => {
                let now = Instant::now();
                let until = now.checked_add(grace).unwrap_or(now + Duration::from_secs(86400));
                match &mut stopping {
                    Some((_, kill_at)) => *kill_at = until.min(*kill_at),
                    None => {
                        shared.doing().0 = Doing::Stopping;
                        shared.record(What::Stopping { cause }, Durability::Kernel);
                        stopping = Some((cause, until));
                        if !grace.is_zero() {
                            terminate(children);
                        }
                    }
                }
            }
            () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => break,
        }
    }
    stopping.map(|(cause, _)| cause)
}

fn terminate(children: &Children) {
    for process in children.tree() {
        process.signal(Signal::SIGTERM);
        // A stopped process would not see the one before it is continued.
        process.signal(Signal::SIGCONT);
    }
}

/// Kills the tree until nothing is left of it, and tells how many could not be.
async fn kill(children: &Children, agent: Option<i32>, leftovers: &mut HashSet<Process>) -> u32 {
    let until = Instant::now() + KILLING_MAX;
    while !children.tree_is_gone() {
        if Instant::now() >= until {
            return u32::try_from(children.tree().len()).unwrap_or(u32::MAX);
        }
        for process in proc::kill_tree(|| children.tree()) {
            if agent.is_none_or(|agent| agent != process.pid || children.ending(agent).is_some()) {
                leftovers.insert(process);
            }
        }
        tokio::select! {
            () = children.some_gone() => {}
            () = sleep(KILLING_ROUND) => {}
        }
    }
    0
}

/// # Errors
/// A sentence for people.
fn start(order: &ProcessLaunch, secrets: &Secrets) -> Result<Child, String> {
    let Some((program, arguments)) = order.argv.split_first() else {
        return Err("no program is named".into());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&order.cwd)
        .env_clear()
        .envs(&order.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (variable, file) in &order.secret_env {
        let value = secrets.value(file).ok_or_else(|| {
            format!("there is no secret {file:?}, which the variable {variable} is to have")
        })?;
        if value.contains(&0) {
            return Err(format!(
                "the secret {file:?} has a zero byte in it, and cannot be the variable {variable}"
            ));
        }
        command.env(variable, OsString::from_vec(value.to_vec()));
    }
    if let Some((uid, gid)) = order.user {
        // The standard library takes all other groups away as well, when it can.
        command.uid(uid).gid(gid);
    }
    launch::prepare(&mut command, order.pids);
    command.spawn().map_err(|error| {
        let user = order.user.map(|(uid, gid)| ProcessUser {
            uid,
            gid,
            groups: Vec::new(),
        });
        let error = start_error::explain(&command, user.as_ref(), &error);
        format!("cannot start {program:?}: {}", error.why)
    })
}
