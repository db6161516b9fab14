//! Identifiers. On the wire each is a UUID in its hyphenated form.

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: ids are UUIDs, like 01a1fd67-6c0a-7771-abbc-37bf84455dd4")]
pub struct InvalidId;

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id: a UUID, like 01a1fd67-6c0a-7771-abbc-37bf84455dd4")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
        text.parse().map_err(|_| E::custom(InvalidId))
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        // Not derived: the message is for people and models.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(IdVisitor).map(Self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self).map_err(|_| InvalidId)
            }
        }
    };
}

id!(
    /// A task: one goal and its graph of nodes.
    TaskId
);
id!(
    /// A node of a task's graph. Unique in the whole database, not just in its task.
    NodeId
);
id!(
    /// One lease of a node or of a resource lock. Random, and needed for every change made under it.
    LeaseId
);
id!(
    /// A session: one execution of an agent.
    SessionId
);
id!(
    /// An entry of the journal.
    EventId
);
