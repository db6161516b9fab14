//! A connection that carries the journal.

use crate::connection::Connection;
use crate::linger;
use crate::options::SUBSCRIPTION_PAGE;
use crate::outbox::{Broken, poll_hangup};
use agentd_protocol::envelope::{write_error, write_result};
use agentd_protocol::error::code;
use agentd_protocol::requests::{ReadJournal, SubscribeJournal};
use agentd_protocol::results::{JournalPage, Subscribed};
use agentd_protocol::{Json, Reason, RpcError};
use agentd_store::{Query, Reply, StoreError};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use tokio::sync::watch;

/// Why a subscription ends.
enum End {
    /// The client is gone.
    Gone,
    /// The client takes nothing.
    TooSlow,
    /// The server stops.
    Stopping,
    /// The journal could not be read.
    Failed(StoreError),
}

struct Subscription {
    connection: Connection,
    id: Option<Json>,
    params: SubscribeJournal,
    head: watch::Receiver<i64>,
    /// The first entry that has not been put into the outbox.
    next_seq: i64,
    /// The lines in the outbox: where each ends, and the last entry that the client has had with it.
    lines: VecDeque<(u64, i64)>,
    /// The last entry that the client has had with everything that was sent.
    last_seq: i64,
    /// The client will send no more; it may still read.
    eof: bool,
}

/// Takes a connection over until either side ends it.
pub(crate) async fn serve(connection: Connection, id: Option<Json>, params: SubscribeJournal) {
    let mut head = connection.shared.store.journal_head();
    let newest = *head.borrow_and_update();
    let next_seq = params.from_seq.unwrap_or(newest.saturating_add(1));
    let last_seq = next_seq.saturating_sub(1);
    let mut subscription = Subscription {
        connection,
        id,
        params,
        head,
        next_seq,
        lines: VecDeque::new(),
        last_seq,
        eof: false,
    };
    subscription.begin(newest);
    let end = subscription.follow().await;
    subscription.finish(end).await;
}

impl Subscription {
    fn begin(&mut self, newest: i64) {
        let first = Subscribed {
            subscribed: true,
            from_seq: self.next_seq,
            last_seq: newest,
        };
        let outbox = &mut self.connection.outbox;
        // Three plain fields are always JSON.
        let _ = write_result(outbox.buffer(), self.id.as_ref(), &first);
        self.lines.push_back((outbox.end(), self.last_seq));
    }

    async fn follow(&mut self) -> End {
        loop {
            if let Err(end) = self.flush().await {
                return end;
            }
            let page = match self.read_page().await {
                Ok(page) => page,
                Err(StoreError::ShuttingDown) => return End::Stopping,
                Err(error) => return End::Failed(error),
            };
            let advanced = page.next_seq > self.next_seq;
            let idle = page.entries.is_empty() && (!advanced || page.next_seq > page.last_seq);
            self.put(page);
            if idle && let Err(end) = self.wait().await {
                return end;
            }
        }
    }

    async fn read_page(&mut self) -> Result<JournalPage, StoreError> {
        // Seen from here on: a commit after this, and only such a one, ends the next wait.
        self.head.mark_unchanged();
        let page = ReadJournal {
            from_seq: Some(self.next_seq),
            last: None,
            limit: Some(SUBSCRIPTION_PAGE),
            filter: self.params.filter.clone(),
        };
        self.connection
            .shared
            .query(Query::ReadJournal(page))
            .await
            .and_then(Reply::into_result)
    }

    fn put(&mut self, page: JournalPage) {
        let outbox = &mut self.connection.outbox;
        for entry in &page.entries {
            let buffer = outbox.buffer();
            // Entries came out of the journal and are JSON.
            if serde_json::to_writer(&mut *buffer, entry).is_ok() {
                buffer.push(b'\n');
            }
            self.lines.push_back((outbox.end(), entry.seq));
        }
        self.next_seq = page.next_seq.max(self.next_seq);
        if self.lines.is_empty() {
            // Nothing of it passed the filter: the client has had it all the same.
            self.last_seq = self.next_seq.saturating_sub(1);
        }
    }

    /// Sends what there is.
    async fn flush(&mut self) -> Result<(), End> {
        let Self {
            connection:
                Connection {
                    shared,
                    stream,
                    outbox,
                    ..
                },
            ..
        } = self;
        let mut stop = pin!(shared.stop.cancelled());
        let outcome = poll_fn(|context| {
            let flushed = outbox.poll_flush(stream, shared.timeouts.slow_reader, context);
            match flushed {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                Poll::Ready(Err(Broken::Gone)) => Poll::Ready(Err(End::Gone)),
                Poll::Ready(Err(Broken::Stalled)) => Poll::Ready(Err(End::TooSlow)),
                Poll::Pending => stop.as_mut().poll(context).map(|()| Err(End::Stopping)),
            }
        })
        .await;
        if outcome.is_ok() {
            self.lines.clear();
            self.last_seq = self.next_seq.saturating_sub(1);
        }
        outcome
    }

    /// Until there is more in the journal. What the client sends meanwhile is not for us.
    async fn wait(&mut self) -> Result<(), End> {
        let Self {
            connection: Connection { shared, stream, .. },
            head,
            eof,
            ..
        } = self;
        let mut stop = pin!(shared.stop.cancelled());
        let mut changed = pin!(head.changed());
        poll_fn(|context| {
            if let Poll::Ready(changed) = changed.as_mut().poll(context) {
                // The store is gone without having been closed by us.
                return Poll::Ready(changed.map_err(|_| End::Stopping));
            }
            if stop.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(End::Stopping));
            }
            while !*eof && stream.poll_read_ready(context).is_ready() {
                *eof = !linger::read_and_forget(stream);
            }
            if *eof && poll_hangup(stream, context).is_ready() {
                return Poll::Ready(Err(End::Gone));
            }
            Poll::Pending
        })
        .await
    }

    /// Says why it ends, to whoever still listens.
    async fn finish(mut self, end: End) {
        let (error_code, reason, message) = match end {
            End::Gone => return,
            End::TooSlow => {
                let secs = self.connection.shared.timeouts.slow_reader.as_secs_f64();
                let message = format!(
                    "nothing was read for {secs} seconds; subscribe again from the entry after data.last_seq"
                );
                (code::REFUSED, Reason::SlowReader, message)
            }
            End::Stopping => {
                let message = "agentd is shutting down; subscribe again from the entry after data.last_seq";
                (code::REFUSED, Reason::ShuttingDown, message.to_owned())
            }
            End::Failed(error) => {
                let wire = RpcError::from(error);
                (wire.code, wire.reason().unwrap_or(Reason::Storage), wire.message)
            }
        };
        let outbox = &mut self.connection.outbox;
        // A line of which a part was sent is sent whole; those behind it can be read again later.
        let taken = outbox.taken();
        for (end, seq) in std::mem::take(&mut self.lines) {
            self.last_seq = seq;
            if end >= taken {
                // Nothing of the next line was sent.
                outbox.cut(end);
                break;
            }
        }
        let data = serde_json::json!({ "reason": reason, "last_seq": self.last_seq });
        let error = RpcError {
            code: error_code,
            message,
            data: Some(data.into()),
        };
        write_error(outbox.buffer(), self.id.as_ref(), &error);
        let grace = self.connection.shared.timeouts.slow_reader_grace;
        let stream = &mut self.connection.stream;
        // Whoever still reads nothing cannot be told.
        if poll_fn(|context| outbox.poll_flush(stream, grace, context))
            .await
            .is_ok()
        {
            linger::briefly(stream).await;
        }
    }
}
