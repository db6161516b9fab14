//! A forge on loopback: an HTTP server around the state in `routes`, with faults to order and a record of what was said.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;
use tokio::sync::Notify;

use crate::routes::{Out, World};

/// Which forge it plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Forgejo,
    Gitea,
}

/// What happens instead of an answer.
pub(crate) enum Fault {
    /// An answer of this status, with headers and a body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// No answer, as long as the client waits.
    Silence,
    /// A good answer that ends half-way.
    Truncated,
    /// JSON without end.
    Endless,
}

/// One request and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) method: String,
    /// As it came, escaped, below `/api/v1`.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Option<Value>,
    pub(crate) status: u16,
    pub(crate) answer: Bytes,
    /// Whether a fault stood in for the forge.
    pub(crate) fault: bool,
}

struct Shared {
    world: Mutex<World>,
    faults: Mutex<VecDeque<(&'static str, Fault)>>,
    exchanges: Mutex<Vec<Exchange>>,
    silent: Notify,
    prefix: &'static str,
}

/// A forge that runs until it is dropped.
pub(crate) struct Forge {
    shared: Arc<Shared>,
    pub(crate) url: String,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Forge {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Forge {
    pub(crate) async fn start(flavour: Flavour) -> Self {
        Self::start_below(flavour, "").await
    }

    /// One that lives under a path of its host.
    pub(crate) async fn start_below(flavour: Flavour, prefix: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{prefix}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(flavour, url.clone())),
            faults: Mutex::default(),
            exchanges: Mutex::default(),
            silent: Notify::new(),
            prefix,
        });
        let router = Router::new().fallback(serve).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, url, server }
    }

    /// The next request whose path holds `path` gets this.
    pub(crate) fn fault(&self, path: &'static str, fault: Fault) {
        self.shared.faults.lock().unwrap().push_back((path, fault));
    }

    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.shared.exchanges.lock().unwrap().clone()
    }

    /// How often a method was asked for a path that ends so.
    pub(crate) fn asked(&self, method: &str, end: &str) -> usize {
        self.exchanges()
            .iter()
            .filter(|it| it.method == method && it.path.ends_with(end))
            .count()
    }

    /// Waits until a request hangs in a silence.
    pub(crate) async fn silent(&self) {
        self.shared.silent.notified().await;
    }

    pub(crate) fn world<T>(&self, see: impl FnOnce(&mut World) -> T) -> T {
        see(&mut self.shared.world.lock().unwrap())
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let path = parts.uri.path().strip_prefix(shared.prefix).unwrap_or_default();
    let path = path.strip_prefix("/api/v1").unwrap_or("/outside").to_owned();
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let fault = {
        let mut faults = shared.faults.lock().unwrap();
        let at = faults.iter().position(|(part, _)| path.contains(part));
        at.and_then(|at| faults.remove(at)).map(|(_, fault)| fault)
    };
    let mut exchange = Exchange {
        method: parts.method.to_string(),
        path,
        query,
        authorization: parts
            .headers
            .get("authorization")
            .map(|it| it.to_str().unwrap().to_owned()),
        body: (!body.is_empty()).then(|| serde_json::from_slice(&body).expect("a body in JSON")),
        status: 0,
        answer: Bytes::new(),
        fault: fault.is_some(),
    };
    let mut response = Response::builder();
    let body = match fault {
        Some(Fault::Silence) => {
            shared.exchanges.lock().unwrap().push(exchange.clone());
            shared.silent.notify_one();
            std::future::pending().await
        }
        Some(Fault::Answer(status, headers, body)) => {
            exchange.status = status;
            response = response.status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Body::from(body)
        }
        Some(Fault::Truncated) => {
            exchange.status = 200;
            response = response.header("content-length", 1000);
            streamed(Some(1), Bytes::from_static(b"{\"number\": 1,"))
        }
        Some(Fault::Endless) => {
            exchange.status = 200;
            streamed(None, Bytes::from(format!("[\"{}\",", "x".repeat(60_000))))
        }
        None => {
            let mut world = shared.world.lock().unwrap();
            let authorized = exchange.authorization.as_deref() == Some("token s3cret-token-0123456789");
            let out = world.serve(&exchange, authorized);
            let Out {
                status,
                headers,
                body,
            } = out;
            exchange.status = status;
            exchange.answer = Bytes::from(body);
            response = response.status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Body::from(exchange.answer.clone())
        }
    };
    shared.exchanges.lock().unwrap().push(exchange);
    response.body(body).unwrap()
}

/// A body of so many chunks that then breaks off, or of chunks without end.
fn streamed(chunks: Option<usize>, chunk: Bytes) -> Body {
    struct Chunks(Option<usize>, Bytes);
    impl futures_core::Stream for Chunks {
        type Item = Result<Bytes, std::io::Error>;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(Some(match &mut self.0 {
                Some(0) => Err(std::io::Error::other("broken off")),
                Some(left) => {
                    *left -= 1;
                    Ok(self.1.clone())
                }
                None => Ok(self.1.clone()),
            }))
        }
    }
    Body::from_stream(Chunks(chunks, chunk))
}
