//! The session's socket: whoever of agentd comes and goes. Each connection has a task of its own, and bounds: no peer can
//! hold anything up.

use super::shared::Shared;
use crate::lines::Lines;
use crate::records::Durability;
use crate::wire::{self, Hello, REQUEST_BYTES_MAX, Reply, Request, Status, Versions};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// One daemon, its commands, and somebody who looks.
const CONNECTIONS_MAX: usize = 16;
/// A peer that does not take its answer in this time is dropped.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Serves until `over`; then lets those that watch have the last records.
pub(super) async fn serve(
    listener: UnixListener,
    shared: Arc<Shared>,
    versions: Versions,
    mut over: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            continue;
        };
        if !is_allowed(&stream) {
            continue;
        }
        // Nobody to talk to is a good time to see whether the disk has room again.
        shared.recorder().flush(Durability::Kernel);
        let is_full = connections.len() >= CONNECTIONS_MAX;
        let mut connection = Connection::new(stream, Arc::clone(&shared), over.clone());
        if is_full {
            let busy = error("busy", format!("it has {CONNECTIONS_MAX} connections already"));
            // Fits into the socket's buffer, or the peer has a reason to be dropped.
            let line = wire::line(&busy).unwrap_or_default();
            let _ = connection.writer.try_write(&line);
            continue;
        }
        connections.spawn(async move {
            // A peer that is gone, or makes no sense.
            let _ = connection.run(versions).await;
        });
    }
    while connections.join_next().await.is_some() {}
}

/// The supervisor's own user, and root.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

fn error(code: &str, message: String) -> Reply {
    Reply::Error {
        code: code.into(),
        message,
    }
}

struct Connection {
    lines: Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    shared: Arc<Shared>,
    told: watch::Receiver<u64>,
    over: watch::Receiver<bool>,
    calls: watch::Receiver<u64>,
    /// The number of the next record that the peer is to be sent, once it watches.
    next_seq: Option<u64>,
}

impl Connection {
    fn new(stream: UnixStream, shared: Arc<Shared>, over: watch::Receiver<bool>) -> Self {
        let (reader, writer) = stream.into_split();
        let told = shared.recorder().told();
        let mut calls = shared.calls.subscribe();
        // Those that were written before are news, too.
        if *calls.borrow_and_update() > 0 {
            calls.mark_changed();
        }
        Self {
            lines: Lines::new(BufReader::with_capacity(1024, reader), REQUEST_BYTES_MAX),
            writer,
            shared,
            told,
            over,
            calls,
            next_seq: None,
        }
    }

    async fn run(&mut self, versions: Versions) -> io::Result<()> {
        let hello = Hello {
            version: versions.current,
            oldest: versions.oldest,
            session_id: self.shared.session_id,
            pid: nix::unistd::getpid().as_raw(),
        };
        self.send(&Reply::Hello(hello)).await?;
        loop {
            let over = *self.over.borrow_and_update();
            self.send_records().await?;
            if over {
                // All are written: nothing is left to tell.
                if self.next_seq.is_some() {
                    self.send(&Reply::End {}).await?;
                }
                return Ok(());
            }
            tokio::select! {
                biased;
                line = self.lines.next() => match line {
                    Ok(Some(line)) => {
                        let reply = self.answer(&line, versions);
                        if let Some(reply) = reply {
                            self.send(&reply).await?;
                        }
                    }
                    Ok(None) => return Ok(()),
                    Err(failure) => {
                        let message = failure.to_string();
                        return self.send(&error("malformed", message)).await;
                    }
                },
                _ = self.told.changed(), if self.next_seq.is_some() => {}
                Ok(()) = self.calls.changed(), if self.next_seq.is_some() => self.send(&Reply::Calls {}).await?,
                _ = self.over.changed() => {}
            }
        }
    }

    async fn send_records(&mut self) -> io::Result<()> {
        self.told.mark_unchanged();
        while let Some(seq) = self.next_seq {
            let line = self.shared.recorder().line(seq);
            let Some(line) = line else { break };
            // As it is in the file, so that what is told and what is read afterwards cannot differ.
            let message = format!("{{\"record\":{}}}\n", line.trim_end());
            self.write(message.as_bytes()).await?;
            self.next_seq = Some(seq + 1);
        }
        Ok(())
    }

    fn answer(&mut self, line: &[u8], versions: Versions) -> Option<Reply> {
        let request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(failure) => {
                let message = format!("no request that version {} knows: {failure}", versions.current);
                return Some(error("unknown_request", message));
            }
        };
        Some(match request {
            Request::Hello { version } if (versions.oldest..=versions.current).contains(&version) => {
                Reply::Ok {}
            }
            Request::Hello { version } => error(
                "version",
                format!(
                    "this supervisor speaks versions {} to {}, not {version}",
                    versions.oldest, versions.current
                ),
            ),
            Request::Watch { from_seq } => {
                self.next_seq = Some(from_seq.max(1));
                return None;
            }
            Request::Stop { grace_ms } => {
                self.shared.ask_stop(Duration::from_millis(grace_ms));
                Reply::Ok {}
            }
            Request::Status {} => {
                let (doing, agent_pid) = *self.shared.doing();
                let totals = self.shared.output().transcript.totals();
                Reply::Status(Status {
                    doing,
                    agent_pid,
                    output_bytes: totals.output_bytes,
                    missing_bytes: totals.missing_bytes,
                    last_seq: *self.told.borrow(),
                })
            }
        })
    }

    async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let line = wire::line(reply)?;
        self.write(&line).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(WRITE_MAX, self.writer.write_all(bytes))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}
