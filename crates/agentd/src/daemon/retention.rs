//! Removes finished tasks when their time is over.
//!
//! Nothing ticks: it sleeps until the oldest finished task is due, and while there is none, until something
//! happens at all.

use agentd_protocol::requests::{ListTasks, PruneTasks};
use agentd_protocol::results::{Pruned, TaskList};
use agentd_protocol::{TaskState, limits};
use agentd_store::{Command, Query, Store, StoreError, ask, execute};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::{info, warn};

const DAY_SECS: u64 = 24 * 3600;
/// Finding the oldest one means looking at all that are finished: once a day at most, whatever is due.
const PAUSE: Duration = Duration::from_secs(DAY_SECS);

/// Prunes until it is aborted. Zero days: for ever, so there is nothing to do.
pub(super) async fn run(store: Arc<dyn Store>, days: u64) {
    if days == 0 {
        return;
    }
    let keep = Duration::from_secs(days * DAY_SECS);
    let mut head = store.journal_head();
    loop {
        head.mark_unchanged();
        match round(&*store, keep).await {
            Ok(Some(finished)) => tokio::time::sleep(until_due(finished, keep, now()).max(PAUSE)).await,
            Ok(None) => {
                if head.changed().await.is_err() {
                    return;
                }
                // What finishes from now on is not due before that.
                tokio::time::sleep(keep).await;
            }
            Err(StoreError::ShuttingDown) => return,
            Err(error) => {
                warn!(%error, "finished tasks could not be pruned; the next attempt is tomorrow");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

// Prunes what is due, and says when the oldest of the rest finished, in milliseconds since the epoch.
async fn round(store: &dyn Store, keep: Duration) -> Result<Option<i64>, StoreError> {
    let prune = PruneTasks {
        older_than_secs: keep.as_secs(),
        task_id: None,
    };
    let pruned: Pruned = execute(store, Command::PruneTasks(prune)).await?;
    if pruned != Pruned::default() {
        info!(
            tasks = pruned.tasks,
            nodes = pruned.nodes,
            events = pruned.events,
            "pruned what was old"
        );
    }
    let mut oldest: Option<i64> = None;
    for state in [TaskState::Completed, TaskState::Failed, TaskState::Cancelled] {
        let limit = Some(limits::PAGE_DEFAULT);
        let mut request = ListTasks {
            state: Some(state),
            limit,
            ..ListTasks::default()
        };
        loop {
            let page: TaskList = ask(store, Query::ListTasks(request.clone())).await?;
            let finished = page
                .tasks
                .iter()
                .filter_map(|task| task.finished_at)
                .map(|at| at.unix_ms);
            oldest = oldest.into_iter().chain(finished).min();
            request.cursor = page.next_cursor;
            if request.cursor.is_none() {
                break;
            }
        }
    }
    Ok(oldest)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn until_due(finished_ms: i64, keep: Duration, now_ms: i64) -> Duration {
    let due_ms = i64::try_from(keep.as_millis())
        .unwrap_or(i64::MAX)
        .saturating_add(finished_ms);
    Duration::from_millis(u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_protocol::requests::CancelTask;
    use agentd_protocol::results::{CancelledTask, RegisteredTask};
    use agentd_store::sqlite::SqliteStore;
    use agentd_store::{Clock, StoreOptions, SystemClock};
    use std::sync::atomic::{AtomicI64, Ordering};

    #[test]
    fn the_sleep_ends_when_the_oldest_is_due() {
        let keep = Duration::from_secs(10);
        assert_eq!(until_due(1_000, keep, 4_000), Duration::from_secs(7));
        assert_eq!(until_due(1_000, keep, 40_000), Duration::ZERO);
    }

    // A wall clock that can be set; leases are measured on a real one.
    #[derive(Debug)]
    struct Settable(SystemClock, Arc<AtomicI64>);

    impl Clock for Settable {
        fn lease_ms(&self) -> i64 {
            self.0.lease_ms()
        }

        fn wall_ms(&self) -> i64 {
            self.1.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn what_is_due_goes_and_the_rest_says_when_it_will_be() {
        let day_ms = i64::try_from(DAY_SECS * 1000).unwrap();
        let wall = Arc::new(AtomicI64::new(100 * day_ms));
        let clock = Arc::new(Settable(SystemClock::default(), Arc::clone(&wall)));
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            clock,
            ..StoreOptions::default()
        };
        let (store, _) = SqliteStore::open(&dir.path().join("a.db"), options).unwrap();
        let keep = Duration::from_secs(2 * DAY_SECS);
        assert_eq!(round(&store, keep).await.unwrap(), None);
        for day in [100, 101] {
            wall.store(day * day_ms, Ordering::Relaxed);
            let request =
                serde_json::from_value(serde_json::json!({ "goal": "g", "initial_nodes": [{}] })).unwrap();
            let task: RegisteredTask = execute(&store, Command::RegisterTask(request)).await.unwrap();
            let cancel = CancelTask {
                task_id: task.task_id,
                reason: None,
            };
            let _: CancelledTask = execute(&store, Command::CancelTask(cancel)).await.unwrap();
        }
        assert_eq!(round(&store, keep).await.unwrap(), Some(100 * day_ms));
        wall.store(102 * day_ms + 1000, Ordering::Relaxed);
        assert_eq!(round(&store, keep).await.unwrap(), Some(101 * day_ms));
        wall.store(200 * day_ms, Ordering::Relaxed);
        assert_eq!(round(&store, keep).await.unwrap(), None);
        store.close().await;
    }
}
