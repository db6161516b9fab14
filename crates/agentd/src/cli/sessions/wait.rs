//! Waiting for a session's end.

use crate::endpoint::Reconnect;
use crate::failure::Failure;
use agentd_client::{Client, ClientError};
use agentd_protocol::journal::action;
use agentd_protocol::requests::{JournalFilter, SessionRef, StopSession, SubscribeJournal};
use agentd_protocol::results::Ok as Done;
use agentd_protocol::{Method, SessionId, SessionInfo, SessionPhase};
use std::time::Duration;

/// Between two attempts with a daemon that answers, but not with what was asked for.
const PAUSE: Duration = Duration::from_millis(50);

/// One session.
///
/// # Errors
/// As the call.
pub(in crate::cli) async fn get(
    client: &mut Client,
    session_id: SessionId,
) -> Result<SessionInfo, ClientError> {
    client.call(Method::GetSession, &SessionRef { session_id }).await
}

/// Waits until a session is over, teardown included. Goes on through restarts of the daemon.
///
/// # Errors
/// When the daemon refuses: the session was removed.
pub(in crate::cli) async fn until_ended(
    reconnect: &Reconnect<'_>,
    session_id: SessionId,
) -> Result<SessionInfo, Failure> {
    let filter = JournalFilter {
        session_id: Some(session_id),
        action_types: vec![action::SESSION_ENDED.into(), action::SESSION_REMOVED.into()],
        ..JournalFilter::default()
    };
    let request = SubscribeJournal {
        from_seq: None,
        filter,
    };
    loop {
        let attempt = async {
            // First the subscription, so that an end that comes after the answer is not missed.
            let mut entries = reconnect.client().await?.subscribe(&request).await?;
            let mut client = reconnect.client().await?;
            loop {
                let session = get(&mut client, session_id).await?;
                if session.phase == SessionPhase::Ended {
                    return Ok::<_, Attempt>(session);
                }
                entries.next().await?.ok_or(ClientError::Closed)?;
            }
        };
        match attempt.await {
            Ok(session) => return Ok(session),
            Err(Attempt::Failure(failure)) => return Err(failure),
            Err(Attempt::Client(error)) => pause_after(error).await?,
        }
    }
}

/// Asks for a session's end, until a daemon has that on disk.
///
/// # Errors
/// When the daemon refuses.
pub(in crate::cli) async fn stop(reconnect: &Reconnect<'_>, request: &StopSession) -> Result<(), Failure> {
    loop {
        let mut client = reconnect.client().await?;
        match client.call::<_, Done>(Method::StopSession, request).await {
            Ok(_) => return Ok(()),
            Err(error) => pause_after(error).await?,
        }
    }
}

/// Waits a moment when another attempt may succeed.
///
/// # Errors
/// The error, when it may not.
pub(in crate::cli) async fn pause_after(error: ClientError) -> Result<(), Failure> {
    Reconnect::worth_it(error)?;
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

enum Attempt {
    Failure(Failure),
    Client(ClientError),
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<ClientError> for Attempt {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}
