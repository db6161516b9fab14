//! The client's side: one JSON-RPC message a line, bounded in both directions.
//!
//! The SDK's own transport drops what is no message, and a line that is too long, without a word, and starts as many
//! calls as a client sends. This one answers, and reads no further than the client reads.

use mcp_transport::lines::{self, Line, Lines};
use rmcp::RoleServer;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, ErrorCode, ErrorData, GetMeta, JsonRpcMessage,
    ProtocolVersion, RequestId, ServerJsonRpcMessage,
};
use rmcp::transport::Transport;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A message, in bytes. The daemon takes requests of 1 MiB; what is in it can be twice as long in a client's escapes.
pub(super) const LINE_BYTES_MAX: usize = 2 * 1024 * 1024 + 64 * 1024;
/// Calls in flight at once.
pub(super) const CALLS_MAX: usize = 64;
/// Answers that wait for a client that does not read.
const ANSWERS_MAX: usize = 64;
/// How long a client may take to read the last of them.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Stdio<R> {
    lines: Lines<BufReader<R>>,
    answers: Option<mpsc::Sender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
    in_flight: Arc<Mutex<HashSet<RequestId>>>,
    // An answer of our own that has no room yet.
    refusal: Option<Vec<u8>>,
    // No request has come yet: nothing can be done with a notification.
    is_new: bool,
    gone: CancellationToken,
}

impl<R: AsyncRead + Send + Unpin + 'static> Stdio<R> {
    /// `gone` is cancelled when the client has closed either direction.
    pub(super) fn new<W: AsyncWrite + Send + Unpin + 'static>(
        input: R,
        output: W,
        gone: CancellationToken,
    ) -> Self {
        let (answers, queue) = mpsc::channel(ANSWERS_MAX);
        let writer = tokio::spawn(write_all(output, queue, gone.clone()));
        Self {
            lines: Lines::new(BufReader::new(input), LINE_BYTES_MAX),
            answers: Some(answers),
            writer: Some(writer),
            in_flight: Arc::default(),
            refusal: None,
            is_new: true,
            gone,
        }
    }

    fn in_flight(&self) -> std::sync::MutexGuard<'_, HashSet<RequestId>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&mut self, id: Option<RequestId>, code: ErrorCode, message: String) {
        let message = ServerJsonRpcMessage::error(ErrorData::new(code, message, None), id);
        self.refusal = line(&message).ok();
    }

    // The message, unless it is not for the service.
    fn admit(&mut self, line: Line) -> Option<ClientJsonRpcMessage> {
        if let Some(refusal) = lines::refusal(&line, LINE_BYTES_MAX) {
            self.refusal = Some(refusal.into());
            return None;
        }
        // What is too long has been refused.
        let Line::Whole(text) = line else { return None };
        let message: ClientJsonRpcMessage = match serde_json::from_slice(&text) {
            Ok(message) => message,
            Err(error) => {
                let why = format!("not a request of this protocol: {error}");
                self.refusal = lines::refuse_request(&text, &why).map(Into::into);
                return None;
            }
        };
        match &message {
            JsonRpcMessage::Request(request) => {
                let mut in_flight = self.in_flight();
                if in_flight.contains(&request.id) || in_flight.len() >= CALLS_MAX {
                    let why = if in_flight.contains(&request.id) {
                        "a request with this id is in flight already".to_owned()
                    } else {
                        format!("{CALLS_MAX} requests are in flight already; call again when one is answered")
                    };
                    drop(in_flight);
                    self.refuse(Some(request.id.clone()), ErrorCode::INVALID_REQUEST, why);
                    return None;
                }
                in_flight.insert(request.id.clone());
                drop(in_flight);
                self.is_new &= !begins(&request.request);
                Some(message)
            }
            // The SDK ends a session that begins with anything but a request.
            _ if self.is_new => None,
            JsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) = &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    // It is not answered any more.
                    self.in_flight().remove(id);
                }
                Some(message)
            }
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => Some(message),
        }
    }
}

impl<R: AsyncRead + Send + Unpin + 'static> Transport<RoleServer> for Stdio<R> {
    type Error = io::Error;

    fn send(
        &mut self,
        message: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let answers = self.answers.clone();
        let in_flight = Arc::clone(&self.in_flight);
        async move {
            let id = match &message {
                JsonRpcMessage::Response(response) => Some(&response.id),
                JsonRpcMessage::Error(error) => error.id.as_ref(),
                _ => None,
            };
            if let Some(id) = id {
                let mut in_flight = in_flight.lock().unwrap_or_else(PoisonError::into_inner);
                in_flight.remove(id);
            }
            let line = line(&message)?;
            let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
            answers.ok_or_else(closed)?.send(line).await.map_err(|_| closed())
        }
    }

    // May be dropped at any await: what was read stays.
    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            if self.refusal.is_some() {
                let room = self.answers.as_ref()?.reserve().await.ok()?;
                if let Some(line) = self.refusal.take() {
                    room.send(line);
                }
            }
            let read = tokio::select! {
                read = self.lines.next() => read,
                () = self.gone.cancelled() => return None,
            };
            match read {
                Ok(Some(line)) => {
                    if let Some(message) = self.admit(line) {
                        return Some(message);
                    }
                }
                Ok(None) | Err(_) => {
                    self.gone.cancel();
                    return None;
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.answers = None;
        if let Some(mut writer) = self.writer.take()
            && timeout(CLOSE_MAX, &mut writer).await.is_err()
        {
            writer.abort();
        }
        Ok(())
    }
}

// Whether the session begins with it, in either lifecycle.
fn begins(request: &ClientRequest) -> bool {
    match request {
        ClientRequest::InitializeRequest(_) => true,
        ClientRequest::DiscoverRequest(_) | ClientRequest::PingRequest(_) => false,
        request => {
            let meta = request.get_meta();
            meta.missing_required_keys(&ProtocolVersion::V_2026_07_28)
                .is_empty()
                && meta
                    .protocol_version()
                    .is_some_and(|version| ProtocolVersion::KNOWN_VERSIONS.contains(&version))
        }
    }
}

fn line(message: &ServerJsonRpcMessage) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

async fn write_all(
    mut output: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Vec<u8>>,
    gone: CancellationToken,
) {
    while let Some(line) = queue.recv().await {
        if output.write_all(&line).await.is_err() || output.flush().await.is_err() {
            gone.cancel();
            return;
        }
    }
}
