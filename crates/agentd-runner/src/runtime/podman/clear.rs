//! Removing what sessions have left, and finding it.

use super::{LABEL_INSTANCE, LABEL_SESSION, Podman, container_name};
use crate::runtime::engine::EngineError;
use crate::runtime::{mapped, sweep};
use agentd_protocol::SessionId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::fs;

/// A container whose processes were killed under the engine's hands is noticed by the first attempt, which fails,
/// and removed by the second.
const ATTEMPTS_MAX: usize = 3;

/// The most sessions that are looked for among mounts.
const FOUND_MAX: usize = 100_000;

pub(super) async fn clear(podman: &Podman, session: SessionId) -> Result<(), EngineError> {
    for container in ours(podman, session).await? {
        remove(podman, &container).await?;
    }
    sweep::kill_marked(session).await?;
    unmount(podman, session).await
}

/// Takes away what was mounted for a session. Its container is gone.
pub(super) async fn unmount(podman: &Podman, session: SessionId) -> Result<(), EngineError> {
    let dir = podman.mounts_of(session);
    let unmounted = tokio::task::spawn_blocking(move || {
        mapped::clear(&dir).map_err(EngineError::io("take away the mounts in", &dir))
    });
    unmounted.await.map_err(|error| EngineError::Failed {
        program: "unmounting".into(),
        message: error.to_string(),
    })?
}

/// The containers of a session, by id: one or none. A container that was being made has a name, but no labels yet;
/// one with somebody else's labels is not ours, whatever its name.
async fn ours(podman: &Podman, session: SessionId) -> Result<Vec<String>, EngineError> {
    let name = format!("name=^{}$", container_name(session));
    let format = format!(
        "{{{{.ID}}}}|{{{{index .Labels \"{LABEL_INSTANCE}\"}}}}|{{{{index .Labels \"{LABEL_SESSION}\"}}}}"
    );
    let listed = podman
        .call(&[
            "ps",
            "--all",
            "--external",
            "--no-trunc",
            "--filter",
            &name,
            "--format",
            &format,
        ])
        .await?;
    let (instance, session) = (&podman.settings.instance, session.to_string());
    let lines = listed.lines().filter_map(|line| line.split_once('|'));
    let ours = lines.filter(|(_, labels)| *labels == "|" || *labels == format!("{instance}|{session}"));
    Ok(ours.map(|(id, _)| id.to_owned()).collect())
}

async fn remove(podman: &Podman, container: &str) -> Result<(), EngineError> {
    let mut result = Ok(());
    for _ in 0..ATTEMPTS_MAX {
        let removed = podman
            .call(&["rm", "--force", "--time", "0", "--ignore", "--volumes", container])
            .await;
        result = match removed {
            Ok(_) => return Ok(()),
            // Another attempt would take as long.
            Err(error @ EngineError::TimedOut { .. }) => Err(error),
            Err(error) => {
                result = Err(error);
                end_monitor(podman, container).await;
                continue;
            }
        };
        break;
    }
    result
}

/// Kills a container's monitor that stands in the way, when it can be told for certain that it is this container's.
async fn end_monitor(podman: &Podman, container: &str) {
    let Ok(said) = podman
        .call(&["inspect", "--format", "{{.State.ConmonPid}}", container])
        .await
    else {
        return;
    };
    let Some(pid) = said.trim().parse().ok().and_then(Pid::from_raw) else {
        return;
    };
    // In this order: what is read after the handle was taken is of the process that the handle is for.
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    if line
        .split(|&byte| byte == 0)
        .any(|word| word == container.as_bytes())
    {
        // Gone already, otherwise.
        let _ = pidfd_send_signal(&handle, Signal::KILL);
    }
}

pub(super) async fn found(podman: &Podman) -> Result<Vec<SessionId>, EngineError> {
    let ours = format!("label={LABEL_INSTANCE}={}", podman.settings.instance);
    let format = format!("{{{{index .Labels \"{LABEL_SESSION}\"}}}}");
    let listed = podman
        .call(&["ps", "--all", "--filter", &ours, "--format", &format])
        .await?;
    let mut sessions: BTreeSet<SessionId> = listed
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    let mounts = &podman.settings.mounts;
    match fs::read_dir(mounts) {
        Ok(entries) => {
            let names = entries.take(FOUND_MAX).flatten().map(|entry| entry.file_name());
            sessions.extend(names.filter_map(|name| name.to_str()?.parse::<SessionId>().ok()));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(EngineError::io("read", mounts)(error)),
    }
    Ok(sessions.into_iter().collect())
}
