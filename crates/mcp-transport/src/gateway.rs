//! The gateway: plugins on one side, agents on the other.

use crate::catalog::Catalog;
use crate::client::{Connection, Origin, Out, together};
use crate::event::{Discard, Event, Redact, Sink};
use crate::limits::{Bucket, Rate};
use crate::live;
use crate::log::Log;
use crate::message::{Object, Raw, RpcError, method_line, raw, raw_text};
use crate::name::{self, NAME_CHARS_MAX};
use crate::paging::Spool;
use crate::plugin::{Plugin, PluginOptions, Status};
use crate::policy::Rules;
use crate::process::{RuntimeSpawn, Spawn};
use crate::revision::{Client, META_SUBSCRIPTION, Revision};
use serde_json::value::RawValue;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The name that no plugin may have: the gateway's own.
pub(crate) const OWN_NAME: &str = "gateway";
/// How long a request waits for plugins that it starts. What takes longer is told of when it is there.
const LAZY_START_MAX: Duration = Duration::from_secs(5);

/// What a gateway is made of.
#[derive(Clone)]
pub struct GatewayOptions {
    /// In the order in which their tools are listed.
    pub plugins: Vec<PluginOptions>,
    /// Which tools the agent may use, by the names that it sees.
    pub tools: Rules,
    /// How often the agent may call tools, all of them together.
    pub rate: Option<Rate>,
    /// How long names may be, in characters: 64 less what the harness puts before them.
    pub name_chars_max: usize,
    /// Where output goes that is too large for one answer; the directory is there and empty. None for nowhere: then the
    /// rest of such output is lost, and the answer says so.
    pub spool_dir: Option<PathBuf>,
    /// Where `NAME.log` of each plugin goes, what it says on standard error without secrets, 256 KiB at most with the
    /// older `NAME.log.old`; the directory is there. None for nowhere.
    pub log_dir: Option<PathBuf>,
    /// How much is kept of output, in bytes.
    pub spool_bytes_max: u64,
    /// The longest message that a client may send, in bytes.
    pub client_line_bytes_max: usize,
    /// How much of a call's arguments is told in its event, in bytes.
    pub event_arguments_bytes_max: usize,
    /// What plugins of the older revisions are told that clients can do (`sampling`, `elicitation`, `roots`), because
    /// they are started before any client is there. Nothing, unless every agent of this gateway can.
    pub client_capabilities: serde_json::Value,
    /// What plugins and clients are told that this program is.
    pub program: (String, String),
    /// Where events go.
    pub events: Arc<dyn Sink>,
    /// Takes secrets out of arguments, and out of what plugins say on standard error.
    pub redact: Arc<dyn Redact>,
    /// Starts processes.
    pub spawn: Arc<dyn Spawn>,
}

impl GatewayOptions {
    /// The usual: no limits but those of the plugins, no redaction, no events.
    #[must_use]
    pub fn new(plugins: Vec<PluginOptions>) -> Self {
        Self {
            plugins,
            tools: Rules::default(),
            rate: None,
            name_chars_max: NAME_CHARS_MAX,
            spool_dir: None,
            log_dir: None,
            spool_bytes_max: 64 * 1024 * 1024,
            client_line_bytes_max: 4 * 1024 * 1024,
            event_arguments_bytes_max: 4096,
            client_capabilities: serde_json::json!({}),
            program: ("agentd".into(), env!("CARGO_PKG_VERSION").into()),
            events: Arc::new(Discard),
            redact: Arc::new(str::to_owned),
            spawn: Arc::new(RuntimeSpawn),
        }
    }
}

impl fmt::Debug for GatewayOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayOptions")
            .field("plugins", &self.plugins)
            .finish_non_exhaustive()
    }
}

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The operator's mistake.
    #[error(
        "a plugin cannot be called {0:?}: a name has up to 32 letters, digits, - and _, and is not {OWN_NAME:?}"
    )]
    Name(String),
    /// The operator's mistake.
    #[error("there are two plugins called {0:?}")]
    Twice(String),
    /// The plugin's fault, or that of its settings.
    #[error("{why}")]
    Plugin {
        /// Which.
        plugin: String,
        /// A sentence that names it, with the last it said.
        why: String,
        /// For programs: what was seen of it.
        fault: StartFault,
    },
}

/// What was seen of a plugin that cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFault {
    /// What is no message came on its standard output.
    NoMessages,
    /// It did not answer in time.
    Silent,
    /// Anything else: it ended, or answered with an error.
    Other,
}

/// A tool as an agent sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolInfo {
    /// The name that is called.
    pub name: String,
    /// Whose it is.
    pub plugin: String,
    /// Its name there.
    pub own_name: String,
    /// All that the plugin says of it, under its new name.
    pub definition: serde_json::Value,
}

/// Plugins, and all that serves them to agents.
///
/// Dropped, it kills its plugins; [`Gateway::stop`] ends them in order.
pub struct Gateway {
    pub(crate) inner: Arc<Inner>,
    lives: JoinSet<()>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) options: GatewayOptions,
    pub(crate) plugins: Vec<Arc<Plugin>>,
    catalog: RwLock<Arc<Catalog>>,
    connections: Mutex<HashMap<u64, Weak<Connection>>>,
    next_connection: AtomicU64,
    /// For what the requests under way have brought, in KiB.
    pub(crate) room: Arc<Semaphore>,
    bucket: Mutex<Option<Bucket>>,
    pub(crate) spool: Option<Spool>,
    pub(crate) stop: CancellationToken,
    /// A client has asked something: those that wait for that are started.
    pub(crate) awake: CancellationToken,
}

impl Gateway {
    /// Starts the plugins, all at once, and waits until each of them is ready. Lazy ones are left for later.
    ///
    /// # Errors
    /// [`StartError`], and no plugin is left.
    pub async fn start(options: GatewayOptions) -> Result<Self, StartError> {
        let mut names = HashSet::new();
        for plugin in &options.plugins {
            if !name::is_plugin_name(&plugin.name) || plugin.name == OWN_NAME {
                return Err(StartError::Name(plugin.name.clone()));
            }
            if !names.insert(plugin.name.clone()) {
                return Err(StartError::Twice(plugin.name.clone()));
            }
        }
        let (name, version) = &options.program;
        let identity = Client {
            info: raw(&serde_json::json!({"name": name, "version": version})),
            capabilities: raw(&options.client_capabilities),
        };
        let inner = Arc::new_cyclic(|gateway: &Weak<Inner>| Inner {
            plugins: (options.plugins.iter().enumerate())
                .map(|(at, plugin)| {
                    let file = |dir: &PathBuf| dir.join(format!("{}.log", plugin.name));
                    let log = |path| Log::new(path, Arc::clone(&options.redact));
                    let log = options.log_dir.as_ref().map(file).map(log);
                    let (gateway, identity) = (gateway.clone(), identity.clone());
                    Arc::new(Plugin::new(at, plugin.clone(), gateway, identity, log))
                })
                .collect(),
            catalog: RwLock::default(),
            connections: Mutex::default(),
            next_connection: AtomicU64::new(0),
            room: crate::serve::room(options.client_line_bytes_max),
            bucket: Mutex::new(options.rate.map(|rate| Bucket::new(rate, Instant::now()))),
            spool: options
                .spool_dir
                .clone()
                .map(|dir| Spool::new(dir, options.spool_bytes_max)),
            stop: CancellationToken::new(),
            awake: CancellationToken::new(),
            options,
        });
        let mut lives = JoinSet::new();
        for plugin in &inner.plugins {
            let spawn = Arc::clone(&inner.options.spawn);
            lives.spawn(live::run(Arc::clone(plugin), spawn, inner.stop.clone()));
        }
        let gateway = Self { inner, lives };
        for plugin in gateway.inner.plugins.iter().filter(|plugin| !plugin.options.lazy) {
            let mut status = plugin.status.subscribe();
            // What cannot be started the first time is not tried again: somebody is there to see it.
            let settled = status
                .wait_for(|status| !matches!(status, Status::Starting))
                .await;
            let why = match settled.as_deref() {
                Ok(Status::Ready) => continue,
                Ok(Status::Waiting(why) | Status::GivenUp(why)) => why.to_string(),
                Ok(Status::Starting | Status::Stopped) | Err(_) => "it was stopped".to_owned(),
            };
            drop(settled);
            let (plugin, fault) = (plugin.options.name.clone(), plugin.fault());
            gateway.stop().await;
            return Err(StartError::Plugin { plugin, why, fault });
        }
        Ok(gateway)
    }

    /// Ends the plugins: their standard input is closed, then TERM, then KILL, each with its plugin's grace between.
    pub async fn stop(mut self) {
        self.inner.stop.cancel();
        for connection in self.inner.connections() {
            connection.gone.cancel();
        }
        while self.lives.join_next().await.is_some() {}
    }

    /// The tools that an agent sees, in the order in which it sees them.
    #[must_use]
    pub fn tools(&self) -> Vec<ToolInfo> {
        let catalog = self.inner.catalog();
        let tools = catalog.tools.iter().map(|tool| ToolInfo {
            name: tool.name.clone(),
            plugin: self.inner.plugins[tool.plugin].options.name.clone(),
            own_name: tool.own.clone(),
            definition: serde_json::from_str(tool.definition.get()).unwrap_or_default(),
        });
        tools.collect()
    }

    /// Calls a tool by the name that agents see, with everything that an agent's call is subject to. Its event is told
    /// before this returns.
    ///
    /// # Errors
    /// What an agent would get.
    pub async fn call(
        &self,
        tool: &str,
        arguments: serde_json::Value,
    ) -> Result<serde_json::Value, RpcError> {
        let params = serde_json::json!({"name": tool, "arguments": arguments});
        self.request("tools/call", params).await
    }

    /// Asks as an agent of the older revisions would: any method.
    ///
    /// # Errors
    /// What an agent would get.
    pub async fn request(
        &self,
        method: &str,
        params: serde_json::Value,
    ) -> Result<serde_json::Value, RpcError> {
        let (out, mut lines) = mpsc::channel(crate::client::OUT_MAX);
        let connection = self.inner.connect(None);
        let origin = Origin {
            connection: Arc::clone(&connection),
            out,
            revision: Revision::Legacy,
            progress: None,
        };
        let params = raw(&params);
        let serve = self.inner.answer(
            Arc::new(origin),
            raw(&0),
            method,
            Some(&params),
            CancellationToken::new(),
        );
        tokio::pin!(serve);
        let answered = loop {
            tokio::select! {
                answered = &mut serve => break answered,
                // Progress and the like: nobody is there to see it.
                _ = lines.recv() => {}
            }
        };
        connection.gone.cancel();
        if let Some(call) = answered.call {
            call.tell(&self.inner);
        }
        let unreadable = |_| {
            RpcError::new(
                crate::message::code::INTERNAL_ERROR,
                "an answer that cannot be read",
            )
        };
        match answered.answer {
            Ok(result) => serde_json::from_str(result.get()).map_err(unreadable),
            Err(error) => Err(serde_json::from_str(error.get()).unwrap_or_else(unreadable)),
        }
    }

    /// The last that a plugin has said on standard error, and what else it said that was no message; redacted. None
    /// when there is no such plugin.
    #[must_use]
    pub fn stderr(&self, plugin: &str) -> Option<String> {
        let plugin = self
            .inner
            .plugins
            .iter()
            .find(|known| known.options.name == plugin)?;
        Some(self.inner.options.redact.redact(&plugin.said.text()))
    }
}

impl Inner {
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn tools_of(&self, plugin: usize) -> usize {
        self.catalog()
            .tools
            .iter()
            .filter(|tool| tool.plugin == plugin)
            .count()
    }

    /// Starts what was waiting for the first request, and waits until it is ready, or was not at its first attempt.
    pub(crate) async fn wake(&self) {
        self.awake.cancel();
        for plugin in self.plugins.iter().filter(|plugin| plugin.options.lazy) {
            let mut status = plugin.status.subscribe();
            let settled = status.wait_for(|status| !matches!(status, Status::Starting));
            let _ = tokio::time::timeout(LAZY_START_MAX, settled).await;
        }
    }

    pub(crate) fn admit(&self) -> Result<(), Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket
            .as_mut()
            .map_or(Ok(()), |bucket| bucket.take(Instant::now()))
    }

    fn connection_map(&self) -> MutexGuard<'_, HashMap<u64, Weak<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        self.connection_map().values().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn connect(&self, out: Option<Out>) -> Arc<Connection> {
        let number = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(number, out));
        let mut all = self.connection_map();
        if number.is_multiple_of(64) {
            all.retain(|_, known| known.strong_count() > 0);
        }
        all.insert(number, Arc::downgrade(&connection));
        connection
    }

    pub(crate) fn disconnect(&self, connection: &Connection) {
        connection.gone.cancel();
        self.connection_map().remove(&connection.number);
        self.subscriptions_changed();
    }

    pub(crate) fn capabilities(&self) -> serde_json::Value {
        together(self.plugins.iter().map(|plugin| plugin.capabilities()))
    }

    /// Some plugin's lists are others now: agents see it, and are told.
    pub(crate) fn lists_changed(&self) {
        let lists: Vec<_> = (self.plugins.iter())
            .map(|plugin| plugin.lists.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        let both = self
            .plugins
            .iter()
            .zip(&lists)
            .map(|(plugin, lists)| (&plugin.options, &**lists));
        let catalog = Catalog::of(both, &self.options.tools, self.options.name_chars_max);
        drop(lists);
        let before = self.catalog();
        for (plugin, message) in &catalog.refused {
            if !before.refused.iter().any(|(_, known)| known == message) {
                let plugin = self.plugins[*plugin].options.name.clone();
                let message = message.clone();
                self.options.events.take(Event::Warning { plugin, message });
            }
        }
        let (tools, prompts, resources) = catalog.differs(&before);
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
        for connection in self.connections() {
            if connection.is_legacy()
                && let Some(out) = connection.out()
            {
                connection.tell(out, changes(tools, prompts, resources, None));
            }
            for listen in connection.listens() {
                let lines = changes(
                    listen.tools && tools,
                    listen.prompts && prompts,
                    listen.resources && resources,
                    Some(&listen.id),
                );
                connection.tell(listen.out, lines);
            }
        }
    }

    /// Clients want to hear of other resources now.
    pub(crate) fn subscriptions_changed(&self) {
        let wanted: BTreeSet<String> = (self.connections().iter())
            .flat_map(|connection| connection.subscriptions())
            .collect();
        let catalog = self.catalog();
        let names = self.resource_plugins();
        let mut by_plugin: HashMap<usize, BTreeSet<String>> = HashMap::new();
        for uri in wanted {
            if let Some((plugin, own)) = catalog.resource_at(&uri, &names).into_iter().next() {
                by_plugin.entry(plugin).or_default().insert(own);
            }
        }
        for plugin in &self.plugins {
            let wanted = by_plugin.remove(&plugin.index).unwrap_or_default();
            plugin.subscribed.send_if_modified(|known| {
                let is_new = *known != wanted;
                *known = wanted;
                is_new
            });
        }
    }

    /// Those that have resources.
    pub(crate) fn resource_plugins(&self) -> Vec<(usize, &str)> {
        let all = self
            .plugins
            .iter()
            .filter(|plugin| plugin.capabilities().resources.is_some());
        all.map(|plugin| (plugin.index, &*plugin.options.name)).collect()
    }

    /// A plugin tells something that is not for the gateway.
    pub(crate) fn notified(&self, plugin: &Plugin, method: &str, params: Option<&RawValue>) {
        if method != "notifications/resources/updated" {
            let line = method_line(None, method, params.map(RawValue::get));
            let mut told = HashSet::new();
            for origin in plugin.origins() {
                if told.insert(origin.connection.number) {
                    origin.offer(line.clone());
                }
            }
            // Log lines of the older revisions may come at any time.
            for connection in self.connections() {
                if connection.is_legacy() && told.insert(connection.number) {
                    connection.offer(line.clone());
                }
            }
            return;
        }
        let Some(mut params) = params.and_then(Object::parse) else {
            return;
        };
        let Some(own) = params.text("uri") else { return };
        let catalog = self.catalog();
        let known = (catalog.resources.iter()).find(|known| known.plugin == plugin.index && known.own == own);
        let uri = known.map_or(own, |known| known.uri.clone());
        params.set("uri", raw(&uri));
        let text = params.to_text();
        for connection in self.connections() {
            if connection.is_subscribed(&uri) {
                connection.offer(method_line(None, method, Some(&text)));
            }
            for listen in connection
                .listens()
                .iter()
                .filter(|listen| listen.uris.contains(&uri))
            {
                let _ = listen.out.try_send(method_line(
                    None,
                    method,
                    Some(&of_subscription(&text, &listen.id)),
                ));
            }
        }
    }
}

/// Parameters that say on which subscription they are told.
pub(crate) fn of_subscription(params: &str, id: &RawValue) -> String {
    let params: Raw = raw_text(params.to_owned());
    let mut params = Object::parse(&params).unwrap_or_default();
    let mut meta = Object::default();
    meta.set(META_SUBSCRIPTION, id.to_owned());
    params.set("_meta", meta.to_raw());
    params.to_text()
}

fn changes(
    tools: bool,
    prompts: bool,
    resources: bool,
    subscription: Option<&RawValue>,
) -> Vec<bytes::Bytes> {
    let params = subscription.map(|id| of_subscription("{}", id));
    let all = [(tools, "tools"), (prompts, "prompts"), (resources, "resources")];
    let wanted = all.into_iter().filter(|(is_wanted, _)| *is_wanted);
    wanted
        .map(|(_, what)| {
            method_line(
                None,
                &format!("notifications/{what}/list_changed"),
                params.as_deref(),
            )
        })
        .collect()
}
