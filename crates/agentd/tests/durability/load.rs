//! Clients that do everything at once, and keep a record of what they were told.

use crate::chance::Chance;
use crate::record::Fact;
use crate::wire::{Answer, Ask, Peer};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::Sender;

/// A node's lease that its holder believes in.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) task: String,
    pub(crate) node: String,
    pub(crate) lease: String,
    pub(crate) fence: i64,
    /// It lasts longer than any test.
    pub(crate) long: bool,
}

/// A lock that its holder believes in.
#[derive(Clone, Debug)]
pub(crate) struct HeldLock {
    pub(crate) key: String,
    pub(crate) lease: String,
    pub(crate) fence: i64,
    pub(crate) long: bool,
}

/// What the clients may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Some leases and locks last a second.
    pub(crate) short_leases: bool,
    /// The largest event, in bytes.
    pub(crate) payload_bytes_max: usize,
}

/// A client from one life of the daemon to the next.
#[derive(Debug)]
pub(crate) struct Client {
    name: String,
    chance: Chance,
    style: Style,
    held: Vec<Held>,
    locks: Vec<HeldLock>,
    /// A request with an idempotency key whose answer never came.
    again: Option<(Held, Value)>,
    pub(crate) facts: Vec<Fact>,
    /// Answers: acknowledged, refused, lost, and of the lost ones repeated.
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    pub(crate) repeated: usize,
    /// Errors that are the daemon's fault.
    pub(crate) storage: usize,
}

/// What kind of answer somebody got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Done,
    Refused,
    /// The disk's fault.
    Storage,
}

/// Tasks with work left, as far as anybody knows.
pub(crate) type Tasks = Mutex<Vec<String>>;

const KEYS: [&str; 6] = ["file:/a", "file:/b", "file:/c", "dir:/d", "port:80", "x"];

impl Client {
    pub(crate) fn new(number: usize, chance: Chance, style: Style) -> Self {
        Self {
            name: format!("client-{number}"),
            chance,
            style,
            held: Vec::new(),
            locks: Vec::new(),
            again: None,
            facts: Vec::new(),
            acknowledged: 0,
            refused: 0,
            repeated: 0,
            storage: 0,
        }
    }

    pub(crate) fn held(&self) -> &[Held] {
        &self.held
    }

    pub(crate) fn locks(&self) -> &[HeldLock] {
        &self.locks
    }

    /// Works until the daemon is gone, or nobody listens for answers any more.
    pub(crate) fn work(&mut self, socket: &Path, tasks: &Tasks, answers: &Sender<Heard>) {
        let Some(mut peer) = Peer::connect(socket) else {
            return;
        };
        loop {
            let heard = match self.step(&mut peer, tasks) {
                Answer::Lost => return,
                Answer::Done(_) => Heard::Done,
                answer @ Answer::Refused(_) => match answer.reason() {
                    Some("storage") => {
                        assert_eq!(answer.refused()["code"], -32603);
                        Heard::Storage
                    }
                    Some("shutting_down") => return,
                    _ => Heard::Refused,
                },
            };
            match heard {
                Heard::Done => self.acknowledged += 1,
                Heard::Refused => self.refused += 1,
                Heard::Storage => self.storage += 1,
            }
            if answers.send(heard).is_err() {
                return;
            }
        }
    }

    fn payload(&mut self) -> Value {
        let size = match self.chance.below(20) {
            0 => self.chance.below(self.style.payload_bytes_max),
            _ => self.chance.below(200),
        };
        json!({ "by": self.name, "n": self.chance.next() % 1_000_000, "fill": "x".repeat(size) })
    }

    fn step(&mut self, peer: &mut Peer, tasks: &Tasks) -> Answer {
        if let Some((held, params)) = self.again.take() {
            self.repeated += 1;
            return self.complete(peer, held, params, true);
        }
        let held = (!self.held.is_empty()).then(|| self.chance.below(self.held.len()));
        match (self.chance.below(100), held) {
            (0..10, _) => self.register(peer, tasks),
            (10..35, _) | (35..85, None) => self.acquire(peer, tasks),
            (35..52, Some(at)) => {
                let held = self.held[at].clone();
                let payload = self.payload();
                let answer = peer.ask(
                    "CommitEvent",
                    json!({ "task_id": held.task, "node_id": held.node, "lease_id": held.lease, "payload": payload }),
                );
                match &answer {
                    Answer::Done(result) => self.facts.push(Fact::Committed {
                        event: result["event_id"].as_str().unwrap().to_owned(),
                        node: held.node,
                        payload,
                    }),
                    answer => self.after_refusal(at, answer),
                }
                answer
            }
            (52..58, Some(at)) => {
                let held = self.held[at].clone();
                let answer = peer.ask(
                    "HeartbeatNode",
                    json!({ "task_id": held.task, "node_id": held.node, "lease_id": held.lease }),
                );
                if !matches!(answer, Answer::Done(_)) {
                    self.after_refusal(at, &answer);
                }
                answer
            }
            (58..75, Some(at)) => {
                let held = self.held.swap_remove(at);
                let result = self.payload();
                let key = format!("{}-{}", self.name, self.chance.next());
                let params = json!({ "task_id": held.task, "node_id": held.node, "lease_id": held.lease,
                    "result_payload": result, "idempotency_key": key });
                self.complete(peer, held, params, false)
            }
            (75..80, Some(at)) => {
                let held = self.held.swap_remove(at);
                let answer = peer.ask(
                    "FailNode",
                    json!({ "task_id": held.task, "node_id": held.node, "lease_id": held.lease,
                        "error_payload": { "why": self.name } }),
                );
                if let Answer::Done(result) = &answer {
                    self.facts.push(Fact::Failed {
                        event: result["event_id"].as_str().unwrap().to_owned(),
                        node: held.node,
                        fence: held.fence,
                    });
                } else {
                    self.put_back(held, &answer);
                }
                answer
            }
            (80..85, Some(at)) => {
                let held = self.held.swap_remove(at);
                let answer = peer.ask(
                    "ReleaseNode",
                    json!({ "task_id": held.task, "node_id": held.node, "lease_id": held.lease }),
                );
                if let Answer::Done(_) = &answer {
                    self.facts.push(Fact::Released {
                        node: held.node,
                        fence: held.fence,
                    });
                } else {
                    self.put_back(held, &answer);
                }
                answer
            }
            (85..99, _) => self.lock(peer),
            _ => self.cancel(peer, tasks),
        }
    }

    fn register(&mut self, peer: &mut Peer, tasks: &Tasks) -> Answer {
        let ids: Vec<String> = (0..=self.chance.below(6))
            .map(|_| uuid::Uuid::new_v4().to_string())
            .collect();
        let mut nodes = Vec::new();
        for (at, id) in ids.iter().enumerate() {
            let dependencies: Vec<&String> = ids[..at].iter().filter(|_| self.chance.percent(25)).collect();
            let mut node = json!({ "id": id, "dependencies": dependencies });
            if self.chance.percent(30) {
                node["retry"] = json!({ "max_attempts": 3 });
            }
            nodes.push(node);
        }
        let answer = peer.ask(
            "RegisterTask",
            json!({ "goal": self.name, "initial_nodes": nodes }),
        );
        if let Answer::Done(result) = &answer {
            let task = result["task_id"].as_str().unwrap().to_owned();
            tasks.lock().unwrap().push(task.clone());
            self.facts.push(Fact::Registered { task, nodes: ids });
        }
        answer
    }

    fn acquire(&mut self, peer: &mut Peer, tasks: &Tasks) -> Answer {
        let long = !(self.style.short_leases && self.chance.percent(10));
        let mut params = json!({ "lease_owner": self.name, "lease_secs": if long { 3600 } else { 1 } });
        if self.chance.percent(40)
            && let Some(task) = self.chance.pick(&tasks.lock().unwrap())
        {
            params["task_id"] = json!(task);
        }
        let answer = peer.ask("AcquireNextNode", params);
        if let Answer::Done(node) = &answer
            && !node.is_null()
        {
            let held = Held {
                task: node["task_id"].as_str().unwrap().to_owned(),
                node: node["node_id"].as_str().unwrap().to_owned(),
                lease: node["lease_id"].as_str().unwrap().to_owned(),
                fence: node["fence"].as_i64().unwrap(),
                long,
            };
            self.facts.push(Fact::Acquired {
                node: held.node.clone(),
                fence: held.fence,
            });
            self.held.push(held);
        }
        answer
    }

    fn complete(&mut self, peer: &mut Peer, held: Held, params: Value, again: bool) -> Answer {
        let answer = peer.ask("CompleteNode", params.clone());
        match &answer {
            Answer::Done(result) => self.facts.push(Fact::Completed {
                event: result["event_id"].as_str().unwrap().to_owned(),
                node: held.node,
                fence: held.fence,
                result: params["result_payload"].clone(),
            }),
            Answer::Lost => self.again = Some((held, params)),
            answer => {
                // A lease that is not over and a task that was not cancelled: it must be possible the second time.
                let why = answer.reason();
                assert!(
                    !held.long || matches!(why, Some("cancelled" | "storage" | "shutting_down")),
                    "{answer:?} to {params}, repeated: {again}"
                );
                if why == Some("storage") || why == Some("shutting_down") {
                    self.again = Some((held, params));
                }
            }
        }
        answer
    }

    fn lock(&mut self, peer: &mut Peer) -> Answer {
        if !self.locks.is_empty() && self.chance.percent(60) {
            let at = self.chance.below(self.locks.len());
            let held = self.locks.swap_remove(at);
            let params = json!({ "resource_key": held.key, "lease_id": held.lease });
            if self.chance.percent(30) {
                let answer = peer.ask("HeartbeatResourceLock", params);
                assert!(
                    !held.long || !matches!(answer.reason(), Some("stale_lock")),
                    "{answer:?} {held:?}"
                );
                if answer.reason() != Some("stale_lock") {
                    self.locks.push(held);
                }
                return answer;
            }
            let answer = peer.ask("ReleaseResourceLock", params);
            if let Answer::Done(_) = &answer {
                self.facts.push(Fact::Unlocked {
                    key: held.key,
                    fence: held.fence,
                });
            } else if answer.reason() == Some("storage") {
                self.locks.push(held);
            }
            return answer;
        }
        let key = *self.chance.pick(&KEYS).unwrap();
        let long = !(self.style.short_leases && self.chance.percent(20));
        let answer = peer.ask(
            "AcquireResourceLock",
            json!({ "resource_key": key, "owner": self.name, "ttl_secs": if long { 3600 } else { 1 } }),
        );
        if let Answer::Done(lock) = &answer
            && !lock.is_null()
        {
            let held = HeldLock {
                key: key.to_owned(),
                lease: lock["lease_id"].as_str().unwrap().to_owned(),
                fence: lock["fence"].as_i64().unwrap(),
                long,
            };
            self.facts.push(Fact::Locked {
                key: held.key.clone(),
                fence: held.fence,
            });
            self.locks.push(held);
        }
        answer
    }

    fn cancel(&mut self, peer: &mut Peer, tasks: &Tasks) -> Answer {
        let task = {
            let mut tasks = tasks.lock().unwrap();
            if tasks.is_empty() {
                return Answer::Refused(Value::Null);
            }
            let at = self.chance.below(tasks.len());
            tasks.swap_remove(at)
        };
        let answer = peer.ask("CancelTask", json!({ "task_id": task, "reason": "by chance" }));
        if let Answer::Done(result) = &answer
            && result["cancelled_nodes"].as_u64().unwrap() > 0
        {
            self.facts.push(Fact::Cancelled { task });
        }
        answer
    }

    fn after_refusal(&mut self, at: usize, answer: &Answer) {
        if let Answer::Refused(_) = answer {
            let held = self.held.swap_remove(at);
            assert!(
                !held.long || matches!(answer.reason(), Some("cancelled" | "storage" | "shutting_down")),
                "{answer:?} {held:?}"
            );
            self.put_back(held, answer);
        }
    }

    // An error of the disk changes nothing.
    fn put_back(&mut self, held: Held, answer: &Answer) {
        match answer.reason() {
            Some("storage" | "shutting_down") => self.held.push(held),
            None | Some("cancelled") => {}
            Some(_) => assert!(!held.long, "{answer:?} {held:?}"),
        }
    }
}
