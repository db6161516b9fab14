//! One connection that speaks JSON Lines. The crate's documentation tells its life.

use crate::dispatch::{self, Read, Work};
use crate::input::{Input, Line};
use crate::linger;
use crate::options::{IN_FLIGHT_MAX, LARGE_ANSWER_BYTES, OUTBOX_BYTES_SOFT_MAX};
use crate::outbox::{Broken, Outbox, poll_hangup};
use crate::roles::Peer;
use crate::sessions::{SessionsReply, SessionsRequest, SessionsResult};
use crate::shared::{Shared, who_am_i};
use crate::slots::Slot;
use crate::sniff::{self, Protocol};
use crate::{http, subscription};
use agentd_protocol::envelope::{write_error, write_result};
use agentd_protocol::error::code;
use agentd_protocol::limits::{ANSWER_BYTES_MAX, LINE_BYTES_MAX};
use agentd_protocol::requests::SubscribeJournal;
use agentd_protocol::{Json, Reason, RpcError};
use agentd_store::{Command, Reply, StoreError, StoreResult, Ticket, Undelivered, undelivered};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stream: UnixStream,
    pub(crate) peer: Peer,
    pub(crate) outbox: Outbox,
    slot: Slot,
    input: Input,
    /// Which protocol it is, is not known yet.
    sniffing: bool,
    /// In the store, in the order of the requests.
    in_flight: VecDeque<InFlight>,
    /// The newest of `in_flight` keeps everything after it back.
    occupied: bool,
    /// Kept back until everything before it is answered.
    held: Option<(Option<Json>, Read)>,
    /// Leases and locks in the outbox: up to where it must be sent for the client to have them.
    unsent_grants: VecDeque<(u64, Undelivered)>,
    /// Leases and locks whose answer was replaced by an error.
    refused_grants: Vec<Undelivered>,
    /// The client will send no more.
    eof: bool,
    /// We will read no more: the client broke the framing.
    closing: bool,
    /// The server is stopping, and this connection has noticed.
    stopping: bool,
}

struct InFlight {
    id: Option<Json>,
    answer: Answer,
    /// For acquires of nodes.
    acquire: Option<Acquire>,
}

enum Answer {
    Coming(Ticket),
    Here(Option<StoreError>),
}

#[derive(Clone, Copy)]
struct Acquire {
    began: Instant,
    waits: bool,
}

impl InFlight {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<StoreResult> {
        match &mut self.answer {
            Answer::Coming(ticket) => Pin::new(ticket).poll(context),
            Answer::Here(error) => Poll::Ready(Err(error.take().unwrap_or(StoreError::ShuttingDown))),
        }
    }
}

/// How the JSON Lines part of a connection ended.
enum End {
    /// Everything is answered.
    Finished,
    /// The client is.
    Broken(Broken),
    /// It was HTTP all along.
    Http,
    /// It carries the journal from now on.
    Subscribed(Option<Json>, SubscribeJournal),
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, stream: UnixStream, peer: Peer, slot: Slot) -> Self {
        Self {
            shared,
            stream,
            peer,
            outbox: Outbox::default(),
            slot,
            input: Input::default(),
            sniffing: true,
            in_flight: VecDeque::new(),
            occupied: false,
            held: None,
            unsent_grants: VecDeque::new(),
            refused_grants: Vec::new(),
            eof: false,
            closing: false,
            stopping: false,
        }
    }

    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut stop = pin!(shared.stop.cancelled());
        // Asked once, the token remembers to wake this task; from then on the flag is looked at.
        let _ = poll_fn(|context| Poll::Ready(stop.as_mut().poll(context))).await;
        match self.talk().await {
            End::Finished => {
                if self.closing {
                    linger::until_quiet(&mut self.stream, shared.timeouts.linger).await;
                } else if self.stopping {
                    linger::briefly(&mut self.stream).await;
                }
            }
            End::Broken(Broken::Gone) => self.finish_without_client().await,
            End::Broken(Broken::Stalled) => {
                let waiting_bytes = self.outbox.waiting();
                tracing::info!(peer = %self.peer, waiting_bytes, "a client that reads no answers was disconnected");
            }
            End::Http => {
                let first = self.input.rest().to_vec();
                self.input.clear();
                // The slot is held until the connection is over.
                let _slot = self.slot;
                return Box::pin(http::serve(self.shared, self.stream, first)).await;
            }
            End::Subscribed(id, params) => {
                self.input.clear();
                return Box::pin(subscription::serve(self, id, params)).await;
            }
        }
        // Tickets that are dropped take their grants back themselves.
        self.in_flight.clear();
        let unsent = self.unsent_grants.drain(..).map(|(_, grant)| grant);
        let grants: Vec<Undelivered> = unsent.chain(self.refused_grants.drain(..)).collect();
        take_back(&self.shared, grants).await;
    }

    async fn talk(&mut self) -> End {
        loop {
            if self.sniffing && (self.eof || !self.input.is_empty()) {
                match sniff::protocol(self.input.rest(), self.eof) {
                    Protocol::Undecided => {}
                    Protocol::Http => return End::Http,
                    Protocol::JsonLines => self.sniffing = false,
                }
            }
            if !self.sniffing
                && let Some((id, params)) = self.take_lines().await
            {
                return End::Subscribed(id, params);
            }
            if !self.refused_grants.is_empty() {
                let grants = std::mem::take(&mut self.refused_grants);
                take_back(&self.shared, grants).await;
            }
            if self.is_finished() {
                return End::Finished;
            }
            if let Err(broken) = poll_fn(|context| self.poll_turn(context)).await {
                return End::Broken(broken);
            }
        }
    }

    fn is_finished(&mut self) -> bool {
        let quiet = self.held.is_none() && self.in_flight.is_empty() && self.outbox.is_empty();
        quiet
            && (self.closing
                || (self.stopping && self.sniffing)
                || ((self.eof || self.stopping) && !self.input.has_line(self.eof)))
    }

    fn outbox_is_full(&self) -> bool {
        self.outbox.waiting() >= OUTBOX_BYTES_SOFT_MAX
    }

    /// Takes requests out of the input for as long as they can be begun.
    async fn take_lines(&mut self) -> Option<(Option<Json>, SubscribeJournal)> {
        loop {
            if let Some((id, read)) = self.held.take() {
                if !self.in_flight.is_empty() || self.outbox_is_full() {
                    self.held = Some((id, read));
                    return None;
                }
                if let Read::Subscribe(params) = read {
                    return Some((id, params));
                }
                self.answer_read(id.as_ref(), read).await;
                continue;
            }
            let begin = !self.closing
                && !self.occupied
                && self.in_flight.len() < IN_FLIGHT_MAX
                && !self.outbox_is_full();
            if !begin {
                return None;
            }
            let line = match self.input.next_line(self.eof) {
                Some(Line::Whole(line)) => self.input.get(line),
                None if self.slot.hold_line(self.input.rest().len()) => return None,
                None => {
                    self.input.clear();
                    self.closing = true;
                    self.held = Some((None, Read::Refuse(too_many_long())));
                    continue;
                }
                Some(Line::TooLong) => {
                    self.closing = true;
                    self.held = Some((None, Read::Refuse(line_too_long())));
                    continue;
                }
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            match dispatch::read(line, &self.peer) {
                (id, Work::Read(read)) => self.held = Some((id, read)),
                (id, Work::Command(command)) => self.submit(id, command).await,
            }
        }
    }

    async fn submit(&mut self, id: Option<Json>, command: Command) {
        let waits = dispatch::occupies(&command);
        let acquire = matches!(command, Command::AcquireNextNode(_)).then(|| Acquire {
            began: Instant::now(),
            waits,
        });
        self.occupied = waits;
        let answer = if self.shared.is_stopping() {
            Answer::Here(Some(StoreError::ShuttingDown))
        } else {
            // Pending only while the store's queue is full; then what is answered already need not wait, too.
            let mut submitting = self.shared.store.submit(command);
            let patience = self.shared.timeouts.write_stall;
            let (outbox, stream) = (&mut self.outbox, &self.stream);
            match poll_fn(|context| poll_beside(submitting.as_mut(), outbox, stream, patience, context)).await
            {
                Ok(ticket) => Answer::Coming(ticket),
                Err(error) => Answer::Here(Some(error)),
            }
        };
        self.in_flight.push_back(InFlight { id, answer, acquire });
    }

    async fn answer_read(&mut self, id: Option<&Json>, read: Read) {
        let shared = Arc::clone(&self.shared);
        match read {
            Read::Refuse(error) => self.write::<()>(id, Err(error)),
            Read::DescribeInterface => self.write(id, Ok(shared.interface())),
            Read::WhoAmI => {
                let result = who_am_i(&self.peer);
                self.write(id, Ok(&result))
            }
            Read::Health => {
                let health = self.beside(shared.health()).await;
                self.write(id, Ok(&health))
            }
            Read::Metrics => match self.beside(shared.metrics()).await {
                Ok(metrics) => self.write(id, Ok(&metrics)),
                Err(error) => self.write::<()>(id, Err(error.into())),
            },
            Read::Query(query) => match self.beside(shared.query(query)).await {
                Ok(reply) => self.write(id, Ok(&reply)),
                Err(error) => self.write::<()>(id, Err(error.into())),
            },
            Read::Sessions(request) => match self.ask_sessions(request).await {
                Some(Ok(reply)) => self.write(id, Ok(&reply)),
                Some(Err(error)) => self.write::<()>(id, Err(error.into())),
                None => false,
            },
            Read::StepAside => match shared.step_aside() {
                Ok(done) => self.write(id, Ok(&done)),
                Err(error) => self.write::<()>(id, Err(error)),
            },
            // Not answered here: it ends the loop that this is called from.
            Read::Subscribe(_) => true,
        };
    }

    /// None when the client has gone away from something that waits: then nobody is to be told.
    async fn ask_sessions(&mut self, request: SessionsRequest) -> Option<SessionsResult<SessionsReply>> {
        let shared = Arc::clone(&self.shared);
        let waits = request.waits();
        let mut asking = Box::pin(shared.ask_sessions(request));
        if !waits {
            return Some(self.beside(asking).await);
        }
        let patience = self.shared.timeouts.write_stall;
        let (outbox, stream) = (&mut self.outbox, &self.stream);
        poll_fn(|context| {
            if let Poll::Ready(answer) = asking.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            // While there is something to send, sending finds out who is gone.
            if let Poll::Ready(Err(_)) = outbox.poll_flush(stream, patience, context) {
                return Poll::Ready(None);
            }
            if outbox.is_empty() && poll_hangup(stream, context).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for something, and sends answers meanwhile.
    async fn beside<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        let patience = self.shared.timeouts.write_stall;
        let (outbox, stream) = (&mut self.outbox, &self.stream);
        poll_fn(|context| poll_beside(work.as_mut(), outbox, stream, patience, context)).await
    }

    /// Does what can be done now, and is ready when something changed that the caller should know of.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut progress = false;
        while !self.outbox_is_full() {
            let Some(front) = self.in_flight.front_mut() else {
                break;
            };
            let Poll::Ready(result) = front.poll(context) else {
                break;
            };
            if let Some(request) = self.in_flight.pop_front() {
                self.deliver(&request, result);
            }
            progress = true;
        }
        if self.in_flight.is_empty() {
            self.occupied = false;
        }
        let (was_full, was_empty) = (self.outbox_is_full(), self.outbox.is_empty());
        let flushed = self
            .outbox
            .poll_flush(&self.stream, self.shared.timeouts.write_stall, context);
        let taken = self.outbox.taken();
        while self.unsent_grants.front().is_some_and(|(end, _)| *end <= taken) {
            self.unsent_grants.pop_front();
        }
        if flushed.is_ready() {
            self.slot.settle();
        }
        if let Poll::Ready(Err(broken)) = flushed {
            return Poll::Ready(Err(broken));
        }
        if self.shared.is_stopping() && !self.stopping {
            self.stopping = true;
            progress = true;
        }
        // The last answer of a connection that takes no more requests ends it.
        let last_sent = !was_empty && self.outbox.is_empty() && (self.eof || self.closing || self.stopping);
        if progress || last_sent || (was_full && !self.outbox_is_full()) {
            return Poll::Ready(Ok(()));
        }
        if self.wants_input() {
            match self.poll_input(context) {
                Poll::Ready(Ok(received)) => {
                    self.eof = received == 0;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Gone)),
                Poll::Pending => {}
            }
        } else if !self.in_flight.is_empty()
            && self.outbox.is_empty()
            && poll_hangup(&self.stream, context).is_ready()
        {
            return Poll::Ready(Err(Broken::Gone));
        }
        self.input.release_if_empty();
        if self.in_flight.is_empty() && self.in_flight.capacity() > 16 {
            self.in_flight = VecDeque::new();
        }
        Poll::Pending
    }

    fn wants_input(&mut self) -> bool {
        !self.eof
            && !self.closing
            && !self.stopping
            && self.held.is_none()
            && self.in_flight.len() < IN_FLIGHT_MAX
            && !self.outbox_is_full()
            && (self.sniffing || !self.input.has_line(false))
    }

    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Without memory until there is something to put into it.
        ready!(self.stream.poll_read_ready(context))?;
        let reading = pin!(self.stream.read_buf(self.input.room()));
        reading.poll(context)
    }

    fn deliver(&mut self, request: &InFlight, result: StoreResult) {
        let grant = undelivered(&result);
        if let Some(acquire) = request.acquire {
            let measured = grant.is_some() && !acquire.waits;
            self.shared
                .counters
                .acquire(measured.then(|| acquire.began.elapsed()));
        }
        let id = request.id.as_ref();
        let told = match result {
            Ok(reply) => self.write(id, Ok(&reply)),
            Err(error) => self.write::<Reply>(id, Err(error.into())),
        };
        match grant {
            Some(grant) if told => self.unsent_grants.push_back((self.outbox.end(), grant)),
            Some(grant) => self.refused_grants.push(grant),
            None => {}
        }
    }

    /// Puts an answer in the outbox. False when it is not the result that was to be told.
    fn write<T: serde::Serialize + ?Sized>(
        &mut self,
        id: Option<&Json>,
        result: Result<&T, RpcError>,
    ) -> bool {
        let error = match result {
            Ok(result) => {
                let end = self.outbox.end();
                let buffer = self.outbox.buffer();
                let written = write_result(buffer, id, result);
                let size_bytes = usize::try_from(self.outbox.end() - end).unwrap_or(usize::MAX);
                let envelope_bytes = 32 + id.map_or(0, |id| id.text().len());
                let error = match written {
                    Err(error) => RpcError::new(
                        code::INTERNAL,
                        Reason::Storage,
                        format!("the result is not JSON: {error}"),
                    ),
                    Ok(()) if size_bytes > ANSWER_BYTES_MAX + envelope_bytes => {
                        StoreError::AnswerTooLarge.into()
                    }
                    Ok(()) if size_bytes > LARGE_ANSWER_BYTES && !self.slot.charge(size_bytes) => {
                        too_many_large()
                    }
                    Ok(()) => return true,
                };
                self.outbox.cut(end);
                error
            }
            Err(error) => error,
        };
        self.shared.counters.refused();
        write_error(self.outbox.buffer(), id, &error);
        false
    }

    /// The client is gone. What it asked for before it went is done all the same, except for leases and
    /// locks, which nobody would have.
    async fn finish_without_client(&mut self) {
        self.in_flight.clear();
        if self.closing {
            return;
        }
        loop {
            while let Some(line) = self.input.next_line(self.eof) {
                let Line::Whole(line) = line else { return };
                let line = self.input.get(line);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                match dispatch::read(line, &self.peer).1 {
                    Work::Command(command) if !dispatch::is_acquire(&command) => {
                        if self.shared.store.submit(command).await.is_err() {
                            return;
                        }
                    }
                    Work::Read(Read::Sessions(request)) if request.is_change() => {
                        if Box::pin(self.shared.ask_sessions(request)).await.is_err() {
                            tracing::debug!("what a client asked of sessions before it went was refused");
                        }
                    }
                    Work::Command(_) | Work::Read(_) => {}
                }
            }
            if self.eof {
                return;
            }
            // What a closed socket still holds is there at once, and not more than its buffer.
            self.eof =
                !matches!(poll_fn(|context| self.poll_input(context)).await, Ok(received) if received > 0);
        }
    }
}

/// Polls `work`, and sends answers while it is not ready. How that went is found out later, in its turn.
fn poll_beside<F: Future + ?Sized>(
    work: Pin<&mut F>,
    outbox: &mut Outbox,
    stream: &UnixStream,
    patience: Duration,
    context: &mut Context<'_>,
) -> Poll<F::Output> {
    let outcome = work.poll(context);
    if outcome.is_pending() && !outbox.is_empty() {
        let _ = outbox.poll_flush(stream, patience, context);
    }
    outcome
}

async fn take_back(shared: &Shared, grants: Vec<Undelivered>) {
    for grant in grants {
        let command = match grant {
            Undelivered::Node(params) => Command::ReleaseNode(params),
            Undelivered::Lock(params) => Command::ReleaseResourceLock(params),
            // Nobody acquires sessions through the socket.
            Undelivered::Session(..) => continue,
        };
        if let Err(error) = shared.store.submit(command).await {
            tracing::debug!(%error, "a grant that reached nobody ends with its lease");
        }
    }
}

fn line_too_long() -> RpcError {
    let message = format!(
        "the request line is longer than {LINE_BYTES_MAX} bytes; the connection is closed. Send large plans in \
         batches with AddNodes, and large results by reference"
    );
    RpcError::new(code::LINE_TOO_LONG, Reason::LimitExceeded, message)
}

fn too_many_long() -> RpcError {
    let message =
        "too many long request lines are being received at once; the connection is closed. Try again later";
    RpcError::refused(Reason::Busy, message)
}

fn too_many_large() -> RpcError {
    let message = "too many large answers wait to be read by their clients; ask again later, or for pages";
    RpcError::refused(Reason::Busy, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Thousands of idle connections are in memory together: what one costs is this, and the socket.
    #[test]
    fn an_idle_connection_is_small() {
        fn size_of_future<F: Future>(_: impl FnOnce(Connection) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_future(Connection::run);
        assert!(bytes < 4096, "{bytes} bytes");
    }
}
