//! What clients may ask, and how it is answered.

use crate::call::Call;
use crate::catalog::{Entry, page};
use crate::client::{Connection, Listen, Origin};
use crate::gateway::{Inner, of_subscription};
use crate::message::{Object, Raw, RpcError, code, method_line, raw};
use crate::plugin::Answer;
use crate::revision::{
    Client, META_CAPABILITIES, META_SERVER_INFO, META_SUBSCRIPTION, META_VERSION, MODERN, Revision,
    SUPPORTED, complete, negotiate, uncached,
};
use crate::serve::OVERLOADED;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Resources in one subscription.
const SUBSCRIPTION_URIS_MAX: usize = 256;

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

impl Inner {
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
        if method != "ping" {
            tokio::select! {
                () = self.wake() => {}
                () = cancel.cancelled() => {}
            }
        }
        let is_modern = origin.revision == Revision::Modern;
        let Some(object) = Object::of(params) else {
            return Err(RpcError::params("params are to be an object")).into();
        };
        let answered = match method {
            "initialize" if !is_modern_version(params) => self.initialize(&origin.connection, &object).into(),
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

/// The version that a request says it is of.
pub(crate) fn version_of(params: Option<&RawValue>) -> Option<String> {
    Object::parse(Object::parse(params?)?.get("_meta")?)?.text(META_VERSION)
}

/// True for a request of the newer revision, as far as it says.
pub(crate) fn is_modern_version(params: Option<&RawValue>) -> bool {
    version_of(params).as_deref() == Some(MODERN)
}

/// What the newer revision wants of every request.
pub(crate) fn check_version(method: &str, params: Option<&RawValue>) -> Result<(), RpcError> {
    if method == "initialize" && !is_modern_version(params) {
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
