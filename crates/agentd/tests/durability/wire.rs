//! Asking a daemon that may be gone the next moment, or a store in this process, in the same words.

use agentd_protocol::requests;
use agentd_store::sqlite::SqliteStore;
use agentd_store::{Query, Reply, Store};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How a request came out.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Acknowledged.
    Done(Value),
    /// Answered with an error.
    Refused(Value),
    /// No whole answer came: it may have been done or not.
    Lost,
}

impl Answer {
    #[track_caller]
    pub(crate) fn done(self) -> Value {
        match self {
            Self::Done(result) => result,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn refused(self) -> Value {
        match self {
            Self::Refused(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// The `data.reason` of an error.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => error["data"]["reason"].as_str(),
            _ => None,
        }
    }
}

/// Somebody who can be asked.
pub(crate) trait Ask {
    fn ask(&mut self, method: &str, params: Value) -> Answer;
}

/// A connection to a daemon.
#[derive(Debug)]
pub(crate) struct Peer {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Peer {
    pub(crate) fn connect(socket: &Path) -> Option<Self> {
        let writer = UnixStream::connect(socket).ok()?;
        writer.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        let reader = BufReader::new(writer.try_clone().ok()?);
        Some(Self { reader, writer })
    }
}

impl Ask for Peer {
    fn ask(&mut self, method: &str, params: Value) -> Answer {
        let mut line = json!({ "id": 1, "method": method, "params": params }).to_string();
        line.push('\n');
        if self.writer.write_all(line.as_bytes()).is_err() {
            return Answer::Lost;
        }
        let mut answer = String::new();
        match self.reader.read_line(&mut answer) {
            Ok(_) if answer.ends_with('\n') => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {
                panic!("{method} is not answered")
            }
            _ => return Answer::Lost,
        }
        let mut response: Value =
            serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        if response.get("error").is_some() {
            return Answer::Refused(response["error"].take());
        }
        Answer::Done(response["result"].take())
    }
}

/// A store that is open in this process.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) store: &'a SqliteStore,
    pub(crate) runtime: &'a tokio::runtime::Runtime,
}

impl Ask for Opened<'_> {
    fn ask(&mut self, method: &str, params: Value) -> Answer {
        fn of<T: serde::de::DeserializeOwned>(params: Value) -> T {
            serde_json::from_value(params).expect("parameters")
        }
        let query = match method {
            "TaskStatus" => Query::TaskStatus(of(params)),
            "ReadJournal" => Query::ReadJournal(of(params)),
            "ListResourceLocks" => Query::ListResourceLocks(of(params)),
            "CheckDatabase" => Query::CheckDatabase(requests::NoParams {}),
            other => panic!("{other} is not a question"),
        };
        match self.runtime.block_on(self.store.query(query)) {
            Ok(reply) => Answer::Done(
                match reply {
                    Reply::Status(result) => serde_json::to_value(result),
                    Reply::Journal(result) => serde_json::to_value(result),
                    Reply::Locks(result) => serde_json::to_value(result),
                    Reply::Checked(result) => serde_json::to_value(result),
                    other => panic!("{other:?}"),
                }
                .expect("JSON"),
            ),
            Err(error) => {
                Answer::Refused(json!({ "message": error.to_string(), "data": { "reason": error.reason() } }))
            }
        }
    }
}
