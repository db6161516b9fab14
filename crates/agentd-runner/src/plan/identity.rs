//! What makes two runs the same one, and what of one run still stands in another whose plan has changed.
//!
//! | key | follows from | finds |
//! |---|---|---|
//! | `run_key` | what the plan means, with its arguments | the run that goes on |
//! | `place_key` | the plan's path and the arguments that were given | the run before, when the plan has changed since |
//! | a node's fingerprint | what it does, and the fingerprints of what it needs | the result that still stands |
//!
//! A comment or the layout of the file is in none of them. How a node is run (timeout, retry, priority) is no part of its
//! fingerprint: its result does not depend on it.

use super::bind::BoundPlan;
use super::{PlanNode, graph, template};
use agentd_protocol::{Json, NodeAddress, NodeId, TaskId, Work};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

/// A task that an earlier form of a plan was registered as.
#[derive(Clone, Debug)]
pub struct EarlierRun {
    /// The task.
    pub task_id: TaskId,
    /// Whose artifacts it shares; its own, when it was the first.
    pub artifacts: TaskId,
    /// Its nodes that have a fingerprint.
    pub nodes: HashMap<String, EarlierNode>,
}

impl EarlierRun {
    /// The node with this fingerprint.
    pub(crate) fn node(&self, fingerprint: &str) -> Option<NodeAddress> {
        let node = self.nodes.get(fingerprint)?;
        Some(NodeAddress {
            task_id: self.task_id,
            node_id: node.node_id,
        })
    }
}

/// One node of it.
#[derive(Clone, Copy, Debug)]
pub struct EarlierNode {
    /// Its id.
    pub node_id: NodeId,
    /// It has a result.
    pub is_completed: bool,
}

/// What becomes of a node when a changed plan goes on from an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its result is taken over.
    Kept,
    /// It is new, or was changed.
    Changed,
    /// Something that it needs was changed.
    NeedsChanged,
    /// It was not finished.
    Unfinished,
}

impl BoundPlan {
    /// What makes two runs the same run: `plan:` and a digest of the plan's canonical path, of what it says and of its
    /// arguments. Fits an idempotency key, with room for a suffix.
    #[must_use]
    pub fn run_key(&self) -> String {
        let mut digest = Parts::new("agentd plan run 2");
        digest.add(self.plan.path.as_os_str().as_encoded_bytes());
        digest.add(self.goal.as_bytes());
        digest.add_json(&(self.plan.result(), &self.args, &self.env));
        for (node, work) in self.nodes() {
            digest.add_json(&(&node.name, &node.needs, work));
            digest.add_json(&(node.priority, &node.capabilities, node.retry));
        }
        format!("plan:{}", digest.hex(20))
    }

    /// The same as versions before this one had it: of the file's text.
    #[must_use]
    pub fn text_key(&self) -> String {
        let mut digest = Parts::new("agentd plan run 1");
        digest.add(self.plan.path.as_os_str().as_encoded_bytes());
        digest.add(self.plan.text.as_bytes());
        for (name, value) in &self.args {
            digest.add(name.as_bytes());
            digest.add(value.as_bytes());
        }
        if let Some((agent, read)) = &self.within {
            digest.add(b"within");
            digest.add(agent.as_bytes());
            read.iter().for_each(|path| digest.add(path.as_bytes()));
        }
        format!("plan:{}", digest.hex(20))
    }

    /// What stays the same while a plan is worked on: `at:` and a digest of its canonical path, the arguments that were
    /// given (and the directory that relative defaults begin in), and the agent in whose sessions its commands run.
    #[must_use]
    pub fn place_key(&self) -> String {
        let mut digest = Parts::new("agentd plan place 1");
        digest.add(self.plan.path.as_os_str().as_encoded_bytes());
        for (name, value) in self.args.iter().filter(|(name, _)| self.given.contains(name)) {
            digest.add(name.as_bytes());
            digest.add(value.as_bytes());
        }
        if let Some(dir) = &self.defaults_from {
            digest.add(b"from");
            digest.add(dir.as_os_str().as_encoded_bytes());
        }
        if let Some((agent, _)) = &self.within {
            digest.add(b"within");
            digest.add(agent.as_bytes());
        }
        format!("at:{}", digest.hex(20))
    }

    /// What each node comes to, in the order of the file.
    pub(crate) fn fingerprints(&self) -> Vec<String> {
        let nodes = &self.plan.nodes;
        let mut all = vec![String::new(); nodes.len()];
        for index in graph::topological(&self.needs()) {
            let mut needs: Vec<(&str, &str)> = nodes[index]
                .needs
                .iter()
                .map(|&need| (nodes[need].name.as_str(), all[need].as_str()))
                .collect();
            needs.sort_unstable();
            let mut digest = Parts::new("agentd plan node 1");
            self.add_own(&mut digest, &nodes[index], &self.works[index]);
            digest.add_json(&needs);
            all[index] = digest.hex(16);
        }
        all
    }

    // What one node does, without what it needs.
    fn add_own(&self, digest: &mut Parts, node: &PlanNode, work: &Work) {
        let capabilities: BTreeSet<&String> = node.capabilities.iter().collect();
        digest.add_json(&(&node.name, &capabilities));
        let mut work = work.clone();
        let prompt = match &mut work {
            Work::Command(command) => {
                command.timeout_secs = None;
                None
            }
            Work::Agent(agent) => {
                agent.timeout_secs = None;
                agent.prompt.clone().filter(|_| agent.prompt_is_template)
            }
        };
        digest.add_json(&work);
        let is_command = match &work {
            Work::Command(_) => true,
            Work::Agent(agent) => agent.command.is_some(),
        };
        let all: BTreeMap<&str, &str> = self.args().collect();
        if is_command {
            // Every command has all of these in its environment.
            digest.add_json(&(&self.env, &all));
        } else if let Some(prompt) = prompt {
            let uses = template::uses(&prompt);
            let used: BTreeMap<_, _> = match &uses.args {
                Some(names) => all
                    .into_iter()
                    .filter(|(name, _)| names.iter().any(|used| used == name))
                    .collect(),
                None => all,
            };
            digest.add_json(&(self.plan.dir(), used));
        }
    }

    /// What becomes of each node, in the order of the file, when this plan goes on from an earlier run.
    #[must_use]
    pub fn standings(&self, earlier: &EarlierRun) -> Vec<(&str, Standing)> {
        let nodes = &self.plan.nodes;
        let fingerprints = self.fingerprints();
        let mut all = vec![Standing::Unfinished; nodes.len()];
        for index in graph::topological(&self.needs()) {
            let needs = &nodes[index].needs;
            let are = |standing| needs.iter().any(|&need| all[need] == standing);
            let found = earlier.nodes.get(&fingerprints[index]);
            all[index] = match found {
                Some(node) if node.is_completed && needs.iter().all(|&need| all[need] == Standing::Kept) => {
                    Standing::Kept
                }
                Some(_) => Standing::Unfinished,
                None if are(Standing::Changed) || are(Standing::NeedsChanged) => Standing::NeedsChanged,
                None => Standing::Changed,
            };
        }
        nodes.iter().map(|node| node.name.as_str()).zip(all).collect()
    }

    pub(crate) fn needs(&self) -> Vec<Vec<usize>> {
        self.plan.nodes.iter().map(|node| node.needs.clone()).collect()
    }
}

/// A digest of several parts, each with its length before it, so that no two different lists read the same.
struct Parts(Sha256);

impl Parts {
    fn new(what: &str) -> Self {
        let mut parts = Self(Sha256::new());
        parts.add(what.as_bytes());
        parts
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn add_json<T: Serialize>(&mut self, value: &T) {
        self.add(Json::of(value).text().as_bytes());
    }

    fn hex(self, bytes: usize) -> String {
        let mut hex = String::with_capacity(2 * bytes);
        for byte in self.0.finalize().iter().take(bytes) {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Arguments;

    const PLAN: &str = "goal = 'g'\nresult = 'd'\n[args.x]\ndefault = '1'\n[args.y]\ndefault = '2'\n[env]\nE = 'e'\n\
        [[nodes]]\nname = 'a'\nrun = 'true'\ntimeout = '5s'\n\
        [[nodes]]\nname = 'b'\nagent = 'w'\nprompt = 'use {{ args.x }}'\n\
        [[nodes]]\nname = 'c'\nneeds = ['b', 'a']\nagent = 'w'\nprompt = '{{ inputs.b }} {{ args.y }}'\n\
        [[nodes]]\nname = 'd'\nneeds = ['c']\nagent = 'w'\nprompt = 'p'\n";

    fn bound(text: &str) -> BoundPlan {
        let dir = std::path::Path::new("/tmp");
        let plan = crate::plan::parse::parse(dir, "/tmp/plan.toml".into(), text).unwrap();
        plan.bind(&Arguments::default()).unwrap()
    }

    /// All but the nodes of these names is completed in an earlier run of `PLAN`.
    fn earlier(unfinished: &[&str]) -> EarlierRun {
        let plan = bound(PLAN);
        let nodes = plan.plan().node_names().zip(plan.fingerprints());
        let nodes = nodes.enumerate().map(|(index, (name, fingerprint))| {
            let node_id = NodeId(uuid::Uuid::from_u128(index as u128));
            let is_completed = !unfinished.contains(&name);
            (
                fingerprint,
                EarlierNode {
                    node_id,
                    is_completed,
                },
            )
        });
        let task_id = TaskId(uuid::Uuid::nil());
        EarlierRun {
            task_id,
            artifacts: task_id,
            nodes: nodes.collect(),
        }
    }

    fn standings(from: &str, to: &str) -> String {
        let text = PLAN.replace(from, to);
        assert_ne!(text, PLAN);
        let letter = |standing| match standing {
            Standing::Kept => 'k',
            Standing::Changed => 'c',
            Standing::NeedsChanged => 'n',
            Standing::Unfinished => 'u',
        };
        let plan = bound(&text);
        plan.standings(&earlier(&[]))
            .into_iter()
            .map(|(_, standing)| letter(standing))
            .collect()
    }

    #[test]
    fn what_changed_and_what_depends_on_it_runs_and_nothing_else() {
        for (from, to, expected) in [
            ("'use {{", "'Use {{", "kcnn"),
            ("run = 'true'", "run = 'false'", "cknn"),
            // Every command has the arguments and the plan's variables; a prompt has those that it names.
            ("'e'", "'f'", "cknn"),
            ("'1'", "'7'", "ccnn"),
            ("'2'", "'7'", "cknn"),
            ("needs = ['c']", "needs = ['b']", "kkkc"),
            ("needs = ['b', 'a']", "needs = ['a', 'b']", "kkkk"),
            ("'5s'", "'6s'\nretry = { attempts = 2 }\npriority = 3", "kkkk"),
            ("agent = 'w'\nprompt = 'p'", "agent = 'v'\nprompt = 'p'", "kkkc"),
            ("goal = 'g'", "# why\ngoal   =   'h'", "kkkk"),
            (
                "name = 'a'\nrun",
                "name = 'a'\ncapabilities = ['gpu']\nrun",
                "cknn",
            ),
        ] {
            assert_eq!(standings(from, to), expected, "{from} → {to}");
        }
        let all = bound(PLAN);
        let all: Vec<_> = all
            .standings(&earlier(&["c"]))
            .into_iter()
            .map(|(_, s)| s)
            .collect();
        assert_eq!(
            all,
            [
                Standing::Kept,
                Standing::Kept,
                Standing::Unfinished,
                Standing::Unfinished
            ]
        );
    }

    #[test]
    fn a_run_is_the_same_while_the_plan_means_the_same() {
        let key = bound(PLAN).run_key();
        let layout = PLAN.replace("goal = 'g'", "# a comment\ngoal    = \"g\"");
        assert_eq!(bound(&layout).run_key(), key);
        assert_ne!(bound(&layout).text_key(), bound(PLAN).text_key());
        for (from, to) in [
            ("'5s'", "'6s'"),
            ("'g'", "'h'"),
            ("'1'", "'2'"),
            ("result = 'd'", "result = 'a'"),
        ] {
            let other = bound(&PLAN.replace(from, to));
            assert_ne!(other.run_key(), key, "{from} → {to}");
            assert_eq!(other.place_key(), bound(PLAN).place_key());
        }
        let given = Arguments {
            positional: vec!["1".into()],
            ..Arguments::default()
        };
        // Elsewhere a relative default is another directory: that is another run, and no changed plan.
        let text = PLAN.replace("[args.y]", "[args.dir]\nkind = 'path'\ndefault = '.'\n[args.y]");
        let from = |dir: &str| {
            let given = Arguments {
                current_dir: dir.into(),
                ..Arguments::default()
            };
            bound(&text).plan().bind(&given).unwrap().place_key()
        };
        assert_eq!(from("/a"), from("/a"));
        assert_ne!(from("/a"), from("/b"));
        let same = bound(PLAN);
        assert_ne!(
            same.plan().bind(&given).unwrap().place_key(),
            bound(PLAN).place_key()
        );
    }
}
