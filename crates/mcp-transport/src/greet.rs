//! How a plugin is greeted, in each kind of revision, and what it says of itself.

use crate::limits::seconds;
use crate::message::{Object, Raw, RpcError, code, method_line, raw};
use crate::plugin::{Answer, CallError, Plugin, Wire};
use crate::revision::{Capabilities, LEGACY, MODERN, Revision, SUPPORTED};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A plugin's instructions, in bytes.
const INSTRUCTIONS_BYTES_MAX: usize = 4 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Greeting {
    protocol_version: Option<String>,
    #[serde(default)]
    supported_versions: Vec<String>,
    #[serde(default)]
    capabilities: Capabilities,
    instructions: Option<String>,
}

pub(crate) async fn ask(
    plugin: &Plugin,
    method: &str,
    params: Object<'_>,
    max: Duration,
) -> Result<Raw, String> {
    let never = CancellationToken::new();
    let answer = plugin.call(method, params, None, max, &never).await;
    if matches!(answer, Err(CallError::TimedOut(_))) {
        plugin.set_silent(true);
    }
    understood(method, answer)
}

fn understood(method: &str, answer: Result<Answer, CallError>) -> Result<Raw, String> {
    match answer {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(format!("it answers {method} with the error {}", error.get())),
        Err(CallError::TimedOut(max)) => Err(format!("it did not answer {method} within {}", seconds(max))),
        Err(error) => Err(error.to_string()),
    }
}

fn greeting(method: &str, result: &RawValue) -> Result<Greeting, String> {
    serde_json::from_str(result.get())
        .map_err(|error| format!("its answer to {method} is malformed: {error}"))
}

fn accept(plugin: &Plugin, greeting: Greeting) {
    let instructions = greeting.instructions.map(|mut text| {
        text.truncate(text.floor_char_boundary(INSTRUCTIONS_BYTES_MAX));
        text
    });
    plugin.can(greeting.capabilities, instructions);
}

/// True for a refusal of the version that offers the very version which it refuses: the next try may be the right one.
fn offers_modern(error: &RawValue) -> bool {
    let error: RpcError = match serde_json::from_str(error.get()) {
        Ok(error) => error,
        Err(_) => return false,
    };
    let data = error.data.unwrap_or_default();
    let supported = data["supported"].as_array();
    error.code == code::UNSUPPORTED_VERSION
        && supported.is_some_and(|all| all.iter().any(|version| version == MODERN))
}

pub(crate) async fn discover(plugin: &Plugin) -> Result<(), String> {
    plugin.speaks(Revision::Modern);
    let method = "server/discover";
    let max = plugin.options.limits.probe_max;
    let never = CancellationToken::new();
    let result = match plugin.call(method, Object::default(), None, max, &never).await {
        Ok(Err(error)) if offers_modern(&error) => ask(plugin, method, Object::default(), max).await?,
        answer => understood(method, answer)?,
    };
    let greeting = greeting(method, &result)?;
    if !greeting
        .supported_versions
        .iter()
        .any(|version| version == MODERN)
    {
        return Err(format!("it does not speak revision {MODERN}"));
    }
    accept(plugin, greeting);
    Ok(())
}

pub(crate) async fn initialize(plugin: &Plugin) -> Result<(), String> {
    plugin.speaks(Revision::Legacy);
    let method = "initialize";
    let mut params = Object::default();
    params.set("protocolVersion", raw(LEGACY));
    params.set("capabilities", plugin.identity.capabilities.clone());
    params.set("clientInfo", plugin.identity.info.clone());
    let result = ask(plugin, method, params, plugin.options.limits.start_max).await?;
    let greeting = greeting(method, &result)?;
    match greeting.protocol_version.as_deref() {
        Some(version) if SUPPORTED[1..].contains(&version) => {
            if let Some(Wire::Remote(remote)) = plugin.wire() {
                remote.use_version(version);
            }
        }
        other => {
            return Err(format!(
                "it speaks revision {other:?}, of which nothing is known here"
            ));
        }
    }
    accept(plugin, greeting);
    let initialized = "notifications/initialized";
    match plugin.wire() {
        // Requests travel on ways of their own: the next one may not overtake this.
        Some(Wire::Remote(remote)) => remote.tell(method_line(None, initialized, None)).await,
        _ => plugin.notify(initialized, None),
    }
    Ok(())
}
