//! Calls of the engine's program: bounded in time and in what they may say.

use crate::runtime::engine::EngineError;
use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// The most that is read of what a call writes. Far more than ten thousand containers need.
const OUTPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a call gave.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Called {
    /// The output, when the call succeeded.
    pub(super) fn success(self, program: &str) -> Result<String, EngineError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        Err(EngineError::Failed {
            program: program.into(),
            message: self.complaint(),
        })
    }

    /// What it said last: the engine's warnings come before its error.
    pub(super) fn complaint(&self) -> String {
        let mut lines = self.stderr.lines().filter(|line| !line.trim().is_empty());
        match lines.next_back() {
            Some(line) => line.chars().take(1000).collect(),
            None => self.status.to_string(),
        }
    }
}

/// Calls `command` with exactly this environment. A call that takes longer than `limit` is killed.
pub(super) async fn call(
    command: &[String],
    environment: &BTreeMap<String, String>,
    limit: Duration,
) -> Result<Called, EngineError> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| EngineError::Refused("the setting `podman` names no program".into()))?;
    let failed = |message: String| EngineError::Failed {
        program: program.clone(),
        message,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => failed("there is no such program in PATH".into()),
            _ => failed(error.to_string()),
        })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        let (stdout, stderr) = tokio::try_join!(bounded(stdout), bounded(stderr))?;
        Ok::<_, std::io::Error>((child.wait().await?, stdout, stderr))
    };
    match tokio::time::timeout(limit, ended).await {
        Err(_) => Err(EngineError::TimedOut {
            program: program.clone(),
            secs: limit.as_secs(),
        }),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Ok(Ok((status, stdout, stderr))) => Ok(Called {
            status,
            stdout,
            stderr,
        }),
    }
}

async fn bounded(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "it wrote more than {OUTPUT_BYTES_MAX} bytes"
        )));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
