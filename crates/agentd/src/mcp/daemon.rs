//! The way to the daemon: connections that are made again when it was restarted, and waits that can be called off.

use super::answer::Refusal;
use crate::endpoint::{is_passing, nobody_listens};
use agentd_client::{Client, ClientError};
use agentd_protocol::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How long a daemon that is gone is given to come back before the agent is told: a restart takes less.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an answer may take that waits for nothing. A daemon that is stopped (Ctrl-Z) never answers.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Between two attempts to connect. The kernel tells nobody when a socket begins to listen.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Whether a request may be sent again when its answer did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It changes nothing, or the same twice is the same as once.
    Yes,
    /// It would be done twice.
    No,
}

/// What came of a wait.
#[derive(Debug)]
pub(super) enum Waited<R> {
    Granted(R),
    /// The time is over.
    Nothing,
    /// It was called off; this was on its way already.
    CalledOff(Option<R>),
}

/// The daemon behind its socket.
#[derive(Debug)]
pub(super) struct Daemon {
    socket: PathBuf,
    idle: Mutex<Option<Client>>,
}

impl Daemon {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            idle: Mutex::new(None),
        }
    }

    pub(super) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Option<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, until: Instant) -> Result<Client, ClientError> {
        let mut pause = PAUSE_MIN;
        loop {
            match Client::connect(&self.socket).await {
                Err(error) if nobody_listens(&error) && Instant::now() < until => sleep(pause).await,
                outcome => return outcome,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks, and goes on through a restart of the daemon.
    pub(super) async fn ask<P: Serialize + Sync, R: DeserializeOwned>(
        &self,
        method: Method,
        params: &P,
        again: Again,
    ) -> Result<R, Refusal> {
        let until = Instant::now() + PATIENCE;
        let mut pause = PAUSE_MIN;
        loop {
            // A connection from before a restart breaks in a way that leaves open what was done.
            let idle = (again == Again::Yes).then(|| self.idle().take()).flatten();
            let mut client = match idle {
                Some(client) => client,
                None => self.connect(until).await?,
            };
            let outcome = timeout(ANSWER_MAX, client.call::<P, R>(method, params))
                .await
                .map_err(|_| silent())?;
            let error = match outcome {
                Ok(result) => {
                    *self.idle() = Some(client);
                    return Ok(result);
                }
                Err(error) => error,
            };
            let undone = matches!(error, ClientError::Rpc(_)) || nobody_listens(&error);
            if !is_passing(&error) || Instant::now() >= until || !(undone || again == Again::Yes) {
                if matches!(error, ClientError::Rpc(_)) {
                    *self.idle() = Some(client);
                }
                return Err(error.into());
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks with `wait_secs` until there is something, the time is over, or `off` is. When a restart of the daemon
    /// comes between, the rest of the time is waited at the new one.
    pub(super) async fn wait<P: Serialize + Sync, R: DeserializeOwned>(
        &self,
        method: Method,
        wait: Duration,
        params: impl Fn(u64) -> P,
        off: impl Future<Output = ()>,
    ) -> Result<Waited<R>, Refusal> {
        let until = Instant::now() + wait;
        let mut patience = Instant::now() + PATIENCE;
        let mut pause = PAUSE_MIN;
        tokio::pin!(off);
        loop {
            let mut client = tokio::select! {
                client = self.connect(patience) => client?,
                () = &mut off => return Ok(Waited::CalledOff(None)),
            };
            // A daemon that was there once may be gone for as long as is waited anyway.
            patience = until.max(Instant::now() + PATIENCE);
            let left = until.saturating_duration_since(Instant::now());
            let params = params(crate::cli::values::wait_secs(left));
            let asked = timeout(left + ANSWER_MAX, client.call::<P, Option<R>>(method, &params));
            let outcome = tokio::select! {
                outcome = asked => Some(outcome.map_err(|_| silent())?),
                () = &mut off => None,
            };
            match outcome {
                Some(Ok(Some(granted))) => return Ok(Waited::Granted(granted)),
                Some(Ok(None)) if Instant::now() >= until => return Ok(Waited::Nothing),
                Some(Ok(None)) => {}
                Some(Err(error)) if is_passing(&error) && Instant::now() < patience => {
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(Waited::CalledOff(client.abandon::<Option<R>>().await.flatten())),
            }
        }
    }
}

fn silent() -> Refusal {
    Refusal::new(
        "no_answer",
        format!(
            "agentd holds its socket, but has not answered for {} s",
            ANSWER_MAX.as_secs()
        ),
        "tell the person: the daemon is stopped (Ctrl-Z, SIGSTOP) or stuck. Look whether it was done before you do it \
         again",
    )
}
