//! Tasks: registering work, and looking at it.

use super::Shared;
use super::answer::{Answer, RESULT_BYTES_MAX, Refusal, members};
use super::catalog::Reach;
use super::daemon::Again;
use super::held::Thing;
use super::shape;
use agentd_protocol::requests::{
    AddNodes, CancelTask, GetNode, ListTasks, RegisterTask, RetryNodes, TaskRef, TaskStatus,
};
use agentd_protocol::results::{
    CancelledTask, GetNodeResult, NodeIds, Ok as Done, RegisteredTask, TaskList, TaskStatusResult,
};
use agentd_protocol::{
    AgentWork, Json, Method, NodeId, NodeSpec, NodeStatus, RetryPolicy, TaskId, TaskState, Work,
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use uuid::{Builder, Uuid};

/// Rows in a page when the agent names no limit, and the most that it may name.
const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 200;

/// A node as an agent describes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeArgs {
    name: Option<String>,
    id: Option<NodeId>,
    #[serde(default)]
    after: Vec<String>,
    payload: Option<Value>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    capabilities: Vec<String>,
    retry: Option<RetryPolicy>,
    agent: Option<String>,
    prompt: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    goal: Option<String>,
    context: Option<Value>,
    #[serde(default)]
    nodes: Vec<NodeArgs>,
    task_id: Option<TaskId>,
    idempotency_key: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Goal,
    Context,
    Payload,
    Result,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Status {
    task_id: TaskId,
    node_id: Option<NodeId>,
    status: Option<NodeStatus>,
    limit: Option<u32>,
    cursor: Option<String>,
    part: Option<Part>,
    #[serde(default)]
    offset: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    state: Option<TaskState>,
    limit: Option<u32>,
    cursor: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Pause,
    Resume,
    Cancel,
    Retry,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ControlTask {
    task_id: TaskId,
    action: Action,
    reason: Option<String>,
    #[serde(default)]
    node_ids: Vec<NodeId>,
}

/// The nodes as the daemon takes them: names become ids, which are the same whenever the request is sent again under
/// the same key.
pub(super) fn specs(nodes: Vec<NodeArgs>, key: &str, reach: Reach) -> Result<Vec<NodeSpec>, Refusal> {
    let ids: Vec<NodeId> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| node.id.unwrap_or_else(|| made_up(key, at)))
        .collect();
    // None for a name that several have.
    let mut named: BTreeMap<String, Option<NodeId>> = BTreeMap::new();
    for (node, id) in nodes.iter().zip(&ids) {
        if let Some(name) = &node.name {
            named
                .entry(name.clone())
                .and_modify(|id| *id = None)
                .or_insert(Some(*id));
        }
    }
    let find = |text: &String| match (named.get(text).copied(), text.parse::<NodeId>()) {
        (Some(Some(id)), _) | (None, Ok(id)) => Ok(id),
        (Some(None), _) => Err(Refusal::arguments(format!(
            "after names {text:?}, which several nodes are called; nothing was registered"
        ))),
        (None, Err(_)) => Err(Refusal::arguments(format!(
            "after names {text:?}, which is neither a node's name in this call nor an id; nothing was registered"
        ))),
    };
    let mut specs = Vec::with_capacity(nodes.len());
    for (node, id) in nodes.into_iter().zip(&ids) {
        let is_for_agent = node.agent.is_some() || node.prompt.is_some();
        if is_for_agent && reach == Reach::Session {
            return Err(Refusal::new(
                "forbidden",
                "in a session you cannot begin other sessions: agent and prompt are not for you",
                "leave them out; nothing was registered",
            ));
        }
        specs.push(NodeSpec {
            id: Some(*id),
            name: node.name,
            dependencies: node.after.iter().map(find).collect::<Result<_, _>>()?,
            payload_schema: node.payload.map_or_else(Json::empty_object, Json::from),
            work: is_for_agent.then_some(Work::Agent(AgentWork {
                agent: node.agent,
                prompt: node.prompt,
                ..AgentWork::default()
            })),
            priority: node.priority,
            capabilities: node.capabilities,
            retry: node.retry,
            ..NodeSpec::default()
        });
    }
    Ok(specs)
}

fn made_up(key: &str, at: usize) -> NodeId {
    let mut hash = Sha256::new();
    hash.update(b"agentd mcp node\0");
    hash.update(key.as_bytes());
    hash.update((at as u64).to_be_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    NodeId(Builder::from_custom_bytes(bytes).into_uuid())
}

/// The ids were made up here: whoever gave names knows nothing of them.
fn by_their_names(mut refusal: Refusal, named: &[(String, NodeId)]) -> Refusal {
    for (name, id) in named {
        let id = id.to_string();
        if refusal.message.contains(&id) {
            refusal.message = refusal.message.replace(&id, &format!("{name:?}"));
        }
    }
    refusal
}

impl Shared {
    pub(super) async fn register(&self, args: Register) -> Answer {
        // With a key of its own a request can be sent again when the daemon is restarted in the middle.
        let key = args
            .idempotency_key
            .unwrap_or_else(|| format!("mcp-{}", Uuid::new_v4()));
        // The same key for two tasks means two requests, and so two sets of ids.
        let seed = args
            .task_id
            .map_or_else(|| key.clone(), |task_id| format!("{task_id} {key}"));
        let nodes = specs(args.nodes, &seed, self.reach())?;
        let named: Vec<(String, NodeId)> = nodes
            .iter()
            .filter_map(|node| Some((node.name.clone()?, node.id?)))
            .collect();
        let named_too = |refusal| by_their_names(refusal, &named);
        let (task_id, node_ids) = match (args.task_id, args.goal) {
            (Some(task_id), None) if args.context.is_none() => {
                let request = AddNodes {
                    task_id,
                    nodes,
                    idempotency_key: Some(key),
                };
                let asked = self.daemon.ask(Method::AddNodes, &request, Again::Yes).await;
                let added: NodeIds = asked.map_err(named_too)?;
                (task_id, added.node_ids)
            }
            (None, Some(goal)) => {
                let request = RegisterTask {
                    goal,
                    context: args.context.map_or_else(Json::empty_object, Json::from),
                    initial_nodes: nodes,
                    idempotency_key: Some(key),
                    paused: false,
                };
                let asked = self.daemon.ask(Method::RegisterTask, &request, Again::Yes).await;
                let task: RegisteredTask = asked.map_err(named_too)?;
                (task.task_id, task.node_ids)
            }
            _ => {
                return Err(Refusal::arguments(
                    "give a goal (and context) for a new task, or the task_id of one to add nodes to",
                ));
            }
        };
        let mut shown = json!({ "task_id": task_id, "node_ids": shape::ids(&node_ids) });
        let is_of_one = |name: &str| named.iter().filter(|(other, _)| other == name).count() == 1;
        let by_name: serde_json::Map<String, Value> = named
            .iter()
            .filter(|(name, _)| is_of_one(name))
            .map(|(name, id)| (name.clone(), json!(id)))
            .take(shape::IDS_MAX)
            .collect();
        if !by_name.is_empty() {
            shown["by_name"] = by_name.into();
        }
        Ok(members(shown))
    }

    pub(super) async fn task_status(&self, args: Status) -> Answer {
        match (args.node_id, args.part) {
            (_, Some(part)) => self.read_part(&args, part).await,
            (Some(node_id), None) => {
                let node = self.node(args.task_id, node_id).await?;
                let is_mine = self.held.holds(&Thing::Node(node_id));
                let mut shown = shape::node(&node.node, true, is_mine);
                shown["task_id"] = json!(args.task_id);
                Ok(members(shown))
            }
            (None, None) => self.task(args).await,
        }
    }

    async fn task(&self, args: Status) -> Answer {
        let mut limit = args.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
        loop {
            let request = TaskStatus {
                task_id: args.task_id,
                status: args.status,
                limit: Some(limit),
                cursor: args.cursor.clone(),
                omit_payloads: true,
            };
            let status: TaskStatusResult = self.daemon.ask(Method::TaskStatus, &request, Again::Yes).await?;
            let nodes: Vec<Value> = status
                .nodes
                .iter()
                .map(|node| shape::node(node, false, self.held.holds(&Thing::Node(node.id))))
                .collect();
            let mut shown = json!({
                "task_id": status.task.id,
                "state": status.state,
                "counts": status.counts,
                "nodes": nodes,
            });
            // Once is enough.
            if args.cursor.is_none() {
                shown["goal"] = shape::short_goal(&status.task.goal).into();
                if !status.task.context.is_empty_object() {
                    shown["context"] = shape::short_payload(&status.task.context);
                }
            }
            if let Some(cursor) = status.next_cursor {
                shown["next_cursor"] = cursor.into();
            }
            if shown.to_string().len() <= RESULT_BYTES_MAX || limit == 1 {
                return Ok(members(shown));
            }
            limit = limit.div_ceil(4);
        }
    }

    async fn read_part(&self, args: &Status, part: Part) -> Answer {
        let text = match (part, args.node_id) {
            (Part::Goal | Part::Context, _) => {
                let status = self.overview(args.task_id).await?;
                match part {
                    Part::Goal => status.task.goal,
                    _ => status.task.context.text().to_owned(),
                }
            }
            (Part::Payload | Part::Result, Some(node_id)) => {
                let node = self.node(args.task_id, node_id).await?.node;
                match part {
                    Part::Payload => node.payload_schema.text().to_owned(),
                    _ => node.result_payload.unwrap_or_else(Json::null).text().to_owned(),
                }
            }
            (Part::Payload | Part::Result, None) => {
                return Err(Refusal::arguments("say whose payload or result: node_id"));
            }
        };
        Ok(shape::piece(&text, args.offset))
    }

    // A task, and no more of its nodes than need be.
    async fn overview(&self, task_id: TaskId) -> Result<TaskStatusResult, Refusal> {
        let request = TaskStatus {
            task_id,
            status: None,
            limit: Some(1),
            cursor: None,
            omit_payloads: true,
        };
        self.daemon.ask(Method::TaskStatus, &request, Again::Yes).await
    }

    async fn node(&self, task_id: TaskId, node_id: NodeId) -> Result<GetNodeResult, Refusal> {
        self.daemon
            .ask(Method::GetNode, &GetNode { task_id, node_id }, Again::Yes)
            .await
    }

    pub(super) async fn list_tasks(&self, args: List) -> Answer {
        let mut limit = args.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
        loop {
            let request = ListTasks {
                state: args.state,
                idempotency_key_prefix: None,
                limit: Some(limit),
                cursor: args.cursor.clone(),
            };
            let list: TaskList = self.daemon.ask(Method::ListTasks, &request, Again::Yes).await?;
            let tasks: Vec<Value> = list.tasks.iter().map(shape::task).collect();
            let mut shown = json!({ "tasks": tasks });
            if let Some(cursor) = list.next_cursor {
                shown["next_cursor"] = cursor.into();
            }
            if shown.to_string().len() <= RESULT_BYTES_MAX || limit == 1 {
                return Ok(members(shown));
            }
            limit = limit.div_ceil(4);
        }
    }

    async fn refuse_finished(&self, task_id: TaskId) -> Result<(), Refusal> {
        let state = self.overview(task_id).await?.state;
        // A cancelled one the daemon refuses in its own words.
        if !matches!(state, TaskState::Completed | TaskState::Failed) {
            return Ok(());
        }
        Err(Refusal::new(
            "wrong_state",
            format!("task {task_id} is finished ({state}): there is nothing to pause"),
            "nothing was done; task_register with its task_id adds nodes to it, and retry runs failed ones again",
        ))
    }

    pub(super) async fn control_task(&self, args: ControlTask) -> Answer {
        let ControlTask {
            task_id,
            action,
            reason,
            node_ids,
        } = args;
        let daemon = &self.daemon;
        let shown = match action {
            Action::Pause | Action::Resume => {
                // The daemon takes it: nodes may be added later. An agent that pauses means nodes that are there.
                if matches!(action, Action::Pause) {
                    self.refuse_finished(task_id).await?;
                }
                let method = match action {
                    Action::Pause => Method::PauseTask,
                    _ => Method::ResumeTask,
                };
                let _: Done = daemon.ask(method, &TaskRef { task_id }, Again::Yes).await?;
                json!({ "ok": true })
            }
            Action::Cancel => {
                let request = CancelTask { task_id, reason };
                let done: CancelledTask = daemon.ask(Method::CancelTask, &request, Again::Yes).await?;
                json!({ "ok": true, "cancelled_nodes": done.cancelled_nodes })
            }
            Action::Retry => {
                let request = RetryNodes { task_id, node_ids };
                let nodes: NodeIds = daemon.ask(Method::RetryNodes, &request, Again::No).await?;
                json!({ "ok": true, "node_ids": shape::ids(&nodes.node_ids) })
            }
        };
        Ok(members(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(value: Value) -> Vec<NodeArgs> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn names_become_ids_and_the_same_ones_again() {
        let list = || json!([{"name": "build"}, {"name": "test", "after": ["build"]}]);
        let first = specs(nodes(list()), "key", Reach::Everything).unwrap();
        let second = specs(nodes(list()), "key", Reach::Everything).unwrap();
        assert_eq!(first[1].dependencies, [first[0].id.unwrap()]);
        assert_eq!(first[1].id, second[1].id);
        let other = specs(nodes(list()), "other", Reach::Everything).unwrap();
        assert_ne!(first[0].id, other[0].id);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for list in [
            json!([{"after": ["nobody"]}]),
            json!([{"name": "a"}, {"name": "a"}, {"after": ["a"]}]),
        ] {
            let refusal = specs(nodes(list), "key", Reach::Everything).unwrap_err();
            assert_eq!(refusal.reason, "bad_arguments");
        }
        let agent = json!([{"agent": "reviewer", "prompt": "look"}]);
        assert!(specs(nodes(agent.clone()), "key", Reach::Everything).is_ok());
        let refusal = specs(nodes(agent), "key", Reach::Session).unwrap_err();
        assert_eq!(refusal.reason, "forbidden");
    }
}
