//! What clients may ask, and how it is answered.

use crate::call::Call;
use crate::catalog::{Entry, page};
use crate::client::{Connection, Listen, Origin, Out};
use crate::gateway::{Gateway, Inner, OWN_NAME, of_subscription};
use crate::lines::{Line, Lines, id_in_head};
use crate::message::{Message, Object, Raw, RpcError, answer_line, code, method_line, parse, raw};
use crate::paging::{Cut, Kind, Marker, part, put_together, take_apart};
use crate::plugin::{Answer, CallError, Plugin};
use crate::revision::{
    Client, META_CAPABILITIES, META_SERVER_INFO, META_SUBSCRIPTION, META_VERSION, MODERN, Revision,
    SUPPORTED, complete, negotiate, progress_token, uncached,
};
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What is read of a client at once, in bytes.
const READ_BYTES: usize = 8 * 1024;
/// Clients at once.
const CLIENTS_MAX: usize = 64;
/// How long a plugin that is being started (again) is waited for.
pub(crate) const READY_MAX: Duration = Duration::from_secs(10);
/// How often a client of the older revisions may be asked for more by one call of a newer plugin.
const ROUNDS_MAX: usize = 8;
/// Resources in one subscription.
const SUBSCRIPTION_URIS_MAX: usize = 256;
/// JSON-RPC leaves this to servers: too much at once.
const OVERLOADED: i32 = -32000;

/// An answer, and what is left to do once it is on its way.
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) call: Option<Call>,
}

impl From<Result<Raw, RpcError>> for Answered {
    fn from(answer: Result<Raw, RpcError>) -> Self {
        Self {
            answer: answer.map_err(|error| error.raw()),
            call: None,
        }
    }
}

impl Gateway {
    /// Serves clients that connect, one JSON-RPC message a line, until the gateway is stopped. At most 64 at once;
    /// further ones wait.
    ///
    /// # Errors
    /// None by itself: the result ends the task when the listener is broken.
    pub fn serve_unix(&self, listener: UnixListener) -> tokio::task::JoinHandle<std::io::Result<()>> {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let room = Arc::new(tokio::sync::Semaphore::new(CLIENTS_MAX));
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                    return Ok(());
                };
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = inner.stop.cancelled() => return Ok(()),
                };
                let (stream, _) = match accepted {
                    Ok(accepted) => accepted,
                    // Out of descriptors, or a client that has gone already: the next may have more luck.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                };
                let inner = Arc::clone(&inner);
                tokio::spawn(async move {
                    let (reader, writer) = stream.into_split();
                    serve_lines(inner, reader, writer).await;
                    drop(permit);
                });
            }
        })
    }

    /// Serves one client over any pair of streams until it ends or the gateway is stopped.
    pub async fn serve_stream<R, W>(&self, reader: R, writer: W)
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        serve_lines(Arc::clone(&self.inner), reader, writer).await;
    }
}

async fn serve_lines<R, W>(inner: Arc<Inner>, reader: R, mut writer: W)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (out, mut queue) = mpsc::channel::<bytes::Bytes>(crate::client::OUT_MAX);
    let connection = inner.connect(Some(out.clone()));
    let gone = connection.gone.clone();
    let writing = tokio::spawn(async move {
        loop {
            let line = tokio::select! {
                line = queue.recv() => line,
                () = gone.cancelled() => None,
            };
            let Some(line) = line else { break };
            let written = tokio::select! {
                written = writer.write_all(&line) => written.is_ok(),
                () = gone.cancelled() => false,
            };
            if !written {
                break;
            }
            // What else waits goes with it, before anybody else runs.
            let _ = writer.flush().await;
        }
        gone.cancel();
    });
    let mut lines = Lines::new(
        BufReader::with_capacity(READ_BYTES, reader),
        inner.options.client_line_bytes_max,
    );
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            () = connection.gone.cancelled() => break,
            () = inner.stop.cancelled() => break,
        };
        let answer = match line {
            Ok(Some(Line::Whole(line))) => inner.take(&connection, &out, &line),
            Ok(Some(Line::TooLong { head, bytes })) => {
                let max = inner.options.client_line_bytes_max;
                let why = format!("a message of {bytes} bytes, and {max} are allowed");
                Some((id_in_head(&head), RpcError::new(code::INVALID_REQUEST, why)))
            }
            Ok(None) | Err(_) => break,
        };
        if let Some((id, error)) = answer {
            let id = id.unwrap_or_else(|| RawValue::NULL.to_owned());
            // Whoever sends nonsense waits until its answers are read.
            let sent = tokio::select! {
                sent = out.send(answer_line(&id, Err(&error.raw()))) => sent.is_ok(),
                () = connection.gone.cancelled() => false,
            };
            if !sent {
                break;
            }
        }
    }
    inner.disconnect(&connection);
    // It ends with the connection, and what it still holds is for nobody.
    let _ = writing.await;
}

impl Inner {
    /// Takes a client's message. What is wrong with it is to be answered at once.
    fn take(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        out: &Out,
        line: &[u8],
    ) -> Option<(Option<Raw>, RpcError)> {
        match parse(line) {
            Ok(Message::Request { id, method, params }) => {
                let begun = self.begin(connection, out, id, &method, params);
                return begun.err().map(|error| (Some(id.to_owned()), error));
            }
            Ok(Message::Notification { method, params }) => self.told(connection, &method, params),
            Ok(Message::Response { id, answer }) => connection.answered(id, answer),
            Err(malformed) => return Some((malformed.id, RpcError::new(malformed.code, malformed.why))),
        }
        None
    }

    pub(crate) fn told(&self, connection: &Connection, method: &str, params: Option<&RawValue>) {
        match method {
            "notifications/cancelled" => connection.cancel(params),
            "notifications/roots/list_changed" => {
                for plugin in &self.plugins {
                    if plugin.revision() == Revision::Legacy {
                        plugin.notify(method, params.map(RawValue::get));
                    }
                }
            }
            // That a client is initialized changes nothing here; others are not known.
            _ => {}
        }
    }

    /// Begins to answer a request, in a task of its own.
    pub(crate) fn begin(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        out: &Out,
        id: &RawValue,
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<(), RpcError> {
        let busy = |_| RpcError::new(OVERLOADED, "too many requests at once: wait for answers first");
        let permit = Arc::clone(&connection.permits)
            .try_acquire_owned()
            .map_err(busy)?;
        let twice = || {
            RpcError::new(
                code::INVALID_REQUEST,
                "a request with this id is under way already",
            )
        };
        let begun = connection.begin(id).ok_or_else(twice)?;
        let (id, method, params) = (id.to_owned(), method.to_owned(), params.map(ToOwned::to_owned));
        let (inner, connection, out) = (Arc::clone(self), Arc::clone(connection), out.clone());
        tokio::spawn(async move {
            let revision = match version_of(params.as_deref()) {
                Some(_) => Revision::Modern,
                None => Revision::Legacy,
            };
            let progress = progress_token(params.as_deref());
            let gone = connection.gone.clone();
            let origin = Arc::new(Origin {
                connection,
                out: out.clone(),
                revision,
                progress,
            });
            let answered = inner
                .answer(
                    origin,
                    id.clone(),
                    &method,
                    params.as_deref(),
                    begun.cancel.clone(),
                )
                .await;
            // Who takes a request back does not want an answer.
            if !begun.cancel.is_cancelled() {
                let answer = answered.answer.as_deref().map_err(|error| &**error);
                let line = answer_line(&id, answer);
                drop(begun);
                tokio::select! {
                    _ = out.send(line) => {}
                    () = gone.cancelled() => {}
                }
            }
            drop(out);
            if let Some(call) = answered.call {
                call.tell(&inner);
            }
            drop(permit);
        });
        Ok(())
    }

    /// Answers a request.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        origin: Arc<Origin>,
        id: Raw,
        method: &str,
        params: Option<&RawValue>,
        cancel: CancellationToken,
    ) -> Answered {
        if let Err(error) = check_version(method, params) {
            return Err(error).into();
        }
        let is_modern = origin.revision == Revision::Modern;
        let Some(object) = Object::of(params) else {
            return Err(RpcError::params("params are to be an object")).into();
        };
        let answered = match method {
            "initialize" => self.initialize(&origin.connection, &object).into(),
            "server/discover" => self.discover().into(),
            "ping" if !is_modern => Ok(raw(&serde_json::json!({}))).into(),
            "tools/call" => self.call_tool(&origin, object, params, &cancel).await,
            "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" => {
                self.list(method, &object).into()
            }
            "prompts/get" => self.get_prompt(&origin, object, &cancel).await,
            "resources/read" => self.read_resource(&origin, object, &cancel).await,
            "completion/complete" => self.complete(&origin, object, &cancel).await,
            "resources/subscribe" | "resources/unsubscribe" if !is_modern => {
                self.subscribe(&origin.connection, method, &object).into()
            }
            "logging/setLevel" if !is_modern => self.set_level(&object, &cancel).await.into(),
            "subscriptions/listen" if is_modern => self.listen(&origin, &id, &object, &cancel).await.into(),
            other => Err(RpcError::method_not_found(other)).into(),
        };
        if !is_modern {
            return answered;
        }
        let finish = match method {
            "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read" => uncached,
            _ => complete,
        };
        Answered {
            answer: answered.answer.map(finish),
            call: answered.call,
        }
    }

    fn program(&self) -> serde_json::Value {
        let (name, version) = &self.options.program;
        serde_json::json!({"name": name, "version": version})
    }

    fn instructions(&self) -> Option<String> {
        let all = self.plugins.iter().filter_map(|plugin| {
            let text = plugin.instructions()?;
            Some(format!("# {}\n{text}", plugin.options.name))
        });
        let all: Vec<String> = all.collect();
        (!all.is_empty()).then(|| all.join("\n\n"))
    }

    fn initialize(&self, connection: &Connection, params: &Object<'_>) -> Result<Raw, RpcError> {
        let requested = params.text("protocolVersion");
        let requested = requested.ok_or_else(|| RpcError::params("protocolVersion is missing"))?;
        let part = |key: &str| {
            params
                .get(key)
                .map_or_else(|| raw(&serde_json::json!({})), ToOwned::to_owned)
        };
        connection.greeted(Client {
            info: part("clientInfo"),
            capabilities: part("capabilities"),
        });
        let mut result = serde_json::json!({
            "protocolVersion": negotiate(&requested),
            "capabilities": self.capabilities(),
            "serverInfo": self.program(),
        });
        if let Some(instructions) = self.instructions() {
            result["instructions"] = instructions.into();
        }
        Ok(raw(&result))
    }

    fn discover(&self) -> Result<Raw, RpcError> {
        let mut result = serde_json::json!({
            "resultType": "complete",
            "supportedVersions": SUPPORTED,
            "capabilities": self.capabilities(),
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {META_SERVER_INFO: self.program()},
        });
        if let Some(instructions) = self.instructions() {
            result["instructions"] = instructions.into();
        }
        Ok(raw(&result))
    }

    fn list(&self, method: &str, params: &Object<'_>) -> Result<Raw, RpcError> {
        let catalog = self.catalog();
        let cursor = params.text("cursor");
        let cursor = cursor.as_deref();
        let definitions = |entries: &[Entry]| -> Vec<Raw> {
            entries.iter().map(|entry| entry.definition.clone()).collect()
        };
        let mut all = match method {
            "tools/list" => definitions(&catalog.tools),
            "prompts/list" => definitions(&catalog.prompts),
            "resources/list" => catalog
                .resources
                .iter()
                .map(|entry| entry.definition.clone())
                .collect(),
            _ => catalog
                .templates
                .iter()
                .map(|entry| entry.definition.clone())
                .collect(),
        };
        let key = match method {
            "tools/list" => "tools",
            "prompts/list" => "prompts",
            "resources/list" => "resources",
            _ => "resourceTemplates",
        };
        if method == "tools/list" && self.spool.is_some() {
            all.push(crate::call::read_more_definition());
        }
        page(key, all.iter().map(|entry| &**entry), cursor)
    }

    /// Asks a plugin on a client's behalf, and answers what a newer plugin asks back of an older client.
    pub(crate) async fn ask(
        &self,
        plugin: &Plugin,
        origin: &Arc<Origin>,
        method: &str,
        params: Object<'_>,
        cancel: &CancellationToken,
    ) -> Result<Answer, CallError> {
        plugin
            .ready(READY_MAX.min(plugin.options.limits.call_max))
            .await?;
        let max = plugin.options.limits.call_max;
        if origin.revision == Revision::Modern || plugin.revision() == Revision::Legacy {
            return plugin
                .call(method, params, Some(Arc::clone(origin)), max, cancel)
                .await;
        }
        let mut params = params.to_raw();
        for _ in 0..ROUNDS_MAX {
            let object = Object::parse(&params).unwrap_or_default();
            let answer = plugin
                .call(method, object, Some(Arc::clone(origin)), max, cancel)
                .await?;
            let Ok(result) = &answer else { return Ok(answer) };
            let Some(asked) = Object::parse(result)
                .filter(|asked| asked.text("resultType").as_deref() == Some("input_required"))
            else {
                return Ok(answer);
            };
            let responses = gather(origin, &asked).await;
            let mut again = Object::parse(&params).unwrap_or_default();
            again.set("inputResponses", responses);
            if let Some(state) = asked.get("requestState") {
                again.set("requestState", state.to_owned());
            }
            params = again.to_raw();
        }
        Err(CallError::Failed(format!(
            "it has asked for more {ROUNDS_MAX} times in a row"
        )))
    }

    async fn get_prompt(
        &self,
        origin: &Arc<Origin>,
        mut params: Object<'_>,
        cancel: &CancellationToken,
    ) -> Answered {
        let Some(name) = params.text("name") else {
            return Err(RpcError::params("name is missing")).into();
        };
        let catalog = self.catalog();
        let Some(prompt) = catalog.prompt(&name) else {
            return Err(RpcError::params(format!("Unknown prompt: {name}"))).into();
        };
        let plugin = &self.plugins[prompt.plugin];
        params.set("name", raw(&prompt.own));
        let answer = self.ask(plugin, origin, "prompts/get", params, cancel).await;
        self.plain(plugin, None, answer)
    }

    async fn read_resource(
        &self,
        origin: &Arc<Origin>,
        mut params: Object<'_>,
        cancel: &CancellationToken,
    ) -> Answered {
        let Some(uri) = params.text("uri") else {
            return Err(RpcError::params("uri is missing")).into();
        };
        let found = self.catalog().resource_at(&uri, &self.resource_plugins());
        let mut last = None;
        for (index, own) in found {
            let plugin = &self.plugins[index];
            params.set("uri", raw(&own));
            let text = params.to_raw();
            let again = Object::parse(&text).unwrap_or_default();
            let answer = self.ask(plugin, origin, "resources/read", again, cancel).await;
            let is_final = matches!(answer, Ok(Ok(_)));
            let answered = self.plain(plugin, Some(Kind::Resource), answer);
            if is_final {
                return answered;
            }
            // The first is the likeliest: its refusal is the one that says most.
            last.get_or_insert(answered);
        }
        last.unwrap_or_else(|| {
            let mut error = RpcError::new(code::RESOURCE_NOT_FOUND, format!("Resource not found: {uri}"));
            if origin.revision == Revision::Modern {
                error.code = code::INVALID_PARAMS;
            }
            error.data = Some(serde_json::json!({"uri": uri}));
            Err(error).into()
        })
    }

    async fn complete(
        &self,
        origin: &Arc<Origin>,
        mut params: Object<'_>,
        cancel: &CancellationToken,
    ) -> Answered {
        let reference = params.get("ref").map(ToOwned::to_owned);
        let reference = reference.as_deref().and_then(Object::parse);
        let Some(mut reference) = reference else {
            return Err(RpcError::params("ref is missing")).into();
        };
        let catalog = self.catalog();
        let index = if let Some(uri) = reference.text("uri") {
            let template = catalog.templates.iter().find(|template| template.own == uri);
            template.map(|template| template.plugin).or_else(|| {
                let found = catalog.resource_at(&uri, &self.resource_plugins());
                found.first().map(|(plugin, _)| *plugin)
            })
        } else {
            let prompt = reference.text("name").and_then(|name| catalog.prompt(&name));
            if let Some(prompt) = prompt {
                reference.set("name", raw(&prompt.own));
            }
            prompt.map(|prompt| prompt.plugin)
        };
        let Some(index) = index else {
            return Err(RpcError::params("there is no such prompt or resource")).into();
        };
        let plugin = &self.plugins[index];
        let reference = reference.to_raw();
        params.set("ref", reference);
        let answer = self
            .ask(plugin, origin, "completion/complete", params, cancel)
            .await;
        self.plain(plugin, None, answer)
    }

    /// An answer of a plugin as it is, unless it is too large, or there is none.
    fn plain(&self, plugin: &Plugin, kind: Option<Kind>, answer: Result<Answer, CallError>) -> Answered {
        let answer = match answer {
            Ok(Ok(result)) => self
                .bounded(plugin, kind, result, false)
                .map_err(|error| error.raw()),
            Ok(Err(error)) => Err(error),
            Err(error) => {
                let message = format!("plugin {:?}: {error}", plugin.options.name);
                Err(RpcError::new(code::INTERNAL_ERROR, message).raw())
            }
        };
        Answered { answer, call: None }
    }

    /// A result of the size that its plugin may have.
    pub(crate) fn bounded(
        &self,
        plugin: &Plugin,
        kind: Option<Kind>,
        result: Raw,
        is_structured: bool,
    ) -> Result<Raw, RpcError> {
        let bytes_max = plugin.options.limits.output_bytes_max;
        let bytes = result.get().len();
        if bytes <= bytes_max {
            return Ok(result);
        }
        let cut = kind.and_then(|kind| Some((kind, take_apart(kind, &result)?)));
        let Some((kind, cut)) = cut else {
            let name = &plugin.options.name;
            let why = format!("plugin {name:?} answered with {bytes} bytes, and {bytes_max} are allowed");
            return Err(RpcError::new(code::INTERNAL_ERROR, why));
        };
        let text = self.first_part(&cut, bytes_max);
        Ok(put_together(kind, &result, &cut, &text, is_structured))
    }

    fn first_part(&self, cut: &Cut, bytes_max: usize) -> String {
        let kept = match &self.spool {
            Some(spool) => spool.keep(&cut.whole).map_err(|error| error.to_string()),
            None => Err("nothing is kept here".to_owned()),
        };
        let tool = format!("{OWN_NAME}__read_more");
        let marker = Marker {
            tool: &tool,
            id: kept.as_deref().map_err(|why| &**why),
        };
        part(&cut.whole, 0, cut.whole.len(), bytes_max, &marker)
    }

    fn subscribe(&self, connection: &Connection, method: &str, params: &Object<'_>) -> Result<Raw, RpcError> {
        let uri = params
            .text("uri")
            .ok_or_else(|| RpcError::params("uri is missing"))?;
        if method == "resources/unsubscribe" {
            connection.unsubscribe(&uri);
        } else if !connection.subscribe(uri) {
            return Err(RpcError::new(OVERLOADED, "too many subscriptions"));
        }
        self.subscriptions_changed();
        Ok(raw(&serde_json::json!({})))
    }

    async fn set_level(&self, params: &Object<'_>, cancel: &CancellationToken) -> Result<Raw, RpcError> {
        let level = params
            .get("level")
            .ok_or_else(|| RpcError::params("level is missing"))?;
        for plugin in &self.plugins {
            if plugin.revision() == Revision::Modern || plugin.capabilities().logging.is_none() {
                continue;
            }
            let mut params = Object::default();
            params.set("level", level.to_owned());
            let max = plugin.options.limits.call_max;
            if let Ok(Err(error)) = plugin.call("logging/setLevel", params, None, max, cancel).await {
                let unreadable = |_| RpcError::params("this level is refused");
                return Err(serde_json::from_str(error.get()).unwrap_or_else(unreadable));
            }
        }
        Ok(raw(&serde_json::json!({})))
    }

    async fn listen(
        &self,
        origin: &Origin,
        id: &RawValue,
        params: &Object<'_>,
        cancel: &CancellationToken,
    ) -> Result<Raw, RpcError> {
        let wanted = params.get("notifications").and_then(Object::parse);
        let wanted = wanted.ok_or_else(|| RpcError::params("notifications is missing"))?;
        let uris: Vec<String> = match wanted.get("resourceSubscriptions") {
            Some(uris) => serde_json::from_str(uris.get())
                .map_err(|_| RpcError::params("resourceSubscriptions is no list of URIs"))?,
            None => Vec::new(),
        };
        if uris.len() > SUBSCRIPTION_URIS_MAX {
            return Err(RpcError::params(format!(
                "more than {SUBSCRIPTION_URIS_MAX} resources in one subscription"
            )));
        }
        let can = self.capabilities();
        let listen = Listen {
            id: id.to_owned(),
            out: origin.out.clone(),
            tools: wanted.is_true("toolsListChanged"),
            prompts: wanted.is_true("promptsListChanged") && can["prompts"].is_object(),
            resources: wanted.is_true("resourcesListChanged") && can["resources"].is_object(),
            uris: if can["resources"]["subscribe"] == true {
                uris.into_iter().collect()
            } else {
                BTreeSet::new()
            },
        };
        let mut accepted = serde_json::Map::new();
        for (key, is_accepted) in [
            ("toolsListChanged", listen.tools),
            ("promptsListChanged", listen.prompts),
            ("resourcesListChanged", listen.resources),
        ] {
            if is_accepted {
                accepted.insert(key.into(), true.into());
            }
        }
        if !listen.uris.is_empty() {
            accepted.insert(
                "resourceSubscriptions".into(),
                listen.uris.iter().cloned().collect(),
            );
        }
        let params = serde_json::json!({"notifications": accepted}).to_string();
        let method = "notifications/subscriptions/acknowledged";
        // First of all, or what changes meanwhile would come before it.
        let _ = origin
            .out
            .send(method_line(None, method, Some(&of_subscription(&params, id))))
            .await;
        origin.connection.listen(listen);
        self.subscriptions_changed();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
        origin.connection.unlisten(id);
        self.subscriptions_changed();
        let id: serde_json::Value = serde_json::from_str(id.get()).unwrap_or_default();
        Ok(raw(&serde_json::json!({
            "resultType": "complete",
            "_meta": {META_SUBSCRIPTION: id, META_SERVER_INFO: self.program()},
        })))
    }
}

/// Asks a client of the older revisions what a newer plugin wants to know.
async fn gather(origin: &Origin, asked: &Object<'_>) -> Raw {
    let mut responses = serde_json::Map::new();
    let requests = asked
        .get("inputRequests")
        .and_then(Object::parse)
        .unwrap_or_default();
    for (key, request) in requests.members() {
        let request = Object::parse(request).unwrap_or_default();
        let method = request.text("method").unwrap_or_default();
        let answer = origin.ask(&method, request.get("params")).await;
        let response = match answer {
            Ok(result) => serde_json::from_str(result.get()).unwrap_or_default(),
            Err(_) if method == "elicitation/create" => serde_json::json!({"action": "cancel"}),
            Err(_) => continue,
        };
        responses.insert(key.to_owned(), response);
    }
    raw(&responses)
}

/// The version that a request says it is of.
pub(crate) fn version_of(params: Option<&RawValue>) -> Option<String> {
    Object::parse(Object::parse(params?)?.get("_meta")?)?.text(META_VERSION)
}

/// What the newer revision wants of every request.
pub(crate) fn check_version(method: &str, params: Option<&RawValue>) -> Result<(), RpcError> {
    if method == "initialize" {
        return Ok(());
    }
    let Some(version) = version_of(params) else {
        if method == "server/discover" {
            return Err(RpcError::params(format!("_meta has no {META_VERSION}")));
        }
        return Ok(());
    };
    if version != MODERN {
        let mut error = RpcError::new(code::UNSUPPORTED_VERSION, "Unsupported protocol version");
        error.data = Some(serde_json::json!({"supported": SUPPORTED, "requested": version}));
        return Err(error);
    }
    let params = params.and_then(Object::parse).unwrap_or_default();
    let meta = params.get("_meta").and_then(Object::parse).unwrap_or_default();
    let is_object = |value: &RawValue| value.get().starts_with('{');
    if !meta.get(META_CAPABILITIES).is_some_and(is_object) {
        return Err(RpcError::params(format!(
            "_meta has no {META_CAPABILITIES}, which is to be an object"
        )));
    }
    Ok(())
}
