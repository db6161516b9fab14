//! Every parameter of every method with values of every wrong type, made from the published schemas.

use crate::raw::planted;
use crate::shapes::Schemas;
use crate::support::Wire;
use serde_json::{Map, Value, json};

fn interface(wire: &mut Wire) -> Schemas {
    Schemas::new(wire.call("DescribeInterface", json!({})))
}

/// A value that fits a schema.
fn sample(root: &Value, schema: &Value) -> Value {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix("#/$defs/"))
    {
        return sample(root, &root["$defs"][name]);
    }
    if let Some(variants) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        return sample(root, &variants[0]);
    }
    if let Some(fixed) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return fixed.clone();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("string") if schema["format"] == "uuid" => json!(uuid::Uuid::from_u128(0xdead)),
        Some("string") => json!("text"),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(false),
        Some("array") => json!([]),
        Some("object") => object(root, schema),
        _ => json!({ "any": "thing" }),
    }
}

fn object(root: &Value, schema: &Value) -> Value {
    let required = schema["required"].as_array().into_iter().flatten();
    let fields: Map<String, Value> = required
        .filter_map(Value::as_str)
        .map(|name| (name.to_owned(), sample(root, &schema["properties"][name])))
        .collect();
    Value::Object(fields)
}

fn wrong_values() -> Vec<Value> {
    let deep = (0..60).fold(json!(1), |inner, _| json!([inner]));
    vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(-1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("text"),
        json!("\u{0}"),
        json!("'; DROP TABLE tasks; --"),
        json!("00000000-0000-0000-0000-00000000000g"),
        json!([]),
        json!([null]),
        json!([1, "a", {}]),
        json!([{ "id": "no uuid" }]),
        json!([{ "dependencies": 5 }]),
        json!([{ "work": { "kind": "nonsense" } }]),
        json!([{ "work": { "kind": "command", "argv": [], "cwd": "relative" } }]),
        json!([{ "retry": { "max_attempts": 0 } }]),
        json!([{ "priority": 1e10 }]),
        json!({}),
        json!({ "a": { "b": [] } }),
        deep,
    ]
}

#[test]
fn every_parameter_of_every_method_is_held_to_its_type() {
    let (_env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let schemas = interface(&mut wire);
    let (mut refused, mut taken) = (0, 0);
    for described in schemas.methods() {
        let method = described["method"].as_str().unwrap();
        let schema = &described["params_schema"];
        let good = object(schema, schema);
        schemas.check_params(method, &good);
        for not_an_object in [json!(5), json!("x"), json!([good]), json!(true)] {
            let error = wire.error(method, not_an_object);
            assert_eq!(error["code"], -32602, "{method}: {error}");
        }
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for name in &required {
            let mut params = good.clone();
            params.as_object_mut().unwrap().remove(*name);
            let error = wire.error(method, params);
            assert_eq!(error["code"], -32602, "{method} without {name}: {error}");
            assert!(error["message"].as_str().unwrap().contains(name), "{error}");
        }
        for name in properties.keys() {
            for value in wrong_values() {
                let mut params = good.clone();
                params[name] = value.clone();
                if schemas.accepts(method, &params) {
                    continue;
                }
                // What need not be there may be null, whatever its schema says of its type: that is how some
                // clients write what they do not set.
                if value.is_null() && !required.contains(&name.as_str()) {
                    continue;
                }
                let error = wire.error(method, params);
                assert_eq!(error["code"], -32602, "{method}.{name} = {value}: {error}");
                let message = error["message"].as_str().unwrap();
                assert!(message.contains(method), "{message}");
                // A wrong type is said where it is. What is wrong otherwise has a sentence of its own; and filters
                // of the journal are read in one go with the rest, so that only the type can be told.
                let of_type = message.contains("invalid type");
                if of_type && !["ReadJournal", "SubscribeJournal"].contains(&method) {
                    assert!(
                        message.contains(name.as_str()),
                        "{method}.{name} = {value}: {message}"
                    );
                }
                refused += 1;
            }
        }
        taken += properties.len();
    }
    assert!(
        taken > 60 && refused > 500,
        "{taken} parameters, {refused} wrong values"
    );
    planted.check(&daemon);
}

/// What the schema accepts, the parser does, too: it may be refused for what it asks, not for its type.
#[test]
fn the_schemas_promise_no_more_than_the_daemon_takes() {
    let (env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let schemas = interface(&mut wire);
    let mut tried = 0;
    for described in schemas.methods() {
        let method = described["method"].as_str().unwrap();
        if [
            "BackupDatabase",
            "RestoreDatabase",
            "SubscribeJournal",
            "PruneTasks",
        ]
        .contains(&method)
        {
            continue;
        }
        let schema = &described["params_schema"];
        let good = object(schema, schema);
        for name in schema["properties"].as_object().into_iter().flat_map(Map::keys) {
            for value in [
                sample(schema, &schema["properties"][name]),
                json!(uuid::Uuid::from_u128(1)),
                json!(7),
                json!([]),
                json!("PENDING"),
                json!({}),
                json!(true),
            ] {
                let mut params = good.clone();
                params[name] = value;
                if params.get("wait_secs").is_some() || !schemas.accepts(method, &params) {
                    continue;
                }
                tried += 1;
                let response = wire.response(method, params.clone());
                if let Some(error) = response.get("error") {
                    let message = error["message"].as_str().unwrap();
                    assert!(!message.contains("invalid type"), "{method} {params}: {message}");
                } else {
                    schemas.check_result(method, &response["result"]);
                }
            }
        }
    }
    assert!(tried > 60, "{tried}");
    planted.check(&daemon);
    drop(env);
}

#[test]
fn numbers_out_of_range_and_strings_out_of_bounds_are_refused_by_name() {
    let (_env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let task = &planted.task_id;
    let long = |bytes: usize| "x".repeat(bytes);
    let cases = [
        ("AcquireNextNode", json!({ "wait_secs": 3601 }), "wait_secs"),
        ("AcquireNextNode", json!({ "wait_secs": -1 }), "wait_secs"),
        ("AcquireNextNode", json!({ "lease_secs": 0 }), "lease_secs"),
        ("AcquireNextNode", json!({ "lease_secs": 604_801 }), "lease_secs"),
        ("AcquireNextNode", json!({ "lease_secs": u64::MAX }), "lease_secs"),
        (
            "AcquireNextNode",
            json!({ "lease_owner": long(257) }),
            "lease_owner",
        ),
        (
            "AcquireNextNode",
            json!({ "capabilities": vec!["c"; 65] }),
            "capabilities",
        ),
        (
            "AcquireNextNode",
            json!({ "capabilities": ["a,b"] }),
            "capability",
        ),
        ("AcquireNextNode", json!({ "capabilities": [""] }), "capability"),
        (
            "AcquireResourceLock",
            json!({ "resource_key": "" }),
            "resource_key",
        ),
        (
            "AcquireResourceLock",
            json!({ "resource_key": long(5000) }),
            "resource_key",
        ),
        (
            "AcquireResourceLock",
            json!({ "resource_key": "k", "ttl_secs": 0 }),
            "ttl_secs",
        ),
        (
            "AcquireResourceLock",
            json!({ "resource_key": "k", "metadata": long(4097) }),
            "metadata",
        ),
        ("RegisterTask", json!({ "goal": long(64 * 1024 + 1) }), "goal"),
        (
            "RegisterTask",
            json!({ "goal": "g", "idempotency_key": "" }),
            "idempotency_key",
        ),
        (
            "RegisterTask",
            json!({ "goal": "g", "idempotency_key": long(257) }),
            "idempotency_key",
        ),
        (
            "RegisterTask",
            json!({ "goal": "g", "initial_nodes": [{ "name": long(257) }] }),
            "name",
        ),
        (
            "RegisterTask",
            json!({ "goal": "g", "initial_nodes": [{ "retry": { "max_attempts": 1001 } }] }),
            "max_attempts",
        ),
        (
            "RegisterTask",
            json!({ "goal": "g", "initial_nodes": [{ "retry": { "max_attempts": 1, "backoff_secs": 604_801 } }] }),
            "backoff",
        ),
        (
            "RegisterTask",
            json!({ "goal": "g", "initial_nodes": [{ "retry": { "max_attempts": 1, "backoff_secs": -1 } }] }),
            "backoff_secs",
        ),
        ("ListTasks", json!({ "limit": 0 }), "limit"),
        ("ListTasks", json!({ "limit": 10_001 }), "limit"),
        ("ListTasks", json!({ "limit": 4_294_967_296_u64 }), "limit"),
        ("TaskStatus", json!({ "task_id": task, "limit": 0 }), "limit"),
        ("ReadJournal", json!({ "last": 0 }), "last"),
        (
            "ReadJournal",
            json!({ "action_types": vec!["a"; 65] }),
            "action_types",
        ),
        (
            "PruneTasks",
            json!({ "older_than_secs": u64::MAX }),
            "older_than_secs",
        ),
        ("BackupDatabase", json!({ "path": "relative" }), "path"),
        ("BackupDatabase", json!({ "path": "/a\u{0}b" }), "path"),
        (
            "BackupDatabase",
            json!({ "path": format!("/{}", long(5000)) }),
            "path",
        ),
    ];
    for (method, params, field) in cases {
        let error = wire.error(method, params);
        assert_eq!(error["code"], -32602, "{method}: {error}");
        assert!(
            error["message"].as_str().unwrap().contains(field),
            "{method} {field}: {error}"
        );
    }
    // Numbers that fit no type of any language.
    for number in [
        "1e999",
        "-1e999",
        "99999999999999999999999",
        "0.1e-999",
        "1.7976931348623157e309",
    ] {
        let line =
            format!("{{\"id\":1,\"method\":\"AcquireNextNode\",\"params\":{{\"wait_secs\":{number}}}}}\n");
        wire.send(line.as_bytes());
        assert_eq!(wire.line().unwrap()["error"]["code"], -32602, "{number}");
    }
    // Journal places at the ends of what there is; a wrong page mark is said to be one.
    for seq in [i64::MIN, -1, 0, i64::MAX] {
        wire.response("ReadJournal", json!({ "from_seq": seq }));
        assert_eq!(
            wire.call("ReadJournal", json!({ "from_seq": i64::MAX }))["entries"],
            json!([])
        );
    }
    for cursor in ["", "x", "-1", "9999999999999999999999", "\u{0}", "%00"] {
        for (method, params) in [
            ("ListTasks", json!({ "cursor": cursor })),
            ("TaskStatus", json!({ "task_id": task, "cursor": cursor })),
            ("ListResourceLocks", json!({ "cursor": cursor })),
        ] {
            let response = wire.response(method, params);
            assert!(
                response["error"]["code"] != -32603,
                "{method} {cursor:?}: {response}"
            );
        }
    }
    planted.check(&daemon);
}
