//! What may be asked of [`Sessions`].

use super::SessionError;
use super::drive::Entry;
use super::error::StepError;
use super::manager::{Sessions, locked};
use super::tree::{self, Budget};
use super::upkeep::{self, Removal, Removed, What, Why};
use super::worktree::{self, Listed};
use agentd_config::{Agent, Config};
use agentd_protocol::requests::{PruneWorktrees, RunAgent, SessionRef, StopSession};
use agentd_protocol::results::{
    AgentList, PrunedWorktrees, QueuedSession, Reloaded, RemovedSession, WorktreeList,
};
use agentd_protocol::{AgentInfo, SessionInfo, SessionPhase, Trigger, TriggerKind};
use agentd_store::session::{ChangeSession, NewSession, SessionEvent};
use agentd_store::{Command, Query, StoreError, ask, execute};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

impl Sessions {
    /// Runs a session of an agent. It is durable when this returns.
    ///
    /// # Errors
    /// No such agent; a full queue; the store's failure.
    pub async fn run(&self, request: RunAgent) -> Result<QueuedSession, SessionError> {
        if self.inner.closing.is_cancelled() {
            return Err(StoreError::ShuttingDown.into());
        }
        let Some(agent) = self.inner.agent(&request.agent) else {
            return Err(self.unknown_agent(&request.agent));
        };
        let trigger = Trigger {
            kind: TriggerKind::Manual,
            context: request.context,
        };
        let new = NewSession {
            agent: agent.name.clone(),
            trigger,
            prompt: request.prompt,
            idempotency_key: request.idempotency_key,
        };
        let queued: QueuedSession = execute(self.inner.store(), Command::CreateSession(new)).await?;
        self.inner.point("queued");
        let known = ask::<Box<SessionInfo>>(
            self.inner.store(),
            Query::GetSession(SessionRef {
                session_id: queued.session_id,
            }),
        );
        // The same request again finds it under way.
        let waiting = known.await?.phase == SessionPhase::Queued && !self.inner.is_live(queued.session_id);
        if waiting {
            let mut slots = locked(&self.inner.slots);
            slots.unqueue(&agent.name, queued.session_id);
            if !slots.queue(&agent.name, queued.session_id) {
                drop(slots);
                self.inner.spawn(queued.session_id, None, Entry::QueueFull);
                return Ok(queued);
            }
        }
        self.inner.pump();
        Ok(queued)
    }

    fn unknown_agent(&self, name: &str) -> SessionError {
        let config = self.inner.config();
        SessionError::AgentNotFound {
            name: name.to_owned(),
            declared: config.agents.iter().map(|agent| agent.name.clone()).collect(),
            config: self.inner.options.config_path.clone(),
        }
    }

    /// The declared agents.
    #[must_use]
    pub fn agents(&self) -> AgentList {
        let config = self.inner.config();
        let runtimes = &self.inner.options.runtimes;
        let slots = locked(&self.inner.slots);
        let info = |agent: &Agent| {
            let (running, queued) = slots.count(&agent.name);
            AgentInfo {
                name: agent.name.clone(),
                runtime: agent.runtime.as_str().into(),
                runtime_capabilities: runtimes
                    .get(agent.runtime)
                    .map(|runtime| runtime.capabilities())
                    .unwrap_or_default(),
                harness: agent.harness.clone(),
                replicas: agent.replicas,
                max_sessions: agent.max_sessions,
                capabilities: agent.capabilities.clone(),
                running,
                queued,
            }
        };
        let mut agents: Vec<_> = config.agents.iter().map(info).collect();
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        AgentList { agents }
    }

    /// Asks for a session's end. It goes on until its agent is gone.
    ///
    /// # Errors
    /// No such session; it has ended; its runtime cannot be stopped.
    pub async fn stop_session(&self, request: StopSession) -> Result<(), SessionError> {
        let session_id = request.session_id;
        let info: Box<SessionInfo> =
            ask(self.inner.store(), Query::GetSession(SessionRef { session_id })).await?;
        if let Some(kind) = &info.runtime {
            let capabilities = self
                .inner
                .options
                .runtimes
                .named(kind)
                .map(|runtime| runtime.capabilities());
            if !capabilities.is_some_and(|capabilities| capabilities.stop) {
                return Err(SessionError::unsupported(&info.agent, kind, "stop"));
            }
        }
        let reason = request.reason.unwrap_or_else(|| "somebody asked for it".into());
        let change = ChangeSession {
            session_id,
            event: Some(SessionEvent::Stop {
                reason: reason.clone(),
            }),
            notes: Vec::new(),
        };
        let info = match execute::<Box<SessionInfo>>(self.inner.store(), Command::ChangeSession(change)).await
        {
            // It is over: that is what was wanted.
            Err(StoreError::WrongPhase { .. }) => return Ok(()),
            changed => changed?,
        };
        self.inner.point("stop");
        let grace = request.grace_secs.map(Duration::from_secs);
        let unqueued =
            info.phase == SessionPhase::Queued && locked(&self.inner.slots).unqueue(&info.agent, session_id);
        if unqueued {
            self.inner.begin(*info, None, None, Entry::Cancelled);
        } else {
            self.inner.request_stop(session_id, reason, grace);
        }
        Ok(())
    }

    /// Removes a session that is over, with all that is kept of it but for work in its worktree that is nowhere else.
    ///
    /// # Errors
    /// No such session; it has not ended.
    pub async fn remove(&self, session: SessionRef) -> Result<RemovedSession, SessionError> {
        // The row goes first, for it says whether this may be done. What then is on disk without one is found later,
        // whatever happens here.
        let _: agentd_protocol::results::Ok =
            execute(self.inner.store(), Command::RemoveSession(session)).await?;
        let inner = Arc::clone(&self.inner);
        let kept = super::blocking(move || {
            let worktrees = inner.worktrees();
            let recorded = worktrees.recorded(session.session_id);
            let removal = Removal {
                what: What::Orphan(session.session_id),
                why: Why::Unknown,
                spare_worktree: recorded.is_err(),
            };
            let removed = upkeep::carry_out(&worktrees, &removal, &mut Budget::entries(tree::ENTRIES_MAX))?;
            match removed {
                Removed::Gone | Removed::More => Ok::<_, StepError>(None),
                Removed::WorktreeSpared | Removed::NamesKept => worktrees.left(session.session_id).map(Some),
            }
        })
        .await?;
        Ok(RemovedSession { ok: true, kept })
    }

    /// The worktrees that sessions left, and those of sessions that run.
    ///
    /// # Errors
    /// When sessions cannot be listed.
    pub async fn worktrees(&self) -> Result<WorktreeList, SessionError> {
        let inner = Arc::clone(&self.inner);
        let listed = super::blocking(move || {
            let live = inner.live();
            inner.worktrees().list(|session| live.contains(&session))
        });
        let (listed, omitted) = listed.await?;
        let worktrees = listed.into_iter().map(Listed::into_info).collect();
        Ok(WorktreeList { worktrees, omitted })
    }

    /// Removes worktrees whose work is elsewhere as well.
    ///
    /// # Errors
    /// When sessions cannot be listed. What hinders one worktree is said of that one.
    pub async fn prune_worktrees(&self, request: PruneWorktrees) -> Result<PrunedWorktrees, SessionError> {
        let inner = Arc::clone(&self.inner);
        super::blocking(move || {
            let worktrees = inner.worktrees();
            let live = inner.live();
            let all = request.session_ids.is_empty();
            let sessions = match all {
                true => inner.options.state.sessions()?,
                false => request.session_ids,
            };
            let mut pruned = Vec::new();
            for session in sessions {
                let has_none = matches!(worktrees.recorded(session), Ok(None));
                let is_live = live.contains(&session);
                let retired = match (has_none, is_live) {
                    (true, _) | (_, true) if all => continue,
                    (true, _) => Err(StepError::declaration("it has no worktree")),
                    (_, true) => Err(StepError::declaration("its session is not over")),
                    (false, false) => worktrees.retire(session, request.force),
                };
                pruned.push(worktree::pruned(session, retired, &worktrees));
            }
            Ok(PrunedWorktrees { worktrees: pruned })
        })
        .await
    }

    /// The configuration of today.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.inner.config()
    }

    /// Reads the configuration again. A file that cannot be used changes nothing.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub async fn reload(&self) -> Result<Reloaded, SessionError> {
        let inner = Arc::clone(&self.inner);
        let new = super::blocking(move || (inner.options.reread)().map_err(SessionError::Config)).await?;
        let old = {
            let mut config = self.inner.config.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *config, Arc::clone(&new))
        };
        locked(&self.inner.slots).configure(self.inner.options.max_sessions, &new.agents);
        self.inner.dispatch();
        self.inner.pump();
        let mut reloaded = difference(&self.inner.options.config_path, &old, &new);
        // What counts is what this daemon was started with: a value that was put back needs nothing.
        let started = &self.inner.options.config.daemon;
        let keys = new.daemon.differing(started);
        reloaded.need_restart = keys.into_iter().map(|key| format!("daemon.{key}")).collect();
        Ok(reloaded)
    }
}

fn difference(path: &str, old: &Config, new: &Config) -> Reloaded {
    let by_name = |config: &Config| -> BTreeMap<String, Agent> {
        let agents = config.agents.iter().cloned();
        agents.map(|agent| (agent.name.clone(), agent)).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let added = after.keys().filter(|name| !before.contains_key(*name));
    let removed = before.keys().filter(|name| !after.contains_key(*name));
    let changed = after
        .iter()
        .filter(|(name, agent)| before.get(*name).is_some_and(|before| before != *agent));
    Reloaded {
        path: path.to_owned(),
        added: added.cloned().collect(),
        changed: changed.map(|(name, _)| name.clone()).collect(),
        removed: removed.cloned().collect(),
        plugins: plugins(old, new),
        need_restart: Vec::new(),
    }
}

// The names of those that are new, different or gone.
fn plugins(old: &Config, new: &Config) -> Vec<String> {
    let all = old.plugins.iter().chain(&new.plugins);
    let names: BTreeSet<&str> = all.map(|plugin| plugin.name.as_str()).collect();
    let differs = |name: &&str| old.plugin(name) != new.plugin(name);
    names.into_iter().filter(differs).map(str::to_owned).collect()
}
