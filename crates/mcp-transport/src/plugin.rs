//! A plugin as the gateway has it: what it can do, what is asked of it and by whom.
//!
//! ```text
//!   Starting ──ready──▶ Ready ──died──▶ Waiting ──pause over──▶ Starting
//!      │ failed                           │ too often
//!      └──────────────▶ Waiting           └──────────▶ GivenUp: its tools are withdrawn
//! ```

use crate::client::Origin;
use crate::gateway::{Inner, StartFault};
use crate::limits::{Bucket, Limits, seconds};
use crate::lines::id_in_head;
use crate::log::Log;
use crate::message::{Message, Object, Raw, RpcError, answer_line, method_line, parse, raw};
use crate::policy::Rules;
use crate::process::{ProcessOptions, Said};
use crate::remote::{Remote, RemoteOptions};
use crate::revision::{Capabilities, Client, Revision, decorate};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How much of what is no message is kept, in bytes.
const GARBAGE_SHOWN_BYTES: usize = 200;

/// How a plugin wants to be spoken to first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifecycle {
    /// Find out: `server/discover`, and `initialize` when that is not understood.
    #[default]
    Auto,
    /// `initialize`, the revisions until 2025-11-25.
    Initialize,
    /// `server/discover`, revision 2026-07-28.
    Discover,
}

/// What a plugin is.
#[derive(Clone, Debug)]
pub enum Source {
    /// A process on this machine, spoken to over its standard input and output.
    Process(ProcessOptions),
    /// A server elsewhere.
    Remote(RemoteOptions),
}

/// One plugin.
#[derive(Clone, Debug)]
pub struct PluginOptions {
    /// Its name: see [`crate::name::is_plugin_name`].
    pub name: String,
    /// What it is.
    pub source: Source,
    /// How it begins.
    pub lifecycle: Lifecycle,
    /// Which of its tools there are, by their own names.
    pub tools: Rules,
    /// Its limits.
    pub limits: Limits,
    /// True for names with its name before them. Without, its tools may collide with another's.
    pub prefixed: bool,
    /// True when it is started by the first request of a client, and not before: nothing waits for it at the gateway's
    /// start, and it costs nothing until then.
    pub lazy: bool,
    /// True when arguments come to it without secrets: it writes down what it is told.
    pub redacted: bool,
}

impl PluginOptions {
    /// A plugin with the usual limits, all of whose tools may be used.
    #[must_use]
    pub fn new(name: impl Into<String>, source: Source) -> Self {
        Self {
            name: name.into(),
            source,
            lifecycle: Lifecycle::default(),
            tools: Rules::default(),
            limits: Limits::default(),
            prefixed: true,
            lazy: false,
            redacted: false,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It is not there, or has died meanwhile, or cannot be reached.
    #[error("{0}")]
    Failed(String),
    #[error("it did not answer within {}", seconds(*.0))]
    TimedOut(Duration),
    #[error("the call was cancelled")]
    Cancelled,
}

#[derive(Debug, Default)]
struct Symptoms {
    /// It has said what is no message.
    babbles: AtomicBool,
    /// It has let a time pass by.
    is_silent: AtomicBool,
}

pub(crate) type Answer = Result<Raw, Raw>;

/// How a plugin stands.
#[derive(Clone, Debug)]
pub(crate) enum Status {
    Starting,
    Ready,
    /// It has died, and will be started again.
    Waiting(Arc<str>),
    GivenUp(Arc<str>),
    Stopped,
}

/// What it offers, as it said it.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    pub(crate) tools: Vec<Raw>,
    pub(crate) prompts: Vec<Raw>,
    pub(crate) resources: Vec<Raw>,
    pub(crate) templates: Vec<Raw>,
}

#[derive(Clone)]
pub(crate) enum Wire {
    Stdio(mpsc::Sender<Bytes>),
    Remote(Arc<Remote>),
}

impl Wire {
    async fn send(&self, line: Bytes, id: Option<u64>) -> Result<(), CallError> {
        match self {
            Self::Stdio(queue) => {
                let gone = |_| CallError::Failed("it has closed its standard input".into());
                queue.send(line).await.map_err(gone)
            }
            Self::Remote(remote) => {
                remote.post(line, id);
                Ok(())
            }
        }
    }

    /// Sends what may be lost: the plugin is slow to read.
    fn offer(&self, line: Bytes) {
        match self {
            Self::Stdio(queue) => drop(queue.try_send(line)),
            Self::Remote(remote) => remote.post(line, None),
        }
    }
}

struct Pending {
    reply: oneshot::Sender<Result<Answer, CallError>>,
    origin: Option<Arc<Origin>>,
}

#[derive(Default)]
struct State {
    wire: Option<Wire>,
    revision: Revision,
    capabilities: Capabilities,
    instructions: Option<String>,
    next_id: u64,
    pending: HashMap<u64, Pending>,
}

pub(crate) struct Plugin {
    pub(crate) index: usize,
    pub(crate) options: PluginOptions,
    pub(crate) gateway: Weak<Inner>,
    /// Who we are to it, unless a client's request says otherwise.
    pub(crate) identity: Client,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) lists: Mutex<Lists>,
    /// It says that its lists are others now.
    pub(crate) lists_changed: Notify,
    /// Resources that clients want to hear of.
    pub(crate) subscribed: watch::Sender<BTreeSet<String>>,
    pub(crate) said: Said,
    /// What may be wrong with it, as far as it has shown.
    symptoms: Symptoms,
    bucket: Mutex<Option<Bucket>>,
    state: Mutex<State>,
}

impl Plugin {
    /// Whether it has let a time pass by while it was started.
    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.symptoms.is_silent.store(is_silent, Ordering::Relaxed);
    }

    pub(crate) fn fault(&self) -> StartFault {
        if self.symptoms.babbles.load(Ordering::Relaxed) {
            StartFault::NoMessages
        } else if self.symptoms.is_silent.load(Ordering::Relaxed) {
            StartFault::Silent
        } else {
            StartFault::Other
        }
    }

    pub(crate) fn new(
        index: usize,
        options: PluginOptions,
        gateway: Weak<Inner>,
        identity: Client,
        log: Option<Log>,
    ) -> Self {
        let bucket = options.limits.rate.map(|rate| Bucket::new(rate, Instant::now()));
        Self {
            index,
            options,
            gateway,
            identity,
            status: watch::Sender::new(Status::Starting),
            lists: Mutex::default(),
            lists_changed: Notify::new(),
            subscribed: watch::Sender::default(),
            said: Said::with(log),
            symptoms: Symptoms::default(),
            bucket: Mutex::new(bucket),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.state().revision
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.state().capabilities.clone()
    }

    pub(crate) fn instructions(&self) -> Option<String> {
        self.state().instructions.clone()
    }

    pub(crate) fn connect(&self, wire: Option<Wire>) {
        self.state().wire = wire;
    }

    pub(crate) fn wire(&self) -> Option<Wire> {
        self.state().wire.clone()
    }

    pub(crate) fn speaks(&self, revision: Revision) {
        self.state().revision = revision;
    }

    pub(crate) fn can(&self, capabilities: Capabilities, instructions: Option<String>) {
        let mut state = self.state();
        state.capabilities = capabilities;
        state.instructions = instructions;
    }

    /// One call of the plugin's rate.
    pub(crate) fn admit(&self) -> Result<(), Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket
            .as_mut()
            .map_or(Ok(()), |bucket| bucket.take(Instant::now()))
    }

    /// Waits, for so long at most, until it can be called.
    pub(crate) async fn ready(&self, max: Duration) -> Result<(), CallError> {
        let mut status = self.status.subscribe();
        let settled = status.wait_for(|status| !matches!(status, Status::Starting | Status::Waiting(_)));
        let settled = timeout(max, settled)
            .await
            .map(|settled| settled.map(|status| status.clone()));
        let status = match settled {
            Ok(Ok(status)) => status,
            _ => self.status.borrow().clone(),
        };
        Err(CallError::Failed(match status {
            Status::Ready => return Ok(()),
            Status::Starting => "it is still being started; try again later".into(),
            Status::Waiting(reason) => {
                format!("it has ended and is being started again; try again later: {reason}")
            }
            Status::GivenUp(reason) => format!("it has ended too often and was given up: {reason}"),
            Status::Stopped => "it was stopped".into(),
        }))
    }

    /// Asks the plugin. Dropped, or cancelled, or too late, the plugin is told that nobody waits any more.
    pub(crate) async fn call(
        &self,
        method: &str,
        params: Object<'_>,
        origin: Option<Arc<Origin>>,
        max: Duration,
        cancel: &CancellationToken,
    ) -> Result<Answer, CallError> {
        let (reply, answer) = oneshot::channel();
        let progress = origin.as_ref().is_some_and(|origin| origin.progress.is_some());
        let from = origin.as_ref().and_then(|origin| origin.connection.client());
        let (id, wire, revision) = {
            let mut state = self.state();
            let wire = state.wire.clone();
            let wire = wire.ok_or_else(|| CallError::Failed("it is not running".into()))?;
            state.next_id += 1;
            let id = state.next_id;
            state.pending.insert(id, Pending { reply, origin });
            (id, wire, state.revision)
        };
        let mut unanswered = Unanswered {
            plugin: self,
            wire: &wire,
            id,
            method,
            answered: false,
        };
        let client = from.as_ref().unwrap_or(&self.identity);
        let params = decorate(params, revision, client, progress.then_some(id));
        let line = method_line(Some(&id.to_string()), method, params.as_deref());
        let exchange = async {
            wire.send(line, Some(id)).await?;
            let gone = |_| CallError::Failed("it has ended".into());
            answer.await.map_err(gone)?
        };
        tokio::select! {
            biased;
            answer = timeout(max, exchange) => {
                unanswered.answered = answer.is_ok();
                answer.unwrap_or(Err(CallError::TimedOut(max)))
            }
            () = cancel.cancelled() => Err(CallError::Cancelled),
        }
    }

    pub(crate) fn notify(&self, method: &str, params: Option<&str>) {
        if let Some(wire) = self.wire() {
            wire.offer(method_line(None, method, params));
        }
    }

    /// True while this has no answer, and somebody wants one.
    pub(crate) fn waits_for(&self, id: u64) -> bool {
        self.state().pending.contains_key(&id)
    }

    /// There will be no answer to this.
    pub(crate) fn fail(&self, id: u64, error: CallError) {
        let pending = self.state().pending.remove(&id);
        if let Some(pending) = pending {
            // Whoever waited may have gone.
            let _ = pending.reply.send(Err(error));
        }
    }

    /// There will be no answer to anything.
    pub(crate) fn fail_all(&self, why: &str) {
        let all = std::mem::take(&mut self.state().pending);
        for (_, pending) in all {
            let _ = pending.reply.send(Err(CallError::Failed(why.to_owned())));
        }
    }

    /// Takes a message that was too long to be read.
    pub(crate) fn take_too_long(&self, head: &[u8], bytes: u64) {
        let max = self.options.limits.line_bytes_max;
        let why =
            format!("it sent a message of {bytes} bytes, and {max} are allowed: ask it for less at a time");
        self.said.push(format!("[{why}]\n").as_bytes());
        if let Some(id) = id_in_head(head).and_then(|id| id.get().parse().ok()) {
            self.fail(id, CallError::Failed(why));
        }
    }

    /// Takes what it says. True for what was not an answer, of which there may be too much.
    pub(crate) fn take(&self, bytes: &[u8]) -> bool {
        match parse(bytes) {
            Ok(Message::Response { id, answer }) => {
                let id = id.and_then(|id| id.get().parse::<u64>().ok());
                let pending = id.and_then(|id| self.state().pending.remove(&id));
                let Some(pending) = pending else {
                    // Too late, or never asked.
                    return true;
                };
                let owned = answer.map(ToOwned::to_owned).map_err(ToOwned::to_owned);
                let _ = pending.reply.send(Ok(owned));
                return false;
            }
            Ok(Message::Notification { method, params }) => self.notified(&method, params),
            Ok(Message::Request { id, method, params }) => self.asked(id, &method, params),
            Err(malformed) => {
                self.symptoms.babbles.store(true, Ordering::Relaxed);
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(GARBAGE_SHOWN_BYTES)]);
                self.said
                    .push(format!("[on standard output, {}: {shown}]\n", malformed.why).as_bytes());
                // With a method it would be a number of its own.
                let id = malformed.id.filter(|_| !malformed.asks);
                if let Some(id) = id.and_then(|id| id.get().parse().ok()) {
                    self.fail(
                        id,
                        CallError::Failed(format!("its answer is malformed: {}", malformed.why)),
                    );
                }
            }
        }
        true
    }

    fn notified(&self, method: &str, params: Option<&RawValue>) {
        match method {
            "notifications/progress" => self.progressed(params),
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => self.lists_changed.notify_one(),
            "notifications/message"
            | "notifications/resources/updated"
            | "notifications/elicitation/complete" => {
                if let Some(gateway) = self.gateway.upgrade() {
                    gateway.notified(self, method, params);
                }
            }
            _ => {}
        }
    }

    fn progressed(&self, params: Option<&RawValue>) {
        let Some(mut params) = params.and_then(Object::parse) else {
            return;
        };
        let token = params
            .get("progressToken")
            .and_then(|token| token.get().parse::<u64>().ok());
        let origin = token.and_then(|id| self.state().pending.get(&id)?.origin.clone());
        if let Some(origin) = origin
            && let Some(token) = &origin.progress
        {
            params.set("progressToken", token.clone());
            origin.offer(method_line(
                None,
                "notifications/progress",
                Some(&params.to_text()),
            ));
        }
    }

    fn asked(&self, id: &RawValue, method: &str, params: Option<&RawValue>) {
        let Some(wire) = self.wire() else { return };
        if method == "ping" {
            wire.offer(answer_line(id, Ok(&raw(&serde_json::json!({})))));
            return;
        }
        // The newer revision has no requests of servers; and which client is meant is known only while exactly one
        // client's calls are under way.
        let origin = self.only_origin();
        let (id, method, params) = (id.to_owned(), method.to_owned(), params.map(ToOwned::to_owned));
        tokio::spawn(async move {
            let answer = match origin {
                Some(origin) => origin.ask(&method, params.as_deref()).await,
                None => {
                    let why =
                        format!("{method}: no single client's call is under way, so nobody can be asked");
                    Err(RpcError::new(crate::message::code::METHOD_NOT_FOUND, why).raw())
                }
            };
            let line = answer_line(&id, answer.as_deref().map_err(|error| &**error));
            // The plugin has gone otherwise.
            let _ = wire.send(line, None).await;
        });
    }

    fn only_origin(&self) -> Option<Arc<Origin>> {
        let origins = self.origins();
        let first = origins.first()?.clone();
        let same = |origin: &Arc<Origin>| Arc::ptr_eq(&origin.connection, &first.connection);
        origins.iter().all(same).then_some(first)
    }

    /// Whose calls are under way.
    pub(crate) fn origins(&self) -> Vec<Arc<Origin>> {
        let state = self.state();
        let mut all: Vec<_> = state.pending.iter().collect();
        all.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(**id));
        all.into_iter()
            .filter_map(|(_, pending)| pending.origin.clone())
            .collect()
    }
}

/// A call that has no answer yet.
struct Unanswered<'a> {
    plugin: &'a Plugin,
    wire: &'a Wire,
    id: u64,
    method: &'a str,
    answered: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.plugin.state().pending.remove(&self.id);
        if self.answered {
            return;
        }
        if let Wire::Remote(remote) = self.wire {
            remote.forget(self.id);
        }
        // A handshake cannot be taken back.
        if !matches!(self.method, "initialize" | "server/discover") {
            let params = format!(
                r#"{{"requestId":{},"reason":"nobody waits for it any more"}}"#,
                self.id
            );
            self.wire
                .offer(method_line(None, "notifications/cancelled", Some(&params)));
        }
    }
}
