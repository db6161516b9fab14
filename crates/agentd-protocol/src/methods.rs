//! Every method: its name, who may call it, what it takes and what it gives.

use crate::error::{Reason, RpcError, code};
use crate::requests::{self as q, Params};
use crate::results::{self as r, Role};
use crate::{PROTOCOL, limits};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// Builds the three things that must never disagree: the names, the parser and the description.
macro_rules! methods {
    ($($(#[doc = $doc:literal])+ $name:ident, $snake:literal, $role:ident, $params:ty => $($result:ty)|+;)+) => {
        /// A method of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Method {
            /// Every method, in the order in which `DescribeInterface` lists them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name in CamelCase.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// The name in snake_case.
            #[must_use]
            pub fn snake_name(self) -> &'static str {
                match self { $(Self::$name => $snake,)+ }
            }

            /// The least role that may call it.
            #[must_use]
            pub fn role(self) -> Role {
                match self { $(Self::$name => Role::$role,)+ }
            }

            fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            fn schemas(self) -> (Schema, Schema) {
                match self { $(Self::$name => {
                    let results = vec![$(schema_of::<$result>()),+];
                    (schema_of::<$params>(), any_of(results))
                },)+ }
            }
        }

        /// A request whose parameters have been read and found in bounds.
        #[derive(Clone, Debug)]
        pub enum Request {
            $($(#[doc = $doc])+ $name($params),)+
        }

        impl Request {
            /// Reads the parameters of a method.
            ///
            /// # Errors
            /// The answer to give when they do not fit.
            pub fn parse(method: Method, params: &RawValue) -> Result<Self, RpcError> {
                match method { $(Method::$name => read_params::<$params>(method, params).map(Self::$name),)+ }
            }

            /// Which method it is.
            #[must_use]
            pub fn method(&self) -> Method {
                match self { $(Self::$name(_) => Method::$name,)+ }
            }
        }
    };
}

methods! {
    /// Describes the protocol: every method with its shapes and its JSON Schemas.
    DescribeInterface, "describe_interface", Observer, q::NoParams => Value;
    /// Whether the daemon and its database work.
    Health, "health", Observer, q::NoParams => r::Health;
    /// Counters since the start, and gauges of the database.
    Metrics, "metrics", Observer, q::NoParams => r::Metrics;
    /// Registers a task with its graph of nodes.
    RegisterTask, "register_task", Worker, q::RegisterTask => r::RegisteredTask;
    /// Leases the next runnable node: of one task, or of any by capability. Null when there is none.
    AcquireNextNode, "acquire_next_node", Worker, q::AcquireNextNode => r::AcquiredNode | ();
    /// Appends an entry to the journal.
    CommitEvent, "commit_event", Worker, q::CommitEvent => r::Committed;
    /// Extends a node's lease.
    HeartbeatNode, "heartbeat_node", Worker, q::HeartbeatNode => r::Extended;
    /// Completes a leased node; its dependents become runnable in the same transaction.
    CompleteNode, "complete_node", Worker, q::CompleteNode => r::Completed;
    /// Fails a leased node; with attempts left it becomes PENDING again after its backoff.
    FailNode, "fail_node", Worker, q::FailNode => r::Failed;
    /// Shows a task and its nodes.
    TaskStatus, "task_status", Observer, q::TaskStatus => r::TaskStatusResult;
    /// Takes a resource lock. Null when it is held.
    AcquireResourceLock, "acquire_resource_lock", Worker, q::AcquireResourceLock => r::ResourceLock | ();
    /// Extends a resource lock.
    HeartbeatResourceLock, "heartbeat_resource_lock", Worker, q::HeartbeatResourceLock => r::Extended;
    /// Gives a resource lock back.
    ReleaseResourceLock, "release_resource_lock", Worker, q::ReleaseResourceLock => r::Ok;
    /// Lists the locks that are held.
    ListResourceLocks, "list_resource_locks", Observer, q::ListResourceLocks => r::LockList;

    /// Adds nodes to a live task.
    AddNodes, "add_nodes", Worker, q::AddNodes => r::NodeIds;
    /// Gives a leased node back undone; the attempt does not count.
    ReleaseNode, "release_node", Worker, q::ReleaseNode => r::Ok;
    /// Shows one node, whole.
    GetNode, "get_node", Observer, q::GetNode => r::GetNodeResult;
    /// Lists tasks, newest first.
    ListTasks, "list_tasks", Observer, q::ListTasks => r::TaskList;
    /// Ends a task: what has not ended is failed, and the holders of its leases are told.
    CancelTask, "cancel_task", Worker, q::CancelTask => r::CancelledTask;
    /// Hands out no more nodes of a task. What runs goes on.
    PauseTask, "pause_task", Worker, q::TaskRef => r::Ok;
    /// Hands out nodes of a paused task again.
    ResumeTask, "resume_task", Worker, q::TaskRef => r::Ok;
    /// Makes failed nodes PENDING again.
    RetryNodes, "retry_nodes", Worker, q::RetryNodes => r::NodeIds;
    /// Removes finished tasks with their nodes and journal entries. Tombstones stay.
    PruneTasks, "prune_tasks", Operator, q::PruneTasks => r::Pruned;
    /// Reads the journal a page at a time.
    ReadJournal, "read_journal", Observer, q::ReadJournal => r::JournalPage;
    /// Follows the journal. The connection then carries one entry a line, and nothing else.
    SubscribeJournal, "subscribe_journal", Observer, q::SubscribeJournal => r::Subscribed;
    /// Runs a session of an agent. Answers as soon as that is durable.
    RunAgent, "run_agent", Operator, q::RunAgent => r::QueuedSession;
    /// Lists the agents that are declared.
    ListAgents, "list_agents", Observer, q::NoParams => r::AgentList;
    /// Lists sessions, newest first.
    ListSessions, "list_sessions", Observer, q::ListSessions => r::SessionList;
    /// Shows one session.
    GetSession, "get_session", Observer, q::SessionRef => crate::SessionInfo;
    /// Asks for a session's end. Answers at once; the session ends when its agent is gone.
    StopSession, "stop_session", Operator, q::StopSession => r::Ok;
    /// Removes a session that is over, with its transcript.
    RemoveSession, "remove_session", Operator, q::SessionRef => r::RemovedSession;
    /// Lists the worktrees that sessions left, with what in them is nowhere else, and those of running sessions.
    ListWorktrees, "list_worktrees", Operator, q::NoParams => r::WorktreeList;
    /// Removes worktrees whose work is elsewhere as well. What is nowhere else stays, unless it is forced.
    PruneWorktrees, "prune_worktrees", Operator, q::PruneWorktrees => r::PrunedWorktrees;
    /// Reads a session's transcript, and waits for more if asked to.
    ReadTranscript, "read_transcript", Operator, q::ReadTranscript => r::TranscriptPage;
    /// Reads agentd.toml again. A file that cannot be used changes nothing.
    Reload, "reload", Operator, q::NoParams => r::Reloaded;
    /// Asks an `agentd run` that is the daemon itself to make way for one that starts. A daemon refuses it.
    StepAside, "step_aside", Operator, q::NoParams => r::Ok;
    /// Who the caller is, and what the caller may do.
    WhoAmI, "who_am_i", Observer, q::NoParams => r::WhoAmI;
    /// Writes a copy of the database to a new file, while the daemon goes on.
    BackupDatabase, "backup_database", Operator, q::FileRef => r::BackedUp;
    /// Looks for damage in the database, and for journal entries and state that disagree.
    CheckDatabase, "check_database", Operator, q::NoParams => r::Checked;
    /// Replaces the whole state by a backup's, in one transaction.
    RestoreDatabase, "restore_database", Operator, q::FileRef => r::Restored;
}

impl Method {
    /// Finds a method by either spelling, or by one of the two older names that clients still use.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "GetTaskStatus" | "get_task_status" => Some(Self::TaskStatus),
            "Whoami" | "whoami" => Some(Self::WhoAmI),
            _ => Self::ALL
                .iter()
                .copied()
                .find(|method| method.name() == name || method.snake_name() == name),
        }
    }

    /// As [`Method::parse`], with the answer to give when there is none.
    ///
    /// # Errors
    /// Names the nearest method that there is.
    pub fn find(name: &str) -> Result<Self, RpcError> {
        Self::parse(name).ok_or_else(|| {
            let shown: String = name.chars().take(100).collect();
            let folded: String = shown
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase())
                .collect();
            let near = Self::ALL.iter().find(|method| {
                let known = method.name().to_ascii_lowercase();
                known == folded || (folded.len() > 3 && (known.contains(&folded) || folded.contains(&known)))
            });
            let hint = near.map_or_else(
                || "DescribeInterface lists them all".to_owned(),
                |method| format!("did you mean {}?", method.name()),
            );
            RpcError::new(
                code::UNKNOWN_METHOD,
                Reason::BadRequest,
                format!("unknown method {shown:?}; {hint}"),
            )
        })
    }
}

fn read_params<T: DeserializeOwned + Params>(method: Method, params: &RawValue) -> Result<T, RpcError> {
    let text = if params.get() == "null" {
        "{}"
    } else {
        params.get()
    };
    if !text.starts_with('{') {
        return Err(RpcError::bad_params(format!(
            "params of {} must be an object",
            method.name()
        )));
    }
    let params: T = serde_json::from_str(text).map_err(|error| {
        let field = misfit::<T>(text);
        RpcError::bad_params(format!("bad params of {}: {field}{error}", method.name()))
    })?;
    params
        .check()
        .map_err(|why| RpcError::bad_params(format!("bad params of {}: {why}", method.name())))?;
    Ok(params)
}

/// The path of the parameter that does not fit, like `initial_nodes[3].id: `; nothing when it is the object as
/// a whole, because something is missing in it. Reads the text once more, and only after it was refused: keeping
/// track of where the parser is would cost every good request.
fn misfit<T: DeserializeOwned>(text: &str) -> String {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) if error.path().iter().next().is_some() => {
            // A path may have the client's own names in it.
            let path: String = error.path().to_string().chars().take(200).collect();
            format!("{path}: ")
        }
        _ => String::new(),
    }
}

fn schema_of<T: JsonSchema>() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<T>()
}

fn any_of(mut schemas: Vec<Schema>) -> Schema {
    if schemas.len() == 1 {
        return schemas.remove(0);
    }
    // References count from the root, so what they refer to belongs there.
    let mut definitions = Map::new();
    for schema in &mut schemas {
        schema.remove("$schema");
        if let Some(Value::Object(own)) = schema.remove("$defs") {
            definitions.extend(own);
        }
    }
    schemars::json_schema!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": definitions,
        "anyOf": schemas,
    })
}

/// What `DescribeInterface` answers.
#[must_use]
pub fn describe_interface() -> Value {
    let methods: Vec<Value> = Method::ALL
        .iter()
        .map(|method| {
            let (params, result) = method.schemas();
            json!({
                "method": method.name(),
                "description": method.description(),
                "role": method.role(),
                "params": shape(params.as_value(), params.as_value(), 0),
                "result": shape(result.as_value(), result.as_value(), 0),
                "params_schema": params,
                "result_schema": result,
            })
        })
        .collect();
    json!({
        "protocol": PROTOCOL,
        "version": env!("CARGO_PKG_VERSION"),
        "transport": "unix-domain-socket",
        "framing": "one JSON request per line, one JSON response per line",
        "state_model": {
            "node_statuses": crate::NodeStatus::ALL,
            "strict_transitions": [
                "PENDING -> RUNNING (acquire)",
                "RUNNING -> COMPLETED (complete, with the current lease)",
                "RUNNING -> FAILED (fail, with the current lease; or cancel; or an expired lease and no attempt left)",
                "RUNNING -> PENDING (lease expired; or failed with attempts left; or released)",
                "PENDING -> FAILED (cancel)",
                "FAILED -> PENDING (retry)",
            ],
        },
        "resource_lock_model": {
            "exclusive": true,
            "expires": "at lease_expires_at, unless extended by HeartbeatResourceLock",
            "held": "AcquireResourceLock answers null, or waits up to wait_secs; waiters are served in order",
            "fence": "each grant of a key has a larger number than the last",
        },
        "limits": {
            "line_bytes_max": limits::LINE_BYTES_MAX,
            "answer_bytes_max": limits::ANSWER_BYTES_MAX,
            "nesting_max": crate::NESTING_MAX,
            "nodes_per_request_max": limits::NODES_PER_REQUEST_MAX,
            "nodes_per_task_max": limits::NODES_PER_TASK_MAX,
            "wait_secs_max": limits::WAIT_SECS_MAX,
            "lease_secs_max": limits::LEASE_SECS_MAX,
        },
        "methods": methods,
    })
}

// The short form of a schema: `{"task_id": "uuid", "lease_owner": "string?"}`. Two levels are shown; what
// lies deeper is `object`.
fn shape(root: &Value, schema: &Value, level: usize) -> Value {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix("#/$defs/"))
    {
        return shape(root, &root["$defs"][name], level);
    }
    for union in ["anyOf", "oneOf"] {
        if let Some(variants) = schema[union].as_array() {
            let shapes: Vec<Value> = variants
                .iter()
                .map(|variant| shape(root, variant, level))
                .filter(|shape| shape != "null")
                .collect();
            let nullable = shapes.len() < variants.len();
            return match (shapes.as_slice(), nullable) {
                ([Value::String(one)], true) => json!(format!("{one}|null")),
                ([one], true) if level == 0 => json!([one, null]),
                ([one], _) => one.clone(),
                _ => json!("string"),
            };
        }
    }
    if let Some(properties) = schema["properties"].as_object() {
        if level > 1 {
            return json!("object");
        }
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let fields: Map<String, Value> = properties
            .iter()
            .map(|(name, property)| {
                let inner = shape(root, property, level + 1);
                let optional = !required.contains(&name.as_str());
                match inner {
                    Value::String(text) if optional => (name.clone(), json!(format!("{text}?"))),
                    inner if optional => (format!("{name}?"), inner),
                    inner => (name.clone(), inner),
                }
            })
            .collect();
        return Value::Object(fields);
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => json!([shape(root, &schema["items"], level + 1)]),
        // No parameters are no parameters, not some.
        Value::String(kind) if kind == "object" && level == 0 => json!({}),
        Value::String(kind) => json!(schema["format"].as_str().filter(|f| *f == "uuid").unwrap_or(kind)),
        Value::Array(kinds) => {
            let format = schema["format"].as_str().filter(|f| *f == "uuid");
            let kind = kinds
                .iter()
                .filter_map(Value::as_str)
                .find(|kind| *kind != "null")
                .unwrap_or("null");
            json!(format!("{}|null", format.unwrap_or(kind)))
        }
        _ if schema["enum"].is_array() => json!("string"),
        _ if schema["const"].is_string() => schema["const"].clone(),
        _ => json!("any"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snake(name: &str) -> String {
        let mut out = String::new();
        for c in name.chars() {
            if c.is_ascii_uppercase() && !out.is_empty() {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        }
        out
    }

    #[test]
    fn both_spellings_name_the_method() {
        for method in Method::ALL {
            assert_eq!(method.snake_name(), snake(method.name()));
            assert_eq!(Method::parse(method.name()), Some(*method));
            assert_eq!(Method::parse(method.snake_name()), Some(*method));
        }
        assert_eq!(Method::parse("GetTaskStatus"), Some(Method::TaskStatus));
        assert!(
            Method::find("RegisterTasks")
                .unwrap_err()
                .message
                .contains("did you mean RegisterTask?")
        );
    }

    #[test]
    fn short_shapes_name_every_field_and_mark_the_optional_ones() {
        let interface = describe_interface();
        let method = |name: &str| {
            let methods = interface["methods"].as_array().unwrap();
            methods
                .iter()
                .find(|method| method["method"] == name)
                .unwrap()
                .clone()
        };
        assert_eq!(method("Health")["params"], json!({}));
        assert_eq!(method("HeartbeatNode")["params"]["lease_id"], "uuid");
        assert_eq!(method("AcquireNextNode")["params"]["lease_owner"], "string|null?");
        assert_eq!(method("RegisterTask")["params"]["goal"], "string");
        assert_eq!(method("RegisterTask")["result"]["task_id"], "uuid");
        assert_eq!(method("AcquireNextNode")["result"][1], Value::Null);
        assert_eq!(
            method("AcquireNextNode")["result"][0]["context"]["task"],
            "object"
        );
        assert_eq!(method("TaskStatus")["result"]["counts"]["PENDING?"], Value::Null);
        println!("{:#}", method("TaskStatus")["result"]);
    }

    #[test]
    fn parameters_are_held_to_their_bounds() {
        let parse = |method, text: &str| Request::parse(method, &RawValue::from_string(text.into()).unwrap());
        let error = parse(Method::AcquireNextNode, r#"{"wait_secs":3601}"#).unwrap_err();
        assert_eq!(error.code, code::BAD_PARAMS);
        assert!(
            error
                .message
                .contains("wait_secs is 3601; it must be between 0 and 3600"),
            "{error}"
        );
        assert!(parse(Method::AcquireNextNode, "null").is_ok());
        assert!(
            parse(
                Method::RegisterTask,
                r#"{"goal":"g","context":null,"initial_nodes":null}"#
            )
            .is_ok()
        );
        for (text, field) in [
            (r#"{"goal":5}"#, " goal: "),
            (
                r#"{"goal":"g","initial_nodes":[{},{"id":7}]}"#,
                " initial_nodes[1].id: ",
            ),
            ("{}", "RegisterTask: missing field `goal`"),
        ] {
            let error = parse(Method::RegisterTask, text).unwrap_err();
            assert!(error.message.contains(field), "{error}");
        }
        assert!(parse(Method::Health, "[]").is_err());
        assert!(parse(Method::Health, r#"{"unknown":1}"#).is_ok());
        let reserved = format!(
            r#"{{"task_id":"{0}","node_id":"{0}","action_type":"COMPLETE_NODE","payload":1}}"#,
            uuid::Uuid::nil()
        );
        assert!(parse(Method::CommitEvent, &reserved).is_err());
    }
}
