//! What is removed of sessions that are over: which, decided from facts alone; and then its removal.

use super::error::StepError;
use super::state;
use super::tree::{Budget, Progress};
use super::worktree::Worktrees;
use super::{secrets, tree};
use agentd_protocol::SessionId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// A session of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFact {
    /// Its id.
    pub id: SessionId,
    /// When it was over, in Unix milliseconds; absent while it is not.
    pub ended_wall_ms: Option<i64>,
    /// What its transcript takes, in bytes.
    pub transcript_bytes: u64,
}

/// A session's directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirFact {
    /// Its supervisor lives, or something else has its lock.
    pub locked: bool,
    /// What is known of its worktree cannot be read, so that nobody can say whether something would be lost.
    pub unclear: bool,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// All sessions of the database.
    pub sessions: Vec<SessionFact>,
    /// All sessions that have a directory.
    pub dirs: BTreeMap<SessionId, DirFact>,
    /// All sessions that have a directory for secrets.
    pub secrets: BTreeSet<SessionId>,
}

/// How much may stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Sessions that have been over for longer go; absent: none does.
    pub session_retention: Option<Duration>,
    /// The transcripts of sessions that are over may take so many bytes together; absent: any number.
    pub transcript_quota_bytes: Option<u64>,
}

/// What goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A session's directory, and after it its row.
    Session(SessionId),
    /// A directory of which the database knows nothing.
    Orphan(SessionId),
    /// Secrets of a session that does not run.
    Secrets(SessionId),
}

impl What {
    /// Which session's.
    #[must_use]
    pub fn session(&self) -> SessionId {
        match self {
            Self::Session(id) | Self::Orphan(id) | Self::Secrets(id) => *id,
        }
    }
}

/// Why it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has been over for longer than sessions are kept.
    Old {
        /// How long, in milliseconds.
        age_ms: u64,
    },
    /// With it, transcripts take more than they may.
    Quota {
        /// What they all took, in bytes.
        total_bytes: u64,
    },
    /// No session has it.
    Unknown,
    /// Its session is over.
    Over,
}

/// One thing to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// What.
    pub what: What,
    /// Why.
    pub why: Why,
    /// A worktree may be in it of which nothing is known: that stays, and people are told.
    pub spare_worktree: bool,
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Session(id) => write!(f, "session {id}: ")?,
            What::Orphan(id) => write!(f, "directory of {id}: ")?,
            What::Secrets(id) => write!(f, "secrets of {id}: ")?,
        }
        match self.why {
            Why::Old { age_ms } => write!(f, "over for {} seconds", age_ms / 1000)?,
            Why::Quota { total_bytes } => write!(f, "transcripts take {total_bytes} bytes")?,
            Why::Unknown => f.write_str("no session has it")?,
            Why::Over => f.write_str("its session is over")?,
        }
        if self.spare_worktree {
            f.write_str("; the record of its worktree cannot be read, so that stays")?;
        }
        Ok(())
    }
}

/// Decides what goes. Of what lives, nothing does: not what a lock is held on, and not what the database calls open.
#[must_use]
pub fn plan(now_wall_ms: i64, facts: &Facts, limits: &Limits) -> Vec<Removal> {
    let locked = |id: &SessionId| facts.dirs.get(id).is_some_and(|dir| dir.locked);
    let spare = |id: &SessionId| facts.dirs.get(id).is_some_and(|dir| dir.unclear);
    let mut removals = Vec::new();
    let mut over: Vec<(i64, &SessionFact)> = Vec::new();
    let mut open = BTreeSet::new();
    let mut known = BTreeSet::new();
    for session in &facts.sessions {
        known.insert(session.id);
        match session.ended_wall_ms {
            Some(ended) => over.push((ended, session)),
            None => {
                open.insert(session.id);
            }
        }
    }
    over.sort_by_key(|(ended, session)| (*ended, session.id));
    let mut bytes: u64 = over.iter().fold(0, |sum, (_, session)| {
        sum.saturating_add(session.transcript_bytes)
    });
    let total_bytes = bytes;
    for (ended, session) in over {
        // A clock that was set back makes nobody old.
        let age_ms = u64::try_from(now_wall_ms.saturating_sub(ended)).unwrap_or(0);
        let old = limits
            .session_retention
            .is_some_and(|retention| u128::from(age_ms) > retention.as_millis());
        let much =
            limits.transcript_quota_bytes.is_some_and(|quota| bytes > quota) && session.transcript_bytes > 0;
        let why = match (old, much) {
            (true, _) => Why::Old { age_ms },
            (false, true) => Why::Quota { total_bytes },
            (false, false) => continue,
        };
        if locked(&session.id) {
            continue;
        }
        bytes = bytes.saturating_sub(session.transcript_bytes);
        removals.push(Removal {
            what: What::Session(session.id),
            why,
            spare_worktree: spare(&session.id),
        });
    }
    for (id, dir) in &facts.dirs {
        if !known.contains(id) && !dir.locked {
            removals.push(Removal {
                what: What::Orphan(*id),
                why: Why::Unknown,
                spare_worktree: spare(id),
            });
        }
    }
    for id in &facts.secrets {
        if !open.contains(id) && !locked(id) {
            removals.push(Removal {
                what: What::Secrets(*id),
                why: if known.contains(id) {
                    Why::Over
                } else {
                    Why::Unknown
                },
                spare_worktree: false,
            });
        }
    }
    removals
}

/// Looks at the directories, but for those of sessions that are `live`: these count as locked, and nobody who is about
/// to take their lock finds it taken for a moment. Call it before the sessions are read from the database: then a directory without a row
/// is never one whose row came in between.
///
/// # Errors
/// When they cannot be listed.
pub fn gather(worktrees: &Worktrees<'_>, live: &BTreeSet<SessionId>) -> Result<Facts, StepError> {
    let mut facts = Facts::default();
    for id in worktrees.dirs.sessions()? {
        if live.contains(&id) {
            let dir = DirFact {
                locked: true,
                unclear: false,
            };
            facts.dirs.insert(id, dir);
            continue;
        }
        // What cannot be looked at is treated as what must not be lost.
        let locked = state::is_locked(&worktrees.dirs.session(id)).unwrap_or(true);
        let unclear = worktrees.recorded(id).is_err();
        facts.dirs.insert(id, DirFact { locked, unclear });
    }
    facts.secrets = worktrees.dirs.sessions_with_secrets()?.into_iter().collect();
    Ok(facts)
}

/// What a removal came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Gone,
    /// It is gone but for a worktree with changes that are nowhere else.
    WorktreeSpared,
    /// It is gone but for commits that are on no other branch, under names in its repository.
    NamesKept,
    /// The budget ran out; the same again goes on.
    More,
}

/// Removes one thing. Of a kept worktree only what is nowhere else stays: uncommitted changes, with their directory,
/// and commits that are not merged, on their branch in the repository. A directory that was spared for such changes
/// is an orphan at the next upkeep, which looks again.
///
/// # Errors
/// When it cannot be removed wholly, or lives after all.
pub fn carry_out(
    worktrees: &Worktrees<'_>,
    removal: &Removal,
    budget: &mut Budget,
) -> Result<Removed, StepError> {
    let id = removal.what.session();
    let gone = |progress: Progress, then: Removed| match progress {
        Progress::Done => then,
        Progress::More => Removed::More,
    };
    match removal.what {
        What::Secrets(_) => {
            secrets::take_down(worktrees.dirs, id).map(|progress| gone(progress, Removed::Gone))
        }
        What::Session(_) | What::Orphan(_) => {
            let dir = worktrees.dirs.session(id);
            if state::is_locked(&dir)? {
                return Err(StepError::machine(format!("session {id} lives after all")));
            }
            if removal.spare_worktree {
                return Ok(gone(worktrees.spare(id, budget)?, Removed::WorktreeSpared));
            }
            worktrees.retire(id, false)?;
            // The record stays for as long as there is something to tell of.
            match worktrees.recorded(id)? {
                None => Ok(gone(tree::remove(dir.root(), budget)?, Removed::Gone)),
                Some(worktree) => {
                    let kept = match worktree.path.exists() {
                        true => Removed::WorktreeSpared,
                        false => Removed::NamesKept,
                    };
                    Ok(gone(worktrees.spare(id, budget)?, kept))
                }
            }
        }
    }
}
