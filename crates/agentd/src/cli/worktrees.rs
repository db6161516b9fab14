//! `agentd worktrees`: what agents' worktrees have, and which of them can go.

use super::Context;
use crate::console::{Field, Tone, one_line, shortened};
use crate::failure::{Exit, Failure};
use agentd_protocol::requests::{NoParams, PruneWorktrees};
use agentd_protocol::results::{PrunedWorktree, PrunedWorktrees, SavedWork, WorktreeInfo, WorktreeList};
use agentd_protocol::{Method, SessionId};
use agentd_supervisor::shell;
use clap::{Args, Subcommand};

/// Look at the worktrees that sessions left, and remove those that are not needed: list, prune
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "\
Without a command it lists them. Of each it says what is nowhere else:

  uncommitted   files with changes that are not committed
  unmerged      commits that are on no branch but the session's own
  merged        all commits are on another branch
  unchanged     nothing was changed
  running       the session is not over

Examples:
  agentd worktrees
  agentd worktrees prune
  agentd worktrees prune --force 01a1fd67-6c0a-7771-abbc-37bf84455dd4"
)]
pub(crate) struct WorktreesArgs {
    #[command(subcommand)]
    command: Option<WorktreesCommand>,
}

#[derive(Debug, Subcommand)]
enum WorktreesCommand {
    /// List worktrees, and what in them is nowhere else
    List,
    Prune(PruneArgs),
}

impl WorktreesArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self.command {
            None | Some(WorktreesCommand::List) => list(context).await,
            Some(WorktreesCommand::Prune(args)) => args.run(context).await,
        }
    }
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let mut client = context.connect().await?;
    let list: WorktreeList = client.call(Method::ListWorktrees, &NoParams {}).await?;
    let console = &context.console;
    if console.json {
        console.document(&list)?;
        return Ok(Exit::Ok);
    }
    if list.worktrees.is_empty() {
        console.status("there are no worktrees");
        return Ok(Exit::Ok);
    }
    let rows = list.worktrees.iter().map(row).collect();
    console.table(
        &[
            "session",
            "agent",
            "state",
            "branch",
            "uncommitted",
            "unmerged",
            "where",
        ],
        rows,
    )?;
    for worktree in &list.worktrees {
        if let Some(note) = &worktree.note {
            console.status(&format!("{}: {}", worktree.session_id, one_line(note)));
        }
        for saved in &worktree.saved {
            console.status(&format!(
                "{}: {}",
                worktree.session_id,
                one_line(&recovery(&worktree.repository, saved))
            ));
        }
    }
    if list.omitted > 0 {
        console.status(&format!(
            "{} more are not listed; prune some of these first",
            list.omitted
        ));
    }
    Ok(Exit::Ok)
}

fn row(worktree: &WorktreeInfo) -> Vec<Field> {
    let tone = match worktree.state.as_str() {
        "uncommitted" | "unmerged" | "unreadable" => Tone::Bad,
        "running" => Tone::Active,
        _ => Tone::Faint,
    };
    let place = worktree.path.as_ref().unwrap_or(&worktree.repository);
    vec![
        worktree.session_id.to_string().into(),
        one_line(&worktree.agent).into(),
        Field(worktree.state.clone(), tone),
        one_line(worktree.branch.as_deref().unwrap_or("")).into(),
        worktree.uncommitted.to_string().into(),
        worktree.unmerged.to_string().into(),
        one_line(place).into(),
    ]
}

/// How to get at what is kept under a name.
fn recovery(repository: &str, saved: &SavedWork) -> String {
    format!(
        "kept as {} ({}): `git -C {} branch recovered-{} {}` makes a branch of it",
        saved.reference,
        saved.what,
        shell::word(repository),
        shortened_id(&saved.commit),
        shell::word(&saved.reference)
    )
}

fn shortened_id(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// Remove worktrees whose work is elsewhere as well: merged ones, and those in which nothing was changed
///
/// Of what is committed and on no other branch the files go, and its branch stays. What is not committed stays.
#[derive(Debug, Args)]
#[command(after_long_help = "\
With --force it goes one step further, for the sessions that are named: changes that are not committed are kept under a
name in the repository, and the files are removed; where only names are left, these are removed. What is removed then is
said with its commits, which git keeps for some time.

Examples:
  agentd worktrees prune
  agentd worktrees prune 01a1fd67-6c0a-7771-abbc-37bf84455dd4
  agentd worktrees prune --force 01a1fd67-6c0a-7771-abbc-37bf84455dd4")]
struct PruneArgs {
    /// The sessions whose worktrees are meant; without any, all that are over
    #[arg(value_name = "SESSION", required_if_eq("force", "true"))]
    sessions: Vec<SessionId>,
    /// Also those with work that is nowhere else
    #[arg(long)]
    force: bool,
}

impl PruneArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = PruneWorktrees {
            session_ids: self.sessions,
            force: self.force,
        };
        let mut client = context.connect().await?;
        let pruned: PrunedWorktrees = client.call(Method::PruneWorktrees, &request).await?;
        let failed = pruned.worktrees.iter().any(|worktree| worktree.note.is_some());
        let exit = if failed { Exit::Failed } else { Exit::Ok };
        if context.console.json {
            context.console.document(&pruned)?;
            return Ok(exit);
        }
        if pruned.worktrees.is_empty() {
            context
                .console
                .status("there are no worktrees of sessions that are over");
        }
        for worktree in &pruned.worktrees {
            context.console.status(&format!(
                "{}: {}",
                worktree.session_id,
                one_line(&said(worktree, self.force))
            ));
        }
        Ok(exit)
    }
}

/// What became of one worktree, in a sentence.
fn said(worktree: &PrunedWorktree, force: bool) -> String {
    let state = worktree.state.as_str();
    if let Some(note) = &worktree.note {
        return format!("left as it is: {note}");
    }
    let mut text = match (worktree.removed, worktree.files_removed) {
        (true, _) => format!("removed ({state})"),
        (false, true) => format!("files removed ({state})"),
        (false, false) if state == "uncommitted" && !force => {
            format!(
                "kept ({state}); `agentd worktrees prune --force {}` removes the files",
                worktree.session_id
            )
        }
        (false, false) => format!("kept ({state})"),
    };
    if let Some(branch) = &worktree.branch {
        text.push_str(&format!("; its branch {branch} stays"));
    }
    for saved in &worktree.saved {
        text.push_str(&format!("; kept as {}: {}", saved.reference, saved.what));
    }
    if !worktree.forgotten.is_empty() {
        let commits: Vec<&str> = worktree
            .forgotten
            .iter()
            .map(|commit| shortened_id(commit))
            .collect();
        text.push_str(&format!("; without a name now: {}", commits.join(", ")));
    }
    shortened(&text, 2000)
}
