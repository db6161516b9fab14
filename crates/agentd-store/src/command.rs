//! What can be asked of a store: commands change it, queries read it.

use crate::{StoreError, session};
use agentd_protocol::SessionInfo;
use agentd_protocol::requests as q;
use agentd_protocol::results as r;
use serde::Serialize;

macro_rules! operations {
    (
        commands { $($(#[doc = $cdoc:literal])+ $command:ident($cparams:ty);)+ }
        queries { $($(#[doc = $qdoc:literal])+ $query:ident($qparams:ty);)+ }
        replies { $($(#[doc = $rdoc:literal])+ $reply:ident($result:ty);)+ }
    ) => {
        /// A change. Each is one transaction of its own in effect, however many share a commit.
        #[derive(Clone, Debug)]
        pub enum Command {
            $($(#[doc = $cdoc])+ $command($cparams),)+
        }

        /// A question. It sees every change that was answered before it was asked.
        #[derive(Clone, Debug)]
        pub enum Query {
            $($(#[doc = $qdoc])+ $query($qparams),)+
        }

        /// What a command or a query came to. Serialises as the bare result.
        #[derive(Clone, Debug, Serialize)]
        #[serde(untagged)]
        pub enum Reply {
            $($(#[doc = $rdoc])+ $reply($result),)+
        }

        $(impl TryFrom<Reply> for $result {
            type Error = Reply;
            fn try_from(reply: Reply) -> Result<Self, Reply> {
                match reply {
                    Reply::$reply(result) => Ok(result),
                    other => Err(other),
                }
            }
        })+
    };
}

operations! {
    commands {
        /// Gives [`Reply::Registered`].
        RegisterTask(q::RegisterTask);
        /// Gives [`Reply::Nodes`].
        AddNodes(q::AddNodes);
        /// Gives [`Reply::Acquired`], after waiting if asked to.
        AcquireNextNode(q::AcquireNextNode);
        /// Gives [`Reply::Committed`].
        CommitEvent(q::CommitEvent);
        /// Gives [`Reply::Extended`].
        HeartbeatNode(q::HeartbeatNode);
        /// Gives [`Reply::Completed`].
        CompleteNode(q::CompleteNode);
        /// Gives [`Reply::Failed`].
        FailNode(q::FailNode);
        /// Gives [`Reply::Done`].
        ReleaseNode(q::ReleaseNode);
        /// Gives [`Reply::Cancelled`].
        CancelTask(q::CancelTask);
        /// Gives [`Reply::Done`]; pausing what is paused changes nothing.
        PauseTask(q::TaskRef);
        /// Gives [`Reply::Done`]; resuming what is not paused changes nothing.
        ResumeTask(q::TaskRef);
        /// Gives [`Reply::Nodes`].
        RetryNodes(q::RetryNodes);
        /// Gives [`Reply::Pruned`]. Works in small transactions between which others get their turn.
        PruneTasks(q::PruneTasks);
        /// Gives [`Reply::Lock`], after waiting if asked to.
        AcquireResourceLock(q::AcquireResourceLock);
        /// Gives [`Reply::Extended`].
        HeartbeatResourceLock(q::HeartbeatResourceLock);
        /// Gives [`Reply::Done`].
        ReleaseResourceLock(q::ReleaseResourceLock);
        /// Gives [`Reply::SessionQueued`].
        CreateSession(session::NewSession);
        /// Gives [`Reply::AcquiredSession`], after waiting if asked to.
        AcquireSession(session::AcquireSession);
        /// Gives [`Reply::Session`], as it is after the change.
        ChangeSession(session::ChangeSession);
        /// Gives [`Reply::Done`]. Only a session that is over can be removed; what the journal has of it goes with
        /// it, but for the entry that says so.
        RemoveSession(q::SessionRef);
        /// Gives [`Reply::HomeNumber`]: always the same for the same name of a home.
        NumberHome(String);
        /// Gives [`Reply::Restored`].
        RestoreDatabase(q::FileRef);
    }
    queries {
        /// Gives [`Reply::Done`] when the database can be read.
        Ping(q::NoParams);
        /// Gives [`Reply::Status`].
        TaskStatus(q::TaskStatus);
        /// Gives [`Reply::Node`].
        GetNode(q::GetNode);
        /// Gives [`Reply::Tasks`].
        ListTasks(q::ListTasks);
        /// Gives [`Reply::Locks`].
        ListResourceLocks(q::ListResourceLocks);
        /// Gives [`Reply::Journal`].
        ReadJournal(q::ReadJournal);
        /// Gives [`Reply::Session`].
        GetSession(q::SessionRef);
        /// Gives [`Reply::Sessions`].
        ListSessions(q::ListSessions);
        /// Gives [`Reply::OpenSessions`]: all that are not over, oldest first.
        OpenSessions(q::NoParams);
        /// Gives [`Reply::EndedSessions`]: those that have been over for longest first.
        EndedSessions(session::EndedBefore);
        /// Gives [`Reply::InstanceId`].
        InstanceId(q::NoParams);
        /// Gives [`Reply::Metrics`].
        Metrics(q::NoParams);
        /// Gives [`Reply::BackedUp`].
        BackupDatabase(q::FileRef);
        /// Gives [`Reply::Checked`].
        CheckDatabase(q::NoParams);
    }
    replies {
        /// A task was registered.
        Registered(r::RegisteredTask);
        /// Nodes were added or are to run again.
        Nodes(r::NodeIds);
        /// A leased node, or none. Boxed: it is much larger than the others.
        Acquired(Option<Box<r::AcquiredNode>>);
        /// An event was written.
        Committed(r::Committed);
        /// A lease was extended.
        Extended(r::Extended);
        /// A node was completed.
        Completed(r::Completed);
        /// A node was failed.
        Failed(r::Failed);
        /// Done.
        Done(r::Ok);
        /// A task was cancelled.
        Cancelled(r::CancelledTask);
        /// What was pruned.
        Pruned(r::Pruned);
        /// A granted lock, or none.
        Lock(Option<Box<r::ResourceLock>>);
        /// A session was asked for.
        SessionQueued(r::QueuedSession);
        /// A leased node with its session, or none.
        AcquiredSession(Option<Box<session::AcquiredSession>>);
        /// A session.
        Session(Box<SessionInfo>);
        /// A page of sessions.
        Sessions(r::SessionList);
        /// The sessions that are not over.
        OpenSessions(Vec<session::OpenSession>);
        /// Sessions that are over.
        EndedSessions(Vec<session::EndedSession>);
        /// A home's number.
        HomeNumber(session::HomeNumber);
        /// The database's own name.
        InstanceId(session::InstanceId);
        /// The database was replaced.
        Restored(r::Restored);
        /// A task with its nodes.
        Status(r::TaskStatusResult);
        /// A node.
        Node(Box<r::GetNodeResult>);
        /// A page of tasks.
        Tasks(r::TaskList);
        /// A page of locks.
        Locks(r::LockList);
        /// A page of the journal.
        Journal(r::JournalPage);
        /// Gauges of the database.
        Metrics(r::DatabaseMetrics);
        /// A backup was written.
        BackedUp(r::BackedUp);
        /// What a check found.
        Checked(r::Checked);
    }
}

impl Reply {
    /// The result, taken out of its envelope.
    ///
    /// # Errors
    /// [`StoreError::Storage`] when the store answered something else, which is a mistake in the store.
    pub fn into_result<T: TryFrom<Self>>(self) -> Result<T, StoreError> {
        T::try_from(self).map_err(|_| StoreError::Storage {
            doing: "answer",
            source: "the store gave another command's reply".into(),
        })
    }
}
