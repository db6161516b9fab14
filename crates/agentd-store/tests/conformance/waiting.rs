//! Waiting instead of asking again.

use crate::locks::lock;
use crate::support::*;
use agentd_protocol::requests::*;
use agentd_protocol::results::*;
use agentd_store::{Command, StoreOptions, SystemClock, Ticket};
use std::sync::Arc;

async fn wait_for_node(f: &Fixture, task_id: Option<agentd_protocol::TaskId>) -> Ticket {
    let params = AcquireNextNode {
        task_id,
        wait_secs: Some(600),
        ..AcquireNextNode::default()
    };
    f.store.submit(Command::AcquireNextNode(params)).await.unwrap()
}

async fn granted(ticket: Ticket) -> AcquiredNode {
    let node: Option<Box<AcquiredNode>> = ticket.await.unwrap().into_result().unwrap();
    *node.unwrap()
}

fn real_clock(options: &mut StoreOptions) {
    options.clock = Arc::new(SystemClock::default());
    options.default_lease_ms = 80;
}

#[tokio::test]
async fn a_waiting_acquire_gets_the_node_that_a_completion_frees() {
    let f = Fixture::new();
    let task = f
        .register(vec![after(1, &[]), after(2, &[1]), after(3, &[1])])
        .await;
    let first = f.acquire(task.task_id).await.unwrap();
    let of_task = wait_for_node(&f, Some(task.task_id)).await;
    let of_any = wait_for_node(&f, None).await;
    f.complete(&first).await;
    assert_eq!(granted(of_task).await.node_id, node_id(2));
    assert_eq!(granted(of_any).await.node_id, node_id(3));
    let later = wait_for_node(&f, None).await;
    let other = f.register(vec![after(9, &[])]).await;
    let node = granted(later).await;
    assert_eq!((node.task_id, node.node_id), (other.task_id, node_id(9)));
}

#[tokio::test]
async fn those_who_wait_for_a_lock_are_served_in_order() {
    let f = Fixture::new();
    let get = |owner: &str| {
        let params = AcquireResourceLock {
            owner: Some(owner.into()),
            wait_secs: Some(600),
            ..lock("k")
        };
        f.store.submit(Command::AcquireResourceLock(params))
    };
    let mut tickets = Vec::new();
    for owner in ["a", "b", "c", "d"] {
        tickets.push(get(owner).await.unwrap());
    }
    // One of them goes away.
    drop(tickets.remove(2));
    for owner in ["a", "b", "d"] {
        let held: Option<Box<ResourceLock>> = tickets.remove(0).await.unwrap().into_result().unwrap();
        let held = held.unwrap();
        assert_eq!(held.owner, owner);
        let release = ReleaseResourceLock {
            resource_key: "k".into(),
            lease_id: held.lease_id,
        };
        let _: agentd_protocol::results::Ok = f.try_do(Command::ReleaseResourceLock(release)).await.unwrap();
    }
}

#[tokio::test]
async fn a_wait_ends_with_nothing_when_its_time_is_over() {
    let f = Fixture::with(real_clock);
    let task = f.register(vec![]).await;
    let params = AcquireNextNode {
        task_id: Some(task.task_id),
        wait_secs: Some(1),
        ..AcquireNextNode::default()
    };
    let begun = std::time::Instant::now();
    assert!(f.acquire_with(params).await.is_none());
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
}

#[tokio::test]
async fn a_waiting_acquire_gets_the_node_of_an_expired_lease_or_an_ended_backoff() {
    let f = Fixture::with(real_clock);
    let task = f.register(vec![after(1, &[])]).await;
    f.acquire(task.task_id).await.unwrap();
    let again = granted(wait_for_node(&f, Some(task.task_id)).await).await;
    assert_eq!(again.attempt, 2);
    let mut flaky = after(2, &[]);
    flaky.retry = retry(5, 50);
    let task = f.register(vec![flaky]).await;
    let node = f.acquire(task.task_id).await.unwrap();
    let _: Failed = f.try_do(fail(&node)).await.unwrap();
    let again = granted(wait_for_node(&f, Some(task.task_id)).await).await;
    assert_eq!(again.attempt, 2);
    // And a lock that runs out.
    let short = AcquireResourceLock {
        ttl_secs: None,
        ..lock("k")
    };
    let _: Option<Box<ResourceLock>> = f
        .try_do(Command::AcquireResourceLock(short.clone()))
        .await
        .unwrap();
    let waiting = AcquireResourceLock {
        wait_secs: Some(600),
        ..short
    };
    let next: Option<Box<ResourceLock>> = f.try_do(Command::AcquireResourceLock(waiting)).await.unwrap();
    assert!(next.is_some());
}

#[tokio::test]
async fn closing_answers_those_who_wait() {
    let f = Fixture::new();
    let node = wait_for_node(&f, None).await;
    let (answer, ()) = tokio::join!(node, f.store.close());
    let none: Option<Box<AcquiredNode>> = answer.unwrap().into_result().unwrap();
    assert!(none.is_none());
    assert!(
        f.store
            .submit(Command::AcquireNextNode(AcquireNextNode::default()))
            .await
            .is_err()
    );
}
