//! The command line. One file per command; the doc comments of the arguments are their help.

mod agents;
pub(crate) mod check;
pub(crate) mod daemon;
mod db;
pub(crate) mod doctor;
mod generate;
mod image;
mod info;
pub(crate) mod init;
mod journal;
pub(crate) mod lock;
mod lock_run;
mod mcp;
mod node;
mod owner;
pub(crate) mod plugin;
mod reload;
mod run;
mod said;
mod sessions;
mod task;
pub(crate) mod values;
mod worker;
mod worktrees;

use crate::console::{ColorChoice, Console, Tone, one_line};
use crate::failure::{Exit, Failure};
use crate::settings::{Environment, Flags, Settings, SettingsError};
use agentd_client::Client;
use agentd_protocol::Method;
use agentd_protocol::requests::NoParams;
use agentd_protocol::results::WhoAmI;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// How long a daemon may take to answer a question that needs nothing but the daemon.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Runs AI agents on this machine and coordinates them: sessions, and durable tasks, leases and locks behind a Unix
/// socket.
///
/// Without a command it runs the daemon. The commands talk to the daemon that runs; `run`, `task run`, `plugin` and the
/// `db` commands do without one.
#[derive(Debug, Parser)]
#[command(name = "agentd", version, after_long_help = Exit::HELP, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options for every command")]
pub(crate) struct Global {
    /// The directory that holds the database, the socket and the env file [default: ~/.agentd, or AGENTD_HOME]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// The daemon's socket [default: agentd.sock in the home directory, or AGENTD_SOCKET_PATH]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The file that settings are read from [default: .env in the home directory, or AGENTD_ENV_FILE]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) env_file: Option<PathBuf>,
    /// The file that declares agents and settings [default: agentd.toml in the home directory, else
    /// /etc/agentd/agentd.toml, or AGENTD_CONFIG]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON: one document, or one a line for what streams
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Daemon(daemon::DaemonArgs),
    Run(run::RunArgs),
    Sessions(sessions::SessionsArgs),
    Worktrees(worktrees::WorktreesArgs),
    Agents(agents::AgentsArgs),
    Reload(reload::ReloadArgs),
    #[command(subcommand)]
    Task(task::TaskCommand),
    #[command(subcommand)]
    Node(node::NodeCommand),
    #[command(subcommand)]
    Lock(lock::LockCommand),
    Worker(worker::WorkerArgs),
    Mcp(mcp::McpArgs),
    Plugins(plugin::PluginsArgs),
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    Journal(journal::JournalArgs),
    #[command(subcommand)]
    Image(image::ImageCommand),
    #[command(subcommand)]
    Db(db::DbCommand),
    Init(init::InitArgs),
    Check(check::CheckArgs),
    Doctor(doctor::DoctorArgs),
    Health(info::HealthArgs),
    Metrics(info::MetricsArgs),
    Describe(info::DescribeArgs),
    Whoami(info::WhoAmIArgs),
    Call(info::CallArgs),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
    /// Supervises one command on behalf of a worker. Not for people.
    #[command(name = "__supervise", hide = true)]
    Supervise,
    #[command(name = "__guard", hide = true)]
    Guard(GuardArgs),
}

/// Runs one command on behalf of `lock run`. Not for people.
#[derive(Debug, Args)]
pub(crate) struct GuardArgs {
    pub(crate) fd: i32,
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// What a command is given besides its arguments.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) environment: Environment,
    pub(crate) console: Console,
}

impl Context {
    /// Finds out the settings.
    ///
    /// # Errors
    /// When they cannot be used.
    pub(crate) fn new(flags: &Flags, environment: Environment, console: Console) -> Result<Self, Failure> {
        Self::of(Settings::load(flags, &environment), environment, console)
    }

    /// The same for a command that needs nothing but the daemon's socket, and does without `agentd.toml` when that
    /// cannot be used. With `says` it says so.
    ///
    /// # Errors
    /// When other settings cannot be used.
    pub(crate) fn for_client(
        flags: &Flags,
        environment: Environment,
        console: Console,
        says: bool,
    ) -> Result<Self, Failure> {
        let context = Self::of(
            Settings::load_for_client(flags, &environment),
            environment,
            console,
        )?;
        if says && let Some((first, _)) = &context.settings.unusable {
            let text = format!(
                "going on without the configuration, which cannot be used: {}; the daemon is looked for at {}, `agentd check` \
                 says more",
                one_line(first),
                context.settings.socket.display()
            );
            let text = context.console.toned_status(Tone::Bad, &text);
            context.console.status(&text);
        }
        Ok(context)
    }

    fn of(
        settings: Result<Settings, SettingsError>,
        environment: Environment,
        console: Console,
    ) -> Result<Self, Failure> {
        let settings = settings.map_err(|error| Failure::config(error.to_string()))?;
        Ok(Self {
            settings,
            environment,
            console,
        })
    }

    /// A connection to the daemon that runs.
    ///
    /// # Errors
    /// When none answers.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let answering = async {
            let mut client = Client::connect(&self.settings.socket).await?;
            client.call::<_, WhoAmI>(Method::WhoAmI, &NoParams {}).await?;
            Ok::<_, Failure>(client)
        };
        // A stopped or stuck daemon is said to be one, instead of waiting for it without a word.
        tokio::time::timeout(ANSWER_MAX, answering)
            .await
            .unwrap_or_else(|_| {
                let shown = self.settings.socket.display();
                let failure = Failure::new(
                    Exit::Unreachable,
                    format!(
                        "something holds the socket {shown}, but does not answer within {} s",
                        ANSWER_MAX.as_secs()
                    ),
                );
                Err(failure
                    .hint("is the daemon stopped (Ctrl-Z, SIGSTOP)? `ps` shows it; SIGCONT lets it go on"))
            })
    }

    /// A name for leases and locks taken from the command line: the user, the program and the process.
    pub(crate) fn owner(&self, what: &str) -> String {
        format!("{}/{what}/{}", self.user(), std::process::id())
    }

    fn user(&self) -> String {
        let user = self
            .environment
            .get("USER")
            .map(|user| user.to_string_lossy().into_owned());
        user.unwrap_or_else(|| format!("uid{}", self.environment.uid))
    }
}

impl Command {
    /// True for commands that want threads: they run a daemon or other programs.
    pub(crate) fn is_heavy(&self) -> bool {
        matches!(
            self,
            Self::Daemon(_) | Self::Run(_) | Self::Worker(_) | Self::Task(task::TaskCommand::Run(_))
        )
    }

    /// True for commands that need more of the settings than the socket: they work on the daemon's files, or run
    /// programs as the configuration says. (`run` needs more only when it has to be the daemon itself.)
    pub(crate) fn needs_config(&self) -> bool {
        matches!(
            self,
            Self::Daemon(_)
                | Self::Worker(_)
                | Self::Db(_)
                | Self::Plugins(_)
                | Self::Plugin(_)
                | Self::Task(task::TaskCommand::Run(_))
        )
    }

    /// Runs any command but the daemon and those that need no settings.
    ///
    /// # Errors
    /// What the user is to be told.
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Run(args) => Box::pin(args.run(context)).await,
            Self::Sessions(args) => Box::pin(args.run(context)).await,
            Self::Worktrees(args) => args.run(context).await,
            Self::Agents(args) => args.run(context).await,
            Self::Reload(args) => args.run(context).await,
            Self::Task(command) => command.run(context).await,
            Self::Node(command) => command.run(context).await,
            Self::Lock(command) => command.run(context).await,
            Self::Worker(args) => args.run(context).await,
            Self::Mcp(args) => Box::pin(args.run(context)).await,
            Self::Plugins(args) => args.run(context),
            Self::Plugin(command) => Box::pin(command.run(context)).await,
            Self::Journal(args) => args.run(context).await,
            Self::Image(command) => Box::pin(command.run(context)).await,
            Self::Db(command) => command.run(context).await,
            Self::Health(args) => args.run(context).await,
            Self::Metrics(args) => args.run(context).await,
            Self::Describe(args) => args.run(context).await,
            Self::Whoami(args) => args.run(context).await,
            Self::Call(args) => args.run(context).await,
            Self::Daemon(_)
            | Self::Init(_)
            | Self::Check(_)
            | Self::Doctor(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Supervise
            | Self::Guard(_) => Err(Failure::internal("this command is run by main")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
