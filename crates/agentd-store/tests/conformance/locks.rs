//! Resource locks.

use crate::support::*;
use agentd_protocol::requests::*;
use agentd_protocol::results::*;
use agentd_protocol::{Json, Reason};
use agentd_store::{Command, Query};

pub(crate) fn lock(key: &str) -> AcquireResourceLock {
    AcquireResourceLock {
        resource_key: key.into(),
        owner: Some("me".into()),
        provider: None,
        ttl_secs: Some(10),
        task_id: None,
        node_id: None,
        metadata: Json::empty_object(),
        wait_secs: None,
    }
}

async fn take(f: &Fixture, key: &str) -> Option<ResourceLock> {
    let lock: Option<Box<ResourceLock>> = f.try_do(Command::AcquireResourceLock(lock(key))).await.unwrap();
    lock.map(|lock| *lock)
}

#[tokio::test]
async fn a_lock_has_one_holder_and_ends_by_release_or_expiry() {
    let f = Fixture::new();
    let first = take(&f, "file:/a").await.unwrap();
    assert!(take(&f, "file:/a").await.is_none());
    assert!(take(&f, "file:/b").await.is_some());
    f.clock.advance(9_000);
    let beat = Command::HeartbeatResourceLock(HeartbeatResourceLock {
        resource_key: "file:/a".into(),
        lease_id: first.lease_id,
        ttl_secs: None,
    });
    let _: Extended = f.try_do(beat.clone()).await.unwrap();
    f.clock.advance(9_999);
    assert!(take(&f, "file:/a").await.is_none());
    f.clock.advance(1);
    let second = take(&f, "file:/a").await.unwrap();
    assert!(second.fence > first.fence);
    assert_eq!(f.refused(beat).await, Reason::StaleLock);
    let release = |lease_id| {
        Command::ReleaseResourceLock(ReleaseResourceLock {
            resource_key: "file:/a".into(),
            lease_id,
        })
    };
    assert_eq!(f.refused(release(first.lease_id)).await, Reason::StaleLock);
    let _: agentd_protocol::results::Ok = f.try_do(release(second.lease_id)).await.unwrap();
    let third = take(&f, "file:/a").await.unwrap();
    assert!(third.fence > second.fence);
    let f = f.reopen().await;
    assert!(take(&f, "file:/a").await.is_none(), "it outlives the daemon");
    f.check().await;
}

#[tokio::test]
async fn only_live_locks_are_listed() {
    let f = Fixture::new();
    for key in ["b", "a", "file:/x"] {
        take(&f, key).await.unwrap();
    }
    let list: LockList = f
        .ask(Query::ListResourceLocks(ListResourceLocks::default()))
        .await;
    let keys: Vec<&str> = list.locks.iter().map(|lock| lock.resource_key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "file:/x"]);
    let page = ListResourceLocks {
        limit: Some(2),
        ..ListResourceLocks::default()
    };
    let page: LockList = f.ask(Query::ListResourceLocks(page)).await;
    let rest = ListResourceLocks {
        cursor: page.next_cursor,
        ..ListResourceLocks::default()
    };
    let rest: LockList = f.ask(Query::ListResourceLocks(rest)).await;
    assert_eq!(rest.locks.len(), 1);
    let files = ListResourceLocks {
        prefix: Some("file:".into()),
        ..ListResourceLocks::default()
    };
    let files: LockList = f.ask(Query::ListResourceLocks(files)).await;
    assert_eq!(files.locks.len(), 1);
    f.clock.advance(10_000);
    let list: LockList = f
        .ask(Query::ListResourceLocks(ListResourceLocks::default()))
        .await;
    assert!(list.locks.is_empty());
}
