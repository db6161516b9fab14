//! Clients on sockets and streams: their messages taken in, and answered in tasks of their own.

use crate::answer::version_of;
use crate::client::{Connection, Origin, Out};
use crate::gateway::{Gateway, Inner};
use crate::lines::{Line, Lines, refusal_line, too_long};
use crate::message::{Message, Raw, RpcError, answer_line, code, parse};
use crate::revision::{Revision, progress_token};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::value::RawValue;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// What is read of a client at once, in bytes.
const READ_BYTES: usize = 8 * 1024;
/// Clients at once.
const CLIENTS_MAX: usize = 64;
/// JSON-RPC leaves this to servers: too much at once.
pub(crate) const OVERLOADED: i32 = -32000;

/// What the requests under way may have brought together, of all clients, in bytes. Some copies of it are made.
const REQUESTS_BYTES_MAX: usize = 32 * 1024 * 1024;
const KIB: usize = 1024;

/// Room for requests, in KiB: for one of the longest lines at least.
pub(crate) fn room(line_bytes_max: usize) -> Arc<Semaphore> {
    let kib = REQUESTS_BYTES_MAX.max(line_bytes_max) / KIB + 1;
    Arc::new(Semaphore::new(kib.min(Semaphore::MAX_PERMITS)))
}

impl Gateway {
    /// Serves clients that connect, one JSON-RPC message a line, until the gateway is stopped. At most 64 at once;
    /// further ones wait.
    ///
    /// # Errors
    /// None by itself: the result ends the task when the listener is broken.
    pub fn serve_unix(&self, listener: UnixListener) -> tokio::task::JoinHandle<std::io::Result<()>> {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(CLIENTS_MAX));
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                    return Ok(());
                };
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = inner.stop.cancelled() => return Ok(()),
                };
                let (stream, _) = match accepted {
                    Ok(accepted) => accepted,
                    // Out of descriptors, or a client that has gone already: the next may have more luck.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                };
                let inner = Arc::clone(&inner);
                tokio::spawn(async move {
                    // Whether the client's end is closed in both directions can be seen by any descriptor of ours.
                    let watched = stream.as_fd().try_clone_to_owned().ok();
                    let hung_up = move || watched.as_ref().is_none_or(is_hung_up);
                    let (reader, writer) = stream.into_split();
                    serve_lines(inner, reader, writer, hung_up).await;
                    drop(permit);
                });
            }
        })
    }

    /// Serves one client over any pair of streams until it ends or the gateway is stopped. What it asked for before it
    /// ended is answered.
    pub async fn serve_stream<R, W>(&self, reader: R, writer: W)
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        serve_lines(Arc::clone(&self.inner), reader, writer, || false).await;
    }
}

fn is_hung_up(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let now = Timespec::default();
    rustix::event::poll(&mut fds, Some(&now)).is_err() || fds[0].revents().contains(PollFlags::HUP)
}

async fn serve_lines<R, W>(inner: Arc<Inner>, reader: R, mut writer: W, hung_up: impl Fn() -> bool)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (out, mut queue) = mpsc::channel::<bytes::Bytes>(crate::client::OUT_MAX);
    let connection = inner.connect(Some(out.clone()));
    let gone = connection.gone.clone();
    // There will be no more than what waits already.
    let all_answered = CancellationToken::new();
    let no_more = all_answered.clone();
    let mut writing = tokio::spawn(async move {
        loop {
            let line = tokio::select! {
                line = queue.recv() => line,
                () = no_more.cancelled() => queue.try_recv().ok(),
                () = gone.cancelled() => None,
            };
            let Some(line) = line else { break };
            let written = tokio::select! {
                written = writer.write_all(&line) => written.is_ok(),
                () = gone.cancelled() => false,
            };
            if !written {
                break;
            }
            // What else waits goes with it, before anybody else runs.
            let _ = writer.flush().await;
        }
        gone.cancel();
    });
    let mut lines = Lines::new(
        BufReader::with_capacity(READ_BYTES, reader),
        inner.options.client_line_bytes_max,
    );
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            () = connection.gone.cancelled() => break,
            () = inner.stop.cancelled() => break,
        };
        let answer = match line {
            Ok(Some(Line::Whole(line))) => inner.take(&connection, &out, &line),
            Ok(Some(Line::TooLong { head, bytes })) => {
                Some(too_long(&head, bytes, inner.options.client_line_bytes_max))
            }
            // It has no more to ask, and may wait for answers.
            Ok(None) if !hung_up() => {
                tokio::select! {
                    () = connection.said_all() => all_answered.cancel(),
                    () = connection.gone.cancelled() => {}
                    () = inner.stop.cancelled() => {}
                }
                break;
            }
            Ok(None) | Err(_) => break,
        };
        if let Some((id, error)) = answer {
            // Whoever sends nonsense waits until its answers are read.
            let sent = tokio::select! {
                sent = out.send(refusal_line(id.as_deref(), &error)) => sent.is_ok(),
                () = connection.gone.cancelled() => false,
            };
            if !sent {
                break;
            }
        }
    }
    if all_answered.is_cancelled() {
        tokio::select! {
            _ = &mut writing => {}
            () = inner.stop.cancelled() => {}
        }
    }
    inner.disconnect(&connection);
    // It ends with the connection, and what it still holds is for nobody.
    let _ = writing.await;
}

impl Inner {
    /// Takes a client's message. What is wrong with it is to be answered at once.
    fn take(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        out: &Out,
        line: &[u8],
    ) -> Option<(Option<Raw>, RpcError)> {
        match parse(line) {
            Ok(Message::Request { id, method, params }) => {
                let begun = self.begin(connection, out, id, &method, params);
                return begun.err().map(|error| (Some(id.to_owned()), error));
            }
            Ok(Message::Notification { method, params }) => self.told(connection, &method, params),
            Ok(Message::Response { id, answer }) => connection.answered(id, answer),
            Err(malformed) => return Some((malformed.id, RpcError::new(malformed.code, malformed.why))),
        }
        None
    }

    pub(crate) fn told(&self, connection: &Connection, method: &str, params: Option<&RawValue>) {
        match method {
            "notifications/cancelled" => connection.cancel(params),
            "notifications/roots/list_changed" => {
                for plugin in &self.plugins {
                    if plugin.revision() == Revision::Legacy {
                        plugin.notify(method, params.map(RawValue::get));
                    }
                }
            }
            // That a client is initialized changes nothing here; others are not known.
            _ => {}
        }
    }

    /// Begins to answer a request, in a task of its own.
    pub(crate) fn begin(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        out: &Out,
        id: &RawValue,
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<(), RpcError> {
        let busy = |_| RpcError::new(OVERLOADED, "too many requests at once: wait for answers first");
        let permit = Arc::clone(&connection.permits)
            .try_acquire_owned()
            .map_err(busy)?;
        let kib = params.map_or(0, |params| params.get().len()).div_ceil(KIB);
        let full = |_| {
            let why = "the requests under way are too large to take another at once: wait for answers first";
            RpcError::new(OVERLOADED, why)
        };
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(u32::try_from(kib).unwrap_or(u32::MAX))
            .map_err(full)?;
        let twice = || {
            RpcError::new(
                code::INVALID_REQUEST,
                "a request with this id is under way already",
            )
        };
        let begun = connection.begin(id).ok_or_else(twice)?;
        let (id, method, params) = (id.to_owned(), method.to_owned(), params.map(ToOwned::to_owned));
        let (inner, connection, out) = (Arc::clone(self), Arc::clone(connection), out.clone());
        tokio::spawn(async move {
            let revision = match version_of(params.as_deref()) {
                Some(_) => Revision::Modern,
                None => Revision::Legacy,
            };
            let progress = progress_token(params.as_deref());
            let gone = connection.gone.clone();
            let origin = Arc::new(Origin {
                connection,
                out: out.clone(),
                revision,
                progress,
            });
            let answered = inner
                .answer(
                    origin,
                    id.clone(),
                    &method,
                    params.as_deref(),
                    begun.cancel.clone(),
                )
                .await;
            // Who takes a request back does not want an answer.
            if !begun.cancel.is_cancelled() {
                let answer = answered.answer.as_deref().map_err(|error| &**error);
                let line = answer_line(&id, answer);
                drop(begun);
                tokio::select! {
                    _ = out.send(line) => {}
                    () = gone.cancelled() => {}
                }
            }
            drop(out);
            if let Some(call) = answered.call {
                call.tell(&inner);
            }
            drop((permit, room));
        });
        Ok(())
    }
}
