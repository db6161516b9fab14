//! The journal, what it says the state is, and whether the state and everything acknowledged agree with it.

use crate::chance::a_moment;
use crate::wire::Ask;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// What the journal says of a node.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Empty: PENDING, as registered.
    status: &'static str,
    /// The seq of its last ACQUIRE_NODE.
    fence: i64,
    /// The result or error it ended with.
    ended_with: Value,
    /// Each change: its seq and kind.
    changes: Vec<(i64, String)>,
}

impl Node {
    fn status(&self) -> &'static str {
        if self.status.is_empty() {
            "PENDING"
        } else {
            self.status
        }
    }
}

/// Something that a client was told. Once told, it stays true.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    Registered {
        task: String,
        nodes: Vec<String>,
    },
    Acquired {
        node: String,
        fence: i64,
    },
    Committed {
        event: String,
        node: String,
        payload: Value,
    },
    Completed {
        event: String,
        node: String,
        fence: i64,
        result: Value,
    },
    Failed {
        event: String,
        node: String,
        fence: i64,
    },
    Released {
        node: String,
        fence: i64,
    },
    Cancelled {
        task: String,
    },
    Locked {
        key: String,
        fence: i64,
    },
    Unlocked {
        key: String,
        fence: i64,
    },
}

/// A journal, read from its beginning, each entry checked against the state machine as it comes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) entries: Vec<Value>,
    by_id: HashMap<String, usize>,
    nodes: HashMap<String, Node>,
    tasks: BTreeSet<String>,
    cancelled: BTreeSet<String>,
    /// Held locks: key to fence.
    locks: BTreeMap<String, i64>,
    /// Each change of a lock.
    lock_changes: HashMap<String, Vec<(i64, String)>>,
    /// Tasks that changed since they were last compared with the state.
    touched: BTreeSet<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Record {
    pub(crate) fn last_seq(&self) -> i64 {
        self.entries
            .last()
            .map_or(0, |entry| entry["seq"].as_i64().unwrap())
    }

    pub(crate) fn tasks(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn completed(&self) -> usize {
        self.nodes
            .values()
            .filter(|node| node.status() == "COMPLETED")
            .count()
    }

    /// Reads what has been written since. False when there was nothing.
    #[track_caller]
    pub(crate) fn read_on(&mut self, from: &mut impl Ask) -> bool {
        let before = self.entries.len();
        loop {
            let page = from
                .ask(
                    "ReadJournal",
                    json!({ "from_seq": self.last_seq() + 1, "limit": 500 }),
                )
                .done();
            let entries = page["entries"].as_array().unwrap();
            if entries.is_empty() {
                return self.entries.len() > before;
            }
            for entry in entries {
                self.push(entry.clone());
            }
        }
    }

    #[track_caller]
    fn push(&mut self, entry: Value) {
        let seq = entry["seq"].as_i64().unwrap();
        assert!(seq > self.last_seq(), "not a larger number: {entry}");
        let place = self.entries.len();
        let id = text(&entry["id"]);
        assert!(self.by_id.insert(id, place).is_none(), "an id twice: {entry}");
        let action = text(&entry["action_type"]);
        let payload = &entry["payload"];
        if let Some(task) = entry["task_id"].as_str() {
            self.touched.insert(task.to_owned());
            match action.as_str() {
                "REGISTER_TASK" => assert!(self.tasks.insert(task.to_owned()), "registered twice: {entry}"),
                "CANCEL_TASK" => assert!(self.cancelled.insert(task.to_owned()), "cancelled twice: {entry}"),
                _ => assert!(self.tasks.contains(task), "not registered: {entry}"),
            }
            if action != "CANCEL_TASK" && action != "COMMIT_EVENT" {
                assert!(!self.cancelled.contains(task), "after its end: {entry}");
            }
        }
        if let Some(node) = entry["node_id"].as_str() {
            let node = self.nodes.entry(node.to_owned()).or_default();
            let (from, to) = match action.as_str() {
                "ACQUIRE_NODE" => (Some("PENDING"), "RUNNING"),
                "RELEASE_NODE" => (Some("RUNNING"), "PENDING"),
                "COMPLETE_NODE" => (Some("RUNNING"), "COMPLETED"),
                "FAIL_NODE" | "ROLLBACK_NODE" if payload["retry_at"].is_null() => (Some("RUNNING"), "FAILED"),
                "FAIL_NODE" | "ROLLBACK_NODE" => (Some("RUNNING"), "PENDING"),
                "COMMIT_EVENT" => (None, node.status()),
                other => panic!("a node's {other}: {entry}"),
            };
            if let Some(from) = from {
                assert_eq!(node.status(), from, "not from there: {entry}\nbefore: {node:?}");
                node.changes.push((seq, action.clone()));
            }
            node.status = to;
            if action == "ACQUIRE_NODE" {
                assert!(seq > node.fence, "the fence does not grow: {entry}");
                node.fence = seq;
            }
            match to {
                "COMPLETED" => node.ended_with = payload["result"].clone(),
                "FAILED" => node.ended_with = payload["error"].clone(),
                _ => {}
            }
        }
        if let ("LOCK_GRANTED" | "LOCK_RELEASED" | "LOCK_EXPIRED", key) =
            (action.as_str(), text(&payload["resource_key"]))
        {
            self.lock_changes
                .entry(key.clone())
                .or_default()
                .push((seq, action.clone()));
            if action == "LOCK_GRANTED" {
                assert_eq!(self.locks.insert(key, seq), None, "two holders: {entry}");
            } else {
                assert!(self.locks.remove(&key).is_some(), "nobody held it: {entry}");
            }
        }
        self.entries.push(entry);
    }

    /// Checks that something acknowledged is in the journal, in its place.
    #[track_caller]
    pub(crate) fn holds(&self, fact: &Fact) {
        let entry = |event: &str| {
            let place = self
                .by_id
                .get(event)
                .unwrap_or_else(|| panic!("acknowledged and lost: {fact:?}"));
            &self.entries[*place]
        };
        // What became of a lease: the change after its grant.
        let after = |changes: Option<&Vec<(i64, String)>>, fence: i64, grant: &str| {
            let changes = changes.unwrap_or_else(|| panic!("acknowledged and lost: {fact:?}"));
            let at = changes
                .iter()
                .position(|(seq, action)| *seq == fence && action == grant)
                .unwrap_or_else(|| panic!("acknowledged and lost: {fact:?} in {changes:?}"));
            changes.get(at + 1).cloned().unwrap_or_default()
        };
        let of_node = |node: &String, fence: i64| {
            after(
                self.nodes.get(node).map(|node| &node.changes),
                fence,
                "ACQUIRE_NODE",
            )
        };
        match fact {
            Fact::Registered { task, nodes } => {
                assert!(self.tasks.contains(task), "acknowledged and lost: {fact:?}");
                assert!(!nodes.is_empty());
            }
            Fact::Cancelled { task } => {
                assert!(self.cancelled.contains(task), "acknowledged and lost: {fact:?}");
            }
            Fact::Acquired { node, fence } => drop(of_node(node, *fence)),
            Fact::Committed { event, node, payload } => {
                let entry = entry(event);
                assert_eq!(
                    (&entry["payload"], text(&entry["node_id"])),
                    (payload, node.clone())
                );
            }
            Fact::Completed {
                event,
                node,
                fence,
                result,
            } => {
                let entry = entry(event);
                let expected = (entry["seq"].as_i64().unwrap(), "COMPLETE_NODE".to_owned());
                assert_eq!(of_node(node, *fence), expected, "{fact:?}");
                assert_eq!(&entry["payload"]["result"], result, "{fact:?}");
            }
            Fact::Failed { event, node, fence } => {
                let expected = (entry(event)["seq"].as_i64().unwrap(), "FAIL_NODE".to_owned());
                assert_eq!(of_node(node, *fence), expected, "{fact:?}");
            }
            Fact::Released { node, fence } => assert_eq!(of_node(node, *fence).1, "RELEASE_NODE", "{fact:?}"),
            Fact::Locked { key, fence } => drop(after(self.lock_changes.get(key), *fence, "LOCK_GRANTED")),
            Fact::Unlocked { key, fence } => {
                assert_eq!(
                    after(self.lock_changes.get(key), *fence, "LOCK_GRANTED").1,
                    "LOCK_RELEASED",
                    "{fact:?}"
                );
            }
        }
    }

    /// True when the journal says that this lease is live.
    pub(crate) fn is_live(&self, node: &str, fence: i64, task: &str) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|node| node.status() == "RUNNING" && node.fence == fence)
            && !self.cancelled.contains(task)
    }

    pub(crate) fn is_cancelled(&self, task: &str) -> bool {
        self.cancelled.contains(task)
    }

    /// True when the journal says that this lock is held so.
    pub(crate) fn is_locked(&self, key: &str, fence: i64) -> bool {
        self.locks.get(key) == Some(&fence)
    }

    /// Compares all that changed since the last time with the state. What expires meanwhile is waited for.
    #[track_caller]
    pub(crate) fn agrees_with(&mut self, state: &mut impl Ask) {
        for attempt in 0.. {
            self.read_on(state);
            let touched = self.touched.clone();
            let mut differences = self.differences(state, &touched);
            let checked = state.ask("CheckDatabase", json!({})).done();
            assert_eq!(checked["ok"], true, "{checked}");
            if checked["events"] != json!(self.entries.len()) {
                differences.push(format!("{} entries were read; {checked}", self.entries.len()));
            }
            if differences.is_empty() {
                self.touched.clear();
                break;
            }
            assert!(
                attempt < 100,
                "journal and state differ:\n{}",
                differences.join("\n")
            );
            a_moment(Duration::from_millis(20));
        }
    }

    /// The same for every task that there ever was.
    #[track_caller]
    pub(crate) fn agrees_with_all_of(&mut self, state: &mut impl Ask) {
        self.touched.clone_from(&self.tasks);
        self.agrees_with(state);
    }

    fn differences(&self, state: &mut impl Ask, tasks: &BTreeSet<String>) -> Vec<String> {
        let mut differences = Vec::new();
        for task in tasks {
            let status = state.ask("TaskStatus", json!({ "task_id": task })).done();
            let nodes = status["nodes"].as_array().unwrap();
            let statuses: HashMap<&str, &str> = nodes
                .iter()
                .map(|node| (node["id"].as_str().unwrap(), node["status"].as_str().unwrap()))
                .collect();
            let nothing = Node::default();
            for node in nodes {
                let id = node["id"].as_str().unwrap();
                let said = self.nodes.get(id).unwrap_or(&nothing);
                let cancelled =
                    self.cancelled.contains(task) && matches!(said.status(), "PENDING" | "RUNNING");
                let expected = if cancelled { "FAILED" } else { said.status() };
                let mut differs = node["status"] != expected;
                match expected {
                    "RUNNING" => differs |= node["fence"] != json!(said.fence) || node["lease_id"].is_null(),
                    "PENDING" => differs |= !node["lease_id"].is_null() || !node["result_payload"].is_null(),
                    _ if cancelled => differs |= node["result_payload"]["cancelled"].is_null(),
                    _ => differs |= node["result_payload"] != said.ended_with || !node["lease_id"].is_null(),
                }
                if matches!(said.status(), "RUNNING" | "COMPLETED") {
                    differs |= node["dependencies"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .any(|dependency| statuses[dependency.as_str().unwrap()] != "COMPLETED");
                }
                if differs {
                    differences.push(format!("task {task}: {node}\n  by the journal: {said:?}"));
                }
            }
        }
        let mut locks = BTreeMap::new();
        let list = state.ask("ListResourceLocks", json!({})).done();
        for lock in list["locks"].as_array().unwrap() {
            locks.insert(text(&lock["resource_key"]), lock["fence"].as_i64().unwrap());
        }
        if locks != self.locks {
            differences.push(format!("locks {locks:?}\n  by the journal: {:?}", self.locks));
        }
        differences
    }

    /// Checks that this is what another journal was up to where this one ends.
    #[track_caller]
    pub(crate) fn is_beginning_of(&self, whole: &Self) {
        let same = self.entries.len() <= whole.entries.len()
            && self
                .entries
                .iter()
                .zip(&whole.entries)
                .all(|(one, other)| one == other);
        assert!(
            same,
            "{} entries are not the first of {}",
            self.entries.len(),
            whole.entries.len()
        );
    }
}
