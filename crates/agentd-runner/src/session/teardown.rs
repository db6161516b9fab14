//! Taking an environment down: the inverse of [`super::setup`], always the whole way, and as often as it is asked. It
//! bears with what is only half there, and with what an agent left in its own directories.

use super::error::StepError;
use super::manager::Inner;
use super::outcome::Evidence;
use super::workspace::{WorkspaceOutcome, WorkspaceReport};
use super::worktree::Ending;
use super::{blocking, secrets, tree};
use crate::exec::Captured;
use crate::runtime::engine::Engine;
use crate::worker::output::{self, Printed};
use crate::worker::payload::STDOUT_JSON_MAX;
use agentd_config::{Agent, Uncommitted, WorktreePolicy};
use agentd_protocol::limits::RESULT_BYTES_MAX;
use agentd_protocol::{Json, OutputStream, SessionId, SessionInfo, SessionOutcome};
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::record::StopCause;
use agentd_supervisor::transcript::{FRAME_BYTES_MAX, Reader};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// What of an agent's output stands for the result that it did not leave, in bytes.
pub(super) const OUTPUT_BYTES_MAX: u64 = 32 * 1024;
/// The same of a plan's command, whose output is its result.
pub(super) const COMMAND_OUTPUT_BYTES_MAX: u64 = 192 * 1024;
/// What is told of a supervisor's own log, in bytes.
const LOG_BYTES_MAX: u64 = 1024;

/// What is left of it.
#[derive(Default)]
pub(super) struct Down {
    /// The agent's result, or why it cannot be used.
    pub(super) result: Option<Result<Json, String>>,
    /// What became of its worktree.
    pub(super) worktree: Option<WorkspaceReport>,
    /// For people.
    pub(super) remarks: Vec<String>,
}

/// Takes down what set-up built. The agent is gone, and with `runtime_is_clear` so is whatever it ran in.
pub(super) async fn run(
    inner: &Arc<Inner>,
    info: &SessionInfo,
    dir: &SessionDir,
    evidence: &Evidence,
    runtime_is_clear: bool,
) -> Down {
    let mut down = Down::default();
    let exited = &evidence.exited;
    let left_over =
        !runtime_is_clear || exited.lost.is_some() || exited.start_error.is_some() || exited.survivors > 0;
    down.remarks.extend(clear_runtime(inner, info, left_over).await);
    let begun = exited.start_error.is_none();
    let well = begun && exited.code == Some(0) && exited.stop.is_none();
    let (inner, dir, id) = (Arc::clone(inner), dir.clone(), info.id);
    let agent = inner.agent(&info.agent);
    let stopped = exited.stop == Some(StopCause::Timeout);
    let blocking = blocking(move || {
        let mut down = Down::default();
        let state = &inner.options.state;
        if begun {
            down.result = read_result(&dir);
        }
        let completed = well && !stopped && !matches!(down.result, Some(Err(_)));
        match worktree(&inner, id, agent.as_ref(), begun, completed) {
            Ok(report) => down.worktree = report,
            Err(error) => {
                let message = format!("its worktree was left as it is: {error}");
                down.remarks.push(message);
            }
        }
        inner.point("teardown.worktree");
        let secrets = secrets::take_down(state, id);
        inner.point("teardown.secrets");
        let mut budget = tree::Budget::entries(tree::ENTRIES_MAX);
        let files = tree::remove(&dir.run(), &mut budget);
        // Every call is in the journal by now.
        let tools = tree::remove(&dir.tools(), &mut budget);
        inner.point("teardown.files");
        for error in [secrets, files, tools].into_iter().filter_map(Result::err) {
            down.remarks.push(format!("something was left behind: {error}"));
        }
        down
    });
    let rest = blocking.await;
    down.remarks.extend(rest.remarks);
    down.result = rest.result;
    down.worktree = rest.worktree;
    down
}

/// Does with a worktree what its agent's declaration says.
fn worktree(
    inner: &Inner,
    id: SessionId,
    agent: Option<&Agent>,
    begun: bool,
    completed: bool,
) -> Result<Option<WorkspaceReport>, StepError> {
    if !begun {
        return inner.worktrees().discard(id).map(|()| None);
    }
    let ending = Ending {
        // That of an agent that is declared no more stays.
        policy: agent.map_or(WorktreePolicy::Keep, |agent| agent.worktree_policy),
        completed,
        commit_changes: agent.is_some_and(|agent| agent.uncommitted == Uncommitted::Commit),
    };
    match inner.worktrees().finish(id, ending) {
        // What was to be merged is not, for whatever reason.
        Err(error) if ending.policy == WorktreePolicy::Merge && completed => Ok(Some(WorkspaceReport {
            outcome: WorkspaceOutcome::Kept,
            branch: None,
            message: format!("not merged: its worktree was left as it is: {error}"),
            reason: Some(error.to_string()),
            changed: 0,
            beside: 0,
        })),
        finished => finished,
    }
}

/// Removes an environment whose agent never began.
pub(super) async fn clear(inner: &Arc<Inner>, info: &SessionInfo, dir: &SessionDir) {
    let evidence = Evidence {
        exited: agentd_supervisor::record::Exited {
            start_error: Some("it never began".into()),
            ..Default::default()
        },
        ..Evidence::default()
    };
    for remark in run(inner, info, dir, &evidence, false).await.remarks {
        tracing::warn!(session = %info.id, remark, "while removing what was built of it");
    }
}

/// Why a supervisor ended that has not told of its agent's begin; there will be none then.
pub(super) async fn ended_too_early(dir: &SessionDir) -> String {
    let path = dir.supervisor_log();
    let said = blocking(move || {
        let mut text = Vec::new();
        let read = File::open(path).and_then(|log| log.take(LOG_BYTES_MAX).read_to_end(&mut text));
        read.map(|_| String::from_utf8_lossy(&text).trim().to_owned())
    });
    let said = said.await.ok().filter(|said| !said.is_empty());
    let said = said.unwrap_or_else(|| "it was killed".into());
    format!("start: its supervisor ended before the agent began: {said}")
}

// Of a runtime in which nothing is left over only what was made ready for it is taken away.
async fn clear_runtime(inner: &Arc<Inner>, info: &SessionInfo, left_over: bool) -> Option<String> {
    // Before its set-up it has none; every kind is asked then, for the declaration may have changed.
    let of_session = info
        .runtime
        .as_deref()
        .and_then(|kind| inner.options.runtimes.named(kind));
    let engines: Vec<Arc<dyn Engine>> = match of_session {
        Some(engine) => vec![Arc::clone(engine)],
        None => inner
            .options
            .runtimes
            .all()
            .map(|(_, engine)| Arc::clone(engine))
            .collect(),
    };
    for engine in engines {
        let cleared = match left_over {
            true => engine.clear(info.id).await,
            false => engine.unprepare(info.id).await,
        };
        if let Err(error) = cleared {
            return Some(format!("something of it may still be there: {error}"));
        }
    }
    None
}

// The supervisor copied it, with every secret redacted, to where the agent cannot reach.
fn read_result(dir: &SessionDir) -> Option<Result<Json, String>> {
    let text = match std::fs::read_to_string(dir.result()) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(format!("its result cannot be read: {error}"))),
    };
    if text.len() > RESULT_BYTES_MAX {
        return Some(Err(format!(
            "its result.json has more than {RESULT_BYTES_MAX} bytes; larger results go into files that it names"
        )));
    }
    if agentd_protocol::nesting(text.as_bytes()) > agentd_protocol::NESTING_MAX {
        return Some(Err("its result.json is nested too deeply".into()));
    }
    Some(Json::from_text(text).map_err(|error| format!("its result.json is not JSON: {error}")))
}

/// The end of what an agent said.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
    /// Of both, before what is here.
    pub(super) omitted_bytes: u64,
}

impl Said {
    /// What stands for the result of an agent that left none.
    pub(super) fn as_result(&self, id: SessionId, outcome: &SessionOutcome) -> Json {
        let output = self.printed();
        let mut result = serde_json::json!({
            "session_id": id,
            "exit_code": outcome.exit_code,
            "output": output.text,
        });
        if let Some(base64) = output.base64 {
            result["output_base64"] = base64.into();
        }
        if self.omitted_bytes > 0 {
            result["omitted_bytes"] = self.omitted_bytes.into();
        }
        Json::of(&result)
    }

    /// What it printed, as a result says it.
    pub(super) fn printed(&self) -> Printed {
        let captured = Captured {
            head: self.stdout.clone(),
            ..Captured::default()
        };
        output::printed(&captured, STDOUT_JSON_MAX)
    }
}

/// Reads the end of a transcript that has about `output_bytes` (with 0, when that is not known, all of it): at most
/// `bytes_max` of it.
pub(super) async fn last_said(dir: &SessionDir, output_bytes: u64, bytes_max: u64) -> Said {
    let mut reader = Reader::new(&dir.transcript());
    blocking(move || {
        let mut last = VecDeque::new();
        let mut bytes = 0;
        let mut from = output_bytes.saturating_sub(bytes_max);
        while let Ok(page) = reader.read(from, FRAME_BYTES_MAX) {
            if page.chunks.is_empty() {
                break;
            }
            from = page.next_offset;
            for chunk in page.chunks {
                bytes += chunk.bytes.len() as u64;
                last.push_back(chunk);
            }
            while bytes > bytes_max
                && let Some(chunk) = last.front_mut()
            {
                let over = usize::try_from(bytes - bytes_max).unwrap_or(usize::MAX);
                let over = over.min(chunk.bytes.len());
                bytes -= over as u64;
                chunk.bytes.drain(..over);
                if chunk.bytes.is_empty() {
                    last.pop_front();
                }
            }
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        for chunk in last {
            match chunk.stream {
                OutputStream::Stdout => stdout.extend(chunk.bytes),
                OutputStream::Stderr => stderr.extend(chunk.bytes),
            }
        }
        Said {
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            omitted_bytes: from.saturating_sub(bytes),
        }
    })
    .await
}
