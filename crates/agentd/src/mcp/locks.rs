//! Locks: what agents agree not to use at the same time.

use super::Shared;
use super::answer::{Answer, RESULT_BYTES_MAX, Refusal, members};
use super::catalog::Reach;
use super::daemon::Again;
use super::held::{Lease, Thing};
use super::keeper::release_lock;
use super::scope::Scope;
use super::shape;
use super::waits::{Call, Wanted};
use crate::cli::lock::file_key;
use crate::cli::values::now_secs;
use agentd_protocol::requests::{AcquireResourceLock, ListResourceLocks};
use agentd_protocol::results::{LockList, ResourceLock};
use agentd_protocol::{Json, Method};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Locks in a page when the agent names no limit, and the most that it may name.
const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Acquire {
    key: Option<String>,
    file: Option<PathBuf>,
    wait_secs: Option<u64>,
    ttl_secs: Option<u64>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    key: Option<String>,
    file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    prefix: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Shared {
    pub(super) async fn acquire_lock(&self, scope: &Scope, call: &Call, args: Acquire) -> Answer {
        let key = self.key(args.key, args.file)?;
        if self.held.holds(&Thing::Lock(key.clone())) {
            return Err(Refusal::new(
                "already_held",
                format!("you hold {key} already"),
                "go on; lock_release gives it back",
            ));
        }
        let mut metadata = args.metadata;
        if let Some(session) = scope.session {
            metadata.insert("session_id".into(), json!(session.session_id));
        }
        let node = scope.session.and_then(|session| session.node);
        let request = |wait_secs| AcquireResourceLock {
            resource_key: key.clone(),
            owner: Some(scope.owner.clone()),
            provider: None,
            ttl_secs: args.ttl_secs,
            task_id: node.map(|node| node.task_id),
            node_id: node.map(|node| node.node_id),
            metadata: Json::of(&metadata),
            wait_secs: Some(wait_secs),
        };
        let lease_of = |lock: &ResourceLock| {
            let mut lease = Lease::of_lock(lock, now_secs());
            if let Some(secs) = args.ttl_secs {
                lease.length = Duration::from_secs(secs);
                lease.next_beat = Instant::now() + lease.length / 3;
            }
            lease
        };
        let wanted = Wanted {
            method: Method::AcquireResourceLock,
            wait_secs: args.wait_secs,
            what: key.clone(),
            params: request,
        };
        match self.acquire(call, wanted, lease_of).await? {
            Some(lock) => Ok(members(json!({ "lock": {
                "key": lock.resource_key,
                "lease_id": lock.lease_id,
                "fence": lock.fence,
                "lease_expires_at": lock.lease_expires_at,
            }}))),
            None => {
                let mut shown = json!({ "lock": null });
                if let Some(holder) = self.holder(&key).await? {
                    shown["held_by"] = shape::lock(&holder, false);
                }
                Ok(members(shown))
            }
        }
    }

    pub(super) async fn give_lock_back(&self, args: Release) -> Answer {
        let key = self.key(args.key, args.file)?;
        let Some(lease) = self.held.named(&Thing::Lock(key.clone())) else {
            return Err(Refusal::new(
                "not_held",
                format!("you do not hold {key}, or do not hold it any more"),
                "whoami lists what you hold; only locks acquired by lock_acquire in this connection are yours",
            ));
        };
        let asked = release_lock(&self.daemon, &key, lease.lease_id);
        self.ending(&lease, asked).await?;
        Ok(members(json!({ "released": key })))
    }

    pub(super) async fn list_locks(&self, args: List) -> Answer {
        let mut limit = args.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
        loop {
            let request = ListResourceLocks {
                prefix: args.prefix.clone(),
                limit: Some(limit),
                cursor: args.cursor.clone(),
            };
            let list: LockList = self
                .daemon
                .ask(Method::ListResourceLocks, &request, Again::Yes)
                .await?;
            let locks: Vec<Value> = list
                .locks
                .iter()
                .map(|lock| {
                    let thing = Thing::Lock(lock.resource_key.clone());
                    shape::lock(lock, self.held.holds(&thing))
                })
                .collect();
            let mut shown = json!({ "locks": locks });
            if let Some(cursor) = list.next_cursor {
                shown["next_cursor"] = cursor.into();
            }
            if shown.to_string().len() <= RESULT_BYTES_MAX || limit == 1 {
                return Ok(members(shown));
            }
            limit = limit.div_ceil(4);
        }
    }

    async fn holder(&self, key: &str) -> Result<Option<ResourceLock>, Refusal> {
        let request = ListResourceLocks {
            prefix: Some(key.to_owned()),
            limit: Some(1),
            cursor: None,
        };
        let list: LockList = self
            .daemon
            .ask(Method::ListResourceLocks, &request, Again::Yes)
            .await?;
        Ok(list.locks.into_iter().find(|lock| lock.resource_key == key))
    }

    fn key(&self, key: Option<String>, file: Option<PathBuf>) -> Result<String, Refusal> {
        match (key, file) {
            (Some(key), None) => Ok(key),
            (None, Some(path)) if self.reach() == Reach::Everything => {
                file_key(&path).map_err(|failure| Refusal::arguments(failure.message))
            }
            (None, Some(_)) => Err(Refusal::arguments(
                "in a session name the key: paths mean something else outside of it",
            )),
            _ => Err(Refusal::arguments("name what is to be locked: key, or file")),
        }
    }
}
