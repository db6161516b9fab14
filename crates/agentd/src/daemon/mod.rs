//! The daemon's life, from the first line to the last.
//!
//! [`run`] is `agentd`; [`Instance`] is the part of it that `agentd task run` embeds when no daemon runs: a store,
//! a server on the usual socket, and retention.

pub(crate) mod logging;
pub(crate) mod process;
mod retention;
pub(crate) mod sessions;
mod succeed;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::settings::Settings;
use agentd_api::{Claim, RolePolicy, Server, ServerError, ServerOptions};
use agentd_runner::session::Sessions;
use agentd_store::sqlite::{OpenError, Opened, SqliteStore};
use agentd_store::{Store, StoreOptions};
use process::Signals;
use sd_notify::NotifyState;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// Why it cannot start, or why it ended by itself.
pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let settings = &context.settings;
    // Before anything that a signal could interrupt half-way.
    let mut signals =
        Signals::new().map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
    let mut hangups =
        process::hangups().map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
    settings.prepare_home().map_err(Failure::config)?;
    let mut instance = tokio::select! {
        instance = succeed::start(context) => instance?,
        signal = signals.next() => return Ok(Exit::Passed(process::exit_number(signal))),
    };

    for warning in &settings.warnings {
        warn!("{warning}");
    }
    info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %settings.socket.display(),
        database = %settings.database.display(),
        env_file = %settings.env_file.display(),
        config = %settings.config_path.as_deref().unwrap_or(Path::new("none")).display(),
        schema = instance.opened.schema_version,
        last_seq = instance.opened.last_seq,
        created = instance.opened.created,
        "ready"
    );
    for note in &instance.opened.notes {
        info!("{note}");
    }
    // The socket is listening: whoever waits for this may connect.
    notify(&[NotifyState::Ready, NotifyState::Status("listening")]);

    let outcome = loop {
        tokio::select! {
            signal = signals.next() => {
                info!(signal, "stopping; a second signal stops at once");
                break Ok(Exit::Ok);
            }
            _ = hangups.recv() => instance.reload().await,
            failure = instance.ended() => break Err(failure),
        }
    };
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing what is in flight"),
    ]);
    tokio::select! {
        () = instance.stop() => info!("stopped"),
        // What was acknowledged is on disk, so that this is safe; what was not is lost.
        signal = signals.next() => {
            warn!(signal, "stopped at once");
            return Ok(Exit::Passed(process::exit_number(signal)));
        }
    }
    outcome
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the service manager could not be told");
    }
}

/// A store with a server in front of it.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) opened: Opened,
    store: Arc<dyn Store>,
    sessions: Sessions,
    stop: CancellationToken,
    /// Cancelled when another daemon asks for its place.
    pub(crate) step_aside: CancellationToken,
    // None when it ended by itself.
    server: Option<JoinHandle<Result<(), ServerError>>>,
    retention: JoinHandle<()>,
}

/// Whether a daemon stays for as long as nobody ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tenure {
    /// It was started as a daemon.
    Stays,
    /// It is one for want of another, and makes way for one that starts.
    Lends,
}

/// Why a daemon did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Another process serves this socket or has the database open.
    Taken(Failure),
    /// Anything else.
    Other(Failure),
}

impl Instance {
    /// Opens the store, goes on with the sessions that are there, and listens.
    ///
    /// # Errors
    /// What is in the way, and what to do about it. Nothing was changed then.
    pub(crate) async fn start(context: &Context, tenure: Tenure) -> Result<Self, StartError> {
        let settings = &context.settings;
        if let Some((_, all)) = &settings.unusable {
            return Err(StartError::Other(Failure::config(all.clone())));
        }
        // The claim comes first: a second daemon is to find out before it touches the database.
        let claim = Claim::take(&settings.socket)?;
        let (store, opened) = open_store(settings)?;
        let store: Arc<dyn Store> = Arc::new(store);
        let mut options = ServerOptions::new(&settings.socket, Arc::clone(&store));
        options.roles = RolePolicy {
            operators: settings.operators.clone(),
            workers: settings.workers.clone(),
            default_role: settings.default_role,
        };
        options.running_timeout_secs = settings.node_timeout_secs;
        options.context_event_limit = settings.context_event_limit;
        if let Some(connections) = settings.max_connections {
            options.connections_max = connections;
        }
        // Before anybody can ask for a node: sessions that go on hold theirs.
        let sessions = sessions::start(
            &Arc::new(settings.clone()),
            &context.environment,
            Arc::clone(&store),
        )
        .await
        .map_err(|why| StartError::Other(Failure::config(why)))?;
        options.sessions = Some(Arc::new(sessions::Served {
            sessions: sessions.clone(),
            store: Arc::clone(&store),
        }));
        let step_aside = CancellationToken::new();
        options.step_aside = (tenure == Tenure::Lends).then(|| step_aside.clone());
        let server = Server::bind_claimed(claim, options)?;
        let stop = CancellationToken::new();
        let server = Some(tokio::spawn(server.serve(stop.clone())));
        let retention = tokio::spawn(retention::run(Arc::clone(&store), settings.retention_days));
        Ok(Self {
            opened,
            store,
            sessions,
            stop,
            step_aside,
            server,
            retention,
        })
    }

    /// Waits until the server ends without having been asked to, which it never does unless it is broken.
    pub(crate) async fn ended(&mut self) -> Failure {
        if let Some(server) = &mut self.server {
            let outcome = server.await;
            error!(?outcome, "the server ended by itself");
            self.server = None;
        }
        Failure::internal("the server ended by itself; its log says more")
    }

    /// Reads the configuration again, because a signal said so.
    async fn reload(&self) {
        match self.sessions.reload().await {
            Ok(reloaded) => info!(
                path = reloaded.path,
                added = reloaded.added.len(),
                changed = reloaded.changed.len(),
                removed = reloaded.removed.len(),
                "read the configuration again"
            ),
            Err(error) => error!("the configuration stays as it was: {error}"),
        }
    }

    /// Ends it in order: no more connections, what is in flight is answered, the database is closed.
    pub(crate) async fn stop(self) {
        self.retention.abort();
        // They go on; only nobody follows them until the next daemon does.
        self.sessions.stop().await;
        self.stop.cancel();
        // It closes the store on its way; the second time is for a server that did not get so far.
        if let Some(server) = self.server {
            match server.await {
                Ok(Ok(())) => {}
                outcome => error!(?outcome, "the server did not end well"),
            }
        }
        self.store.close().await;
    }
}

/// Opens the store that the settings name.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn open_store(settings: &Settings) -> Result<(SqliteStore, Opened), OpenError> {
    let options = StoreOptions {
        default_lease_ms: i64::try_from(settings.node_timeout_secs.saturating_mul(1000)).unwrap_or(i64::MAX),
        context_event_limit: settings.context_event_limit,
        ..StoreOptions::default()
    };
    SqliteStore::open(&settings.database, options)
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        let message = error.to_string();
        match error {
            OpenError::Locked { pid, .. } => {
                let hint = i32::try_from(pid).ok().and_then(succeed::hint_about);
                let hint = hint
                    .unwrap_or_else(|| "one daemon per database: talk to that one, or stop it first".into());
                Self::Taken(Failure::new(Exit::TryAgain, message).hint(hint))
            }
            OpenError::TooNew { .. } | OpenError::NotOurs { .. } => Self::Other(Failure::config(message)),
            OpenError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::Other(Failure::new(Exit::NotPermitted, message))
            }
            _ => Self::Other(Failure::internal(message)),
        }
    }
}

impl From<ServerError> for StartError {
    fn from(error: ServerError) -> Self {
        let message = error.to_string();
        match error {
            ServerError::AlreadyRunning { pid, .. } | ServerError::InUse { pid, .. } => {
                let mut failure = Failure::new(Exit::TryAgain, message);
                failure.hint = pid.and_then(succeed::hint_about);
                Self::Taken(failure)
            }
            _ => Self::Other(Failure::config(message)),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Taken(failure) | StartError::Other(failure) => failure,
        }
    }
}
