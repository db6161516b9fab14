//! Registering tasks and nodes.

use super::rows::{Blob, retry_columns};
use super::tx::{OpError, OpResult, TaskRowState, Tx};
use crate::machine::{NodeEvent, NodeState, decide};
use crate::{Reply, StoreError};
use agentd_protocol::journal::action;
use agentd_protocol::requests::{AddNodes, RegisterTask};
use agentd_protocol::results::{NodeIds, RegisteredTask};
use agentd_protocol::{Json, NodeId, NodeSpec, NodeStatus, TaskId, Work, limits};
use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};

/// Nodes that have been looked over and can be written.
#[derive(Debug)]
pub(super) struct Checked<'s> {
    specs: &'s [NodeSpec],
    ids: Vec<NodeId>,
    // Per node, in the order given and without repetitions.
    dependencies: Vec<Vec<Dependency>>,
    // Per node: sorted and distinct, empty when it needs nothing special.
    requires: Vec<Vec<String>>,
    // Per node: the row of the node whose result it takes over, if it does.
    reused: Vec<Option<i64>>,
}

#[derive(Clone, Copy, Debug)]
enum Dependency {
    // A node of the same request, by its place.
    New(usize),
    // A node registered before; whether it is completed.
    Old(i64, bool),
}

impl Checked<'_> {
    pub(super) fn into_ids(self) -> Vec<NodeId> {
        self.ids
    }
}

impl Tx<'_> {
    pub(super) fn register_task(&mut self, params: &RegisterTask) -> OpResult<Reply> {
        let digest = params.idempotency_key.as_ref().map(|_| digest(params));
        if let (Some(key), Some(digest)) = (&params.idempotency_key, &digest)
            && let Some(reply) = self.registered_before(key, digest)?
        {
            return Ok(Reply::Registered(reply));
        }
        let nodes = self.check_nodes(None, &params.initial_nodes)?;
        let id = self.live.options.ids.task();
        self.conn
            .prepare_cached(
                "INSERT INTO tasks (uuid, goal, context, created_wall_ms, initial_nodes, idempotency_key,
                     request_digest, state)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                Blob(id.0),
                params.goal,
                params.context.text(),
                self.wall_ms,
                nodes.ids.len(),
                params.idempotency_key,
                digest,
                if params.paused { "PAUSED" } else { "OPEN" }
            ])?;
        let task = self.conn.last_insert_rowid();
        let goal: String = params.goal.chars().take(200).collect();
        let mut payload = serde_json::json!({ "goal": goal, "nodes": nodes.ids.len() });
        if params.paused {
            payload["paused"] = true.into();
        }
        self.journal(
            action::REGISTER_TASK,
            Some(task),
            None,
            false,
            &payload.to_string(),
        )?;
        self.insert_nodes(task, params.paused, &nodes)?;
        self.count_task(1);
        self.counted.registered_tasks += 1;
        Ok(Reply::Registered(RegisteredTask {
            task_id: id,
            node_ids: nodes.into_ids(),
        }))
    }

    fn registered_before(&self, key: &str, digest: &[u8]) -> OpResult<Option<RegisteredTask>> {
        let mut find = self.conn.prepare_cached(
            "SELECT id, uuid, request_digest, initial_nodes FROM tasks WHERE idempotency_key = ?1",
        )?;
        let found = find
            .query_row([key], |row| {
                let digest: Vec<u8> = row.get(2)?;
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, Blob>(1)?,
                    digest,
                    row.get::<_, i64>(3)?,
                ))
            })
            .optional()?;
        let Some((task, uuid, known, initial)) = found else {
            return Ok(None);
        };
        if known != digest {
            return Err(StoreError::IdempotencyConflict { key: key.into() }.into());
        }
        let mut nodes = self
            .conn
            .prepare_cached("SELECT uuid FROM nodes WHERE task = ?1 ORDER BY id LIMIT ?2")?;
        let node_ids = nodes
            .query_map([task, initial], |row| row.get::<_, Blob>(0).map(NodeId::from))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Some(RegisteredTask {
            task_id: TaskId::from(uuid),
            node_ids,
        }))
    }

    pub(super) fn add_nodes(&mut self, params: &AddNodes) -> OpResult<Reply> {
        let task = self.task(params.task_id)?;
        let once = Once::new(task.id, params.idempotency_key.as_deref(), params);
        if let Some(reply) = self.answered_before(&once)? {
            return Ok(Reply::Nodes(reply));
        }
        if task.state == TaskRowState::Cancelled {
            let why = "was cancelled; re-run its nodes or register a new task".into();
            return Err(StoreError::WrongState {
                task: params.task_id,
                why,
            }
            .into());
        }
        let nodes = self.check_nodes(Some(task.id), &params.nodes)?;
        let payload = serde_json::json!({ "nodes": nodes.ids.len() }).to_string();
        self.journal(action::ADD_NODES, Some(task.id), None, false, &payload)?;
        self.insert_nodes(task.id, task.state == TaskRowState::Paused, &nodes)?;
        let reply = NodeIds {
            node_ids: nodes.into_ids(),
        };
        self.remember_answer(&once, &reply)?;
        Ok(Reply::Nodes(reply))
    }

    /// Looks new nodes over. Writes nothing.
    pub(super) fn check_nodes<'s>(
        &mut self,
        task: Option<i64>,
        specs: &'s [NodeSpec],
    ) -> OpResult<Checked<'s>> {
        let existing: u64 = match task {
            Some(task) => self.conn.query_row(
                "SELECT pending + running + completed + failed FROM tasks WHERE id = ?1",
                [task],
                |row| row.get(0),
            )?,
            None => 0,
        };
        if existing + specs.len() as u64 > limits::NODES_PER_TASK_MAX {
            let why = format!(
                "a task has at most {} nodes; this one has {existing}. Split the work into several tasks",
                limits::NODES_PER_TASK_MAX
            );
            return Err(StoreError::LimitExceeded(why).into());
        }
        let mut places = HashMap::with_capacity(specs.len());
        let mut ids = Vec::with_capacity(specs.len());
        for (place, spec) in specs.iter().enumerate() {
            let id = spec.id.unwrap_or_else(|| self.live.options.ids.node());
            if spec.id.is_some() {
                if let Some(other) = self.find_node(id)? {
                    let own = Some(other.task) == task;
                    let why = if own {
                        "is already a node of this task"
                    } else {
                        "belongs to another task"
                    };
                    return Err(StoreError::DuplicateNode { node: id, why }.into());
                }
                if places.insert(id, place).is_some() {
                    return Err(StoreError::DuplicateNode {
                        node: id,
                        why: "is given twice",
                    }
                    .into());
                }
            }
            ids.push(id);
        }
        let dependencies = self.check_dependencies(task, specs, &ids, &places)?;
        let order = in_order(&ids, &dependencies)?;
        let requires = self.check_capabilities(specs)?;
        let reused = self.check_reuse(specs, &dependencies, &order)?;
        Ok(Checked {
            specs,
            ids,
            dependencies,
            requires,
            reused,
        })
    }

    /// Which of the new nodes take a result over. `order` has each after what it depends on.
    fn check_reuse(
        &mut self,
        specs: &[NodeSpec],
        dependencies: &[Vec<Dependency>],
        order: &[usize],
    ) -> OpResult<Vec<Option<i64>>> {
        let mut reused: Vec<Option<i64>> = vec![None; specs.len()];
        for &place in order {
            let Some(reuse) = specs[place].reuse else { continue };
            let waits = dependencies[place].iter().any(|dependency| match *dependency {
                Dependency::New(other) => reused[other].is_none(),
                Dependency::Old(_, completed) => !completed,
            });
            if waits {
                continue;
            }
            reused[place] = match self.node(reuse.task_id, reuse.node_id) {
                Ok((_, node)) => Some(node)
                    .filter(|node| node.state.status == NodeStatus::Completed)
                    .map(|node| node.id),
                // Pruned meanwhile: the work is done again.
                Err(OpError::Refused(_)) => None,
                Err(error) => return Err(error),
            };
        }
        Ok(reused)
    }

    fn check_dependencies(
        &self,
        task: Option<i64>,
        specs: &[NodeSpec],
        ids: &[NodeId],
        places: &HashMap<NodeId, usize>,
    ) -> OpResult<Vec<Vec<Dependency>>> {
        let mut all = Vec::with_capacity(specs.len());
        for (spec, &node) in specs.iter().zip(ids) {
            let mut own = Vec::with_capacity(spec.dependencies.len());
            let mut seen = HashSet::new();
            for &dependency in &spec.dependencies {
                let unknown = |why| StoreError::UnknownDependency {
                    node,
                    dependency,
                    why,
                };
                if dependency == node {
                    return Err(unknown("the node itself").into());
                }
                if spec.dependencies.len() > 1 && !seen.insert(dependency) {
                    continue;
                }
                if let Some(&place) = places.get(&dependency) {
                    own.push(Dependency::New(place));
                    continue;
                }
                let row = self
                    .find_node(dependency)?
                    .ok_or_else(|| unknown("not a node of this task"))?;
                if Some(row.task) != task {
                    return Err(unknown("a node of another task").into());
                }
                own.push(Dependency::Old(row.id, row.state.status == NodeStatus::Completed));
            }
            all.push(own);
        }
        Ok(all)
    }

    fn check_capabilities(&self, specs: &[NodeSpec]) -> OpResult<Vec<Vec<String>>> {
        let mut new_sets = HashSet::new();
        let mut all = Vec::with_capacity(specs.len());
        for spec in specs {
            let mut names = spec.capabilities.clone();
            names.extend(spec.work.as_ref().map(Work::capability));
            names.sort_unstable();
            names.dedup();
            if self.live.capability_sets.find(&names).is_none() {
                new_sets.insert(names.clone());
            }
            all.push(names);
        }
        if self.live.capability_sets.len() + new_sets.len() > limits::CAPABILITY_SETS_MAX {
            let why = format!(
                "nodes ask for at most {} different sets of capabilities; use fewer, broader names",
                limits::CAPABILITY_SETS_MAX
            );
            return Err(StoreError::LimitExceeded(why).into());
        }
        Ok(all)
    }

    /// Writes nodes that [`Tx::check_nodes`] has looked over.
    pub(super) fn insert_nodes(&mut self, task: i64, held: bool, nodes: &Checked<'_>) -> OpResult<()> {
        let first = self.live.last_node + 1;
        let id_of = |place: usize| first + i64::try_from(place).unwrap_or(i64::MAX);
        let mut insert_node = self.conn.prepare_cached(
            "INSERT INTO nodes (id, uuid, task, status, blockers, held, priority, requires, attempt,
                 max_attempts, backoff_ms, backoff_max_ms, updated_wall_ms)
             VALUES (?1, ?2, ?3, ?12, ?4, ?5, ?6, ?7, 0, ?8, ?9, ?10, ?11)",
        )?;
        let mut insert_spec = self.conn.prepare_cached(
            "INSERT INTO node_specs (node, name, payload_schema, work, fingerprint) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let mut insert_dependency = self
            .conn
            .prepare_cached("INSERT INTO dependencies (node, position, dependency) VALUES (?1, ?2, ?3)")?;
        let mut last_set: Option<(&[String], i64)> = None;
        for (place, spec) in nodes.specs.iter().enumerate() {
            let id = id_of(place);
            let mut blockers: u32 = 0;
            for (position, dependency) in nodes.dependencies[place].iter().enumerate() {
                let (dependency, open) = match *dependency {
                    Dependency::New(other) => (id_of(other), nodes.reused[other].is_none()),
                    Dependency::Old(other, completed) => (other, !completed),
                };
                blockers += u32::from(open);
                insert_dependency.execute(params![id, position, dependency])?;
            }
            let names = nodes.requires[place].as_slice();
            let requires = match last_set {
                Some((last, set)) if last == names => set,
                _ => self.capability_set(names)?,
            };
            last_set = Some((names, requires));
            let state = self.new_state(blockers, held, spec, nodes.reused[place].is_some());
            let (max_attempts, backoff_ms, backoff_max_ms) = retry_columns(spec.retry);
            insert_node.execute(params![
                id,
                Blob(nodes.ids[place].0),
                task,
                blockers,
                held,
                spec.priority,
                requires,
                max_attempts,
                backoff_ms,
                backoff_max_ms,
                self.wall_ms,
                state.status.as_str()
            ])?;
            let schema = Some(&spec.payload_schema).filter(|schema| !schema.is_empty_object());
            if spec.name.is_some() || schema.is_some() || spec.work.is_some() || spec.fingerprint.is_some() {
                let work = spec.work.as_ref().map(|work| Json::of(work).text().to_owned());
                let schema = schema.map(Json::text);
                insert_spec.execute(params![id, spec.name, schema, work, spec.fingerprint])?;
            }
            if state.is_runnable() {
                self.runnable.push((task, requires));
            }
        }
        drop((insert_node, insert_spec, insert_dependency));
        let count = i64::try_from(nodes.specs.len()).unwrap_or(i64::MAX);
        self.live.last_node += count;
        self.count_new(task, count);
        self.take_over_results(task, first, nodes)
    }

    // How a node stands when it is registered.
    fn new_state(&self, blockers: u32, held: bool, spec: &NodeSpec, reuses: bool) -> NodeState {
        let state = NodeState::registered(blockers, held, spec.retry);
        let event = reuses.then_some(NodeEvent::Reuse);
        event
            .and_then(|event| decide(&state, event, self.now_ms).ok())
            .unwrap_or(state)
    }

    // The results of new nodes that take another's over. `first` is the row of the first new node.
    fn take_over_results(&mut self, task: i64, first: i64, nodes: &Checked<'_>) -> OpResult<()> {
        for (place, reused) in nodes.reused.iter().enumerate() {
            let (Some(source), Some(reuse)) = (reused, nodes.specs[place].reuse) else {
                continue;
            };
            self.conn
                .prepare_cached(
                    "INSERT INTO node_results (node, result) SELECT ?1, result FROM node_results WHERE node = ?2",
                )?
                .execute(params![first + i64::try_from(place).unwrap_or(i64::MAX), source])?;
            let payload = Json::of(&serde_json::json!({ "reused": reuse }));
            let node = Some(nodes.ids[place]);
            self.journal(action::COMPLETE_NODE, Some(task), node, false, payload.text())?;
            self.count(task, Some(NodeStatus::Pending), Some(NodeStatus::Completed));
        }
        Ok(())
    }

    fn capability_set(&mut self, names: &[String]) -> OpResult<i64> {
        match self.live.capability_sets.find(names) {
            Some(id) => Ok(id),
            None => self.live.capability_sets.add(self.conn, names),
        }
    }

    /// The answer that was given to the same request before.
    pub(super) fn answered_before<T: DeserializeOwned>(&self, once: &Once<'_>) -> OpResult<Option<T>> {
        let Some((key, digest)) = &once.key else {
            return Ok(None);
        };
        let mut find = self
            .conn
            .prepare_cached("SELECT digest, reply FROM idempotency WHERE task = ?1 AND key = ?2")?;
        let found: Option<(Vec<u8>, String)> = find
            .query_row(params![once.task, key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((known, reply)) = found else {
            return Ok(None);
        };
        if known != *digest {
            return Err(StoreError::IdempotencyConflict { key: (*key).into() }.into());
        }
        let reply = serde_json::from_str(&reply).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, error.into())
        })?;
        Ok(Some(reply))
    }

    /// Keeps the answer for when the same request comes again.
    pub(super) fn remember_answer<T: Serialize>(&self, once: &Once<'_>, reply: &T) -> OpResult<()> {
        if let Some((key, digest)) = &once.key {
            self.conn
                .prepare_cached("INSERT INTO idempotency (task, key, digest, reply) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![once.task, key, digest, Json::of(reply).text()])?;
        }
        Ok(())
    }
}

/// A request that changes a task and that may come again.
#[derive(Debug)]
pub(super) struct Once<'k> {
    task: i64,
    // Without a key, nothing is looked up and nothing kept.
    key: Option<(&'k str, Vec<u8>)>,
}

impl<'k> Once<'k> {
    pub(super) fn new<T: Serialize>(task: i64, key: Option<&'k str>, params: &T) -> Self {
        Self {
            task,
            key: key.map(|key| (key, digest(params))),
        }
    }
}

/// What makes two requests the same.
pub(super) fn digest<T: Serialize>(params: &T) -> Vec<u8> {
    Sha256::digest(Json::of(params).text()).to_vec()
}

// Takes away nodes that wait for nothing until none is left, or only a circle: an order in which each comes after what it
// depends on. Without recursion: a chain may be as long as a request allows.
fn in_order(ids: &[NodeId], dependencies: &[Vec<Dependency>]) -> OpResult<Vec<usize>> {
    let mut open = vec![0usize; ids.len()];
    let mut dependents = vec![Vec::new(); ids.len()];
    for (node, own) in dependencies.iter().enumerate() {
        for dependency in own {
            if let Dependency::New(other) = *dependency {
                open[node] += 1;
                dependents[other].push(node);
            }
        }
    }
    let mut free: Vec<usize> = (0..ids.len()).filter(|&node| open[node] == 0).collect();
    let mut order = Vec::with_capacity(ids.len());
    while let Some(node) = free.pop() {
        order.push(node);
        for &dependent in &dependents[node] {
            open[dependent] -= 1;
            if open[dependent] == 0 {
                free.push(dependent);
            }
        }
    }
    if order.len() == ids.len() {
        return Ok(order);
    }
    // What is left waits for a circle or is on one; going back along open dependencies ends up on it.
    let Some(mut node) = (0..ids.len()).find(|&node| open[node] > 0) else {
        return Ok(order);
    };
    for _ in 0..ids.len() {
        let back = dependencies[node]
            .iter()
            .find_map(|dependency| match *dependency {
                Dependency::New(other) if open[other] > 0 => Some(other),
                _ => None,
            });
        node = back.unwrap_or(node);
    }
    Err(StoreError::DependencyCycle { node: ids[node] }.into())
}
