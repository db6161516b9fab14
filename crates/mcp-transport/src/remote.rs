//! A plugin that is a server elsewhere: streamable HTTP, one POST a message.

use crate::message::{Message, Object, one_line, parse};
use crate::plugin::{CallError, Plugin};
use crate::revision::{MODERN, Revision};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What is shown of an answer that is no answer, in bytes.
const SHOWN_BYTES_MAX: usize = 300;
/// The longest session id that is taken, in bytes.
const SESSION_ID_BYTES_MAX: usize = 1024;

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
            let sent = this.exchange(line).await;
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

    async fn exchange(&self, line: Bytes) -> Result<(), String> {
        let Some(plugin) = self.plugin.upgrade() else {
            return Ok(());
        };
        let response = self
            .client
            .request(self.request(line, plugin.revision())?)
            .await
            .map_err(|error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                format!(
                    "its server cannot be reached: {error}{}",
                    cause.unwrap_or_default()
                )
            })?;
        let bytes_max = plugin.options.limits.line_bytes_max;
        if let Some(session) = response.headers().get("mcp-session-id")
            && session.len() <= SESSION_ID_BYTES_MAX
        {
            self.state().session = Some(session.clone());
        }
        let status = response.status();
        let kind = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_ascii_lowercase();
        if status == StatusCode::NOT_FOUND && self.state().session.is_some() {
            self.lost.notify_one();
        }
        if status.is_success() && kind.starts_with("text/event-stream") {
            return events(response, bytes_max, |data| {
                plugin.take(data);
            })
            .await;
        }
        let mut body = bounded(response, bytes_max).await?;
        one_line(&mut body);
        if kind.starts_with("application/json") && parse(&body).is_ok() {
            plugin.take(&body);
            return Ok(());
        }
        if status.is_success() {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]).into_owned();
        Err(format!("its server answered with HTTP status {status}: {shown}"))
    }

    fn request(&self, line: Bytes, revision: Revision) -> Result<Request<Full<Bytes>>, String> {
        let body = line.slice(..line.len().saturating_sub(1));
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let state = self.state();
        if let Some(session) = &state.session {
            headers.insert("mcp-session-id", session.clone());
        }
        if revision == Revision::Modern {
            headers.insert("mcp-protocol-version", HeaderValue::from_static(MODERN));
            if let Ok(Message::Request { method, params, .. } | Message::Notification { method, params }) =
                parse(&body)
            {
                let invalid = |_| "a name that no header may have".to_owned();
                headers.insert("mcp-method", HeaderValue::from_str(&method).map_err(invalid)?);
                let params = Object::of(params).unwrap_or_default();
                let name = match &*method {
                    "tools/call" | "prompts/get" => params.text("name"),
                    "resources/read" => params.text("uri"),
                    _ => None,
                };
                if let Some(name) = name {
                    headers.insert("mcp-name", HeaderValue::from_str(&name).map_err(invalid)?);
                }
            }
        } else if let Some(version) = &state.version {
            headers.insert("mcp-protocol-version", version.clone());
        }
        Ok(request)
    }
}

/// The machine's own certificates, read only when they are needed.
fn tls(is_needed: bool) -> Result<rustls::ClientConfig, String> {
    use hyper_rustls::ConfigBuilderExt;
    let failed = |why: &dyn fmt::Display| format!("TLS cannot be set up: {why}");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let builder = if is_needed {
        builder.with_native_roots().map_err(|error| failed(&error))?
    } else {
        builder.with_root_certificates(rustls::RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

async fn bounded(mut response: Response<hyper::body::Incoming>, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(frame) = response.frame().await {
        let frame = frame.map_err(|error| format!("its server broke off its answer: {error}"))?;
        if let Some(data) = frame.data_ref() {
            if body.len() + data.len() > bytes_max {
                return Err(format!("its server answered with more than {bytes_max} bytes"));
            }
            body.extend_from_slice(data);
        }
    }
    Ok(body)
}

/// Gives the data of server-sent events as they come.
async fn events(
    mut response: Response<hyper::body::Incoming>,
    bytes_max: usize,
    mut take: impl FnMut(&[u8]),
) -> Result<(), String> {
    let mut parser = Events::default();
    while let Some(frame) = response.frame().await {
        let frame = frame.map_err(|error| format!("its server broke off its answer: {error}"))?;
        if let Some(data) = frame.data_ref() {
            parser.push(data, bytes_max, &mut take)?;
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    fn push(
        &mut self,
        mut bytes: &[u8],
        bytes_max: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..at]);
            bytes = &bytes[at + 1..];
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                let mut data = std::mem::take(&mut self.data);
                if !data.is_empty() {
                    one_line(&mut data);
                    take(&data);
                }
            } else if let Some(data) = line.strip_prefix(b"data:") {
                self.data
                    .extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
                self.data.push(b'\n');
            }
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() + self.data.len() > bytes_max {
            return Err(format!("its server sent an event of more than {bytes_max} bytes"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_any_pieces() {
        let stream = b": hello\r\nid: 1\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata:\n\nevent: x\ndata:{}\n\n";
        for size in 1..stream.len() {
            let (mut parser, mut found) = (Events::default(), Vec::new());
            for piece in stream.chunks(size) {
                let take = |data: &[u8]| found.push(String::from_utf8_lossy(data).trim().to_owned());
                parser.push(piece, 1000, take).unwrap();
            }
            found.retain(|data| !data.is_empty());
            assert_eq!(found, ["{\"a\": 1}", "{}"]);
        }
        assert!(Events::default().push(&[b'x'; 2000], 1000, |_| ()).is_err());
    }

    #[test]
    fn tokens_are_not_shown() {
        let options = RemoteOptions {
            url: "https://example.com/mcp".into(),
            bearer: Some("sesame".into()),
        };
        assert!(!format!("{options:?}").contains("sesame"));
    }
}
