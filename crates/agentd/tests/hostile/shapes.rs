//! Two descriptions of the wire format: the published JSON Schemas, and the table of the protocol's documentation.

use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The schemas that the daemon itself gives, compiled.
pub(crate) struct Schemas {
    pub(crate) interface: Value,
    validators: BTreeMap<String, (Validator, Validator)>,
}

impl Schemas {
    /// Compiles every schema of `DescribeInterface`'s answer.
    pub(crate) fn new(interface: Value) -> Self {
        let compile = |method: &Value, what: &str| {
            jsonschema::options()
                .should_validate_formats(true)
                .build(&method[what])
                .unwrap_or_else(|error| panic!("{what} of {}: {error}", method["method"]))
        };
        let validators = interface["methods"]
            .as_array()
            .unwrap()
            .iter()
            .map(|method| {
                for what in ["params_schema", "result_schema"] {
                    let schema = &method[what];
                    jsonschema::meta::validate(schema)
                        .unwrap_or_else(|error| panic!("{what} of {}: {error}", method["method"]));
                }
                let name = method["method"].as_str().unwrap().to_owned();
                (
                    name,
                    (compile(method, "params_schema"), compile(method, "result_schema")),
                )
            })
            .collect();
        Self {
            interface,
            validators,
        }
    }

    pub(crate) fn methods(&self) -> &[Value] {
        self.interface["methods"].as_array().unwrap()
    }

    pub(crate) fn accepts(&self, method: &str, params: &Value) -> bool {
        self.validators[method].0.is_valid(params)
    }

    #[track_caller]
    pub(crate) fn check_params(&self, method: &str, params: &Value) {
        check(&self.validators[method].0, method, params);
    }

    #[track_caller]
    pub(crate) fn check_result(&self, method: &str, result: &Value) {
        check(&self.validators[method].1, method, result);
    }
}

#[track_caller]
fn check(validator: &Validator, method: &str, value: &Value) {
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{method}: {errors:#?}\n{value:#}");
}

/// Checks a value against a shape: an object of names and shapes (`"name?"` may be absent, more names are welcome), an
/// array with the shape of its elements, or the name of a type, with `|null` if null is allowed.
#[track_caller]
pub(crate) fn fits(value: &Value, shape: &Value) {
    let mut mistakes = Vec::new();
    compare(value, shape, "", &mut mistakes);
    assert!(mistakes.is_empty(), "{mistakes:#?}\n{value:#}");
}

fn compare(value: &Value, shape: &Value, path: &str, mistakes: &mut Vec<String>) {
    match shape {
        Value::Object(fields) => {
            if !value.is_object() {
                mistakes.push(format!("{path} is no object"));
                return;
            }
            for (name, inner) in fields {
                let bare = name.trim_end_matches('?');
                match value.get(bare) {
                    Some(field) => compare(field, inner, &format!("{path}.{bare}"), mistakes),
                    None if name.ends_with('?') => {}
                    None => mistakes.push(format!("{path}.{bare} is missing")),
                }
            }
        }
        Value::Array(element) => match value.as_array() {
            Some(values) => {
                for (index, inner) in values.iter().enumerate() {
                    compare(inner, &element[0], &format!("{path}[{index}]"), mistakes);
                }
            }
            None => mistakes.push(format!("{path} is no array")),
        },
        Value::String(kinds) => {
            if !kinds.split('|').any(|kind| is_a(value, kind)) {
                mistakes.push(format!("{path} is {value}, not {kinds}"));
            }
        }
        other => panic!("no shape: {other}"),
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "any" => true,
        "null" => value.is_null(),
        "true" => *value == json!(true),
        "string" => value.is_string(),
        "int" => value.is_i64() || value.is_u64(),
        "object" => value.is_object(),
        "status" => ["PENDING", "RUNNING", "COMPLETED", "FAILED"].contains(&value.as_str().unwrap_or("")),
        "counts" => value.as_object().is_some_and(|counts| {
            ["PENDING", "RUNNING", "COMPLETED", "FAILED"]
                .iter()
                .all(|status| counts.get(*status).is_some_and(Value::is_u64))
                && counts.len() == 4
        }),
        // Hyphenated, and in lower case.
        "uuid" => value.as_str().is_some_and(|text| {
            uuid::Uuid::parse_str(text).is_ok_and(|uuid| uuid.hyphenated().to_string() == text)
        }),
        // `2026-01-31T09:15:00.250Z`
        "time" => value.as_str().is_some_and(|text| {
            text.len() == 24
                && text.bytes().zip(b"0000-00-00T00:00:00.000Z").all(|(byte, form)| {
                    if *form == b'0' {
                        byte.is_ascii_digit()
                    } else {
                        byte == *form
                    }
                })
        }),
        // Unix seconds of this century's first half, so not milliseconds.
        "secs" => value
            .as_i64()
            .is_some_and(|secs| (1_700_000_000..2_600_000_000).contains(&secs)),
        other => panic!("no kind: {other}"),
    }
}

/// The result of a method, as the protocol's table has it.
pub(crate) fn result_shape(method: &str) -> Value {
    let task = json!({ "id": "uuid", "goal": "string", "context": "any", "created_at": "time" });
    let node = json!({
        "id": "uuid", "task_id": "uuid", "status": "status", "dependencies": ["uuid"], "payload_schema": "any",
        "result_payload": "any", "acquired_at": "secs|null", "lease_id": "uuid|null", "lease_owner": "string|null",
        "lease_expires_at": "secs|null", "updated_at": "secs",
    });
    let lock = json!({
        "resource_key": "string", "lease_id": "uuid", "owner": "string", "provider": "string|null",
        "task_id": "uuid|null", "node_id": "uuid|null", "metadata": "any", "acquired_at": "secs",
        "lease_expires_at": "secs", "fence": "int",
    });
    match method {
        "DescribeInterface" => json!({
            "protocol": "string", "transport": "string", "framing": "any",
            "state_model": { "node_statuses": ["status"], "strict_transitions": ["string"] },
            "resource_lock_model": "any",
            "methods": [{ "method": "string", "params": "object", "result": "any" }],
        }),
        "Health" => json!({
            "status": "string", "database": "string", "running_timeout_secs": "int", "context_event_limit": "int",
        }),
        "Metrics" => json!({
            "uptime_secs": "int", "running_timeout_secs": "int", "context_event_limit": "int",
            "runtime": {
                "registered_tasks": "int", "acquire_attempts": "int", "acquired_nodes": "int",
                "acquisition_latency_micros_total": "int", "average_acquisition_latency_micros": "int",
                "committed_events": "int", "heartbeats": "int", "completed_nodes": "int", "failed_nodes": "int",
                "timeout_rollbacks": "int",
            },
            "database": {
                "schema_version": "int", "latest_schema_version": "int", "total_tasks": "int", "total_nodes": "int",
                "total_events": "int", "active_resource_locks": "int", "expired_resource_locks": "int",
                "running_leases": "int", "expired_running_leases": "int", "node_status_counts": "counts",
            },
        }),
        "RegisterTask" => json!({ "task_id": "uuid" }),
        "AcquireNextNode" => json!({
            "task_id": "uuid", "node_id": "uuid", "lease_id": "uuid", "lease_owner": "string",
            "lease_expires_at": "secs", "fence": "int",
            "context": {
                "task": task, "node": node,
                "completed_dependencies": [{ "node_id": "uuid", "result_payload": "any" }],
                "event_journal_limit": "int",
                "event_journal": [{
                    "id": "uuid", "task_id": "uuid", "node_id": "uuid|null", "action_type": "string",
                    "payload": "any", "timestamp": "time",
                }],
            },
        }),
        "CommitEvent" | "CompleteNode" | "FailNode" => json!({ "event_id": "uuid" }),
        "HeartbeatNode" | "HeartbeatResourceLock" | "ReleaseResourceLock" => json!({ "ok": "true" }),
        "TaskStatus" => json!({ "task": task, "counts": "counts", "nodes": [node] }),
        "AcquireResourceLock" => lock,
        "ListResourceLocks" => {
            let mut listed = lock;
            listed["updated_at"] = json!("secs");
            json!({ "locks": [listed] })
        }
        other => panic!("not one of the fourteen: {other}"),
    }
}
