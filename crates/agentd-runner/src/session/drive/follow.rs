//! What a supervisor tells of its agent, written down as it comes.

use super::{Driver, StopRequest};
use crate::session::{teardown, toolcalls};
use agentd_config::Agent;
use agentd_protocol::SessionPhase;
use agentd_store::session::{ChangeSession, SessionEvent};
use agentd_store::{Command, StoreError};
use agentd_supervisor::control::{Control, ControlError, News};
use agentd_supervisor::follow::{FollowError, Follower};
use agentd_supervisor::record::{Exited, Record, What};
use std::io;
use std::time::Duration;
use tokio::sync::watch;

/// Between two attempts to reach a supervisor that is there and does not answer.
const UNANSWERED: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Tail {
    begun: bool,
    started: bool,
    exited: Option<Exited>,
}

impl Driver {
    pub(super) async fn not_begun(&self) -> Exited {
        Exited {
            start_error: Some(teardown::ended_too_early(&self.dir).await),
            ..Exited::default()
        }
    }

    // Until the supervisor has said all that it has to say; nothing when that was not even that it begins. The permit
    // goes back when the agent runs.
    pub(super) async fn follow_holding(
        &mut self,
        mut permit: Option<tokio::sync::SemaphorePermit<'_>>,
    ) -> Result<Option<Exited>, StoreError> {
        let mut tail = Tail::default();
        let mut damaged = None;
        let mut follower = Follower::new(self.dir.clone(), 1);
        loop {
            tokio::select! {
                () = self.calls.due() => self.journal_calls().await?,
                news = follower.news() => match news {
                    Ok(Some(News::Calls)) => self.calls.written(),
                    Ok(Some(News::Record(record))) => {
                        self.take(&mut tail, record).await?;
                        if tail.started {
                            permit = None;
                        }
                    }
                    Ok(None) => break,
                    Err(FollowError::Io(error)) if is_damaged(&error) => {
                        tail.begun = true;
                        damaged = Some(format!("its supervisor's records cannot be read: {error}"));
                        break;
                    }
                    Err(error) => {
                        // Suspended, say. Its lock is let go when it ends, and nothing else tells of that.
                        tracing::warn!(session = %self.info.id, %error, "its supervisor does not answer");
                        tokio::select! {
                            () = tokio::time::sleep(UNANSWERED) => {}
                            () = self.inner.closing.cancelled() => return Err(StoreError::ShuttingDown),
                        }
                    }
                },
                wanted = wanted(&mut self.stop) => self.ask_for_end(&wanted).await,
                () = self.inner.closing.cancelled() => return Err(StoreError::ShuttingDown),
            }
        }
        drop(permit);
        Ok(match tail.exited {
            Some(exited) => Some(exited),
            None if tail.begun => Some(Exited {
                lost: damaged.or_else(|| Some("its supervisor was killed, and the agent was ended".into())),
                ..Exited::default()
            }),
            None => None,
        })
    }

    // Writes down which tools were called, since that was done last.
    pub(super) async fn journal_calls(&mut self) -> Result<(), StoreError> {
        loop {
            let next = self
                .calls
                .next(self.inner.store(), self.info.id, &self.dir)
                .await?;
            let notes = match next {
                Ok(notes) if notes.is_empty() => return Ok(()),
                Ok(notes) => notes,
                Err(error) => {
                    self.warn(&format!("calls of its tools cannot be read: {error}"));
                    return Ok(());
                }
            };
            for notes in notes.chunks(toolcalls::NOTES_MAX) {
                let change = ChangeSession {
                    session_id: self.info.id,
                    event: None,
                    notes: notes.to_vec(),
                };
                self.submit(Command::ChangeSession(change)).await?;
            }
        }
    }

    async fn ask_for_end(&self, wanted: &StopRequest) {
        let declared = || self.inner.agent(&self.info.agent).map(|agent| agent.grace_period);
        let grace = wanted
            .grace
            .or_else(declared)
            .unwrap_or(Agent::GRACE_PERIOD_DEFAULT);
        let asked = async { Control::connect(&self.dir).await?.stop(grace).await };
        let dir = self.dir.clone();
        let asked = match asked.await {
            // There are no words that both know, but for a signal.
            Err(ControlError::Version { .. }) => {
                crate::session::blocking(move || agentd_supervisor::spawn::terminate(&dir).map(|_| ()))
                    .await
                    .map_err(ControlError::from)
            }
            asked => asked,
        };
        if let Err(error) = asked {
            tracing::warn!(session = %self.info.id, %error, "its supervisor could not be asked for its end");
        }
    }

    // Writes down what a record says, once.
    async fn take(&mut self, tail: &mut Tail, record: Record) -> Result<(), StoreError> {
        match record.what {
            What::Intent { .. } => tail.begun = true,
            What::Started { .. } => {
                tail.started = true;
                if self.info.phase == SessionPhase::Starting {
                    self.inner.point("started");
                    self.change(SessionEvent::Run {
                        started_wall_ms: Some(record.wall_ms),
                    })
                    .await?;
                    self.inner.point("running");
                }
            }
            // The engine cleans up for longer than others should have to wait for the news.
            What::ContainerEnded if self.info.phase == SessionPhase::Running => {
                let exited_wall_ms = Some(record.wall_ms);
                self.change(SessionEvent::TearDown { exited_wall_ms }).await?;
            }
            What::Exited(mut exited) => {
                tail.started = true;
                if let Some(why) = &mut exited.start_error {
                    why.insert_str(0, "start: ");
                }
                self.inner.point("exited");
                if self.info.phase != SessionPhase::Teardown {
                    self.change(SessionEvent::TearDown {
                        exited_wall_ms: Some(record.wall_ms),
                    })
                    .await?;
                }
                self.inner.point("teardown");
                tail.exited = Some(exited);
            }
            What::End {
                teardown_ms,
                missing_bytes,
                output_bytes,
            } => {
                self.output_bytes = output_bytes;
                self.runtime_is_clear = true;
                if record.seq > self.told {
                    if missing_bytes > 0 {
                        let message = format!("{missing_bytes} bytes of its output were not kept");
                        self.warn_of(record.seq, &message);
                    }
                    self.note("teardown", "runtime", Some(teardown_ms), None);
                }
            }
            What::Warning { message } if record.seq > self.told => self.warn_of(record.seq, &message),
            _ => {}
        }
        Ok(())
    }
}

// It will not be better the next time. Only when its supervisor is gone is the file looked at.
fn is_damaged(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory};
    matches!(error.kind(), InvalidData | IsADirectory | NotADirectory)
}

// The next wish for the session's end.
async fn wanted(stop: &mut watch::Receiver<Option<StopRequest>>) -> StopRequest {
    loop {
        if stop.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if let Some(request) = stop.borrow().clone() {
            return request;
        }
    }
}
