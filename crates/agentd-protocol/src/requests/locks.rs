//! Of resource locks.

use super::{Params, lease_secs, length, page, within};
use crate::ids::{LeaseId, NodeId, TaskId};
use crate::json::Json;
use crate::limits;
use crate::node::null_is_default;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Takes a resource lock.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AcquireResourceLock {
    /// What is locked, by agreement among those who use it: `file:/srv/repo/src/lib.rs`.
    pub resource_key: String,
    /// Who asks; `anonymous` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whose agent it is (a maker's name, by convention).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// How long the lock lasts without a heartbeat, in seconds; the daemon's node timeout when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub ttl_secs: Option<u64>,
    /// The task that it is taken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The node that it is taken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// Anything that helps others to see what is going on.
    #[serde(default, deserialize_with = "null_is_default")]
    pub metadata: Json,
    /// How long to wait for the lock before answering null, in seconds; 0 when absent. Waiters are served
    /// in the order in which they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3600))]
    pub wait_secs: Option<u64>,
}

impl Params for AcquireResourceLock {
    fn check(&self) -> Result<(), String> {
        if self.resource_key.is_empty() {
            return Err("resource_key is empty".into());
        }
        length("resource_key", &self.resource_key, limits::RESOURCE_KEY_BYTES_MAX)?;
        length(
            "owner",
            self.owner.as_deref().unwrap_or_default(),
            limits::NAME_BYTES_MAX,
        )?;
        length(
            "provider",
            self.provider.as_deref().unwrap_or_default(),
            limits::NAME_BYTES_MAX,
        )?;
        length("metadata", self.metadata.text(), limits::LOCK_METADATA_BYTES_MAX)?;
        within("wait_secs", self.wait_secs, 0, limits::WAIT_SECS_MAX)?;
        lease_secs("ttl_secs", self.ttl_secs)
    }
}

/// Extends a resource lock.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HeartbeatResourceLock {
    /// What is locked.
    pub resource_key: String,
    /// The lock's lease.
    pub lease_id: LeaseId,
    /// How long the lock lasts from now on, in seconds; as long as it was granted for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub ttl_secs: Option<u64>,
}

impl Params for HeartbeatResourceLock {
    fn check(&self) -> Result<(), String> {
        length("resource_key", &self.resource_key, limits::RESOURCE_KEY_BYTES_MAX)?;
        lease_secs("ttl_secs", self.ttl_secs)
    }
}

/// Gives a resource lock back.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseResourceLock {
    /// What is locked.
    pub resource_key: String,
    /// The lock's lease.
    pub lease_id: LeaseId,
}

impl Params for ReleaseResourceLock {
    fn check(&self) -> Result<(), String> {
        length("resource_key", &self.resource_key, limits::RESOURCE_KEY_BYTES_MAX)
    }
}

/// Lists the locks that are held.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ListResourceLocks {
    /// Only keys that begin so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// At most so many; all of them when absent, as long as they fit in one answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub limit: Option<u32>,
    /// Where to go on: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Params for ListResourceLocks {
    fn check(&self) -> Result<(), String> {
        page(self.limit)
    }
}
