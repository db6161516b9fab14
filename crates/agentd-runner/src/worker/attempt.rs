//! One attempt at one node, from its lease to its end.
//!
//! ```text
//!   establish ──▶ prepare ──▶ run ──▶ report ──▶ done
//!       │            │         │        │
//!       └────────────┴─────────┴────────┴─ the lease is extended all the while
//!            lost: end the tree, tell nobody        stopping: end the tree, give the node back
//! ```

use super::event::{NodeRef, WorkerEvent};
use super::lease::{Lease, Loss};
use super::payload::{self, Verdict};
use super::pool::Unanswered;
use super::{Shared, inputs};
use crate::exec::{self, CommandSpec, Control, Outcome, SweepFilter};
use agentd_protocol::requests::{CompleteNode, FailNode, GetNode, ReleaseNode};
use agentd_protocol::results::{AcquiredNode, Completed, Failed, GetNodeResult, Ok as Done};
use agentd_protocol::{CommandWork, Json, Method, Reason, Work};
use std::future::{Future, pending};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a result is offered to a daemon that does not answer. Its lease is long over by then; it is
/// offered on because the daemon may have taken it and only its answer been lost.
const REPORT_MAX: Duration = Duration::from_secs(60);
/// The same when the worker is to stop now.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// What became of the command.
enum Ran {
    /// It ended, and there is something to tell.
    Ended { verdict: Verdict, duration: Duration },
    /// It was ended because the worker stops.
    Stopped,
    /// Its trusted time was over.
    TrustOver,
}

pub(super) async fn attempt(shared: Arc<Shared>, mut node: Box<AcquiredNode>, sent: Instant) {
    let subject = NodeRef::of(&node);
    let Some(Work::Command(work)) = node.context.node.work.take() else {
        release(&shared, &node).await;
        shared.tell(WorkerEvent::NotOurs { node: subject });
        return;
    };
    let mut lease = Lease::new(&node, shared.options.lease_secs, sent);
    if let Err(loss) = lease.establish(&shared.pool).await {
        shared.tell(WorkerEvent::Lost {
            node: subject,
            why: loss.message(),
        });
        return;
    }
    let control = Control {
        stop: shared.shutdown.soft.child_token(),
        kill: shared.shutdown.hard.child_token(),
        trust: Some(lease.trust()),
    };
    let (stop, kill) = (control.stop.clone(), control.kill.clone());

    let attempt = Attempt {
        shared: &shared,
        node: &node,
        work: &work,
        subject: &subject,
    };
    let ran = {
        let running = attempt.run(control);
        tokio::pin!(running);
        let lost = tokio::select! {
            biased;
            ran = &mut running => Ok(ran),
            loss = lease.keep(&shared.pool) => Err(loss),
        };
        match lost {
            Ok(ran) => ran,
            Err(loss) => {
                match loss {
                    // Nobody else is given the node, so there is time for a clean end; the trusted time, which
                    // is not extended any more, bounds it.
                    Loss::Cancelled(_) => stop.cancel(),
                    Loss::Refused(_) | Loss::Expired => kill.cancel(),
                }
                running.await;
                shared.tell(WorkerEvent::Lost {
                    node: subject.clone(),
                    why: loss.message(),
                });
                return;
            }
        }
    };
    match ran {
        Ran::Ended { verdict, duration } => {
            let keeping = async {
                // Once the report is in, the lease is over; that is no loss.
                lease.keep(&shared.pool).await;
                pending::<()>().await;
            };
            let event = tokio::select! {
                biased;
                event = attempt.report(verdict, duration) => event,
                () = keeping => return,
            };
            shared.tell(event);
        }
        Ran::Stopped => {
            release(&shared, &node).await;
            shared.tell(WorkerEvent::Released { node: subject });
        }
        Ran::TrustOver => {
            shared.tell(WorkerEvent::Lost {
                node: subject,
                why: Loss::Expired.message(),
            });
        }
    }
}

/// Gives a node back, if the daemon can be reached. If not, the lease runs out by itself.
async fn release(shared: &Shared, node: &AcquiredNode) {
    let request = ReleaseNode {
        task_id: node.task_id,
        node_id: node.node_id,
        lease_id: node.lease_id,
    };
    let enough = async {
        tokio::select! {
            () = shared.shutdown.hard.cancelled() => tokio::time::sleep(LAST_WORDS_MAX).await,
            () = tokio::time::sleep(Duration::from_secs(shared.options.lease_secs)) => {}
        }
    };
    let released = shared
        .pool
        .insist::<_, Done>(Method::ReleaseNode, &request, enough)
        .await;
    if let Err(unanswered) = released {
        tracing::debug!(node = %node.node_id, ?unanswered, "the node was not given back");
    }
}

struct Attempt<'a> {
    shared: &'a Arc<Shared>,
    node: &'a AcquiredNode,
    work: &'a CommandWork,
    subject: &'a NodeRef,
}

/// Why a command could not be prepared.
enum Unprepared {
    Stopped,
    Failed(String),
}

impl From<io::Error> for Unprepared {
    fn from(error: io::Error) -> Self {
        Self::Failed(format!(
            "the command's directories and inputs cannot be made: {error}"
        ))
    }
}

impl Attempt<'_> {
    async fn run(&self, control: Control) -> Ran {
        let options = &self.shared.options;
        if self.node.attempt > 1 {
            // The attempt before may have ended with the machine's worker and supervisor killed at once.
            self.shared.sweep(SweepFilter::Task(self.node.task_id)).await;
        }
        let stopping = control.stop.clone();
        let killing = control.kill.clone();
        let prepared = tokio::select! {
            biased;
            () = stopping.cancelled() => Err(Unprepared::Stopped),
            () = killing.cancelled() => Err(Unprepared::Stopped),
            prepared = self.prepare() => prepared,
        };
        let (dir, artifacts) = match prepared {
            Ok(prepared) => prepared,
            Err(Unprepared::Stopped) => return Ran::Stopped,
            Err(Unprepared::Failed(message)) => {
                return Ran::Ended {
                    verdict: payload::failed("spawn", message),
                    duration: Duration::ZERO,
                };
            }
        };
        let timeout = self.work.timeout_secs.map(|secs| Duration::from_millis(secs.ms));
        let spec = CommandSpec {
            argv: self.work.argv.clone(),
            cwd: PathBuf::from(&self.work.cwd),
            env: inputs::environment(options, self.node, self.work, &dir, &artifacts),
            timeout,
            grace: options.grace,
            stdout: payload::STDOUT,
            stderr: payload::STDERR,
        };
        self.shared.tell(WorkerEvent::Started {
            node: self.subject.clone(),
        });
        let finished = exec::run(&options.supervisor, &spec, control).await;
        let result_file = dir.result();
        let (verdict, duration) = match finished {
            Ok(finished) => {
                let asked = stopping.is_cancelled() || killing.is_cancelled();
                match finished.outcome {
                    Outcome::Stopped if asked => return Ran::Stopped,
                    Outcome::TrustOver => return Ran::TrustOver,
                    _ => {}
                }
                if finished.survivors > 0 {
                    tracing::warn!(node = %self.node.node_id, survivors = finished.survivors, "processes cannot be killed");
                }
                let duration = finished.duration;
                let judged = tokio::task::spawn_blocking(move || {
                    let verdict = payload::verdict(&finished, timeout, &result_file);
                    drop(dir);
                    verdict
                });
                let verdict = judged
                    .await
                    .unwrap_or_else(|error| payload::failed("result", error.to_string()));
                (verdict, duration)
            }
            Err(_) if killing.is_cancelled() => return Ran::Stopped,
            Err(error) => (payload::unreported(&error), Duration::ZERO),
        };
        Ran::Ended { verdict, duration }
    }

    async fn prepare(&self) -> Result<(super::dirs::AttemptDir, PathBuf), Unprepared> {
        let shared = Arc::clone(self.shared);
        let lease_id = self.node.lease_id;
        let artifacts = inputs::artifacts_of(self.node).to_string();
        let artifacts = shared.options.artifact_dir.join(artifacts);
        let dependencies = &self.node.context.completed_dependencies;
        let names = inputs::file_names(dependencies);
        let present: Vec<(String, Json)> = dependencies
            .iter()
            .zip(&names)
            .filter(|(dependency, _)| dependency.result_omitted_bytes.is_none())
            .filter_map(|(dependency, name)| Some((name.clone(), dependency.result_payload.clone()?)))
            .collect();
        let (dir, artifacts) = blocking(move || {
            super::dirs::make_private(&artifacts)?;
            let dir = shared.dir.attempt(lease_id)?;
            for (name, result) in &present {
                inputs::write(&dir.inputs(), name, result)?;
            }
            Ok((dir, artifacts))
        })
        .await?;
        for (node_id, name) in inputs::omitted(dependencies, &names) {
            let request = GetNode {
                task_id: self.node.task_id,
                node_id,
            };
            // Ends with the lease, which the caller watches.
            let answer = self
                .shared
                .pool
                .insist::<_, GetNodeResult>(Method::GetNode, &request, pending());
            let result = match answer.await {
                Ok(answer) => answer.node.result_payload.unwrap_or_else(Json::null),
                Err(Unanswered::Refused(refusal)) => {
                    return Err(Unprepared::Failed(format!(
                        "the result of {name} cannot be had: {refusal}"
                    )));
                }
                Err(Unanswered::GaveUp(why)) => return Err(Unprepared::Failed(why)),
            };
            let (inputs, name) = (dir.inputs(), name.to_owned());
            blocking(move || inputs::write(&inputs, &name, &result)).await?;
        }
        Ok((dir, artifacts))
    }

    /// Tells the daemon, over its restarts if need be.
    async fn report(&self, verdict: Verdict, duration: Duration) -> WorkerEvent {
        let node = self.subject.clone();
        let (task_id, node_id, lease_id) = (self.node.task_id, self.node.node_id, self.node.lease_id);
        let idempotency_key = Some(lease_id.to_string());
        let verdict = match verdict {
            Verdict::Failed { .. } => verdict,
            Verdict::Completed(result_payload) => {
                let add_nodes = Vec::new();
                let request = CompleteNode {
                    task_id,
                    node_id,
                    lease_id,
                    result_payload,
                    add_nodes,
                    idempotency_key: idempotency_key.clone(),
                };
                let answer = self.insist::<_, Completed>(Method::CompleteNode, &request).await;
                match answer {
                    Ok(_) => return WorkerEvent::Completed { node, duration },
                    // The node is still ours; what is refused is the result.
                    Err(Unanswered::Refused(refusal))
                        if matches!(refusal.reason(), Some(Reason::LimitExceeded | Reason::BadRequest)) =>
                    {
                        payload::failed("result", format!("agentd does not take the result: {refusal}"))
                    }
                    Err(unanswered) => return lost(node, unanswered),
                }
            }
        };
        let Verdict::Failed {
            reason,
            message,
            payload,
        } = verdict
        else {
            return WorkerEvent::Completed { node, duration };
        };
        let request = FailNode {
            task_id,
            node_id,
            lease_id,
            error_payload: payload,
            permanent: false,
            idempotency_key,
        };
        match self.insist::<_, Failed>(Method::FailNode, &request).await {
            Ok(answer) => WorkerEvent::Failed {
                node,
                reason,
                message,
                retry_at: answer.retry_at,
            },
            Err(unanswered) => lost(node, unanswered),
        }
    }

    fn insist<'a, P, R>(
        &'a self,
        method: Method,
        request: &'a P,
    ) -> impl Future<Output = Result<R, Unanswered>> + 'a
    where
        P: serde::Serialize,
        R: serde::de::DeserializeOwned + 'a,
    {
        let hard = &self.shared.shutdown.hard;
        let patience = REPORT_MAX.max(Duration::from_secs(self.shared.options.lease_secs));
        let enough = async move {
            tokio::select! {
                () = async { hard.cancelled().await; tokio::time::sleep(LAST_WORDS_MAX).await } => {}
                () = tokio::time::sleep(patience) => {}
            }
        };
        self.shared.pool.insist(method, request, enough)
    }
}

fn lost(node: NodeRef, unanswered: Unanswered) -> WorkerEvent {
    let why = match unanswered {
        Unanswered::Refused(refusal) => refusal.message,
        Unanswered::GaveUp(why) => why,
    };
    WorkerEvent::Lost { node, why }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
