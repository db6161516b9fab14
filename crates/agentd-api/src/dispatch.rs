//! From a line to something that can be done.

use crate::roles::Peer;
use crate::sessions::SessionsRequest;
use agentd_protocol::envelope::RequestLine;
use agentd_protocol::requests::SubscribeJournal;
use agentd_protocol::{Json, Method, NodeSpec, Reason, Request, Role, RpcError};
use agentd_store::{Command, Query};

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Work {
    /// The store is to change something.
    Command(Command),
    /// Anything else.
    Read(Read),
}

/// What is not a change.
#[derive(Debug)]
pub(crate) enum Read {
    /// The store is asked.
    Query(Query),
    /// Whoever runs sessions is asked.
    Sessions(SessionsRequest),
    /// The server itself knows.
    DescribeInterface,
    /// Both know a part.
    Health,
    /// Both know a part.
    Metrics,
    /// The server itself knows.
    WhoAmI,
    /// The server itself knows.
    StepAside,
    /// The connection changes its nature.
    Subscribe(SubscribeJournal),
    /// The request is refused as it stands.
    Refuse(RpcError),
}

/// Reads a line, and checks that the peer may ask for it. The first of the two is the request's id.
pub(crate) fn read(line: &[u8], peer: &Peer) -> (Option<Json>, Work) {
    let request = match RequestLine::parse(line) {
        Ok(request) => request,
        Err((id, error)) => return (id, Work::Read(Read::Refuse(error))),
    };
    let work = Method::find(&request.method)
        .and_then(|method| {
            allow(peer, method.role(), method.name())?;
            Request::parse(method, &request.params)
        })
        .and_then(|parsed| {
            if contains_work(&parsed) {
                allow(peer, Role::Operator, "registering a node with \"work\"")?;
            }
            Ok(sort(parsed))
        })
        .unwrap_or_else(|error| Work::Read(Read::Refuse(error)));
    (request.id, work)
}

fn allow(peer: &Peer, needed: Role, what: &str) -> Result<(), RpcError> {
    if peer.role >= needed {
        return Ok(());
    }
    Err(RpcError::refused(
        Reason::Forbidden,
        format!(
            "{what} needs the role {}; uid {} has the role {} ({}). Whoever runs agentd can name this user among its {}s",
            needed.as_str(),
            peer.uid,
            peer.role.as_str(),
            peer.because(),
            needed.as_str(),
        ),
    ))
}

// What agentd's own workers run as the daemon's user.
fn contains_work(request: &Request) -> bool {
    let any = |nodes: &[NodeSpec]| nodes.iter().any(|node| node.work.is_some());
    match request {
        Request::RegisterTask(params) => any(&params.initial_nodes),
        Request::AddNodes(params) => any(&params.nodes),
        Request::CompleteNode(params) => any(&params.add_nodes),
        _ => false,
    }
}

fn sort(request: Request) -> Work {
    use Request as R;
    let command = match request {
        R::RegisterTask(params) => Command::RegisterTask(params),
        R::AddNodes(params) => Command::AddNodes(params),
        R::AcquireNextNode(params) => Command::AcquireNextNode(params),
        R::CommitEvent(params) => Command::CommitEvent(params),
        R::HeartbeatNode(params) => Command::HeartbeatNode(params),
        R::CompleteNode(params) => Command::CompleteNode(params),
        R::FailNode(params) => Command::FailNode(params),
        R::ReleaseNode(params) => Command::ReleaseNode(params),
        R::CancelTask(params) => Command::CancelTask(params),
        R::PauseTask(params) => Command::PauseTask(params),
        R::ResumeTask(params) => Command::ResumeTask(params),
        R::RetryNodes(params) => Command::RetryNodes(params),
        R::PruneTasks(params) => Command::PruneTasks(params),
        R::AcquireResourceLock(params) => Command::AcquireResourceLock(params),
        R::HeartbeatResourceLock(params) => Command::HeartbeatResourceLock(params),
        R::ReleaseResourceLock(params) => Command::ReleaseResourceLock(params),
        R::RestoreDatabase(params) => Command::RestoreDatabase(params),
        R::DescribeInterface(_) => return Work::Read(Read::DescribeInterface),
        R::Health(_) => return Work::Read(Read::Health),
        R::Metrics(_) => return Work::Read(Read::Metrics),
        R::StepAside(_) => return Work::Read(Read::StepAside),
        R::WhoAmI(_) => return Work::Read(Read::WhoAmI),
        R::SubscribeJournal(params) => return Work::Read(Read::Subscribe(params)),
        R::TaskStatus(params) => return Work::Read(Read::Query(Query::TaskStatus(params))),
        R::GetNode(params) => return Work::Read(Read::Query(Query::GetNode(params))),
        R::ListTasks(params) => return Work::Read(Read::Query(Query::ListTasks(params))),
        R::ListResourceLocks(params) => return Work::Read(Read::Query(Query::ListResourceLocks(params))),
        R::ReadJournal(params) => return Work::Read(Read::Query(Query::ReadJournal(params))),
        R::BackupDatabase(params) => return Work::Read(Read::Query(Query::BackupDatabase(params))),
        R::RunAgent(params) => return sessions(SessionsRequest::Run(params)),
        R::ListAgents(_) => return sessions(SessionsRequest::Agents),
        R::ListSessions(params) => return sessions(SessionsRequest::List(params)),
        R::GetSession(params) => return sessions(SessionsRequest::Get(params)),
        R::StopSession(params) => return sessions(SessionsRequest::Stop(params)),
        R::RemoveSession(params) => return sessions(SessionsRequest::Remove(params)),
        R::ListWorktrees(_) => return sessions(SessionsRequest::Worktrees),
        R::PruneWorktrees(params) => return sessions(SessionsRequest::PruneWorktrees(params)),
        R::ReadTranscript(params) => return sessions(SessionsRequest::Transcript(params)),
        R::Reload(_) => return sessions(SessionsRequest::Reload),
        R::CheckDatabase(params) => return Work::Read(Read::Query(Query::CheckDatabase(params))),
    };
    Work::Command(command)
}

fn sessions(request: SessionsRequest) -> Work {
    Work::Read(Read::Sessions(request))
}

/// True for commands that may be answered much later than those submitted after them: whoever sends more on
/// the same connection means it to happen afterwards.
pub(crate) fn occupies(command: &Command) -> bool {
    match command {
        Command::AcquireNextNode(params) => params.wait_secs.is_some_and(|secs| secs > 0),
        Command::AcquireResourceLock(params) => params.wait_secs.is_some_and(|secs| secs > 0),
        Command::PruneTasks(_) | Command::RestoreDatabase(_) => true,
        _ => false,
    }
}

/// True for commands that are pointless when nobody is left to receive the answer.
pub(crate) fn is_acquire(command: &Command) -> bool {
    matches!(
        command,
        Command::AcquireNextNode(_) | Command::AcquireResourceLock(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str, role: Role) -> Option<RpcError> {
        match read(line.as_bytes(), &Peer::with_role(role)).1 {
            Work::Read(Read::Refuse(error)) => Some(error),
            _ => None,
        }
    }

    #[test]
    fn every_method_asks_for_its_role() {
        for method in Method::ALL {
            let line = format!("{{\"method\":\"{}\",\"params\":5}}", method.snake_name());
            for role in [Role::Observer, Role::Worker, Role::Operator] {
                // Who is allowed gets as far as the parameters, which are wrong.
                let reason = refusal(&line, role).and_then(|error| error.reason()).unwrap();
                let expected = if role < method.role() {
                    Reason::Forbidden
                } else {
                    Reason::BadRequest
                };
                assert_eq!(reason, expected, "{} as {}", method.name(), role.as_str());
            }
        }
    }

    #[test]
    fn only_operators_register_what_the_daemons_user_will_run() {
        let id = "01234567-89ab-4cde-8f01-23456789abcd";
        let command = r#"{"work":{"kind":"command","argv":["true"],"cwd":"/"}}"#;
        let agent = r#"{"work":{"kind":"agent","agent":"a"}}"#;
        for line in [command, agent].into_iter().flat_map(|node| [
            format!(r#"{{"method":"RegisterTask","params":{{"goal":"g","initial_nodes":[{{}},{node}]}}}}"#),
            format!(r#"{{"method":"AddNodes","params":{{"task_id":"{id}","nodes":[{node}]}}}}"#),
            format!(
                r#"{{"method":"CompleteNode","params":{{"task_id":"{id}","node_id":"{id}","lease_id":"{id}","payload":1,"add_nodes":[{node}]}}}}"#
            ),
        ]) {
            let error = refusal(&line, Role::Worker).unwrap();
            assert_eq!(error.reason(), Some(Reason::Forbidden));
            assert!(
                error.message.contains("operator") && error.message.contains("uid 1000"),
                "{error}"
            );
            assert!(refusal(&line, Role::Operator).is_none());
            assert!(refusal(&line.replace("work", "other"), Role::Worker).is_none());
        }
    }
}
