//! Waiting for a task to be finished, without asking again and again.

use super::pool::{Backoff, Pool, is_transient};
use super::{Connect, WorkerError};
use agentd_client::{ClientError, Subscription};
use agentd_protocol::journal::action;
use agentd_protocol::requests::{JournalFilter, SubscribeJournal, TaskStatus};
use agentd_protocol::results::TaskStatusResult;
use agentd_protocol::{Method, StatusCounts, TaskId, TaskState};
use std::future::ready;
use std::time::{Duration, Instant};

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// Where it stands: finished.
    pub state: TaskState,
    /// Where its nodes stand.
    pub counts: StatusCounts,
}

/// Waits until a task is finished ([`TaskState::is_finished`]). It looks once, and then whenever the journal
/// has an entry after which the task may be finished.
///
/// A daemon that goes away is waited for, for at most `give_up_after`; None: for ever.
///
/// # Errors
/// [`WorkerError::Refused`] when the daemon does not know the task or does not show it,
/// [`WorkerError::Unreachable`] when it stayed away.
pub async fn wait_until_finished(
    connect: &Connect,
    task_id: TaskId,
    give_up_after: Option<Duration>,
) -> Result<TaskEnd, WorkerError> {
    let pool = Pool::new(connect.clone(), 1);
    let mut reached = Instant::now();
    let mut backoff = Backoff::reconnect();
    loop {
        match follow(connect, &pool, task_id, &mut reached).await {
            Ok(Some(end)) => return Ok(end),
            // The subscription ended; whatever the reason, a new one begins with a look at the task.
            Ok(None) => backoff = Backoff::reconnect(),
            Err(ClientError::Rpc(refusal)) if !is_transient(&ClientError::Rpc(refusal.clone())) => {
                return Err(WorkerError::Refused(refusal));
            }
            Err(source) if give_up_after.is_some_and(|patience| reached.elapsed() > patience) => {
                return Err(WorkerError::Unreachable {
                    secs: reached.elapsed().as_secs(),
                    source,
                });
            }
            Err(_) => {}
        }
        backoff.pause().await;
    }
}

async fn follow(
    connect: &Connect,
    pool: &Pool,
    task_id: TaskId,
    reached: &mut Instant,
) -> Result<Option<TaskEnd>, ClientError> {
    let actions = [
        action::COMPLETE_NODE,
        action::FAIL_NODE,
        action::ROLLBACK_NODE,
        action::CANCEL_TASK,
        action::PRUNE_TASK,
    ];
    let filter = JournalFilter {
        session_id: None,
        task_id: Some(task_id),
        node_id: None,
        action_types: actions.map(str::to_owned).to_vec(),
    };
    // Subscribed before the first look, so that nothing can happen between.
    let request = SubscribeJournal {
        from_seq: None,
        filter,
    };
    let mut subscription = connect().await?.subscribe(&request).await?;
    loop {
        let query = TaskStatus {
            task_id,
            status: None,
            limit: Some(1),
            cursor: None,
            omit_payloads: true,
        };
        let status: TaskStatusResult = pool.call(Method::TaskStatus, &query).await?;
        *reached = Instant::now();
        if status.state.is_finished() {
            return Ok(Some(TaskEnd {
                state: status.state,
                counts: status.counts,
            }));
        }
        if !next_news(&mut subscription).await {
            *reached = Instant::now();
            return Ok(None);
        }
    }
}

/// Waits for an entry and takes those that are there already with it: one look answers for them all. False
/// when there will be no more.
async fn next_news(subscription: &mut Subscription) -> bool {
    if !matches!(subscription.next().await, Ok(Some(_))) {
        return false;
    }
    loop {
        let more = tokio::select! {
            biased;
            entry = subscription.next() => entry,
            () = ready(()) => return true,
        };
        if !matches!(more, Ok(Some(_))) {
            return false;
        }
    }
}
