//! Connections to the daemon that survive its restarts.

use crate::worker::Connect;
use agentd_client::{Client, ClientError};
use agentd_protocol::{Method, Reason, RpcError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one answer may take before the connection is given up and the call repeated on another.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Growing pauses between tries: a daemon that restarts is back in well under a second, and one that stays
/// away is not worth more than a try a second.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// For connections.
    pub(crate) fn reconnect() -> Self {
        Self::new(Duration::from_millis(20), Duration::from_secs(1))
    }

    pub(crate) async fn pause(&mut self) {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        tokio::time::sleep(pause).await;
    }
}

/// True when the same call may well succeed a little later, perhaps on another connection.
pub(crate) fn is_transient(error: &ClientError) -> bool {
    match error {
        ClientError::Rpc(refusal) => {
            matches!(
                refusal.reason(),
                Some(Reason::Busy | Reason::ShuttingDown | Reason::Storage)
            )
        }
        _ => true,
    }
}

/// Why a call that was insisted on came to nothing.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The daemon said no.
    Refused(RpcError),
    /// There was no answer for as long as anybody would wait; the last failure.
    GaveUp(String),
}

/// Connections that wait for the next call.
pub(crate) struct Pool {
    connect: Connect,
    idle: Mutex<Vec<Client>>,
    idle_max: usize,
}

impl Pool {
    pub(crate) fn new(connect: Connect, idle_max: usize) -> Self {
        Self {
            connect,
            idle: Mutex::new(Vec::new()),
            idle_max,
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Client>> {
        // The list is whole whatever panicked beside it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call, on a connection of its own while it lasts. Dropping the future drops the connection.
    pub(crate) async fn call<P, R>(&self, method: Method, params: &P) -> Result<R, ClientError>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let idle = self.idle().pop();
        let mut client = match idle {
            Some(client) => client,
            None => (self.connect)().await?,
        };
        let result = client.call(method, params).await;
        let mut idle = self.idle();
        if result.as_ref().is_err_and(is_transient) {
            // What happened to this connection has happened to the others: the daemon went away.
            idle.clear();
        } else if idle.len() < self.idle_max {
            idle.push(client);
        }
        result
    }

    /// The same call until it is answered or `enough` is ready. The call must be one that may be repeated.
    pub(crate) async fn insist<P, R>(
        &self,
        method: Method,
        params: &P,
        enough: impl Future<Output = ()>,
    ) -> Result<R, Unanswered>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let mut last = String::from("there was no time to ask");
        let tries = async {
            let mut backoff = Backoff::reconnect();
            loop {
                let answer = tokio::time::timeout(ANSWER_MAX, self.call(method, params)).await;
                match answer {
                    Ok(Ok(result)) => return Ok(result),
                    Ok(Err(ClientError::Rpc(refusal)))
                        if !is_transient(&ClientError::Rpc(refusal.clone())) =>
                    {
                        return Err(Unanswered::Refused(refusal));
                    }
                    Ok(Err(error)) => last = error.to_string(),
                    Err(_) => last = format!("no answer within {} s", ANSWER_MAX.as_secs()),
                }
                backoff.pause().await;
            }
        };
        tokio::select! {
            biased;
            result = tries => result,
            () = enough => Err(Unanswered::GaveUp(last)),
        }
    }
}
