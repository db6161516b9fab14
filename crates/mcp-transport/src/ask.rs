//! Plugins asked on clients' behalf.

use crate::answer::Answered;
use crate::client::Origin;
use crate::gateway::{Inner, OWN_NAME};
use crate::message::{Object, Raw, RpcError, code, raw};
use crate::paging::{Cut, Kind, Marker, part, put_together, take_apart};
use crate::plugin::{Answer, CallError, Plugin};
use crate::revision::Revision;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a plugin that is being started (again) is waited for.
const READY_MAX: Duration = Duration::from_secs(10);
/// How often a client of the older revisions may be asked for more by one call of a newer plugin.
const ROUNDS_MAX: usize = 8;

impl Inner {
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

    pub(crate) async fn get_prompt(
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

    pub(crate) async fn read_resource(
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

    pub(crate) async fn complete(
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
