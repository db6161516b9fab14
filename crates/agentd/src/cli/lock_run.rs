//! `agentd lock run`: a command that runs exactly as long as it holds a lock.
//!
//! Everything is counted on the clock that nobody can set, from the moment *before* a request was sent: the daemon
//! counts from when it arrived, so that its idea of the lock's end is never earlier than ours.
//!
//! ```text
//!   heartbeat sent                                   TERM          KILL      the lock ends
//!   ├── ttl/3 ──┼── ttl/3 ──┼── … no answer …  ───────┼─── grace ───┼── margin ─┤
//! ```

use super::lock::{Target, Terms};
use super::{Context, values};
use crate::console::one_line;
use crate::endpoint::{Reconnect, is_passing};
use crate::failure::{Exit, Failure};
use crate::guard::{End, Guard};
use agentd_client::{Client, ClientError};
use agentd_protocol::Method;
use agentd_protocol::requests::{HeartbeatResourceLock, ReleaseResourceLock};
use agentd_protocol::results::{Extended, Ok as Done, ResourceLock};
use clap::Args;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep_until, timeout};

/// Long enough that a restart of the daemon is survived, short enough that nobody waits long for a crashed holder.
const TTL_DEFAULT: Duration = Duration::from_secs(30);
/// How long giving the lock back may take. It ends by itself anyway.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// Hold a lock for as long as a command runs, and return its exit code
#[derive(Debug, Args)]
#[command(after_long_help = "\
The lock is extended for as long as the command runs, through restarts of the daemon too. If it is lost (no daemon
answers until it nearly ends, or the daemon says that it is gone), the command and everything that it started is ended
before anybody else can hold the lock, and this ends with 75. When the command ends, so does whatever it left running
in the background, which would go on without the lock.

The command finds AGENTD_LOCK_KEY and AGENTD_LOCK_FENCE in its environment. The fence is larger than that of every
earlier holder: a service that remembers the largest one it has seen can refuse those who come late.

Examples:
  agentd lock run --file src/lib.rs --wait 1m -- vim src/lib.rs
  agentd lock run deploy -- ./deploy.sh production")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    terms: Terms,
    /// How long the lock outlives a crash of this program [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    ttl: Option<Duration>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl RunArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let key = self.target.key()?;
        let ttl_secs = values::whole_secs(self.ttl.unwrap_or(TTL_DEFAULT));
        let mut client = context.connect().await?;
        let lock = self
            .terms
            .acquire(context, &mut client, &key, Some(ttl_secs))
            .await?;
        // Waiting may have taken long: the time that we can rely on begins with an answer to a question asked now.
        let mut holder = Holder {
            context,
            lock,
            client: Some(client),
            times: Times::new(ttl_secs),
            trusted: None,
        };
        let bound = holder.times.kill;
        let outcome = match timeout(bound, holder.heartbeat()).await {
            Ok(Ok(())) => holder.run(&self.command).await,
            Ok(Err(why)) => Err(holder.lost(&why)),
            Err(_) => Err(holder.lost("no daemon answered in time")),
        };
        holder.release().await;
        outcome
    }
}

/// When what happens, counted from the last heartbeat that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    heartbeat: Duration,
    term: Duration,
    kill: Duration,
}

impl Times {
    fn new(ttl_secs: u64) -> Self {
        let ttl = Duration::from_secs(ttl_secs);
        // Killing takes milliseconds; a busy machine gets more.
        let margin = (ttl / 10).min(Duration::from_secs(2));
        let grace = (ttl / 5).min(Duration::from_secs(5));
        Self {
            heartbeat: ttl / 3,
            term: ttl - margin - grace,
            kill: ttl - margin,
        }
    }
}

struct Holder<'a> {
    context: &'a Context,
    lock: ResourceLock,
    client: Option<Client>,
    times: Times,
    /// When the last heartbeat that was answered was sent.
    trusted: Option<Instant>,
}

impl Holder<'_> {
    // One heartbeat, over a new connection if need be. Goes on until it is answered; the caller bounds the time.
    async fn heartbeat(&mut self) -> Result<(), String> {
        let request = HeartbeatResourceLock {
            resource_key: self.lock.resource_key.clone(),
            lease_id: self.lock.lease_id,
            ttl_secs: None,
        };
        loop {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => Reconnect::quietly(self.context)
                    .client()
                    .await
                    .map_err(|failure| failure.message)?,
            };
            let sent = Instant::now();
            match client
                .call::<_, Extended>(Method::HeartbeatResourceLock, &request)
                .await
            {
                Ok(_) => {
                    self.client = Some(client);
                    self.trusted = Some(sent);
                    return Ok(());
                }
                Err(error) if is_passing(&error) => tokio::time::sleep(Duration::from_millis(20)).await,
                // The database's trouble may pass; the lock is ours until its time is over.
                Err(ClientError::Rpc(error)) if error.reason() == Some(agentd_protocol::Reason::Storage) => {
                    self.client = Some(client);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    async fn run(&mut self, command: &[OsString]) -> Result<Exit, Failure> {
        let internal = |error: std::io::Error| Failure::internal(format!("cannot run the command: {error}"));
        let mut signals = Signals::new().map_err(internal)?;
        let variables = [
            ("AGENTD_LOCK_KEY", self.lock.resource_key.clone()),
            ("AGENTD_LOCK_FENCE", self.lock.fence.to_string()),
        ];
        let mut guard = Guard::start(command, &variables).map_err(internal)?;
        self.tell(&mut guard).await;
        let mut terminated = false;
        let mut lost = None;
        let end = loop {
            let due = self.trusted.unwrap_or_else(Instant::now) + self.times.heartbeat;
            tokio::select! {
                end = guard.ended() => break end,
                answer = async { sleep_until(due.into()).await; self.heartbeat().await }, if lost.is_none() => {
                    match answer {
                        Ok(()) => self.tell(&mut guard).await,
                        // Somebody else may hold it already: no grace.
                        Err(why) => {
                            guard.kill().await;
                            lost = Some(why);
                        }
                    }
                }
                () = signals.next() => {
                    if terminated { guard.kill().await } else { guard.term().await }
                    terminated = true;
                }
            }
        };
        match (end, lost) {
            (_, Some(why)) => Err(self.lost(&why)),
            (Some(End::Exited(code)), None) => Ok(if code == 0 { Exit::Ok } else { Exit::Passed(code) }),
            (Some(End::Signalled(signal)), None) if self.in_time() => {
                Ok(Exit::Passed(128u8.saturating_add(signal)))
            }
            (Some(End::NotStarted(error)), None) => {
                let code = if error.not_found { 127 } else { 126 };
                Err(not_run(code, command, &error.why))
            }
            (Some(End::Stopped), None) if terminated => Ok(Exit::Passed(137)),
            (Some(End::Stopped | End::Signalled(_)), None) => Err(self.lost("no daemon answered in time")),
            (None, None) => Err(Failure::internal(
                "the command's guard was killed, and the command with it",
            )),
        }
    }

    async fn tell(&self, guard: &mut Guard) {
        if let Some(sent) = self.trusted {
            guard.until(sent + self.times.term, sent + self.times.kill).await;
        }
    }

    fn in_time(&self) -> bool {
        self.trusted.is_some_and(|sent| sent.elapsed() < self.times.term)
    }

    fn lost(&self, why: &str) -> Failure {
        let key = one_line(&self.lock.resource_key);
        let message = format!(
            "the lock on {key} was lost ({why}); the command was stopped before anybody else could rely on holding it"
        );
        Failure::new(Exit::TryAgain, message)
            .hint("what it had done by then may be incomplete: look at it before you run it again")
    }

    async fn release(&mut self) {
        let request = ReleaseResourceLock {
            resource_key: self.lock.resource_key.clone(),
            lease_id: self.lock.lease_id,
        };
        let context = self.context;
        let client = self.client.take();
        // A lock that cannot be given back ends by itself.
        let _ = timeout(RELEASE_MAX, async move {
            let mut client = match client {
                Some(client) => client,
                None => context.connect().await?,
            };
            Ok::<Done, Failure>(client.call(Method::ReleaseResourceLock, &request).await?)
        })
        .await;
    }
}

fn not_run(code: u8, command: &[OsString], why: &str) -> Failure {
    let program = command
        .first()
        .map(|program| program.to_string_lossy().into_owned())
        .unwrap_or_default();
    Failure::new(Exit::Passed(code), format!("cannot run {program}: {why}"))
}

/// The signals that are passed on. Ctrl-C reaches the command by itself when there is a terminal.
struct Signals {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
    quit: Signal,
    terminal: bool,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminal: std::io::stdin().is_terminal(),
        })
    }

    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.hang_up.recv() => return,
                _ = self.interrupt.recv() => {}
                _ = self.quit.recv() => {}
            }
            if !self.terminal {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_gone_before_the_lock_is() {
        for ttl_secs in [1, 2, 3, 30, 300, 604_800] {
            let times = Times::new(ttl_secs);
            let ttl = Duration::from_secs(ttl_secs);
            assert!(
                times.heartbeat < times.term && times.term < times.kill && times.kill < ttl,
                "{ttl_secs}"
            );
            assert!(ttl - times.kill >= Duration::from_millis(100));
            // Two heartbeats may go unanswered.
            assert!(times.heartbeat * 2 < times.term);
        }
    }
}
