//! `agentd db`: backup, check and restore, through the daemon that runs, or else on the file itself.

use super::{Context, values};
use crate::daemon::{StartError, open_store};
use crate::endpoint::nobody_listens;
use crate::failure::{Exit, Failure};
use agentd_client::Client;
use agentd_protocol::Method;
use agentd_protocol::requests::{FileRef, NoParams};
use agentd_protocol::results::{BackedUp, Checked, Restored};
use agentd_store::sqlite::{OpenError, SqliteStore};
use agentd_store::{Command, Query, Store, ask, execute};
use clap::{Args, Subcommand};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Look after the database: backup, check, restore
#[derive(Debug, Subcommand)]
#[command(after_long_help = "\
A running daemon does the work and goes on serving meanwhile. When none runs, the file is opened directly.")]
pub(crate) enum DbCommand {
    Backup(BackupArgs),
    Check(CheckArgs),
    Restore(RestoreArgs),
}

impl DbCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Backup(args) => args.run(context).await,
            Self::Check(args) => args.run(context).await,
            Self::Restore(args) => args.run(context).await,
        }
    }
}

/// Who does it.
enum Access {
    Daemon(Box<Client>),
    Direct(Box<SqliteStore>),
}

impl Access {
    async fn to(context: &Context, must_exist: bool) -> Result<Self, Failure> {
        if let Some(client) = daemon(context).await? {
            return Ok(Self::Daemon(Box::new(client)));
        }
        let database = &context.settings.database;
        if must_exist && !database.exists() {
            let message = format!("no daemon runs, and there is no database {}", database.display());
            return Err(Failure::bad_input(message).hint("name it with --home or AGENTD_DATABASE_URL"));
        }
        context.settings.prepare_home().map_err(Failure::config)?;
        let (store, opened) = open_store(&context.settings).map_err(StartError::from)?;
        opened.notes.iter().for_each(|note| context.console.status(note));
        Ok(Self::Direct(Box::new(store)))
    }
}

async fn daemon(context: &Context) -> Result<Option<Client>, Failure> {
    match Client::connect(&context.settings.socket).await {
        Ok(client) => Ok(Some(client)),
        Err(error) if nobody_listens(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn failed(error: agentd_store::StoreError) -> Failure {
    agentd_protocol::RpcError::from(error).into()
}

/// Write a copy of the database to a new file
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file; it must not exist
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

impl BackupArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = FileRef {
            path: values::absolute(&self.path)?,
        };
        let done: BackedUp = match Access::to(context, true).await? {
            Access::Daemon(mut client) => client.call(Method::BackupDatabase, &request).await?,
            Access::Direct(store) => {
                let done = ask(&*store, Query::BackupDatabase(request)).await;
                store.close().await;
                done.map_err(failed)?
            }
        };
        if context.console.json {
            context.console.document(&done)?;
        } else {
            context.console.status(&format!(
                "{} holds everything up to journal entry {} ({} bytes)",
                done.path, done.last_seq, done.size_bytes
            ));
        }
        Ok(Exit::Ok)
    }
}

/// Look for damage in the database, and for journal and state that disagree
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {}

impl CheckArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let done: Checked = match Access::to(context, true).await? {
            Access::Daemon(mut client) => client.call(Method::CheckDatabase, &NoParams {}).await?,
            Access::Direct(store) => {
                let done = ask(&*store, Query::CheckDatabase(NoParams {})).await;
                store.close().await;
                done.map_err(failed)?
            }
        };
        if context.console.json {
            context.console.document(&done)?;
        } else {
            done.findings
                .iter()
                .try_for_each(|finding| context.console.line(finding))?;
            let looked = format!(
                "{}, {}, {}",
                values::count(done.tasks, "task"),
                values::count(done.nodes, "node"),
                if done.events == 1 {
                    "1 journal entry".to_owned()
                } else {
                    format!("{} journal entries", done.events)
                }
            );
            let verdict = if done.ok {
                "nothing is wrong"
            } else {
                "something is wrong"
            };
            context.console.status(&format!("{verdict} ({looked})"));
        }
        if done.ok {
            return Ok(Exit::Ok);
        }
        let failure = Failure::internal("the database is not sound");
        Err(failure
            .hint("put back a backup with `agentd db restore BACKUP`; keep a copy of what is there first"))
    }
}

/// Replace the whole state by a backup's
#[derive(Debug, Args)]
#[command(after_long_help = "\
Leases and locks end, and numbers go on above every number given before, so that nobody's old lease or fencing number
becomes valid again. A database that is damaged beyond opening is moved aside first, not deleted.")]
pub(crate) struct RestoreArgs {
    /// A file that `agentd db backup` wrote
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

impl RestoreArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = FileRef {
            path: values::absolute(&self.path)?,
        };
        // Before anything is moved aside.
        if let Err(error) = std::fs::File::open(&request.path) {
            return Err(Failure::file("read", Path::new(&request.path), &error));
        }
        let done: Restored = match self.access(context).await? {
            Access::Daemon(mut client) => client.call(Method::RestoreDatabase, &request).await?,
            Access::Direct(store) => {
                let done = execute(&*store, Command::RestoreDatabase(request)).await;
                store.close().await;
                done.map_err(failed)?
            }
        };
        if context.console.json {
            context.console.document(&done)?;
        } else {
            context.console.status(&format!(
                "the state is that of {} (journal entry {}); the journal goes on at {}",
                done.path, done.backup_last_seq, done.next_seq
            ));
        }
        Ok(Exit::Ok)
    }

    async fn access(&self, context: &Context) -> Result<Access, Failure> {
        if let Some(client) = daemon(context).await? {
            return Ok(Access::Daemon(Box::new(client)));
        }
        context.settings.prepare_home().map_err(Failure::config)?;
        match open_store(&context.settings) {
            Ok((store, _)) => Ok(Access::Direct(Box::new(store))),
            Err(OpenError::Damaged { path, what }) => {
                let aside = move_aside(&path)?;
                context.console.status(&format!(
                    "{} is damaged ({what}); it is now {}",
                    path.display(),
                    aside.display()
                ));
                Access::to(context, false).await
            }
            Err(error) => Err(StartError::from(error).into()),
        }
    }
}

// The write-ahead log goes with its database: beside another one it would be taken for that one's.
fn move_aside(database: &Path) -> Result<PathBuf, Failure> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let with = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = with(database, &format!(".damaged-{now}"));
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (with(database, suffix), with(&aside, suffix));
        match std::fs::rename(&from, &to) {
            Err(error) if suffix.is_empty() || error.kind() != ErrorKind::NotFound => {
                return Err(Failure::file("move aside", &from, &error));
            }
            _ => {}
        }
    }
    Ok(aside)
}
