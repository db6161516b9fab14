//! Following a session's records to their end, whatever becomes of its supervisor meanwhile.

use crate::control::{Control, ControlError, News, Watch};
use crate::dir::SessionDir;
use crate::record::Record;
use crate::records::read_records;
use crate::spawn::{SupervisorState, state};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use tokio::time::sleep;

/// How long after a supervisor that is there could not be talked to it is tried again: it is about to end, or busy.
const AGAIN_AFTER: Duration = Duration::from_millis(10);
/// How often in a row.
const ATTEMPTS_MAX: u32 = 1000;

/// Why records could not be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The supervisor is there and cannot be talked to.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The session's directory cannot be read.
    #[error("cannot read the session's records: {0}")]
    Io(#[from] io::Error),
}

/// Gives a session's records: from its supervisor while there is one, and from the file when there is none any more.
#[derive(Debug)]
pub struct Follower {
    dir: SessionDir,
    next_seq: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// To be found.
    Unknown,
    Supervisor(Box<Watch>),
    File(VecDeque<Record>),
}

impl Follower {
    /// Begins with record `from_seq`; the first is 1.
    #[must_use]
    pub fn new(dir: SessionDir, from_seq: u64) -> Self {
        Self {
            dir,
            next_seq: from_seq.max(1),
            source: Source::Unknown,
        }
    }

    /// The next record, for which it waits as long as it takes; of a supervisor with which no version is common, it does
    /// not wait, and fails when there is none yet. None when there will be no more: after
    /// [`crate::record::What::End`], or because the supervisor was killed. The future may be dropped without losing a
    /// record.
    ///
    /// # Errors
    /// [`FollowError`]. It may be called again.
    pub async fn next(&mut self) -> Result<Option<Record>, FollowError> {
        loop {
            match self.news().await? {
                Some(News::Record(record)) => return Ok(Some(record)),
                Some(News::Calls) => {}
                None => return Ok(None),
            }
        }
    }

    /// As [`Follower::next`], with what else is told.
    ///
    /// # Errors
    /// As [`Follower::next`].
    pub async fn news(&mut self) -> Result<Option<News>, FollowError> {
        let mut attempts = 0;
        loop {
            let found = match &mut self.source {
                Source::Supervisor(watch) => watch.news().await,
                Source::File(records) => Ok(records.pop_front().map(News::Record)),
                Source::Unknown => match self.watch().await {
                    Ok(watch) => {
                        self.source = Source::Supervisor(Box::new(watch));
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            // It cannot be talked to, and what it writes can be read.
            let found = match found {
                Err(error @ ControlError::Version { .. }) => match self.written()? {
                    Some(record) => Ok(Some(News::Record(record))),
                    None => return Err(error.into()),
                },
                found => found,
            };
            let error = match found {
                Ok(Some(news)) => {
                    if let News::Record(record) = &news {
                        self.next_seq = record.seq + 1;
                    }
                    return Ok(Some(news));
                }
                Ok(None) => return Ok(None),
                Err(error) => error,
            };
            self.source = Source::Unknown;
            if let SupervisorState::Gone(records) = state(&self.dir)? {
                let next_seq = self.next_seq;
                let rest = records
                    .records
                    .into_iter()
                    .filter(|record| record.seq >= next_seq);
                self.source = Source::File(rest.collect());
                continue;
            }
            attempts += 1;
            if attempts > ATTEMPTS_MAX {
                return Err(error.into());
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    // The next record in the file.
    fn written(&self) -> io::Result<Option<Record>> {
        let records = read_records(&self.dir)?.records;
        Ok(records.into_iter().find(|record| record.seq >= self.next_seq))
    }

    async fn watch(&self) -> Result<Watch, ControlError> {
        Control::connect(&self.dir).await?.watch(self.next_seq).await
    }
}
