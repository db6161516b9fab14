//! A client as the gateway has it: who it is, what it has asked, what it was asked.

use crate::message::{Object, Raw, RpcError, code, method_line};
use crate::plugin::Answer;
use crate::revision::{Capabilities, Client, Revision};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Requests of one client under way at once.
pub(crate) const IN_FLIGHT_MAX: u32 = 256;
/// Messages that wait for a client to read them.
pub(crate) const OUT_MAX: usize = 64;
/// How long a client may take to answer what a plugin asks of it: people may be asked.
const ASKED_MAX: Duration = Duration::from_secs(600);
/// Resources that one client may subscribe to.
const SUBSCRIPTIONS_MAX: usize = 256;

/// Where a client's messages go. Small, and cloned for each request.
pub(crate) type Out = mpsc::Sender<Bytes>;

/// One client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    /// Cancelled when the client is gone.
    pub(crate) gone: CancellationToken,
    pub(crate) permits: Arc<Semaphore>,
    /// Where what belongs to no request goes; none when the client has not asked for that.
    out: Mutex<Option<Out>>,
    state: Mutex<State>,
    next_ask: AtomicU64,
    /// A change waits for the client to read.
    owes: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    client: Option<Client>,
    can: Asked,
    running: HashMap<String, CancellationToken>,
    asked: HashMap<String, oneshot::Sender<Answer>>,
    listens: HashMap<String, Listen>,
    subscribed: BTreeSet<String>,
    /// It has greeted in the older way, and hears of every change.
    is_legacy: bool,
    /// Nothing more will come of it.
    has_said_all: bool,
}

impl State {
    fn cancel(&self, id: &str) {
        if let Some(cancel) = self.running.get(id) {
            cancel.cancel();
        }
    }
}

/// What of a client may be asked.
#[derive(Debug, Default)]
struct Asked {
    sampling: bool,
    elicitation: bool,
    roots: bool,
}

/// A stream of changes that a client has asked for.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    pub(crate) id: Raw,
    pub(crate) out: Out,
    pub(crate) tools: bool,
    pub(crate) prompts: bool,
    pub(crate) resources: bool,
    pub(crate) uris: BTreeSet<String>,
}

impl Connection {
    pub(crate) fn new(number: u64, out: Option<Out>) -> Self {
        Self {
            number,
            gone: CancellationToken::new(),
            permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize)),
            out: Mutex::new(out),
            state: Mutex::default(),
            next_ask: AtomicU64::new(0),
            owes: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn out(&self) -> Option<Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_out(&self, out: Option<Out>) {
        *self.out.lock().unwrap_or_else(PoisonError::into_inner) = out;
    }

    /// It has introduced itself in the older way.
    pub(crate) fn greeted(&self, client: Client) {
        let can = Object::parse(&client.capabilities).unwrap_or_default();
        let can = Asked {
            sampling: can.get("sampling").is_some(),
            elicitation: can.get("elicitation").is_some(),
            roots: can.get("roots").is_some(),
        };
        let mut state = self.state();
        state.is_legacy = true;
        state.client = Some(client);
        state.can = can;
    }

    pub(crate) fn client(&self) -> Option<Client> {
        self.state().client.clone()
    }

    /// A request has begun. None when there is one with this id already.
    pub(crate) fn begin(self: &Arc<Self>, id: &RawValue) -> Option<Begun> {
        let key = id.get().to_owned();
        let mut state = self.state();
        if state.running.contains_key(&key) {
            return None;
        }
        let cancel = self.gone.child_token();
        state.running.insert(key.clone(), cancel.clone());
        Some(Begun {
            connection: Arc::clone(self),
            key,
            cancel,
        })
    }

    pub(crate) fn cancel(&self, params: Option<&RawValue>) {
        let Some(params) = params.and_then(Object::parse) else {
            return;
        };
        if let Some(id) = params.get("requestId") {
            self.state().cancel(id.get());
        }
    }

    /// It has answered what it was asked.
    pub(crate) fn answered(&self, id: Option<&RawValue>, answer: Result<&RawValue, &RawValue>) {
        let asked = id.and_then(|id| self.state().asked.remove(id.get()));
        if let Some(asked) = asked {
            let owned = answer.map(ToOwned::to_owned).map_err(ToOwned::to_owned);
            // The plugin may have gone.
            let _ = asked.send(owned);
        }
    }

    /// It will say no more: what waits for a word of it ends. Returns when the other requests under way are answered.
    pub(crate) async fn said_all(&self) {
        {
            let mut state = self.state();
            // For requests that have not come as far as to wait.
            state.has_said_all = true;
            state.asked.clear();
            for id in state.listens.keys() {
                state.cancel(id);
            }
        }
        // As many as there are.
        let _ = self.permits.acquire_many(IN_FLIGHT_MAX).await;
    }

    pub(crate) fn listen(&self, listen: Listen) {
        let mut state = self.state();
        let id = listen.id.get().to_owned();
        if state.has_said_all {
            state.cancel(&id);
        }
        state.listens.insert(id, listen);
    }

    pub(crate) fn unlisten(&self, id: &RawValue) {
        self.state().listens.remove(id.get());
    }

    /// True when there was room for one more.
    pub(crate) fn subscribe(&self, uri: String) -> bool {
        let mut state = self.state();
        if state.subscribed.len() >= SUBSCRIPTIONS_MAX && !state.subscribed.contains(&uri) {
            return false;
        }
        state.subscribed.insert(uri);
        true
    }

    pub(crate) fn unsubscribe(&self, uri: &str) {
        self.state().subscribed.remove(uri);
    }

    /// The resources that it wants to hear of.
    pub(crate) fn subscriptions(&self) -> BTreeSet<String> {
        let state = self.state();
        let listened = state.listens.values().flat_map(|listen| &listen.uris);
        state.subscribed.iter().chain(listened).cloned().collect()
    }

    pub(crate) fn is_legacy(&self) -> bool {
        self.state().is_legacy
    }

    pub(crate) fn is_subscribed(&self, uri: &str) -> bool {
        self.state().subscribed.contains(uri)
    }

    pub(crate) fn listens(&self) -> Vec<Listen> {
        self.state().listens.values().cloned().collect()
    }

    /// Tells that something has changed, if need be when a slow client has read what is before it.
    pub(crate) fn tell(self: &Arc<Self>, out: Out, lines: Vec<Bytes>) {
        let Some(at) = lines.iter().position(|line| out.try_send(line.clone()).is_err()) else {
            return;
        };
        if self.owes.swap(true, Ordering::Relaxed) {
            // The one that waits says the same.
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            for line in lines.into_iter().skip(at) {
                tokio::select! {
                    sent = out.send(line) => if sent.is_err() { break },
                    () = this.gone.cancelled() => break,
                }
            }
            this.owes.store(false, Ordering::Relaxed);
        });
    }

    /// Tells what may be lost when the client is slow.
    pub(crate) fn offer(&self, line: Bytes) {
        if let Some(out) = self.out() {
            let _ = out.try_send(line);
        }
    }
}

/// A request that is under way.
pub(crate) struct Begun {
    connection: Arc<Connection>,
    key: String,
    pub(crate) cancel: CancellationToken,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.connection.state().running.remove(&self.key);
    }
}

/// Whose request a call of a plugin serves.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) connection: Arc<Connection>,
    pub(crate) out: Out,
    pub(crate) revision: Revision,
    /// What the client calls the request's progress.
    pub(crate) progress: Option<Raw>,
}

impl Origin {
    pub(crate) fn offer(&self, line: Bytes) {
        // A client that does not read misses progress, and nothing else.
        let _ = self.out.try_send(line);
    }

    /// Asks the client something on a plugin's behalf.
    pub(crate) async fn ask(&self, method: &str, params: Option<&RawValue>) -> Answer {
        let error = |message: String| Err(RpcError::new(code::METHOD_NOT_FOUND, message).raw());
        let connection = &self.connection;
        let is_possible = self.revision == Revision::Legacy && {
            let state = connection.state();
            match method {
                _ if state.has_said_all => false,
                "sampling/createMessage" => state.can.sampling,
                "elicitation/create" => state.can.elicitation,
                "roots/list" => state.can.roots,
                _ => false,
            }
        };
        if !is_possible {
            return error(format!("the client cannot be asked for {method}"));
        }
        let number = connection.next_ask.fetch_add(1, Ordering::Relaxed);
        let id = format!("\"gateway-{number}\"");
        let (sender, answer) = oneshot::channel();
        connection.state().asked.insert(id.clone(), sender);
        let exchange = async {
            let line = method_line(Some(&id), method, params.map(RawValue::get));
            self.out.send(line).await.ok()?;
            answer.await.ok()
        };
        let answer = tokio::select! {
            answer = timeout(ASKED_MAX, exchange) => answer.ok().flatten(),
            () = connection.gone.cancelled() => None,
        };
        connection.state().asked.remove(&id);
        answer.unwrap_or_else(|| error(format!("the client has not answered {method}")))
    }
}

/// All that the plugins can do, as one server's capabilities.
pub(crate) fn together(all: impl Iterator<Item = Capabilities>) -> serde_json::Value {
    let mut can = serde_json::json!({"tools": {"listChanged": true}});
    for one in all {
        if one.prompts.is_some() {
            can["prompts"] = serde_json::json!({"listChanged": true});
        }
        if let Some(resources) = one.resources {
            let subscribe = resources.subscribe || can["resources"]["subscribe"] == true;
            can["resources"] = serde_json::json!({"listChanged": true, "subscribe": subscribe});
        }
        if one.completions.is_some() {
            can["completions"] = serde_json::json!({});
        }
        if one.logging.is_some() {
            can["logging"] = serde_json::json!({});
        }
    }
    can
}
