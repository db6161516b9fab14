//! What it takes to ask a server over HTTP.

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use std::fmt;
use std::sync::Arc;

/// True for an answer of this kind.
pub(crate) fn is(response: &Response<Incoming>, kind: &str) -> bool {
    let given = response.headers().get(CONTENT_TYPE);
    let given = given.and_then(|given| given.to_str().ok()).unwrap_or_default();
    given.to_ascii_lowercase().starts_with(kind)
}

/// The machine's own certificates, read only when they are needed.
pub(crate) fn tls(is_needed: bool) -> Result<rustls::ClientConfig, String> {
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

/// An answer's body, of so many bytes at most.
pub(crate) async fn bounded(mut response: Response<Incoming>, bytes_max: usize) -> Result<Vec<u8>, String> {
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
