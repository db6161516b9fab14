//! HTTP on the same socket.

use crate::shared::Shared;
use axum::Json as Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::{Router, get};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// A request's head may be so long, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves a connection of which `first` was read already.
pub(crate) async fn serve(shared: Arc<Shared>, stream: UnixStream, first: Vec<u8>) {
    let service = TowerToHyperService::new(router(Arc::clone(&shared)));
    let io = TokioIo::new(Resumed {
        first,
        given: 0,
        stream,
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(shared.timeouts.http_head)
        .max_buf_size(HEAD_BYTES_MAX)
        // `printf 'GET …' | nc -N -U` closes its half before it is answered.
        .half_close(true);
    let mut connection = pin!(builder.serve_connection(io, service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/health", get(health).fallback(wrong_method))
        .fallback(not_found)
        .with_state(shared)
}

async fn health(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let health = shared.health().await;
    let status = if health.status == "ok" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let state = if shared.is_stopping() {
        "stopping"
    } else {
        "running"
    };
    let body = json!({
        "state": state,
        "uptime_seconds": shared.uptime_secs(),
        "status": health.status,
        "database": health.database,
        "version": health.version,
    });
    (status, Body(body))
}

async fn not_found(uri: Uri) -> impl IntoResponse {
    let message = format!(
        "there is nothing at {}; HTTP serves /v1/health, JSON Lines everything",
        uri.path()
    );
    (
        StatusCode::NOT_FOUND,
        Body(json!({ "error": { "code": "not_found", "message": message } })),
    )
}

async fn wrong_method() -> impl IntoResponse {
    let message = "this path answers GET and HEAD only";
    let body = Body(json!({ "error": { "code": "method_not_allowed", "message": message } }));
    (StatusCode::METHOD_NOT_ALLOWED, [("allow", "GET, HEAD")], body)
}

/// A stream of which the first bytes were read already.
struct Resumed {
    first: Vec<u8>,
    given: usize,
    stream: UnixStream,
}

impl AsyncRead for Resumed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.first.len() {
            let part = &self.first[self.given..];
            let part = &part[..part.len().min(buffer.remaining())];
            buffer.put_slice(part);
            let given = part.len();
            self.given += given;
            return Poll::Ready(Ok(()));
        }
        self.first = Vec::new();
        self.given = 0;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Resumed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
