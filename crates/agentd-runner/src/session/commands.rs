//! Commands of plans that a session runs instead of its agent's own program: they find what a worker's commands find,
//! and their results look alike.

use super::error::StepError;
use super::manager::Inner;
use super::setup::Order;
use super::state::{self, RunDir};
use super::teardown::Said;
use super::{home, own};
use crate::runtime::engine::{Inside, Users};
use crate::worker::inputs;
use agentd_protocol::requests::GetNode;
use agentd_protocol::results::{AcquiredNode, GetNodeResult};
use agentd_protocol::{CommandWork, Json, SessionOutcome, Work};
use agentd_store::session::SessionLease;
use agentd_store::{Query, StoreError, ask};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The directory of the results of what the node depends on, in the run directory.
const INPUTS_DIR: &str = "inputs";
/// The directory of a task's artifacts, in the home.
const ARTIFACTS_DIR: &str = "artifacts";

/// The command that a node is about, when it is about one.
pub(super) fn of(node: &AcquiredNode) -> Option<&CommandWork> {
    match &node.context.node.work {
        Some(Work::Agent(work)) => work.command.as_ref(),
        _ => None,
    }
}

/// What it sees of the host, read-only, at the same places.
///
/// # Errors
/// When that would show it agentd's own files: its socket, secrets, other agents' homes. `own` is where those are.
pub(super) fn read(node: &AcquiredNode, own: &[&Path]) -> Result<Vec<PathBuf>, StepError> {
    let Some(Work::Agent(work)) = &node.context.node.work else {
        return Ok(Vec::new());
    };
    if work.command.is_none() {
        return Ok(Vec::new());
    }
    for path in work.read.iter().map(Path::new) {
        let real = path
            .canonicalize()
            .map_err(|error| StepError::declaration(format!("cannot find {}: {error}", path.display())))?;
        own::refuse(path, &real, own)?;
    }
    Ok(work.read.iter().map(PathBuf::from).collect())
}

/// Puts up what it is given, and says which variables it gets besides the session's.
pub(super) fn supply(
    order: &Order,
    node: &AcquiredNode,
    work: &CommandWork,
    run: &RunDir,
    home: &Path,
    users: &Users,
    inside: &Inside,
) -> Result<BTreeMap<String, String>, StepError> {
    let (dir, path) = run.fixed_directory(INPUTS_DIR)?;
    let dependencies = &node.context.completed_dependencies;
    for (dependency, name) in dependencies.iter().zip(inputs::file_names(dependencies)) {
        let Some(result) = &dependency.result_payload else {
            continue;
        };
        for (name, bytes) in inputs::files(&name, result) {
            state::write_new(dir.as_fd(), &path, &name, &bytes, 0o444, None)?;
        }
    }
    state::seal(&dir, &path)?;
    let artifacts = format!("{ARTIFACTS_DIR}/{}", inputs::artifacts_of(node));
    home::make_in(home, &artifacts, users)?;
    let mut env = inputs::of_plan(node, work);
    let own = [
        ("AGENTD_INPUTS", inside.run_dir.join(INPUTS_DIR)),
        ("AGENTD_RESULT", inside.run_dir.join("result.json")),
        ("AGENTD_ARTIFACTS", inside.home.join(&artifacts)),
        ("AGENTD_ARTIFACTS_ON_HOST", home.join(&artifacts)),
    ];
    for (name, path) in own {
        let text = path.to_str().ok_or_else(|| {
            StepError::machine(format!(
                "{} is not UTF-8; agentd's directories must be",
                path.display()
            ))
        })?;
        env.insert(name.into(), text.into());
    }
    tracing::debug!(session = %order.info.id, "runs a command of a plan");
    Ok(env)
}

/// Adds the results that were too large to come with the node.
pub(super) async fn complete(inner: &Inner, node: &mut AcquiredNode) -> Result<(), StoreError> {
    let task_id = node.task_id;
    for dependency in &mut node.context.completed_dependencies {
        if dependency.result_omitted_bytes.is_some() && dependency.result_payload.is_none() {
            let query = Query::GetNode(GetNode {
                task_id,
                node_id: dependency.node_id,
            });
            let found: Box<GetNodeResult> = ask(inner.store(), query).await?;
            dependency.result_payload = found.node.result_payload;
        }
    }
    Ok(())
}

/// True when a session's node is about a command. Asked at the end, when another daemon may have begun it.
pub(super) async fn is_of(inner: &Inner, lease: SessionLease) -> Result<bool, StoreError> {
    let query = Query::GetNode(GetNode {
        task_id: lease.task_id,
        node_id: lease.node_id,
    });
    match ask::<Box<GetNodeResult>>(inner.store(), query).await {
        Ok(found) => Ok(matches!(&found.node.work, Some(Work::Agent(work)) if work.command.is_some())),
        Err(StoreError::ShuttingDown) => Err(StoreError::ShuttingDown),
        // Pruned with its task: nobody is told of its result any more.
        Err(_) => Ok(false),
    }
}

/// The result, in the shape that every command's has.
pub(super) fn result(outcome: &SessionOutcome, said: &Said, duration_ms: u64) -> Json {
    let stdout = said.printed();
    let mut result = serde_json::json!({
        "exit_code": outcome.exit_code,
        "stdout": stdout.text,
        "stderr": said.stderr,
        "omitted_bytes": said.omitted_bytes,
        "duration_ms": duration_ms,
    });
    if let Some(base64) = stdout.base64 {
        result["stdout_base64"] = base64.into();
    }
    if let Some(value) = &outcome.result {
        result["value"] = value.to_value();
    }
    Json::from(result)
}
