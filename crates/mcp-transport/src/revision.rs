//! The protocol's two kinds of revision: those with a handshake, and the one without.

use crate::message::{Object, Raw, raw};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The newest of the revisions that begin with `initialize`.
pub(crate) const LEGACY: &str = "2025-11-25";
/// The revision without a handshake.
pub(crate) const MODERN: &str = "2026-07-28";
/// All that are served, the newest first.
pub(crate) const SUPPORTED: [&str; 5] = [MODERN, LEGACY, "2025-06-18", "2025-03-26", "2024-11-05"];

pub(crate) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
pub(crate) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(crate) const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
pub(crate) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// Which kind of revision a peer speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Revision {
    #[default]
    Legacy,
    Modern,
}

/// The version that an `initialize` is answered with.
pub(crate) fn negotiate(requested: &str) -> &str {
    if SUPPORTED[1..].contains(&requested) {
        requested
    } else {
        LEGACY
    }
}

/// What a server can do, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    pub(crate) tools: Option<Listed>,
    pub(crate) prompts: Option<Listed>,
    pub(crate) resources: Option<Listed>,
    pub(crate) completions: Option<serde_json::Value>,
    pub(crate) logging: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Listed {
    pub(crate) list_changed: bool,
    pub(crate) subscribe: bool,
}

/// Who a client is: what the newer revision wants to be told with each request.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) info: Raw,
    pub(crate) capabilities: Raw,
}

/// A request's `progressToken`.
pub(crate) fn progress_token(params: Option<&RawValue>) -> Option<Raw> {
    let params = Object::parse(params?)?;
    let meta = Object::parse(params.get("_meta")?)?;
    meta.get("progressToken").map(ToOwned::to_owned)
}

/// Parameters made fit for a plugin: `_meta` as its revision wants it, the progress token in exchange for ours.
pub(crate) fn decorate(
    mut params: Object<'_>,
    revision: Revision,
    client: &Client,
    progress: Option<u64>,
) -> Option<String> {
    let given = params.get("_meta").map(ToOwned::to_owned);
    let mut meta = Object::of(given.as_deref()).unwrap_or_default();
    if revision == Revision::Legacy && given.is_none() && progress.is_none() {
        return (!params.is_empty()).then(|| params.to_text());
    }
    meta.remove("progressToken");
    if let Some(token) = progress {
        meta.set("progressToken", raw(&token));
    }
    match revision {
        Revision::Legacy => {
            for key in [META_VERSION, META_CLIENT_INFO, META_CAPABILITIES, META_LOG_LEVEL] {
                meta.remove(key);
            }
        }
        Revision::Modern => {
            meta.set(META_VERSION, raw(MODERN));
            if meta.get(META_CLIENT_INFO).is_none() {
                meta.set(META_CLIENT_INFO, client.info.clone());
            }
            if meta.get(META_CAPABILITIES).is_none() {
                meta.set(META_CAPABILITIES, client.capabilities.clone());
            }
        }
    }
    params.remove("_meta");
    if !meta.is_empty() {
        params.set("_meta", meta.to_raw());
    }
    (!params.is_empty()).then(|| params.to_text())
}

/// A result as the newer revision wants it: with a `resultType`.
pub(crate) fn complete(result: Raw) -> Raw {
    match Object::parse(&result) {
        Some(mut object) if object.get("resultType").is_none() => {
            object.set("resultType", raw("complete"));
            object.to_raw()
        }
        _ => result,
    }
}

/// What a list or a read has besides in the newer revision: nobody may keep it.
pub(crate) fn uncached(result: Raw) -> Raw {
    let Some(mut object) = Object::parse(&result) else {
        return result;
    };
    for (key, value) in [
        ("resultType", raw("complete")),
        ("ttlMs", raw(&0)),
        ("cacheScope", raw("private")),
    ] {
        if object.get(key).is_none() {
            object.set(key, value);
        }
    }
    object.to_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::raw_text;

    fn client() -> Client {
        Client {
            info: raw_text(r#"{"name":"c","version":"1"}"#.into()),
            capabilities: raw_text("{}".into()),
        }
    }

    #[test]
    fn versions() {
        // What the SDK calls the newest of each kind is what is spoken here.
        use rmcp::model::ProtocolVersion;
        let theirs = (ProtocolVersion::LATEST_WITH_INITIALIZE, ProtocolVersion::LATEST);
        assert_eq!((LEGACY, MODERN), (theirs.0.as_str(), theirs.1.as_str()));
        assert_eq!(negotiate("2025-03-26"), "2025-03-26");
        assert_eq!(negotiate(MODERN), LEGACY);
        assert_eq!(negotiate("1999-01-01"), LEGACY);
    }

    #[test]
    fn meta_is_translated() {
        let given = raw_text(format!(
            r#"{{"name":"t","new":1,"_meta":{{"x/y":2,"progressToken":"p","{META_VERSION}":"{MODERN}"}}}}"#
        ));
        let legacy = decorate(
            Object::parse(&given).unwrap(),
            Revision::Legacy,
            &client(),
            Some(7),
        );
        assert_eq!(
            legacy.unwrap(),
            r#"{"name":"t","new":1,"_meta":{"x/y":2,"progressToken":7}}"#
        );
        let modern = decorate(Object::default(), Revision::Modern, &client(), None).unwrap();
        for key in [META_VERSION, META_CLIENT_INFO, META_CAPABILITIES] {
            assert!(modern.contains(key), "{modern}");
        }
        assert_eq!(
            decorate(Object::default(), Revision::Legacy, &client(), None),
            None
        );
        assert_eq!(progress_token(Some(&given)).unwrap().get(), "\"p\"");
    }

    #[test]
    fn results_are_completed_once() {
        assert_eq!(
            complete(raw_text("{}".into())).get(),
            r#"{"resultType":"complete"}"#
        );
        let asking = r#"{"resultType":"input_required"}"#;
        assert_eq!(complete(raw_text(asking.into())).get(), asking);
    }
}
