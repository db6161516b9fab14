//! Making a worktree: a repository of the session's own that borrows the objects of the workspace's, and its files.
//!
//! Nothing is written to the workspace's repository. An agent that could write its configuration or hooks could have
//! its owner's next `git status` run programs; and what git writes for every commit (a lock on the packed names, since
//! 2.47) lies beside them.

use super::super::error::StepError;
use super::super::git::{At, Git, Sparse, View, words};
use super::super::state;
use super::source::Source;
use super::{Worktree, Worktrees, repository, write_record};
use crate::runtime::engine::Owner;
use agentd_protocol::SessionId;
use agentd_supervisor::dir::SessionDir;
use std::path::Path;

/// What a worktree is made of.
#[derive(Clone, Copy, Debug)]
pub struct NewWorktree<'a> {
    /// The session.
    pub session: SessionId,
    /// Its agent.
    pub agent: &'a str,
    /// The workspace, and its owner.
    pub workspace: &'a Owner,
    /// The user and group that the files belong to while the agent runs.
    pub user: (u32, u32),
    /// The agent's home, for its own ignore rules.
    pub home: &'a Path,
    /// The branch to begin from, instead of what is checked out in the workspace.
    pub base: Option<&'a str>,
}

impl Worktrees<'_> {
    /// Makes a session's worktree, on a new branch.
    ///
    /// # Errors
    /// When the workspace is not the top of a repository's files, or has no commit, or git refuses. What was made is
    /// removed with [`Worktrees::discard`].
    pub fn install(&self, new: &NewWorktree<'_>) -> Result<Worktree, StepError> {
        let dir = self.dirs.session(new.session);
        let source = Source::find(self.git, new.workspace)?;
        source.check_complete()?;
        source.check_readable(new.user)?;
        let base = match new.base {
            None => source.head.clone(),
            Some(branch) => source.common.commit_of(branch)?.ok_or_else(|| {
                StepError::declaration(format!(
                    "there is no branch {branch} in {} to begin from",
                    source.common.path.display()
                ))
            })?,
        };
        let owner = (new.workspace.uid, new.workspace.gid);
        let worktree = Worktree {
            path: dir.worktree(),
            repository: source.common.path.clone(),
            workspace: new.workspace.path.clone(),
            branch: source.common.free_branch(new.agent, new.session)?,
            base,
            base_branch: source.branch.clone(),
            uid: owner.0,
            gid: owner.1,
            kept: false,
            agent: new.agent.to_owned(),
            user: Some(new.user).filter(|user| *user != owner),
            borrowed: source.common.objects()?,
            hooks: source.common.hooks()?,
            ignore_files: vec![new.home.join(".config/git/ignore")],
            removing: false,
            saved: Vec::new(),
        };
        write_record(&dir, &worktree)?;
        let git = self.git.for_owner(new.user);
        let sparse = source.sparse()?;
        state::make(&worktree.path, 0o700, Some(new.user))?;
        let names = source.common.references()?;
        repository::make(&repository::New {
            git: &git,
            common: &source.common,
            worktree: &worktree,
            git_dir: &worktree.git_dir(),
            owner: new.user,
            head: repository::Head::Branch(&worktree.base),
            names,
            ignored: source.common.ignored(self.git.home_of(worktree.uid).as_deref())?,
            sparse: sparse.as_ref(),
        })?;
        self.check_out(&dir, &source, &git, &worktree, sparse.as_ref())?;
        Ok(worktree)
    }

    fn check_out(
        &self,
        dir: &SessionDir,
        source: &Source<'_>,
        git: &Git,
        worktree: &Worktree,
        sparse: Option<&Sparse>,
    ) -> Result<(), StepError> {
        let index = worktree.git_dir().join("index");
        let view = View::new(
            &source.common.git,
            &dir.root().join("view"),
            &source.common.path,
            &worktree.base,
        )?
        .with_rules(&[], sparse)?
        .with_files(&worktree.path, &index);
        let arguments = words(["read-tree", "-m", "-u", "--no-recurse-submodules", &worktree.base]);
        git.run(At::View(&view), &arguments)?;
        Ok(())
    }
}
