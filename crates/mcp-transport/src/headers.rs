//! What HTTP says of a message before its body does, and what has to agree.

use crate::message::{Object, RpcError, code};
use crate::revision::{MODERN, SUPPORTED};
use base64::Engine as _;
use hyper::HeaderMap;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use serde_json::value::RawValue;
use std::borrow::Cow;

pub(crate) const VERSION: &str = "mcp-protocol-version";
pub(crate) const SESSION: &str = "mcp-session-id";

/// A header that may stand there once.
pub(crate) fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, RpcError> {
    let mismatch = |what: &str| RpcError::new(code::HEADER_MISMATCH, format!("the header {name} {what}"));
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(mismatch("is there twice"));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| mismatch("has characters that it may not have"))
}

/// False for requests that a page of some other place has sent, or that were led here by a name that is not ours.
pub(crate) fn is_local(headers: &HeaderMap) -> bool {
    let is_loopback = |host: &str| {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next(),
            None => host.split(':').next(),
        };
        matches!(name, Some("localhost" | "127.0.0.1" | "::1"))
    };
    let host = headers.get(HOST).map(|host| host.to_str().is_ok_and(is_loopback));
    let origin = headers.get(ORIGIN).map(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        let rest = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(is_loopback)
    });
    host.unwrap_or(true) && origin.unwrap_or(true)
}

/// True when the token is the right one. Takes as long for every wrong one of the same length.
pub(crate) fn is_authorized(headers: &HeaderMap, token: Option<&str>) -> bool {
    let Some(token) = token else { return true };
    let given = headers
        .get(AUTHORIZATION)
        .map(hyper::header::HeaderValue::as_bytes)
        .unwrap_or_default();
    let given = match given.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest,
        _ => return false,
    };
    let differing = given
        .iter()
        .zip(token.as_bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == token.len() && differing == 0
}

/// True when the client takes both kinds of answer.
pub(crate) fn accepts(headers: &HeaderMap, wanted: &[&str]) -> bool {
    let all: Vec<String> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|kind| {
            kind.split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase()
        })
        .collect();
    wanted.iter().all(|wanted| {
        let family = wanted.split('/').next().unwrap_or_default();
        all.iter()
            .any(|kind| kind == wanted || kind == "*/*" || *kind == format!("{family}/*"))
    })
}

/// True when the body is said to be JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    kind.split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// True for a version that is spoken here, or not named.
pub(crate) fn is_known_version(headers: &HeaderMap) -> bool {
    headers
        .get(VERSION)
        .is_none_or(|version| SUPPORTED.iter().any(|known| version == known))
}

/// True when the headers say that it is the newer revision.
pub(crate) fn is_modern(headers: &HeaderMap) -> bool {
    headers
        .get(VERSION)
        .and_then(|version| version.to_str().ok())
        .is_some_and(|version| version >= MODERN)
}

/// A text as a header can have it: as it is, or in the protocol's own encoding.
pub(crate) fn encoded(text: &str) -> Cow<'_, str> {
    let is_plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if is_plain && text.trim_matches(' ') == text && !text.starts_with("=?base64?") {
        return Cow::Borrowed(text);
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    Cow::Owned(format!("=?base64?{encoded}?="))
}

/// What [`encoded`] has made. None when it cannot be.
pub(crate) fn decoded(value: &str) -> Option<String> {
    let inner = value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="));
    match inner {
        Some(inner) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(inner).ok()?;
            String::from_utf8(bytes).ok()
        }
        None => Some(value.to_owned()),
    }
}

/// What the newer revision wants to see in headers too: the version, the method, the name.
pub(crate) fn agree(
    headers: &HeaderMap,
    version: Option<&str>,
    method: &str,
    params: Option<&RawValue>,
) -> Result<(), RpcError> {
    let mismatch = |why: String| Err(RpcError::new(code::HEADER_MISMATCH, why));
    let said = one(headers, VERSION)?;
    if let Some(version) = version
        && said != Some(version)
    {
        return mismatch(match said {
            None => "the header MCP-Protocol-Version is missing".into(),
            Some(said) => {
                format!("the header MCP-Protocol-Version says {said:?}, and _meta says {version:?}")
            }
        });
    }
    match one(headers, "mcp-method")? {
        None => return mismatch("the header Mcp-Method is missing".into()),
        Some(said) if said != method => {
            return mismatch(format!(
                "the header Mcp-Method says {said:?}, and the message {method:?}"
            ));
        }
        Some(_) => {}
    }
    let key = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return Ok(()),
    };
    let Some(name) = params.and_then(Object::parse).and_then(|params| params.text(key)) else {
        return Ok(());
    };
    match one(headers, "mcp-name")? {
        None => mismatch("the header Mcp-Name is missing".into()),
        Some(said) => match decoded(said) {
            Some(said) if said == name => Ok(()),
            Some(said) => mismatch(format!(
                "the header Mcp-Name says {said:?}, and the message {name:?}"
            )),
            None => mismatch("the header Mcp-Name cannot be decoded".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn tokens() {
        let right = headers(&[("authorization", "bearer sesame")]);
        assert!(is_authorized(&right, Some("sesame")));
        for wrong in ["Bearer sesam", "Bearer sesame2", "Basic sesame", "Bearer", ""] {
            assert!(
                !is_authorized(&headers(&[("authorization", wrong)]), Some("sesame")),
                "{wrong}"
            );
        }
        assert!(!is_authorized(&HeaderMap::new(), Some("sesame")));
        assert!(is_authorized(&HeaderMap::new(), None));
    }

    #[test]
    fn other_places() {
        for good in [
            ("host", "localhost:80"),
            ("host", "[::1]:9"),
            ("origin", "http://127.0.0.1:1"),
        ] {
            assert!(is_local(&headers(&[good])), "{good:?}");
        }
        for bad in [
            ("host", "evil.example"),
            ("origin", "http://localhost.evil"),
            ("origin", "null"),
        ] {
            assert!(!is_local(&headers(&[bad])), "{bad:?}");
        }
    }

    #[test]
    fn encoded_names() {
        assert_eq!(decoded("=?base64?w6Q=?=").as_deref(), Some("ä"));
        assert_eq!(decoded("=?base64?*?="), None);
        assert_eq!(decoded("plain").as_deref(), Some("plain"));
        for text in ["", "a b", " a", "a\n", "ä", "=?base64?w6Q=?="] {
            let encoded = encoded(text);
            assert!(HeaderValue::from_str(&encoded).is_ok(), "{encoded}");
            assert_eq!(decoded(&encoded).as_deref(), Some(text));
        }
    }
}
