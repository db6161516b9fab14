//! The Rust client of agentd's socket protocol.
//!
//! A [`Client`] is one connection with one request on it at a time: whoever wants to wait for a node and
//! send heartbeats meanwhile opens two. [`Client::subscribe`] turns a connection into a [`Subscription`] of
//! the journal.
//!
//! ```no_run
//! # async fn example() -> Result<(), agentd_client::ClientError> {
//! use agentd_client::Client;
//! use agentd_protocol::{Method, requests::NoParams, results::Health};
//!
//! let mut client = Client::connect("/home/ada/.agentd/agentd.sock".as_ref()).await?;
//! let health: Health = client.call(Method::Health, &NoParams {}).await?;
//! println!("agentd {} is {}", health.version, health.status);
//! # Ok(())
//! # }
//! ```

mod error;
mod lines;
mod subscription;

pub use error::ClientError;
pub use subscription::Subscription;

use agentd_protocol::error::code;
use agentd_protocol::limits::LINE_BYTES_MAX;
use agentd_protocol::requests::SubscribeJournal;
use agentd_protocol::results::Subscribed;
use agentd_protocol::{Json, Method, Reason, RpcError};
use lines::Lines;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// How long connecting goes on while the daemon's queue of new connections is full. There is no event to
/// wait for: the kernel refuses at once and tells nobody when there is room again.
const QUEUE_FULL_PATIENCE: Duration = Duration::from_secs(5);

/// One connection to the daemon, with one request on it at a time.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
    last_id: u64,
    // True from before a request's first byte is sent until its answer was read: when it is still true at the
    // next call, the earlier one was given up or failed half-way, and the next line would be its answer.
    busy: bool,
}

#[derive(Serialize)]
struct Request<'a, P: ?Sized> {
    id: u64,
    method: &'a str,
    params: &'a P,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(default)]
    id: Option<u64>,
    // Null is a result, too: `Some` of the text `null`.
    #[serde(default, borrow, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<RpcError>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(deserializer).map(Some)
}

impl Client {
    /// Connects to the daemon that listens on `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nobody listens there, or the caller may not.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect {
            path: path.to_owned(),
            source,
        };
        let mut pause = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => {
                    return Ok(Self {
                        lines: Lines::new(stream),
                        last_id: 0,
                        busy: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && waited < QUEUE_FULL_PATIENCE => {
                    tokio::time::sleep(pause).await;
                    waited += pause;
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Calls a method and reads its result.
    ///
    /// A future that is dropped before it is done leaves the connection unusable: the answer may still be on
    /// its way. Later calls then fail with [`ClientError::Protocol`].
    ///
    /// # Errors
    /// [`ClientError::Rpc`] is the daemon's answer, and the connection goes on; after any other the
    /// connection is lost. A request longer than the daemon reads is refused here, without being sent, with
    /// the answer that the daemon would give.
    pub async fn call<P: Serialize + ?Sized, R: DeserializeOwned>(
        &mut self,
        method: Method,
        params: &P,
    ) -> Result<R, ClientError> {
        self.exchange(method.name(), params).await
    }

    /// Calls a method by any of its names and gives the result as it came.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_raw(&mut self, method: &str, params: &Json) -> Result<Json, ClientError> {
        self.exchange(method, params).await
    }

    /// Follows the journal. The connection is used up: from now on it carries entries.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn subscribe(mut self, params: &SubscribeJournal) -> Result<Subscription, ClientError> {
        let subscribed: Subscribed = self.call(Method::SubscribeJournal, params).await?;
        Ok(Subscription::new(self.lines, &subscribed))
    }

    /// Gives up a call whose future was dropped, and the connection with it: a wait in it ends at the daemon.
    /// Gives the result when there is one all the same: it was on its way already, and the daemon takes a grant
    /// back only if it could not be sent. So whoever waited for a node or a lock and lost interest gives back
    /// what this returns; with nothing returned, nothing was granted.
    pub async fn abandon<R: DeserializeOwned>(self) -> Option<R> {
        if !self.busy {
            return None;
        }
        let mut lines = self.lines.cut().ok()?;
        let answer = lines.next().await.ok()??;
        let response: Response<'_> = serde_json::from_slice(answer).ok()?;
        let result = response.result.filter(|_| response.id == Some(self.last_id))?;
        serde_json::from_str(result.get()).ok()
    }

    async fn exchange<P: Serialize + ?Sized, R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &P,
    ) -> Result<R, ClientError> {
        if self.busy {
            return Err(ClientError::Protocol(
                "an earlier call on this connection was cancelled or failed half-way; connect again".into(),
            ));
        }
        self.last_id += 1;
        let mut line = serde_json::to_vec(&Request {
            id: self.last_id,
            method,
            params,
        })
        .map_err(|error| ClientError::Protocol(format!("the parameters cannot be JSON: {error}")))?;
        if line.len() > LINE_BYTES_MAX {
            let message = format!(
                "the request has {} bytes; at most {LINE_BYTES_MAX} are read. Nothing was sent",
                line.len()
            );
            let error = RpcError::new(code::LINE_TOO_LONG, Reason::LimitExceeded, message);
            return Err(ClientError::Rpc(error));
        }
        line.push(b'\n');

        self.busy = true;
        let sent = self.lines.send(&line).await;
        drop(line);
        // A daemon that refuses the connection answers without reading, so its answer is there even when
        // sending failed.
        let answer = match (self.lines.next().await, sent) {
            (Ok(Some(answer)), _) => answer,
            (_, Err(error)) | (Err(error), Ok(())) => return Err(error),
            (Ok(None), Ok(())) => return Err(ClientError::Closed),
        };
        let response: Response<'_> = serde_json::from_slice(answer).map_err(|error| {
            ClientError::Protocol(format!("the answer to {method} is not a response line: {error}"))
        })?;
        // An answer without our id was not given to this request but to the connection, which then ends.
        let ours = response.id == Some(self.last_id);
        let outcome = match response {
            Response {
                error: Some(error), ..
            } => {
                self.busy = !ours;
                return Err(ClientError::Rpc(error));
            }
            Response {
                result: Some(result), ..
            } if ours => serde_json::from_str(result.get()),
            Response {
                result: Some(_), id, ..
            } => {
                return Err(ClientError::Protocol(format!(
                    "the answer to request {} came under the id {id:?}",
                    self.last_id
                )));
            }
            Response { .. } => {
                return Err(ClientError::Protocol(format!(
                    "the answer to {method} has neither a result nor an error"
                )));
            }
        };
        // The line was read whole: even when this program cannot make sense of it, the next is the next's.
        self.busy = false;
        outcome.map_err(|error| {
            ClientError::Protocol(format!("the result of {method} has an unexpected shape: {error}"))
        })
    }
}
