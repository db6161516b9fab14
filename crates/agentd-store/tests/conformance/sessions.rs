//! Sessions: what happens to them, the leases that they hold, what is left of them. Here: short words for what is
//! asked about them.

mod kept;
mod leases;
mod life;
mod lists;
mod model;

use crate::support::*;
use agentd_protocol::journal::JournalEntry;
use agentd_protocol::requests::*;
use agentd_protocol::results::*;
use agentd_protocol::{
    AgentWork, Json, LeaseId, NodeSpec, NodeStatus, OutcomeReason, Reason, SessionId, SessionInfo,
    SessionOutcome, SessionPhase, TaskId, Trigger, TriggerKind, Work, limits,
};
use agentd_store::machine::decide_session;
use agentd_store::session::*;
use agentd_store::{Command, Query, Ticket};
use std::collections::HashSet;

fn new_session(agent: &str) -> NewSession {
    NewSession {
        agent: agent.into(),
        trigger: Trigger {
            kind: TriggerKind::Manual,
            context: json(r#"{"ref": 7}"#),
        },
        prompt: Some("do it".into()),
        idempotency_key: None,
    }
}

async fn create(f: &Fixture, params: NewSession) -> SessionId {
    let queued: QueuedSession = f.try_do(Command::CreateSession(params)).await.unwrap();
    queued.session_id
}

fn change(session_id: SessionId, event: SessionEvent) -> Command {
    Command::ChangeSession(ChangeSession {
        session_id,
        event: Some(event),
        notes: Vec::new(),
    })
}

async fn happens(f: &Fixture, session_id: SessionId, event: SessionEvent) -> SessionInfo {
    let info: Box<SessionInfo> = f.try_do(change(session_id, event)).await.unwrap();
    *info
}

fn set_up() -> SessionEvent {
    SessionEvent::SetUp {
        replica: 1,
        runtime: "process".into(),
    }
}

fn tear_down() -> SessionEvent {
    SessionEvent::TearDown { exited_wall_ms: None }
}

fn end(reason: OutcomeReason) -> SessionEvent {
    SessionEvent::End(SessionOutcome {
        reason,
        exit_code: Some(7),
        signal: None,
        message: Some("said so".into()),
        result: Some(json(r#"{"n":1.50}"#)),
    })
}

fn stop(reason: &str) -> SessionEvent {
    SessionEvent::Stop {
        reason: reason.into(),
    }
}

/// Brings a queued session to a phase.
async fn bring(f: &Fixture, session: SessionId, to: SessionPhase) {
    let way = [
        (SessionPhase::Setup, set_up()),
        (SessionPhase::Starting, SessionEvent::Start),
        (
            SessionPhase::Running,
            SessionEvent::Run {
                started_wall_ms: None,
            },
        ),
        (SessionPhase::Teardown, tear_down()),
        (SessionPhase::Ended, end(OutcomeReason::Completed)),
    ];
    for (phase, event) in way {
        if phase <= to {
            assert_eq!(happens(f, session, event).await.phase, phase);
        }
    }
}

async fn get(f: &Fixture, session_id: SessionId) -> SessionInfo {
    let info: Box<SessionInfo> = f.ask(Query::GetSession(SessionRef { session_id })).await;
    *info
}

async fn list(f: &Fixture, params: ListSessions) -> SessionList {
    f.ask(Query::ListSessions(params)).await
}

async fn open_sessions(f: &Fixture) -> Vec<OpenSession> {
    f.ask(Query::OpenSessions(NoParams {})).await
}

async fn entries_of(f: &Fixture, session_id: SessionId) -> Vec<JournalEntry> {
    let params = ReadJournal {
        filter: JournalFilter {
            session_id: Some(session_id),
            ..JournalFilter::default()
        },
        ..ReadJournal::default()
    };
    let page: JournalPage = f.ask(Query::ReadJournal(params)).await;
    page.entries
}

fn kinds(entries: &[JournalEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.action_type.as_str()).collect()
}

/// A node that an agent is to work on.
fn agent_node(id: u128, agent: &str) -> NodeSpec {
    NodeSpec {
        work: Some(Work::Agent(AgentWork {
            agent: Some(agent.into()),
            prompt: Some(format!("node {id}")),
            timeout_secs: None,
            ..AgentWork::default()
        })),
        ..after(id, &[])
    }
}

fn acquire_for(agent: &str, wait_secs: Option<u64>) -> Command {
    Command::AcquireSession(AcquireSession {
        agent: agent.into(),
        acquire: AcquireNextNode {
            capabilities: Some(vec![AgentWork::ANY.into(), AgentWork::capability_of(agent)]),
            wait_secs,
            ..AcquireNextNode::default()
        },
    })
}

async fn acquire_session(f: &Fixture, agent: &str) -> Option<AcquiredSession> {
    let acquired: Option<Box<AcquiredSession>> = f.try_do(acquire_for(agent, None)).await.unwrap();
    acquired.map(|acquired| *acquired)
}

async fn granted(ticket: Ticket) -> AcquiredSession {
    let acquired: Option<Box<AcquiredSession>> = ticket.await.unwrap().into_result().unwrap();
    *acquired.unwrap()
}

async fn remove(f: &Fixture, session_id: SessionId) {
    let _: Ok = f
        .try_do(Command::RemoveSession(SessionRef { session_id }))
        .await
        .unwrap();
}

/// Closes the store, lets time go by while nobody looks, and opens it again.
async fn away(f: Fixture, ms: i64) -> Fixture {
    f.store.close().await;
    f.clock.advance(ms);
    f.reopen().await
}
