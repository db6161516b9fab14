//! A plugin that is a server elsewhere: streamable HTTP, one POST a message.

use crate::fetch::{bounded, is, tls};
use crate::headers::{SESSION, VERSION, encoded};
use crate::message::{Message, Object, Raw, one_line, parse};
use crate::mirror::{self, Mirrored};
use crate::plugin::{CallError, Plugin};
use crate::revision::{MODERN, Revision};
use crate::sse::Events;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout, timeout_at};

/// What is shown of an answer that is no answer, in bytes.
const SHOWN_BYTES_MAX: usize = 300;
/// The longest session id that is taken, in bytes.
const SESSION_ID_BYTES_MAX: usize = 1024;
/// How often in a row a broken stream is asked for in vain.
const RESUMES_MAX: u32 = 5;
/// The longest pause between two tries to have the stream of what belongs to no request.
const LISTEN_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a server may take to begin with that stream.
const STREAM_MAX: Duration = Duration::from_secs(2);
/// How long a stream may go on behind its answer.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
/// How long a server may take to let go of a session.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// A server to talk to.
#[derive(Clone)]
pub struct RemoteOptions {
    /// Its address: `https://…` or `http://…`.
    pub url: String,
    /// The token that is sent to it, and in no message.
    pub bearer: Option<String>,
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteOptions")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// A stream; none when the server has no such thing.
pub(crate) type Stream = Result<Option<Response<Incoming>>, String>;

pub(crate) struct Remote {
    url: Uri,
    authorization: Option<HeaderValue>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    plugin: Weak<Plugin>,
    state: Mutex<State>,
    /// The server has forgotten the session.
    pub(crate) lost: Notify,
}

#[derive(Default)]
struct State {
    session: Option<HeaderValue>,
    version: Option<HeaderValue>,
    posts: HashMap<u64, AbortHandle>,
    /// By the tools' own names.
    mirrored: HashMap<String, Vec<Mirrored>>,
}

impl Remote {
    pub(crate) fn new(options: &RemoteOptions, plugin: Weak<Plugin>) -> Result<Self, String> {
        let url: Uri = options
            .url
            .parse()
            .map_err(|error| format!("its URL cannot be read: {error}"))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
            return Err("its URL does not begin with https:// or http://".into());
        }
        let authorization = options.bearer.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| "its token has characters that no header may have")?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        // Without it each call waits for an acknowledgement.
        http.set_nodelay(true);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(url.scheme_str() == Some("https"))?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Ok(Self {
            url,
            authorization: authorization.transpose()?,
            client: Client::builder(hyper_util::rt::TokioExecutor::new()).build(connector),
            plugin,
            state: Mutex::default(),
            lost: Notify::new(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn use_version(&self, version: &str) {
        self.state().version = HeaderValue::from_str(version).ok();
    }

    /// Sends a message in a task of its own; its answer arrives like any other plugin's.
    pub(crate) fn post(self: &Arc<Self>, line: Bytes, id: Option<u64>) {
        let this = Arc::clone(self);
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let _ = begun.await;
            let sent = this.exchange(line, id).await;
            if let Some(id) = id {
                this.state().posts.remove(&id);
                if let Some(plugin) = this.plugin.upgrade() {
                    let why = sent
                        .err()
                        .unwrap_or_else(|| "it ended its answer without a result".into());
                    plugin.fail(id, CallError::Failed(why));
                }
            }
        });
        if let Some(id) = id {
            self.state().posts.insert(id, task.abort_handle());
        }
        let _ = begin.send(());
    }

    /// Sends a notification, and waits until it has arrived, as far as that can be known.
    pub(crate) async fn tell(&self, line: Bytes) {
        // A server that does not want it says so again when it is asked something.
        let _ = self.exchange(line, None).await;
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn forget(&self, id: u64) {
        if let Some(post) = self.state().posts.remove(&id) {
            post.abort();
        }
    }

    pub(crate) fn end(&self) {
        for (_, post) in self.state().posts.drain() {
            post.abort();
        }
    }

    async fn exchange(&self, line: Bytes, id: Option<u64>) -> Result<(), String> {
        let Some(plugin) = self.plugin.upgrade() else {
            return Ok(());
        };
        let revision = plugin.revision();
        let response = self.send(self.request(line, revision)?).await?;
        let status = response.status();
        if status.is_success() && is(&response, "text/event-stream") {
            let mut stream = Events::default();
            let ended = self
                .read(response, &mut stream, &plugin, id, LAST_WORDS_MAX)
                .await;
            return match (id, revision) {
                (Some(id), Revision::Legacy) => self.resume(&plugin, id, stream, ended).await,
                _ => ended,
            };
        }
        let is_json = is(&response, "application/json");
        let mut body = bounded(response, plugin.options.limits.line_bytes_max).await?;
        one_line(&mut body);
        if is_json && parse(&body).is_ok() {
            plugin.take(&body);
            return Ok(());
        }
        if status.is_success() {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]).into_owned();
        Err(format!("its server answered with HTTP status {status}: {shown}"))
    }

    /// Goes on with a stream that has ended without the answer, as the older revisions have it.
    async fn resume(
        &self,
        plugin: &Plugin,
        id: u64,
        mut stream: Events,
        mut ended: Result<(), String>,
    ) -> Result<(), String> {
        let mut failures = 0;
        while plugin.waits_for(id) && failures < RESUMES_MAX {
            let Some(last_id) = stream.last_id.clone() else {
                break;
            };
            sleep(stream.retry()).await;
            ended = match self.get(Some(&last_id)).await {
                Ok(Some(response)) => {
                    self.read(response, &mut stream, plugin, Some(id), Duration::ZERO)
                        .await
                }
                Ok(None) => break,
                Err(why) => Err(why),
            };
            // A server that has nothing yet may end the stream as often as it likes, if each time it says so.
            failures = if stream.last_id.as_ref() == Some(&last_id) {
                failures + 1
            } else {
                0
            };
        }
        ended
    }

    /// Asks a server of the older revisions for the stream of what belongs to no request. Until it is there, a server
    /// may have nowhere to put its questions. None when it takes too long to begin.
    pub(crate) async fn stream(&self) -> Option<Stream> {
        timeout(STREAM_MAX, self.get(None)).await.ok()
    }

    /// Takes what comes on that stream, for as long as this is polled. Where there is no such thing, nothing comes.
    pub(crate) async fn listen(&self, plugin: &Plugin, mut first: Option<Stream>) -> String {
        let mut stream = Events::default();
        let mut pause = stream.retry();
        loop {
            let begun = Instant::now();
            let answer = match first.take() {
                Some(answer) => answer,
                None => self.get(stream.last_id.clone().as_ref()).await,
            };
            match answer {
                Ok(Some(response)) => drop(
                    self.read(response, &mut stream, plugin, None, Duration::ZERO)
                        .await,
                ),
                Ok(None) => return std::future::pending().await,
                Err(_) => {}
            }
            // One that ends at once, again and again, is not asked all the time.
            pause = if begun.elapsed() > LISTEN_PAUSE_MAX {
                stream.retry()
            } else {
                (pause * 2).min(LISTEN_PAUSE_MAX)
            };
            sleep(pause.max(stream.retry())).await;
        }
    }

    /// Reads a stream to its end, or until a request is answered and `after` is over.
    async fn read(
        &self,
        mut response: Response<Incoming>,
        stream: &mut Events,
        plugin: &Plugin,
        id: Option<u64>,
        after: Duration,
    ) -> Result<(), String> {
        let bytes_max = plugin.options.limits.line_bytes_max;
        stream.restart();
        let mut until = None;
        loop {
            if id.is_some_and(|id| !plugin.waits_for(id)) {
                until.get_or_insert_with(|| Instant::now() + after);
            }
            let frame = match until {
                None => response.frame().await,
                // Read to its end, its connection serves again.
                Some(until) => timeout_at(until.into(), response.frame()).await.unwrap_or(None),
            };
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|error| format!("its server broke off its answer: {error}"))?;
            if let Some(data) = frame.data_ref() {
                stream.push(data, bytes_max, |data| {
                    plugin.take(data);
                })?;
            }
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let response = self.client.request(request).await.map_err(|error| {
            // What went wrong stands last: that a connection was refused, a name unknown, a certificate not trusted.
            let causes =
                std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            let cause = causes.last().map(ToString::to_string).unwrap_or_default();
            let server = self.url.authority().map_or("", |authority| authority.host());
            format!("its server {server} cannot be reached: {cause}")
        })?;
        let mut state = self.state();
        if response.status() == StatusCode::NOT_FOUND && state.session.is_some() {
            self.lost.notify_one();
        }
        if let Some(session) = response.headers().get(SESSION)
            && session.len() <= SESSION_ID_BYTES_MAX
        {
            state.session = Some(session.clone());
        }
        Ok(response)
    }

    /// Asks for a stream, as it goes on behind an event. None when this server has no such thing.
    async fn get(&self, last_id: Option<&HeaderValue>) -> Stream {
        let mut request = self.empty(Method::GET);
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last_id) = last_id {
            headers.insert("last-event-id", last_id.clone());
        }
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_server_error() {
            return Err(format!("its server answered with HTTP status {status}"));
        }
        let is_stream = status.is_success() && is(&response, "text/event-stream");
        Ok(is_stream.then_some(response))
    }

    /// Ends the session, as far as the server cares.
    pub(crate) async fn leave(&self) {
        if self.state().session.is_some() {
            let _ = timeout(LEAVE_MAX, self.send(self.empty(Method::DELETE))).await;
        }
    }

    /// Takes note of which arguments of which tools are to be in headers, and leaves out the tools that clients may not
    /// use for what they ask of headers.
    pub(crate) fn learn(&self, tools: &mut Vec<Raw>, mut refuse: impl FnMut(String)) {
        let mut all = HashMap::new();
        tools.retain(|tool| {
            let name = Object::parse(tool).and_then(|tool| tool.text("name"));
            match mirror::of_tool(tool) {
                Ok(mirrored) => {
                    if let (false, Some(name)) = (mirrored.is_empty(), name) {
                        all.insert(name, mirrored);
                    }
                    true
                }
                Err(why) => {
                    refuse(format!(
                        "its tool {:?} is left out: {why}",
                        name.unwrap_or_default()
                    ));
                    false
                }
            }
        });
        self.state().mirrored = all;
    }

    /// A request of the older revisions with what every one has.
    fn empty(&self, method: Method) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let state = self.state();
        if let Some(session) = &state.session {
            headers.insert(SESSION, session.clone());
        }
        if let Some(version) = &state.version {
            headers.insert(VERSION, version.clone());
        }
        request
    }

    fn request(&self, line: Bytes, revision: Revision) -> Result<Request<Full<Bytes>>, String> {
        let body = line.slice(..line.len().saturating_sub(1));
        let mut request = self.empty(Method::POST);
        *request.body_mut() = Full::new(body.clone());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if revision == Revision::Legacy {
            return Ok(request);
        }
        headers.insert(VERSION, HeaderValue::from_static(MODERN));
        let (method, params) = match parse(&body) {
            Ok(Message::Request { method, params, .. } | Message::Notification { method, params }) => {
                (method, params)
            }
            _ => return Ok(request),
        };
        let value = |text: &str| {
            let invalid = |_| "a name that no header may have".to_owned();
            HeaderValue::from_str(&encoded(text)).map_err(invalid)
        };
        headers.insert("mcp-method", value(&method)?);
        let params = Object::of(params).unwrap_or_default();
        let name = match &*method {
            "tools/call" | "prompts/get" => params.text("name"),
            "resources/read" => params.text("uri"),
            _ => None,
        };
        if let Some(name) = name {
            headers.insert("mcp-name", value(&name)?);
            if method == "tools/call"
                && let Some(mirrored) = self.state().mirrored.get(&name)
            {
                mirror::put(headers, mirrored, &params);
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_shown() {
        let options = RemoteOptions {
            url: "https://example.com/mcp".into(),
            bearer: Some("sesame".into()),
        };
        assert!(!format!("{options:?}").contains("sesame"));
    }
}
