//! From a bound plan to the requests that register it.

use super::bind::BoundPlan;
use super::identity::EarlierRun;
use super::{PlanError, graph};
use agentd_client::{Client, ClientError};
use agentd_protocol::limits::LINE_BYTES_MAX;
use agentd_protocol::requests::{AddNodes, RegisterTask, TaskRef, TaskStatus};
use agentd_protocol::results::{NodeIds, Ok as Done, RegisteredTask, TaskStatusResult};
use agentd_protocol::{Json, Method, NodeId, NodeSpec, TaskId, TaskState};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What a request has around its nodes, in bytes: braces, the method's name, ids, the idempotency key.
const ENVELOPE_BYTES: usize = 2048;

/// The requests that register a plan: one, unless the plan is longer than a line of the protocol.
///
/// They are the same requests every time, down to the nodes' ids, so that sending them again after a crash
/// changes nothing and finds out what the task is called.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The task, with all its nodes or, when there are [`Registration::batches`], with none.
    pub register: RegisterTask,
    /// The nodes of further AddNodes requests, each after what it depends on.
    pub batches: Vec<Vec<NodeSpec>>,
    /// Every node's id, in the order of the file.
    pub node_ids: Vec<NodeId>,
    /// True: it hands out nothing when it is whole, until it is resumed.
    stays_paused: bool,
}

impl BoundPlan {
    /// The requests that register this plan under an idempotency key: [`BoundPlan::run_key`], or that with a
    /// suffix for a run of its own. Of an `earlier` run, the results that still stand are taken over.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] when one node alone is longer than a line, [`PlanError::Argument`] when the
    /// arguments and the environment are.
    pub fn registration(&self, key: &str, earlier: Option<&EarlierRun>) -> Result<Registration, PlanError> {
        self.registration_within(key, earlier, LINE_BYTES_MAX)
    }

    fn registration_within(
        &self,
        key: &str,
        earlier: Option<&EarlierRun>,
        line_bytes_max: usize,
    ) -> Result<Registration, PlanError> {
        let nodes = &self.plan.nodes;
        let node_ids: Vec<NodeId> = (0..nodes.len()).map(|index| node_id(key, index)).collect();
        let fingerprints = self.fingerprints();
        let spec = |index: usize| {
            let node = &nodes[index];
            NodeSpec {
                id: Some(node_ids[index]),
                name: Some(node.name.clone()),
                dependencies: node.needs.iter().map(|&need| node_ids[need]).collect(),
                payload_schema: Json::empty_object(),
                work: Some(self.works[index].clone()),
                priority: node.priority,
                capabilities: node.capabilities.clone(),
                retry: node.retry,
                fingerprint: Some(fingerprints[index].clone()),
                // Whether that one is completed is the store's to see, in the transaction that takes its result over.
                reuse: earlier.and_then(|run| run.node(&fingerprints[index])),
            }
        };
        let mut register = RegisterTask {
            goal: self.goal.clone(),
            context: self.context(earlier),
            initial_nodes: Vec::new(),
            idempotency_key: Some(key.to_owned()),
            paused: false,
        };
        let head = length(&register) + ENVELOPE_BYTES;
        if head > line_bytes_max {
            let message = "the plan's goal, arguments and environment are longer than 1 MiB together";
            return Err(PlanError::argument(None, message));
        }

        let lengths: Vec<usize> = (0..nodes.len()).map(|index| length(&spec(index)) + 1).collect();
        if head + lengths.iter().sum::<usize>() <= line_bytes_max {
            register.initial_nodes = (0..nodes.len()).map(spec).collect();
            return Ok(Registration {
                register,
                batches: Vec::new(),
                node_ids,
                stays_paused: false,
            });
        }
        // Incomplete, it hands out nothing: a worker that finished the first batch before the second came would
        // otherwise have finished the task.
        register.paused = true;
        let needs = self.needs();
        let mut batches: Vec<Vec<NodeSpec>> = Vec::new();
        let mut room = 0;
        for index in graph::topological(&needs) {
            if lengths[index] > room {
                room = line_bytes_max - ENVELOPE_BYTES;
                batches.push(Vec::new());
            }
            room = room.checked_sub(lengths[index]).ok_or_else(|| {
                let name = &nodes[index].name;
                let message = format!(
                    "the node {name:?} takes {} bytes; at most 1 MiB can be sent",
                    lengths[index]
                );
                self.plan
                    .source()
                    .error(&nodes[index].span, &format!("nodes.{name}"), message)
            })?;
            if let Some(batch) = batches.last_mut() {
                batch.push(spec(index));
            }
        }
        Ok(Registration {
            register,
            batches,
            node_ids,
            stays_paused: false,
        })
    }

    /// What the workers are told, whichever of the nodes they get.
    fn context(&self, earlier: Option<&EarlierRun>) -> Json {
        let args: BTreeMap<_, _> = self.args().collect();
        let mut context = serde_json::json!({
            "plan": { "path": self.plan.path, "dir": self.plan.dir() },
            "args": args,
            "env": self.env,
            "result": self.plan.result(),
        });
        if let Some(earlier) = earlier {
            context["kept_from"] = earlier.task_id.to_string().into();
            // What the nodes whose results are kept have left there is part of what they did.
            context["artifacts"] = earlier.artifacts.to_string().into();
        }
        Json::from(context)
    }
}

impl Registration {
    /// The same for a task that hands out nothing until it is resumed.
    #[must_use]
    pub fn paused(mut self) -> Self {
        self.register.paused = true;
        self.stays_paused = true;
        self
    }

    /// How many nodes the task has when all is registered.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.node_ids.len()
    }

    /// The AddNodes requests for the task that RegisterTask made, in the order in which they must be sent.
    pub fn add_nodes(&self, task_id: TaskId) -> impl Iterator<Item = AddNodes> {
        let key = self.register.idempotency_key.clone().unwrap_or_default();
        self.batches
            .iter()
            .enumerate()
            .map(move |(index, nodes)| AddNodes {
                task_id,
                nodes: nodes.clone(),
                idempotency_key: Some(format!("{key}/nodes-{index}")),
            })
    }

    /// Registers the task, or finds it registered already, wholly or in part. A task that comes in batches is paused while
    /// it is incomplete.
    ///
    /// # Errors
    /// As [`Client::call`]. What was sent by then stays; the same call again goes on from there.
    pub async fn submit(&self, client: &mut Client) -> Result<TaskId, ClientError> {
        let registered: RegisteredTask = client.call(Method::RegisterTask, &self.register).await?;
        let task_id = registered.task_id;
        if self.batches.is_empty() {
            return Ok(task_id);
        }
        let query = TaskStatus {
            task_id,
            status: None,
            limit: Some(1),
            cursor: None,
            omit_payloads: true,
        };
        let status: TaskStatusResult = client.call(Method::TaskStatus, &query).await?;
        let task = TaskRef { task_id };
        if status.counts.total() >= self.node_count() as u64 {
            // Paused before anything ran: by an earlier call that ended between its last two requests.
            let counts = status.counts;
            let nothing_ran = counts.running + counts.failed == 0 && counts.completed <= self.reusing();
            if status.state == TaskState::Paused && nothing_ran && !self.stays_paused {
                let _: Done = client.call(Method::ResumeTask, &task).await?;
            }
            return Ok(task_id);
        }
        let _: Done = client.call(Method::PauseTask, &task).await?;
        for batch in self.add_nodes(task_id) {
            let _: NodeIds = client.call(Method::AddNodes, &batch).await?;
        }
        if !self.stays_paused {
            let _: Done = client.call(Method::ResumeTask, &task).await?;
        }
        Ok(task_id)
    }

    /// How many nodes may be completed as soon as they are registered.
    fn reusing(&self) -> u64 {
        let batches = self.batches.iter().flatten();
        batches.filter(|node| node.reuse.is_some()).count() as u64
    }
}

fn length<T: serde::Serialize>(value: &T) -> usize {
    Json::of(value).text().len()
}

/// A node's id follows from the run's key and its place in the plan. The ids of one run are neighbours, so
/// that an index over them grows in one place.
fn node_id(key: &str, index: usize) -> NodeId {
    let digest = Sha256::new()
        .chain_update(b"agentd plan node 1\0")
        .chain_update(key.as_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes[..12].copy_from_slice(&digest[..12]);
    bytes[12..].copy_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes());
    NodeId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Arguments, Plan};
    use std::collections::HashSet;

    fn bound(text: &str) -> BoundPlan {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.toml");
        std::fs::write(&path, text).unwrap();
        Plan::load(&path).unwrap().bind(&Arguments::default()).unwrap()
    }

    #[test]
    fn long_plans_come_in_batches_that_stand_on_each_other() {
        let mut text = String::from("goal = 'many'\nresult = 'n0'\n");
        for n in 0..500 {
            // Each needs the next, which stands later in the file.
            let needs = if n == 499 {
                String::new()
            } else {
                format!("needs = ['n{}']\n", n + 1)
            };
            text.push_str(&format!("[[nodes]]\nname = 'n{n}'\ncommand = ['true']\n{needs}"));
        }
        let bound = bound(&text);
        let one = bound.registration("k", None).unwrap();
        assert!(one.batches.is_empty());
        assert_eq!(one.register.initial_nodes.len(), 500);

        let many = bound.registration_within("k", None, 20_000).unwrap();
        assert!(many.register.initial_nodes.is_empty());
        assert!(many.batches.len() > 2);
        assert_eq!(many.node_ids, one.node_ids);
        let task_id = TaskId(uuid::Uuid::nil());
        let mut known = HashSet::new();
        for request in many.add_nodes(task_id) {
            assert!(length(&request) < 20_000);
            for node in request.nodes {
                assert!(node.dependencies.iter().all(|need| known.contains(need)));
                known.insert(node.id.unwrap());
            }
        }
        assert_eq!(known.len(), 500);
    }

    #[test]
    fn a_node_that_no_line_can_hold_is_named() {
        let bound = bound(&format!(
            "goal = 'g'\n\n[[nodes]]\nname = 'big'\nrun = '{}'\n",
            "x".repeat(5000)
        ));
        let error = bound
            .registration_within("k", None, 4096)
            .unwrap_err()
            .to_string();
        assert!(error.contains(":4:") && error.contains("\"big\""), "{error}");
    }

    #[test]
    fn ids_follow_from_the_key() {
        let bound = bound("goal = 'g'\n[[nodes]]\nname = 'a'\nrun = 'true'\n");
        let ids = |key| bound.registration(key, None).unwrap().node_ids;
        assert_eq!(ids("k"), ids("k"));
        assert_ne!(ids("k"), ids("l"));
    }
}
