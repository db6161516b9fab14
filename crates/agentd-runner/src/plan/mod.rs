//! Plans: a goal and a graph of commands and agents' sessions, in a TOML file that a person reads and writes.
//!
//! ```text
//!   file ── Plan::load ──▶ Plan ── bind(arguments) ──▶ BoundPlan ── registration(key) ──▶ Registration
//!           strict: every          every template        run_key(): the same            what RegisterTask
//!           mistake has a          is rendered           what means the same            and AddNodes are
//!           line and a hint                              has the same key               asked
//! ```
//!
//! Loading looks at nothing but the file; binding looks at the files that arguments name; neither starts
//! anything or talks to anybody.
//!
//! `{{ args.NAME }}` and `{{ plan.dir }}` are rendered in the goal, in `command`, `prompt`, `cwd` and `env` values; not
//! in `run`, whose text goes to a shell, where a value with a quote in it would become code. A shell reads
//! `"$AGENTD_ARG_NAME"` instead. A prompt that names `{{ inputs.NODE }}` stays a template: the session renders it when
//! the results are there.

mod arguments;
mod bind;
mod error;
mod graph;
mod identity;
mod links;
mod parse;
mod register;
mod template;

pub use arguments::{Argument, ArgumentKind, Arguments};
pub use bind::{AgentNeed, BoundPlan};
pub use error::PlanError;
pub use identity::{EarlierNode, EarlierRun, Standing};
pub use register::Registration;

use agentd_config::file::{read_text, with_line_feeds};
use agentd_config::reader::Located;
use agentd_config::source::Source;
use agentd_protocol::{RetryPolicy, Seconds};
use std::path::{Path, PathBuf};

/// The most bytes that a plan's file may have.
pub const PLAN_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The most nodes that a plan may have.
pub const PLAN_NODES_MAX: usize = 10_000;
/// The most arguments that a plan may declare.
pub const PLAN_ARGS_MAX: usize = 64;

/// A plan that was read and found sound.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file, canonical.
    pub(crate) path: PathBuf,
    /// The file's content: what later messages point into.
    pub(crate) text: String,
    pub(crate) goal: Located<String>,
    pub(crate) args: Vec<Argument>,
    pub(crate) env: Vec<(String, Located<String>)>,
    pub(crate) nodes: Vec<PlanNode>,
    /// Index of the node whose result is the plan's.
    pub(crate) result: usize,
}

/// One node, its templates not yet rendered.
#[derive(Clone, Debug)]
pub(crate) struct PlanNode {
    pub(crate) name: String,
    /// Where it stands in the file, for messages about it as a whole.
    pub(crate) span: std::ops::Range<usize>,
    pub(crate) needs: Vec<usize>,
    pub(crate) action: Action,
    pub(crate) cwd: Option<Located<String>>,
    pub(crate) env: Vec<(String, Located<String>)>,
    pub(crate) timeout: Option<Seconds>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) priority: i32,
    pub(crate) capabilities: Vec<String>,
}

/// What a node does.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// An argument vector of templates.
    Command(Vec<Located<String>>),
    /// A shell's program, as it stands.
    Run(String),
    /// A session of an agent.
    Agent {
        /// Its name; none: any that has the node's capabilities.
        agent: Option<Located<String>>,
        /// A template; none: what the agent's own configuration says.
        prompt: Option<Located<String>>,
        /// The needed node at whose branch its worktree begins.
        base: Option<String>,
    },
}

impl Plan {
    /// Reads the plan in a file.
    ///
    /// # Errors
    /// [`PlanError::Read`] when the file cannot be read, [`PlanError::Invalid`] when what it says cannot be
    /// meant.
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let failed = |why: String| PlanError::Read {
            path: path.to_owned(),
            why,
        };
        let canonical = path.canonicalize().map_err(|error| failed(error.to_string()))?;
        let (text, _) = read_text(&canonical, PLAN_BYTES_MAX).map_err(|error| failed(error.to_string()))?;
        // Messages name the file as the caller did: that is where the caller will look.
        Ok(parse::parse(path, canonical, &with_line_feeds(&text))?)
    }

    /// The file that it was read from, canonical.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the file.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// The arguments that it takes, in the order in which they are declared and may be given.
    #[must_use]
    pub fn args(&self) -> &[Argument] {
        &self.args
    }

    /// The nodes' names, in the order of the file.
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// The name of the node whose result is the plan's.
    #[must_use]
    pub fn result(&self) -> &str {
        &self.nodes[self.result].name
    }

    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            path: &self.path,
            text: &self.text,
        }
    }
}
