//! Ends what a supervisor left behind that was killed.

use crate::proc::{self, Killed};
use agentd_protocol::SessionId;
use std::time::Duration;

/// The variable by which a session's processes are known.
pub const SESSION_VARIABLE: &str = "AGENTD_SESSION_ID";

/// How long a sweep goes on.
const SWEEP_MAX: Duration = Duration::from_secs(5);

/// Kills the processes of a session that has no supervisor any more: those that carry its mark in their environment,
/// and all that they started. With the `uid` of an agent's own, all of that user's, marked or not: it is for sessions
/// whose user nobody else is, and has no effect for root and the caller's own. Blocks until they have ended, at most for
/// five seconds.
///
/// A process that replaced its environment and is no longer below one that did not escapes when there is no `uid`.
#[must_use]
pub fn kill_session_processes(session_id: SessionId, uid: Option<u32>) -> Killed {
    let mark = format!("{SESSION_VARIABLE}={session_id}").into_bytes();
    let own_uid = nix::unistd::geteuid().as_raw();
    let uid = uid.filter(|&uid| uid != 0 && uid != own_uid);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    proc::kill_all(SWEEP_MAX, |processes| {
        let marked = |pid: i32| {
            let owner = proc::owner(pid);
            // Root's agents are users of their own, and root can read everybody's.
            let of = if own_uid == 0 { owner.unwrap_or(0) } else { own_uid };
            owner.is_some() && owner == uid
                || proc::environment(pid, of).is_some_and(|environment| environment.contains(&mark))
        };
        let mut found: Vec<_> = processes
            .iter()
            .filter(|stat| !stat.ended && stat.process.pid != own && marked(stat.process.pid))
            .map(|stat| stat.process)
            .collect();
        let roots: Vec<i32> = found.iter().map(|process| process.pid).collect();
        found.extend(
            proc::descendants(processes, &roots)
                .into_iter()
                .filter(|process| process.pid != own),
        );
        found
    })
}
