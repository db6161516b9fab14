//! `agentd lock`: resource locks, so that two programs do not edit one file.

use super::lock_run::RunArgs;
use super::node::shown_unix;
use super::{Context, values};
use crate::console::one_line;
use crate::failure::{Exit, Failure};
use agentd_client::Client;
use agentd_protocol::requests::{
    AcquireResourceLock, HeartbeatResourceLock, ListResourceLocks, ReleaseResourceLock,
};
use agentd_protocol::results::{Extended, LockList, Ok as Done, ResourceLock};
use agentd_protocol::{Json, LeaseId, Method, limits};
use clap::{Args, Subcommand};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// Lock things that several programs use: acquire, release, list, run a command under a lock
#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    Acquire(AcquireArgs),
    Release(ReleaseArgs),
    Heartbeat(HeartbeatArgs),
    List(ListArgs),
    Run(RunArgs),
}

impl LockCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Acquire(args) => args.run(context).await,
            Self::Release(args) => args.run(context).await,
            Self::Heartbeat(args) => args.run(context).await,
            Self::List(args) => args.run(context).await,
            Self::Run(args) => args.run(context).await,
        }
    }
}

/// What is locked.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Target {
    /// The key: any name that those who use the thing have agreed on
    #[arg(value_name = "KEY")]
    key: Option<String>,
    /// A file or directory instead: the key is file: and its canonical absolute path
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

impl Target {
    pub(super) fn key(&self) -> Result<String, Failure> {
        match (&self.key, &self.file) {
            (_, Some(path)) => file_key(path),
            (Some(key), None) => Ok(key.clone()),
            (None, None) => Err(Failure::usage("name what is to be locked: a KEY, or --file PATH")),
        }
    }
}

/// The key for a file: the same from every directory and by every path that leads to it. Of a file that does
/// not exist yet the directory must exist.
pub(crate) fn file_key(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::file("find", path, &error);
    let canonical = match path.canonicalize() {
        Ok(canonical) => canonical,
        // Also a symbolic link to nowhere: it is then the link that is locked.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let Some(Component::Normal(name)) = path.components().next_back() else {
                return Err(failed(error));
            };
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            parent.canonicalize().map_err(failed)?.join(name)
        }
        Err(error) => return Err(failed(error)),
    };
    match canonical.into_os_string().into_string() {
        Ok(path) => Ok(format!("file:{path}")),
        Err(path) => Err(Failure::bad_input(format!(
            "{} is not UTF-8, which a key must be",
            path.display()
        ))),
    }
}

/// Who takes a lock, and how.
#[derive(Clone, Debug, Args)]
pub(super) struct Terms {
    /// Wait so long for the lock, in the order of arrival: 30s, 5m, forever [default: do not wait]
    #[arg(long, value_name = "DURATION", value_parser = values::wait)]
    pub(super) wait: Option<Duration>,
    /// Who you are [default: user, program and process]
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Whose agent you are: its maker's name
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// JSON that tells others what is going on
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
}

impl Terms {
    /// Takes a lock, waiting as long as was asked for.
    pub(super) async fn acquire(
        &self,
        context: &Context,
        client: &mut Client,
        key: &str,
        ttl_secs: Option<u64>,
    ) -> Result<ResourceLock, Failure> {
        let until = Instant::now() + self.wait.unwrap_or_default();
        let mut request = AcquireResourceLock {
            resource_key: key.to_owned(),
            owner: Some(self.owner.clone().unwrap_or_else(|| context.owner("lock"))),
            provider: self.provider.clone(),
            ttl_secs,
            task_id: None,
            node_id: None,
            metadata: values::json(self.metadata.as_deref(), None)?.unwrap_or_default(),
            wait_secs: None,
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            request.wait_secs = Some(values::wait_secs(left));
            match client
                .call::<_, Option<ResourceLock>>(Method::AcquireResourceLock, &request)
                .await?
            {
                Some(lock) => return Ok(lock),
                None if Instant::now() < until => {}
                None => return Err(held(client, key, self.wait.is_some()).await),
            }
        }
    }
}

async fn held(client: &mut Client, key: &str, waited: bool) -> Failure {
    let request = ListResourceLocks {
        prefix: Some(key.to_owned()),
        limit: Some(1),
        cursor: None,
    };
    let found: Result<LockList, _> = client.call(Method::ListResourceLocks, &request).await;
    let holder = found
        .ok()
        .and_then(|list| list.locks.into_iter().find(|lock| lock.resource_key == key));
    let by = holder.map_or_else(
        || "it was held a moment ago".to_owned(),
        |lock| {
            format!(
                "held by {} until {}",
                one_line(&lock.owner),
                shown_unix(lock.lease_expires_at)
            )
        },
    );
    let failure = Failure::new(Exit::TryAgain, format!("{} is locked: {by}", one_line(key)));
    failure.hint(if waited {
        "wait longer"
    } else {
        "wait for it with --wait 30s"
    })
}

/// Take a lock, and print its lease
#[derive(Debug, Args)]
#[command(after_long_help = "\
Ends with 75 when somebody else holds it. The lock ends by `agentd lock release`, or after its time to live unless
`agentd lock heartbeat` extends it. `agentd lock run` does all three around a command.

Examples:
  agentd lock acquire deploy --ttl 10m
  agentd --json lock acquire --file src/lib.rs --wait 30s | jq -r .lease_id")]
pub(crate) struct AcquireArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    terms: Terms,
    /// How long it lasts without a heartbeat [default: the daemon's node timeout]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    ttl: Option<Duration>,
}

impl AcquireArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let key = self.target.key()?;
        let mut client = context.connect().await?;
        let lock = self
            .terms
            .acquire(context, &mut client, &key, self.ttl.map(values::whole_secs))
            .await?;
        if context.console.json {
            context.console.document(&lock)?;
        } else {
            context.console.fields(&[
                ("key", one_line(&lock.resource_key)),
                ("lease", lock.lease_id.to_string()),
                ("fence", lock.fence.to_string()),
                ("owner", one_line(&lock.owner)),
                ("expires", shown_unix(lock.lease_expires_at)),
            ])?;
        }
        Ok(Exit::Ok)
    }
}

/// Give a lock back
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    target: Target,
    /// The lease that `lock acquire` printed
    #[arg(long, value_name = "ID")]
    lease: LeaseId,
}

impl ReleaseArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = ReleaseResourceLock {
            resource_key: self.target.key()?,
            lease_id: self.lease,
        };
        let done: Done = context
            .connect()
            .await?
            .call(Method::ReleaseResourceLock, &request)
            .await?;
        if context.console.json {
            context.console.document(&done)?;
        } else {
            context
                .console
                .status(&format!("{} is released", one_line(&request.resource_key)));
        }
        Ok(Exit::Ok)
    }
}

/// Extend a lock
#[derive(Debug, Args)]
pub(crate) struct HeartbeatArgs {
    #[command(flatten)]
    target: Target,
    /// The lease that `lock acquire` printed
    #[arg(long, value_name = "ID")]
    lease: LeaseId,
    /// How long it lasts from now on [default: as long as it was granted for]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    ttl: Option<Duration>,
}

impl HeartbeatArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = HeartbeatResourceLock {
            resource_key: self.target.key()?,
            lease_id: self.lease,
            ttl_secs: self.ttl.map(values::whole_secs),
        };
        let done: Extended = context
            .connect()
            .await?
            .call(Method::HeartbeatResourceLock, &request)
            .await?;
        if context.console.json {
            context.console.document(&done)?;
        } else {
            context.console.status(&format!(
                "the lock lasts until {}",
                shown_unix(done.lease_expires_at)
            ));
        }
        Ok(Exit::Ok)
    }
}

/// List the locks that are held
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only keys that begin so, like file:/srv/
    prefix: Option<String>,
}

impl ListArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut client = context.connect().await?;
        let mut request = ListResourceLocks {
            prefix: self.prefix,
            limit: Some(limits::PAGE_DEFAULT),
            cursor: None,
        };
        let mut locks = Vec::new();
        loop {
            let page: LockList = client.call(Method::ListResourceLocks, &request).await?;
            locks.extend(page.locks);
            request.cursor = page.next_cursor;
            if request.cursor.is_none() {
                break;
            }
        }
        if context.console.json {
            context.console.document(&LockList {
                locks,
                next_cursor: None,
            })?;
        } else if locks.is_empty() {
            context.console.status("no lock is held");
        } else {
            let rows = locks
                .iter()
                .map(|lock| {
                    vec![
                        one_line(&lock.resource_key).into(),
                        one_line(&lock.owner).into(),
                        one_line(lock.provider.as_deref().unwrap_or("-")).into(),
                        lock.fence.into(),
                        shown_unix(lock.acquired_at).into(),
                        shown_unix(lock.lease_expires_at).into(),
                        if lock.metadata == Json::empty_object() {
                            "-".into()
                        } else {
                            one_line(lock.metadata.text()).into()
                        },
                    ]
                })
                .collect();
            let header = ["key", "owner", "provider", "fence", "since", "until", "metadata"];
            context.console.table(&header, rows)?;
        }
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_path_to_a_file_makes_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/file"), "").unwrap();
        symlink(root.join("a"), root.join("link")).unwrap();
        symlink(root.join("a/file"), root.join("file-link")).unwrap();
        let expected = format!("file:{}", root.join("a/file").display());
        for path in ["a/file", "a/./b/../file", "link/file", "file-link"] {
            assert_eq!(file_key(&root.join(path)).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn a_file_that_does_not_exist_yet_is_found_by_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("a")).unwrap();
        symlink(root.join("a"), root.join("link")).unwrap();
        let expected = format!("file:{}", root.join("a/new").display());
        assert_eq!(file_key(&root.join("link/new")).unwrap(), expected);
        assert_eq!(file_key(&root.join("a/new")).unwrap(), expected);
        assert_eq!(file_key(&root.join("no/new")).unwrap_err().exit, Exit::BadInput);
        assert_eq!(
            file_key(&root.join("a/..")).unwrap(),
            format!("file:{}", root.display())
        );
    }
}
