//! From a plan on the command line to a task: the one that an earlier run left unfinished, or a new one.
//!
//! A run's task is registered under the idempotency key `run:<place>:<plan and arguments>:<number>`. Every step may be
//! the last before a crash: the same command then finds the newest such task and goes on from what is there. When the plan
//! has changed, the newest task of the same place is the run before.

use super::super::Context;
use super::super::values::count;
use super::keep::{self, Kept};
use crate::console::Tone;
use crate::failure::{Exit, Failure};
use agentd_client::{Client, ClientError};
use agentd_protocol::requests::{CancelTask, ListTasks, RetryNodes};
use agentd_protocol::results::{CancelledTask, NodeIds, TaskList, TaskSummary};
use agentd_protocol::{Method, Reason, TaskId, TaskState};
use agentd_runner::plan::{Arguments, BoundPlan, EarlierRun, Plan, PlanError, Registration};
use clap::Args;
use std::path::{Path, PathBuf};

/// A plan and its arguments.
#[derive(Clone, Debug, Args)]
pub(super) struct PlanArgs {
    /// The plan: a TOML file
    #[arg(value_name = "PLAN")]
    pub(super) plan: PathBuf,
    /// The plan's arguments, in the order in which it declares them
    #[arg(value_name = "ARG")]
    arguments: Vec<String>,
    /// An argument by its name; may be repeated
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = named)]
    named: Vec<(String, String)>,
    /// Run the plan's commands in sessions of this agent, as agentd.toml declares it. They see the plan's directory and
    /// the files and directories among its arguments, read-only, and their artifacts are in the agent's home
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// What they see besides, read-only and at its own place; may be repeated
    #[arg(long, value_name = "PATH", requires = "agent")]
    read: Vec<PathBuf>,
}

fn named(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl PlanArgs {
    /// Reads the plan and gives it its arguments.
    pub(super) fn bind(&self) -> Result<BoundPlan, Failure> {
        let current_dir = std::env::current_dir().map_err(|error| {
            Failure::new(
                Exit::BadInput,
                format!("the current directory is not there: {error}"),
            )
        })?;
        let plan = Plan::load(&self.plan)?;
        let arguments = Arguments {
            positional: self.arguments.clone(),
            named: self.named.clone(),
            current_dir,
        };
        let mut plan = plan.bind(&arguments)?;
        if let Some(agent) = &self.agent {
            let read = self
                .read
                .iter()
                .map(|path| absolute(path))
                .collect::<Result<_, _>>()?;
            plan.within(agent, read)?;
        }
        Ok(plan)
    }
}

fn absolute(path: &Path) -> Result<String, Failure> {
    let found = path
        .canonicalize()
        .map_err(|error| Failure::file("find", path, &error))?;
    found
        .into_os_string()
        .into_string()
        .map_err(|path| Failure::bad_input(format!("the path {} is not UTF-8", path.display())))
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match &error {
            PlanError::Argument { .. } => Self::usage(error.to_string()),
            _ => Self::bad_input(error.to_string()),
        }
    }
}

/// What is to become of the task of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It goes on when it is unfinished.
    Continue,
    /// It goes on when it has failed as well; when the plan has changed, what still stands of it is kept.
    Retry,
    /// It is cancelled when it is unfinished.
    Afresh,
}

/// A task that is registered whole.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) task_id: TaskId,
    /// It had begun before.
    pub(super) continued: bool,
    /// What it took over from a run before, whose plan was another.
    pub(super) kept: Option<Kept>,
}

/// How a plan's tasks are found.
struct Keys {
    /// What the keys of all runs of this place begin with.
    place: String,
    /// The same of those whose plan means the same.
    same: String,
    /// The same as versions before this one had it.
    old: String,
}

impl Keys {
    fn of(plan: &BoundPlan) -> Self {
        let place = format!("run:{}:", plan.place_key());
        Self {
            same: format!("{place}{}:", plan.run_key()),
            old: format!("run:{}:", plan.text_key()),
            place,
        }
    }

    /// The number of a task, and what its key begins with.
    fn number<'a>(&'a self, task: &TaskSummary) -> (&'a str, u64) {
        let key = task.idempotency_key.as_deref().unwrap_or_default();
        let number = |prefix: &str| key.strip_prefix(prefix)?.parse().ok();
        match number(&self.old) {
            Some(own) => (&self.old, own),
            None => (&self.same, number(&self.same).unwrap_or_default()),
        }
    }
}

/// Finds or makes the task of a plan. A new one is `paused` when that is asked for.
///
/// # Errors
/// As the calls. The same again goes on from where it stopped.
pub(super) async fn register(
    context: &Context,
    client: &mut Client,
    plan: &BoundPlan,
    wish: &mut Wish,
    paused: bool,
) -> Result<Registered, Failure> {
    let keys = Keys::of(plan);
    let same = match newest(client, &keys.same).await? {
        Some(task) => Some(task),
        None => newest(client, &keys.old).await?,
    };
    let mut number = 1;
    let mut earlier = None;
    if let Some(task) = same {
        let (prefix, own) = keys.number(&task);
        let key = format!("{prefix}{own}");
        if let Some(continued) = go_on(context, client, plan, *wish, paused, &task, &key).await? {
            return Ok(continued);
        }
        // From here on a second attempt is to find what this one made.
        *wish = Wish::Continue;
        if prefix == keys.same {
            number = own + 1;
        }
    } else {
        earlier = before(context, client, &keys, *wish).await?;
    }
    let kept = earlier
        .as_ref()
        .map(|earlier| keep::summary(context, plan, earlier));
    let registration = plan.registration(&format!("{}{number}", keys.same), earlier.as_ref())?;
    let task_id = paused_if(registration, paused).submit(client).await?;
    context.console.status(&format!(
        "task {task_id}: {}, {}",
        crate::console::one_line(plan.goal()),
        count(plan.plan().node_names().count() as u64, "node")
    ));
    Ok(Registered {
        task_id,
        continued: false,
        kept,
    })
}

fn paused_if(registration: Registration, paused: bool) -> Registration {
    match paused {
        true => registration.paused(),
        false => registration,
    }
}

/// Goes on with the newest task of the same plan, if that is wished and can be; else makes way for a new one.
async fn go_on(
    context: &Context,
    client: &mut Client,
    plan: &BoundPlan,
    wish: Wish,
    paused: bool,
    task: &TaskSummary,
    key: &str,
) -> Result<Option<Registered>, Failure> {
    let whole = task.counts.total() >= plan.plan().node_names().count() as u64;
    let mut unfinished = task.state != TaskState::Cancelled && !(whole && task.state.is_finished());
    if wish == Wish::Retry && task.state == TaskState::Failed {
        let request = RetryNodes {
            task_id: task.task_id,
            node_ids: Vec::new(),
        };
        let retried: NodeIds = client.call(Method::RetryNodes, &request).await?;
        context.console.status(&format!(
            "{} can run again",
            count(retried.node_ids.len() as u64, "failed node")
        ));
        unfinished = true;
    }
    if unfinished && wish != Wish::Afresh {
        say_continued(context, task, whole);
        // What is whole needs nothing; and an agentd of another version might put it in other words.
        if !whole {
            let earlier = keep::earlier_of(client, task.task_id).await?;
            let registration = plan.registration(key, earlier.as_ref())?;
            paused_if(registration, paused).submit(client).await?;
        }
        return Ok(Some(Registered {
            task_id: task.task_id,
            continued: true,
            kept: None,
        }));
    }
    if unfinished {
        cancel(context, client, task.task_id).await?;
    } else if task.state == TaskState::Failed && wish == Wish::Continue {
        context.console.status(&format!(
            "the run before failed (task {}); this one starts afresh, and --retry would have gone on with that one",
            task.task_id
        ));
    }
    Ok(None)
}

/// The run before of a plan that has changed since, when its results are to be kept. It is over by then: two runs of one
/// plan would do the same work twice. Should this process end here, the next one finds it again.
async fn before(
    context: &Context,
    client: &mut Client,
    keys: &Keys,
    wish: Wish,
) -> Result<Option<EarlierRun>, Failure> {
    let Some(task) = newest(client, &keys.place).await? else {
        if wish == Wish::Retry {
            let text = "there is no run of this plan with these arguments to go on with; all nodes run";
            context.console.status(text);
        }
        return Ok(None);
    };
    if wish == Wish::Continue {
        keep::say_changed(context, &task);
        return Ok(None);
    }
    if !task.state.is_finished() {
        cancel(context, client, task.task_id).await?;
    }
    match wish {
        Wish::Retry => Ok(Some(keep::earlier(client, task.task_id).await?)),
        Wish::Continue | Wish::Afresh => Ok(None),
    }
}

async fn newest(client: &mut Client, prefix: &str) -> Result<Option<TaskSummary>, ClientError> {
    let request = ListTasks {
        idempotency_key_prefix: Some(prefix.to_owned()),
        limit: Some(1),
        ..ListTasks::default()
    };
    let list: TaskList = client.call(Method::ListTasks, &request).await?;
    Ok(list.tasks.into_iter().next())
}

fn say_continued(context: &Context, task: &TaskSummary, whole: bool) {
    let done = format!(
        "{} of {} done",
        task.counts.completed,
        count(task.counts.total(), "node")
    );
    let how = match (task.state, whole) {
        (_, false) => "its registration was interrupted".to_owned(),
        (TaskState::Paused, true) => format!(
            "{done}; it is paused: `agentd task resume {}` lets it go on",
            task.task_id
        ),
        _ => done,
    };
    let text = format!("continuing task {}: {how}", task.task_id);
    context
        .console
        .status(&context.console.toned_status(Tone::Active, &text));
}

async fn cancel(context: &Context, client: &mut Client, task_id: TaskId) -> Result<(), Failure> {
    let request = CancelTask {
        task_id,
        reason: Some("a new run of the same plan was asked for".into()),
    };
    match client
        .call::<_, CancelledTask>(Method::CancelTask, &request)
        .await
    {
        Ok(_) => context.console.status(&format!(
            "the unfinished run before (task {task_id}) is cancelled"
        )),
        // It finished in this moment, or somebody else was quicker.
        Err(ClientError::Rpc(error)) if error.reason() == Some(Reason::WrongState) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
