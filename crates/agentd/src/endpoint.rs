//! A daemon to talk to: the one that runs, or one in this process.
//!
//! ```text
//!   Host::start ──▶ does a daemon answer? ── yes ──▶ use it ──── it goes away ────┐
//!                        ▲          │ no                                           ▼
//!                        │          ▼                              wait two seconds for one to come
//!                        │   become the daemon ◀────────── none ───────────────────┤
//!                        └──────────────────────────────────────── one came ───────┘
//! ```
//!
//! The embedded daemon listens on the usual socket, so that other terminals can look at the run, other runs can use
//! it, and whoever does goes on through its end just as through a restart: leases are in the database.

use crate::cli::Context;
use crate::console::Tone;
use crate::daemon::{Instance, StartError, Tenure};
use crate::failure::Failure;
use agentd_client::{Client, ClientError};
use agentd_protocol::journal::action;
use agentd_protocol::requests::{JournalFilter, NoParams, SubscribeJournal};
use agentd_protocol::results::WhoAmI;
use agentd_protocol::{Method, Reason};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a run waits for a daemon that went away to come back before it becomes the daemon itself: a restart
/// takes less, and the shortest leases last longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long somebody else may hold the database without answering on the socket: a daemon that starts on a long
/// log, or ends.
pub(crate) const TAKEN_PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts to connect. The kernel tells nobody when a socket begins to listen.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(10);
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(250);

/// True when nobody listens, as opposed to somebody who does not want us.
pub(crate) fn nobody_listens(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { source, .. } => matches!(
            source.kind(),
            // The last two: a daemon ended while we were in its queue.
            ErrorKind::NotFound
                | ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
        ),
        _ => false,
    }
}

/// True when the same on a new connection may work: the daemon was stopped, killed or restarted, or is busy.
pub(crate) fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Io(_) | ClientError::Closed => true,
        ClientError::Rpc(error) => {
            matches!(
                error.reason(),
                Some(Reason::ShuttingDown | Reason::SlowReader | Reason::Busy)
            )
        }
        error => nobody_listens(error),
    }
}

/// Connects again and again.
#[derive(Debug)]
pub(crate) struct Reconnect<'a> {
    context: &'a Context,
    quiet: bool,
}

impl<'a> Reconnect<'a> {
    /// Goes on until a daemon answers, and says so when it has to wait.
    pub(crate) fn forever(context: &'a Context) -> Self {
        Self {
            context,
            quiet: false,
        }
    }

    /// The same without a word, for runs that see to the daemon's return themselves.
    pub(crate) fn quietly(context: &'a Context) -> Self {
        Self { context, quiet: true }
    }

    /// A connection.
    ///
    /// # Errors
    /// When waiting is of no use: the caller may not connect.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let mut pause = PAUSE_MIN;
        let mut said = self.quiet;
        loop {
            match Client::connect(&self.context.settings.socket).await {
                Ok(client) => {
                    if said && !self.quiet {
                        self.context.console.status("the daemon is back");
                    }
                    return Ok(client);
                }
                Err(error) => Self::worth_it(error)?,
            }
            // A restart that takes no time is not worth a word.
            if !said && pause > Duration::from_millis(100) {
                said = true;
                self.context
                    .console
                    .status("the daemon is gone; waiting for it to come back (Ctrl-C ends this)");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Sorts out what another attempt would not change.
    ///
    /// # Errors
    /// The error itself, then.
    pub(crate) fn worth_it(error: ClientError) -> Result<(), Failure> {
        if is_passing(&error) {
            Ok(())
        } else {
            Err(error.into())
        }
    }
}

/// Sees to it that a daemon answers on the socket for as long as this lives.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    context: &'a Context,
    embedded: Option<Instance>,
    // An embedded one that makes way. It ends in order whoever waits for that.
    leaving: Option<JoinHandle<()>>,
}

impl<'a> Host<'a> {
    /// Uses the daemon that runs, or becomes one.
    ///
    /// # Errors
    /// When neither is possible.
    pub(crate) async fn start(context: &'a Context) -> Result<Self, Failure> {
        let mut host = Self {
            context,
            embedded: None,
            leaving: None,
        };
        host.ensure(Duration::ZERO).await?;
        Ok(host)
    }

    /// True while this process is the daemon itself.
    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Watches over the daemon. Ends only when there is none and this process cannot be one either. May be
    /// dropped and called again.
    pub(crate) async fn keep(&mut self) -> Failure {
        loop {
            if let Some(instance) = &mut self.embedded {
                // The borrow of the one ends before the other begins.
                let asked = instance.step_aside.clone();
                tokio::select! {
                    failure = instance.ended() => return failure,
                    () = asked.cancelled() => {}
                }
                self.leaving = self.embedded.take().map(|instance| tokio::spawn(instance.stop()));
            }
            if self.leaving.is_some() {
                self.left().await;
                self.context
                    .console
                    .status("made way for a daemon that starts; waiting for it");
            } else {
                if let Err(failure) = self.until_gone().await {
                    return failure;
                }
                self.context
                    .console
                    .status("the daemon has gone away; waiting for it to come back");
            }
            if let Err(failure) = self.ensure(PATIENCE).await {
                return failure;
            }
            let how = if self.embedded.is_some() {
                "it did not come; this run goes on as its own daemon"
            } else {
                "it is there"
            };
            self.context
                .console
                .status(&self.context.console.toned_status(Tone::Faint, how));
        }
    }

    /// Ends the embedded daemon, if there is one: what is in flight is answered, the database is closed.
    pub(crate) async fn stop(mut self) {
        self.left().await;
        if let Some(instance) = self.embedded {
            instance.stop().await;
        }
    }

    async fn left(&mut self) {
        if let Some(leaving) = &mut self.leaving {
            // A mistake in there ends that task, and with it the instance.
            let _ = leaving.await;
            self.leaving = None;
        }
    }

    // A subscription to what hardly ever happens costs nothing and ends with the daemon.
    async fn until_gone(&self) -> Result<(), Failure> {
        let filter = JournalFilter {
            action_types: vec![action::RESTORE_DATABASE.into()],
            ..JournalFilter::default()
        };
        let request = SubscribeJournal {
            from_seq: None,
            filter,
        };
        let ended = async {
            let mut subscription = Client::connect(&self.context.settings.socket)
                .await?
                .subscribe(&request)
                .await?;
            while subscription.next().await?.is_some() {}
            Ok(())
        };
        match ended.await {
            Ok(()) => Ok(()),
            Err(error) => Reconnect::worth_it(error),
        }
    }

    // A connection alone says little: the kernel makes it, for a daemon that is just ending too.
    async fn answers(&self) -> Result<(), ClientError> {
        let mut client = Client::connect(&self.context.settings.socket).await?;
        client
            .call::<_, WhoAmI>(Method::WhoAmI, &NoParams {})
            .await
            .map(drop)
    }

    async fn ensure(&mut self, patience: Duration) -> Result<(), Failure> {
        let began = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            match self.answers().await {
                Ok(()) => return Ok(()),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error.into()),
            }
            if began.elapsed() >= patience {
                self.context.settings.prepare_home().map_err(Failure::config)?;
                match Instance::start(self.context, Tenure::Lends).await {
                    Ok(instance) => {
                        for note in self
                            .context
                            .settings
                            .warnings
                            .iter()
                            .chain(&instance.opened.notes)
                        {
                            self.context.console.status(note);
                        }
                        self.embedded = Some(instance);
                        return Ok(());
                    }
                    // Somebody is about to be the daemon, or to have been it.
                    Err(StartError::Taken(failure)) if began.elapsed() >= patience + TAKEN_PATIENCE => {
                        return Err(failure);
                    }
                    Err(StartError::Taken(_)) => {}
                    Err(StartError::Other(failure)) => return Err(failure),
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
