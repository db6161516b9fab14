//! Ending the processes of a session that its supervisor left behind, whatever the runtime: an agent's, or its plugins'.

use super::engine::EngineError;
use agentd_protocol::SessionId;
use agentd_supervisor::sweep::kill_session_processes;

/// Kills those that carry the session's mark, and not by their user: sessions of one home have the same.
pub(super) async fn kill_marked(session: SessionId) -> Result<(), EngineError> {
    let swept = tokio::task::spawn_blocking(move || kill_session_processes(session, None));
    let failed = |message: String| EngineError::Failed {
        program: "ending a session's processes".into(),
        message,
    };
    match swept.await.map_err(|error| failed(error.to_string()))?.survivors {
        0 => Ok(()),
        survivors => Err(failed(format!("{survivors} of them have not ended"))),
    }
}
