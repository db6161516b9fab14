//! What a command is given: its environment, and the results of what it depends on as files.

use super::dirs::AttemptDir;
use super::{WorkerOptions, output};
use agentd_protocol::results::{AcquiredNode, CompletedDependency};
use agentd_protocol::{CommandWork, Json, NodeId, TaskId};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;

/// What of a task's context concerns its commands. A task that came from elsewhere may have another context,
/// and then has none of it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TaskContext {
    args: BTreeMap<String, serde_json::Value>,
    env: BTreeMap<String, serde_json::Value>,
    artifacts: serde_json::Value,
}

/// Whose artifacts a node shares: its task's own, or those of the task that its own goes on from.
pub(crate) fn artifacts_of(node: &AcquiredNode) -> TaskId {
    let context: TaskContext = serde_json::from_str(node.context.task.context.text()).unwrap_or_default();
    let named = context.artifacts.as_str().and_then(|id| id.parse().ok());
    named.unwrap_or(node.task_id)
}

/// The command's variables besides the worker's own.
pub(crate) fn environment(
    options: &WorkerOptions,
    node: &AcquiredNode,
    work: &CommandWork,
    dir: &AttemptDir,
    artifacts: &Path,
) -> BTreeMap<String, String> {
    let mut env = of_plan(node, work);
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let own = [
        ("SOCKET_PATH", path(&options.socket_path)),
        ("RUN_DIR", path(dir.path())),
        ("INPUTS", path(&dir.inputs())),
        ("RESULT", path(&dir.result())),
        ("ARTIFACTS", path(artifacts)),
    ];
    env.extend(own.map(|(name, value)| (format!("AGENTD_{name}"), value.replace('\0', ""))));
    env
}

/// What a command's variables are wherever it runs: of its plan, its node and its lease.
pub(crate) fn of_plan(node: &AcquiredNode, work: &CommandWork) -> BTreeMap<String, String> {
    let context: TaskContext = serde_json::from_str(node.context.task.context.text()).unwrap_or_default();
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &context.env {
        if let Some(value) = value.as_str().filter(|value| !value.contains('\0'))
            && !name.is_empty()
            && !name.contains(['=', '\0'])
        {
            env.insert(name.clone(), value.to_owned());
        }
    }
    env.extend(work.env.clone());
    for (name, value) in &context.args {
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.is_empty();
        if let Some(value) = value.as_str().filter(|value| plain && !value.contains('\0')) {
            env.insert(
                format!("AGENTD_ARG_{}", name.to_ascii_uppercase()),
                value.to_owned(),
            );
        }
    }
    let own = [
        ("TASK_ID", node.task_id.to_string()),
        ("NODE_ID", node.node_id.to_string()),
        ("NODE_NAME", node.context.node.name.clone().unwrap_or_default()),
        ("LEASE_ID", node.lease_id.to_string()),
        ("ATTEMPT", node.attempt.to_string()),
        ("FENCE", node.fence.to_string()),
    ];
    env.extend(own.map(|(name, value)| (format!("AGENTD_{name}"), value.replace('\0', ""))));
    env
}

/// Gives each dependency the name of its files: its own, or its id when that cannot be a file's name or is
/// another's already.
pub(crate) fn file_names(dependencies: &[CompletedDependency]) -> Vec<String> {
    let mut taken = HashSet::new();
    let mut name = |dependency: &CompletedDependency| {
        let name = dependency.name.clone().filter(|name| is_file_name(name));
        let name = name.filter(|name| taken.insert(name.clone()));
        name.unwrap_or_else(|| dependency.node_id.to_string())
    };
    dependencies.iter().map(&mut name).collect()
}

fn is_file_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && !name.starts_with(['.', '-'])
}

/// Writes the files of one dependency. Blocks.
pub(crate) fn write(inputs: &Path, name: &str, result: &Json) -> io::Result<()> {
    for (name, bytes) in files(name, result) {
        fs::write(inputs.join(name), bytes)?;
    }
    Ok(())
}

/// The files of one dependency: name and content. What it printed is there under `NAME.out` byte for byte, or not at all:
/// who reads a part of it has to ask for the part.
pub(crate) fn files(name: &str, result: &Json) -> Vec<(String, Vec<u8>)> {
    #[derive(Deserialize)]
    struct Parts<'a> {
        #[serde(default, borrow)]
        value: Option<&'a RawValue>,
    }
    let text = result.text();
    let mut files = vec![(format!("{name}.json"), text.as_bytes().to_vec())];
    match output::of_result(text) {
        Some(printed) if printed.omitted_bytes == 0 => files.push((format!("{name}.out"), printed.bytes)),
        Some(printed) => files.push((format!("{name}.out.truncated"), printed.bytes)),
        None => {}
    }
    // Another program's result, or an agent's, may have any shape; then there is the whole of it and nothing else.
    if text.trim_start().starts_with('{')
        && let Ok(Parts { value: Some(value) }) = serde_json::from_str(text)
    {
        files.push((format!("{name}.value"), value.get().as_bytes().to_vec()));
    }
    files
}

/// The dependencies whose results were too large to come with the node.
pub(crate) fn omitted<'a>(
    dependencies: &'a [CompletedDependency],
    names: &'a [String],
) -> impl Iterator<Item = (NodeId, &'a str)> {
    let omitted = |dependency: &CompletedDependency| dependency.result_omitted_bytes.is_some();
    let pairs = dependencies.iter().zip(names);
    pairs
        .filter(move |(dependency, _)| omitted(dependency))
        .map(|(dependency, name)| (dependency.node_id, &name[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_files_under_safe_names() {
        let dependency = |name: Option<&str>| CompletedDependency {
            node_id: NodeId(uuid::Uuid::new_v4()),
            result_payload: None,
            name: name.map(str::to_owned),
            result_omitted_bytes: None,
        };
        let dependencies = [
            dependency(Some("a.b")),
            dependency(Some("../x")),
            dependency(None),
            dependency(Some("a.b")),
        ];
        let names = file_names(&dependencies);
        assert_eq!(names[0], "a.b");
        assert!(
            names[1..]
                .iter()
                .zip(&dependencies[1..])
                .all(|(name, dep)| *name == dep.node_id.to_string())
        );

        let dir = tempfile::tempdir().unwrap();
        let result = r#"{"exit_code":0,"stdout":"a\nb","value":{"n":1.50}}"#;
        write(dir.path(), "a.b", &Json::from_text(result.into()).unwrap()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("a.b.json"), result);
        assert_eq!(
            (read("a.b.out").as_str(), read("a.b.value").as_str()),
            ("a\nb", "{\"n\":1.50}")
        );
        // Of a session there is what its agent left, whatever that is, or what it printed.
        let result = r#"{"session_id":"01234567-89ab-4cde-8f01-23456789abcd","exit_code":0,"output":"said"}"#;
        write(dir.path(), "session", &Json::from_text(result.into()).unwrap()).unwrap();
        assert_eq!(read("session.out"), "said");
        for (name, own) in [("text", "\"fine\""), ("odd", r#"{"stdout":5,"output":"x"}"#)] {
            write(dir.path(), name, &Json::from_text(own.into()).unwrap()).unwrap();
            assert_eq!(read(&format!("{name}.json")), own);
            assert!(!dir.path().join(format!("{name}.out")).exists());
        }
        let cut = r#"{"stdout":"a\n[… 9 bytes omitted …]\nb","stdout_omitted_bytes":9}"#;
        write(dir.path(), "cut", &Json::from_text(cut.into()).unwrap()).unwrap();
        assert!(!dir.path().join("cut.out").exists() && read("cut.out.truncated").starts_with("a\n"));
        write(
            dir.path(),
            "other",
            &Json::from_text(r#"["a",1]"#.into()).unwrap(),
        )
        .unwrap();
        assert!(!dir.path().join("other.out").exists());
    }
}
