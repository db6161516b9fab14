//! Streamable HTTP, for clients that want it: the same gateway behind one path, `/mcp`.
//!
//! Clients of the older revisions have a session, with a stream (`GET`) for what belongs to no request. In the newer
//! one each request is by itself, and its connection's end takes it back.

use crate::answer::version_of;
use crate::client::{Connection, OUT_MAX};
use crate::gateway::{Gateway, Inner};
use crate::headers::{self, SESSION};
use crate::lines::refusal_line;
use crate::message::{Message, RpcError, code, one_line, parse};
use crate::mirror;
use crate::revision::MODERN;
use crate::sse::EventBody;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::value::RawValue;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// So much of a refused request is read, and for so long.
const REFUSED_BYTES_MAX: usize = 64 * 1024;
const REFUSED_READ_MAX: Duration = Duration::from_secs(1);

/// Connections at once. Further ones wait.
const CONNECTIONS_MAX: usize = 64;
/// Sessions at once. The oldest makes room.
const SESSIONS_MAX: usize = 64;
/// How long a request's headers may take.
const HEADERS_MAX: Duration = Duration::from_secs(10);
/// How long its body may take.
const BODY_MAX: Duration = Duration::from_secs(60);
/// What hyper may keep of a connection, in bytes.
const BUFFER_BYTES: usize = 32 * 1024;

type Answer = Response<Either<Full<Bytes>, EventBody>>;

/// Why a request goes no further: a status, and a sentence.
type Refused = (StatusCode, &'static str);

struct Server {
    inner: Arc<Inner>,
    token: Option<String>,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    by_id: HashMap<String, Arc<Connection>>,
    order: VecDeque<String>,
}

/// What connections arrive on.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Gateway {
    /// Serves streamable HTTP on a Unix socket, which is where a bridge's connections arrive. With a `token`, only to
    /// those who have it.
    pub fn serve_http_unix(&self, listener: UnixListener, token: Option<String>) -> JoinHandle<()> {
        self.serve_http(Listener::Unix(listener), token)
    }

    /// As [`Gateway::serve_http_unix`], on a loopback port.
    pub fn serve_http_tcp(&self, listener: TcpListener, token: Option<String>) -> JoinHandle<()> {
        self.serve_http(Listener::Tcp(listener), token)
    }

    fn serve_http(&self, listener: Listener, token: Option<String>) -> JoinHandle<()> {
        let server = Arc::new(Server {
            inner: Arc::clone(&self.inner),
            token,
            sessions: Mutex::default(),
        });
        tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                    return;
                };
                let stop = server.inner.stop.clone();
                let accepted = async {
                    match &listener {
                        Listener::Unix(listener) => {
                            let (stream, _) = listener.accept().await?;
                            Ok::<_, io::Error>(tokio_util::either::Either::Left(stream))
                        }
                        Listener::Tcp(listener) => {
                            let (stream, _) = listener.accept().await?;
                            // Without it each answer waits for an acknowledgement.
                            stream.set_nodelay(true)?;
                            Ok(tokio_util::either::Either::Right(stream))
                        }
                    }
                };
                let accepted = tokio::select! {
                    accepted = accepted => accepted,
                    () = stop.cancelled() => return,
                };
                let Ok(stream) = accepted else {
                    // Out of descriptors, or a client that has gone already: the next may have more luck.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    connection(server, stream).await;
                    drop(permit);
                });
            }
        })
    }
}

async fn connection(server: Arc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let stop = server.inner.stop.clone();
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client that breaks off has nobody to be told of it.
        _ = serving => {}
        () = stop.cancelled() => {}
    }
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from_static(text.as_bytes()))));
    *answer.status_mut() = status;
    answer
}

fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body)));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn refusal(status: StatusCode, id: Option<&RawValue>, error: &RpcError) -> Answer {
    json(status, refusal_line(id, error))
}

fn events(first: Option<Bytes>, rest: mpsc::Receiver<Bytes>, guard: Option<DropGuard>) -> Answer {
    let mut answer = Response::new(Either::Right(EventBody {
        first,
        rest,
        _guard: guard,
    }));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

impl Server {
    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let headers = request.headers();
        if !headers::is_local(headers) {
            return plain(StatusCode::FORBIDDEN, "this is served to local clients alone");
        }
        if !headers::is_authorized(headers, self.token.as_deref()) {
            let mut answer = plain(
                StatusCode::UNAUTHORIZED,
                "the session's token is missing or wrong",
            );
            answer
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            // What was sent and is not read resets the connection, and the answer would be lost with it.
            let unread = Limited::new(request.into_body(), REFUSED_BYTES_MAX).collect();
            let _ = tokio::time::timeout(REFUSED_READ_MAX, unread).await;
            return answer;
        }
        if request.uri().path() != "/mcp" {
            return plain(
                StatusCode::NOT_FOUND,
                "there is nothing here: the gateway is at /mcp",
            );
        }
        match *request.method() {
            Method::POST => self.post(request).await,
            Method::GET | Method::DELETE if headers::is_modern(headers) => not_allowed("POST"),
            Method::GET => self.get(&request),
            Method::DELETE => self.delete(&request),
            _ => not_allowed("GET, POST, DELETE"),
        }
    }

    fn session(&self, request: &Request<Incoming>) -> Result<(String, Arc<Connection>), Refused> {
        let id = request.headers().get(SESSION).and_then(|id| id.to_str().ok());
        let missing = "the header Mcp-Session-Id is missing: begin with initialize";
        let id = id.ok_or((StatusCode::BAD_REQUEST, missing))?;
        let found = self.sessions().by_id.get(id).cloned();
        let unknown = "there is no such session: begin anew with initialize";
        Ok((id.to_owned(), found.ok_or((StatusCode::NOT_FOUND, unknown))?))
    }

    fn get(&self, request: &Request<Incoming>) -> Answer {
        if !headers::accepts(request.headers(), &["text/event-stream"]) {
            return plain(StatusCode::NOT_ACCEPTABLE, "this is a text/event-stream");
        }
        match self.session(request) {
            Ok((_, connection)) => {
                let (out, rest) = mpsc::channel(OUT_MAX);
                // Of two streams the newer one counts: the older may be dead without anybody having noticed.
                connection.set_out(Some(out));
                events(None, rest, None)
            }
            Err((status, why)) => plain(status, why),
        }
    }

    fn delete(&self, request: &Request<Incoming>) -> Answer {
        match self.session(request) {
            Ok((id, connection)) => {
                let mut sessions = self.sessions();
                sessions.by_id.remove(&id);
                sessions.order.retain(|known| *known != id);
                drop(sessions);
                connection.set_out(None);
                self.inner.disconnect(&connection);
                plain(StatusCode::OK, "")
            }
            Err((status, why)) => plain(status, why),
        }
    }

    fn begin_session(&self) -> (String, Arc<Connection>) {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let connection = self.inner.connect(None);
        let mut sessions = self.sessions();
        while sessions.order.len() >= SESSIONS_MAX {
            if let Some(oldest) = sessions.order.pop_front()
                && let Some(connection) = sessions.by_id.remove(&oldest)
            {
                connection.set_out(None);
                self.inner.disconnect(&connection);
            }
        }
        sessions.order.push_back(id.clone());
        sessions.by_id.insert(id.clone(), Arc::clone(&connection));
        (id, connection)
    }

    async fn post(&self, mut request: Request<Incoming>) -> Answer {
        if !headers::accepts(request.headers(), &["application/json", "text/event-stream"]) {
            let why = "a client accepts both application/json and text/event-stream";
            return plain(StatusCode::NOT_ACCEPTABLE, why);
        }
        if !headers::is_json(request.headers()) {
            return plain(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "a message is application/json",
            );
        }
        let bytes_max = self.inner.options.client_line_bytes_max;
        let body = Limited::new(request.body_mut(), bytes_max).collect();
        let body = match tokio::time::timeout(BODY_MAX, body).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                // As above: it is read to an end that is near, so that the answer arrives.
                let unread = Limited::new(request.into_body(), bytes_max).collect();
                let _ = tokio::time::timeout(REFUSED_READ_MAX, unread).await;
                let why = format!(
                    "a message of more than {bytes_max} bytes: it was not read, and nothing was done"
                );
                let error = RpcError::new(code::INVALID_REQUEST, why);
                return refusal(StatusCode::PAYLOAD_TOO_LARGE, None, &error);
            }
            Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST, "the message broke off"),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the message is too slow"),
        };
        let mut body: Vec<u8> = body.to_bytes().into();
        one_line(&mut body);
        match parse(&body) {
            Ok(Message::Request { id, method, params }) => self.request(&request, id, &method, params).await,
            Ok(Message::Notification { method, params }) => {
                if headers::is_modern(request.headers()) {
                    return match headers::agree(request.headers(), None, &method, params) {
                        Ok(()) => plain(StatusCode::ACCEPTED, ""),
                        Err(error) => refusal(StatusCode::BAD_REQUEST, None, &error),
                    };
                }
                match self.session(&request) {
                    Ok((_, connection)) => {
                        self.inner.told(&connection, &method, params);
                        plain(StatusCode::ACCEPTED, "")
                    }
                    Err((status, why)) => plain(status, why),
                }
            }
            Ok(Message::Response { id, answer }) => match self.session(&request) {
                Ok((_, connection)) => {
                    connection.answered(id, answer);
                    plain(StatusCode::ACCEPTED, "")
                }
                Err((status, why)) => plain(status, why),
            },
            Err(malformed) => {
                let error = RpcError::new(malformed.code, malformed.why);
                refusal(StatusCode::BAD_REQUEST, malformed.id.as_deref(), &error)
            }
        }
    }

    async fn request(
        &self,
        request: &Request<Incoming>,
        id: &RawValue,
        method: &str,
        params: Option<&RawValue>,
    ) -> Answer {
        let headers = request.headers();
        let version = version_of(params);
        // The newer revision has no such method.
        if method == "initialize" && version.as_deref() != Some(MODERN) && !headers::is_modern(headers) {
            let (session, connection) = self.begin_session();
            let mut answer = self.exchange(&connection, id, method, params, None).await;
            if let Ok(session) = HeaderValue::from_str(&session) {
                answer.headers_mut().insert(SESSION, session);
            }
            return answer;
        }
        if version.is_none() && !headers::is_known_version(headers) {
            let why = RpcError::new(
                code::INVALID_REQUEST,
                "the header MCP-Protocol-Version names a version that is not spoken here",
            );
            return refusal(StatusCode::BAD_REQUEST, Some(id), &why);
        }
        if version.is_none() && !headers::is_modern(headers) && method != "server/discover" {
            return match self.session(request) {
                Ok((_, connection)) => self.exchange(&connection, id, method, params, None).await,
                Err((status, why)) => plain(status, why),
            };
        }
        if version.is_none() {
            let why = RpcError::params("_meta has no io.modelcontextprotocol/protocolVersion");
            return refusal(StatusCode::BAD_REQUEST, Some(id), &why);
        }
        let agreed = headers::agree(headers, version.as_deref(), method, params);
        if let Err(error) =
            agreed.and_then(|()| mirror::call_agrees(headers, &self.inner.catalog(), method, params))
        {
            return refusal(StatusCode::BAD_REQUEST, Some(id), &error);
        }
        if let Err(error) = crate::answer::check_version(method, params) {
            return refusal(StatusCode::BAD_REQUEST, Some(id), &error);
        }
        let connection = self.inner.connect(None);
        let guard = self.guard(&connection);
        self.exchange(&connection, id, method, params, Some(guard)).await
    }

    /// Ends the connection when it is dropped.
    fn guard(&self, connection: &Arc<Connection>) -> DropGuard {
        let over = CancellationToken::new();
        let (inner, connection, ended) = (Arc::clone(&self.inner), Arc::clone(connection), over.clone());
        tokio::spawn(async move {
            ended.cancelled().await;
            inner.disconnect(&connection);
        });
        over.drop_guard()
    }

    /// Answers with the one message that there is to say, or with a stream of several.
    async fn exchange(
        &self,
        connection: &Arc<Connection>,
        id: &RawValue,
        method: &str,
        params: Option<&RawValue>,
        guard: Option<DropGuard>,
    ) -> Answer {
        let (out, mut rest) = mpsc::channel(OUT_MAX);
        if let Err(error) = self.inner.begin(connection, &out, id, method, params) {
            return refusal(StatusCode::BAD_REQUEST, Some(id), &error);
        }
        drop(out);
        let Some(first) = rest.recv().await else {
            // Taken back: nobody wants an answer.
            return plain(StatusCode::ACCEPTED, "");
        };
        let begins = |key: &str| {
            first.starts_with(format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"{key}\":", id.get()).as_bytes())
        };
        if begins("result") {
            return json(StatusCode::OK, first);
        }
        if begins("error") {
            let status = if guard.is_some() {
                status_of(&first)
            } else {
                StatusCode::OK
            };
            return json(status, first);
        }
        events(Some(first), rest, guard)
    }
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed here");
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// The status that the newer revision gives to errors of the protocol.
fn status_of(line: &[u8]) -> StatusCode {
    let error = match parse(line) {
        Ok(Message::Response {
            answer: Err(error), ..
        }) => serde_json::from_str::<RpcError>(error.get()).ok(),
        _ => None,
    };
    match error.map(|error| error.code) {
        Some(code::METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        Some(code::UNSUPPORTED_VERSION | code::HEADER_MISMATCH) => StatusCode::BAD_REQUEST,
        // A capability that the request did not declare.
        Some(-32021) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}
