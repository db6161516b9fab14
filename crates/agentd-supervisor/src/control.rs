//! agentd's side of a session's socket.

use crate::dir::SessionDir;
use crate::lines::Lines;
use crate::record::Record;
use crate::wire::{self, AnyReply, Hello, REPLY_BYTES_MAX, Reply, Request, Status, Versions};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long an answer may take. A supervisor answers at once, but for the time that a disk takes.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Why a supervisor could not be talked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody listens: the supervisor is gone, or was never there.
    #[error("the session has no supervisor that listens")]
    NotThere,
    /// It has ended the connection: it is gone, or going. Its records tell the rest.
    #[error("the session's supervisor has ended the connection")]
    Closed,
    /// The connection failed.
    #[error("cannot talk to the session's supervisor: {0}")]
    Io(#[source] io::Error),
    /// It did not answer.
    #[error("the session's supervisor did not answer within {} seconds", ANSWER_MAX.as_secs())]
    TimedOut,
    /// There is no version that both speak.
    #[error(
        "the session's supervisor speaks versions {theirs_oldest} to {theirs} of its protocol, this agentd speaks {} to {}: \
         use the agentd that started the session, or a newer one", ours.oldest, ours.current
    )]
    Version {
        /// Its oldest.
        theirs_oldest: u32,
        /// Its newest.
        theirs: u32,
        /// This program's.
        ours: Versions,
    },
    /// It does not do what it was asked for.
    #[error("the session's supervisor refused: {message} ({code})")]
    Refused {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// What it says is not its protocol.
    #[error("the session's supervisor does not speak its protocol: {0}")]
    Malformed(String),
}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            io::ErrorKind::InvalidData => Self::Malformed(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

/// A connection to a session's supervisor.
#[derive(Debug)]
pub struct Control {
    hello: Hello,
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Control {
    /// Connects to the supervisor of the session in `dir`.
    ///
    /// # Errors
    /// [`ControlError::NotThere`] when nobody listens; [`ControlError::Version`] when the supervisor is too new.
    pub async fn connect(dir: &SessionDir) -> Result<Self, ControlError> {
        Self::connect_as(dir, Versions::OURS).await
    }

    /// As [`Control::connect`], by a program that speaks other versions than this one.
    ///
    /// # Errors
    /// As [`Control::connect`].
    pub async fn connect_as(dir: &SessionDir, ours: Versions) -> Result<Self, ControlError> {
        let stream = connect(dir).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotThere,
            _ => ControlError::Io(error),
        })?;
        let (reader, writer) = stream.into_split();
        let mut lines = Lines::new(BufReader::with_capacity(4096, reader), REPLY_BYTES_MAX);
        let hello = match answer(&mut lines).await? {
            Reply::Hello(hello) => hello,
            Reply::Error { code, message } => return Err(ControlError::Refused { code, message }),
            other => return Err(ControlError::Malformed(format!("{other:?} instead of hello"))),
        };
        let theirs = Versions {
            current: hello.version,
            oldest: hello.oldest,
        };
        let Some(version) = ours.common(theirs) else {
            return Err(ControlError::Version {
                theirs_oldest: hello.oldest,
                theirs: hello.version,
                ours,
            });
        };
        let mut control = Self { hello, lines, writer };
        control.ask(&Request::Hello { version }).await?;
        Ok(control)
    }

    /// What the supervisor said of itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// How the session stands.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn status(&mut self) -> Result<Status, ControlError> {
        match self.ask(&Request::Status {}).await? {
            Reply::Status(status) => Ok(status),
            other => Err(ControlError::Malformed(format!("{other:?} instead of a status"))),
        }
    }

    /// Begins the agent's end: TERM, and KILL after `grace`. That of an earlier call is not made longer.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn stop(&mut self, grace: Duration) -> Result<(), ControlError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.ask(&Request::Stop { grace_ms }).await.map(|_| ())
    }

    /// Follows the records, beginning with number `from_seq` (the first is 1).
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn watch(mut self, from_seq: u64) -> Result<Watch, ControlError> {
        self.send(&Request::Watch { from_seq }).await?;
        Ok(Watch {
            lines: self.lines,
            _writer: self.writer,
            ended: false,
        })
    }

    async fn ask(&mut self, request: &Request) -> Result<Reply, ControlError> {
        self.send(request).await?;
        match answer(&mut self.lines).await? {
            Reply::Error { code, message } => Err(ControlError::Refused { code, message }),
            reply => Ok(reply),
        }
    }

    async fn send(&mut self, request: &Request) -> Result<(), ControlError> {
        let line = wire::line(request)?;
        let written = timeout(ANSWER_MAX, self.writer.write_all(&line));
        Ok(written.await.map_err(|_| ControlError::TimedOut)??)
    }
}

/// What is told of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A record.
    Record(Record),
    /// There are calls of tools to be taken: see [`crate::calls`].
    Calls,
}

/// A session's records, as they come.
#[derive(Debug)]
pub struct Watch {
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// Closed, it would end the connection.
    _writer: OwnedWriteHalf,
    ended: bool,
}

impl Watch {
    /// The next record, for which it waits as long as it takes; none after the last, which is [`crate::record::What::End`].
    /// The future may be dropped without losing a record.
    ///
    /// # Errors
    /// [`ControlError::Closed`] when the supervisor is gone before the last: what it wrote is in the file, and if the
    /// lock is free nothing comes after it.
    pub async fn next(&mut self) -> Result<Option<Record>, ControlError> {
        loop {
            match self.news().await? {
                Some(News::Record(record)) => return Ok(Some(record)),
                Some(News::Calls) => {}
                None => return Ok(None),
            }
        }
    }

    /// As [`Watch::next`], with what else is told.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn news(&mut self) -> Result<Option<News>, ControlError> {
        while !self.ended {
            match read(&mut self.lines).await? {
                Reply::Record(record) => return Ok(Some(News::Record(record))),
                Reply::Calls {} => return Ok(Some(News::Calls)),
                Reply::End {} => self.ended = true,
                Reply::Error { code, message } => return Err(ControlError::Refused { code, message }),
                Reply::Hello(_) | Reply::Ok {} | Reply::Status(_) => {}
            }
        }
        Ok(None)
    }
}

async fn connect(dir: &SessionDir) -> io::Result<UnixStream> {
    let parent = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(dir.root())?;
    UnixStream::connect(wire::short_path(&parent)).await
}

async fn answer(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> Result<Reply, ControlError> {
    timeout(ANSWER_MAX, read(lines))
        .await
        .map_err(|_| ControlError::TimedOut)?
}

async fn read(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> Result<Reply, ControlError> {
    loop {
        let line = lines.next().await?.ok_or(ControlError::Closed)?;
        match serde_json::from_slice(&line) {
            Ok(AnyReply::Known(reply)) => return Ok(reply),
            // From a newer supervisor, and not an answer to anything that was asked.
            Ok(AnyReply::Unknown(_)) => {}
            Err(error) => return Err(ControlError::Malformed(error.to_string())),
        }
    }
}
