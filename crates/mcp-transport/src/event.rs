//! What the gateway tells of its work: one event a call, and what becomes of plugins.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With a result.
    Ok,
    /// With a result that says that it failed.
    ToolError,
    /// With an error of the protocol, from the plugin.
    RpcError,
    /// The policy forbids it, or there is no such tool. The plugin has not seen it.
    Denied,
    /// Too many calls. The plugin has not seen it.
    RateLimited,
    /// No answer in time.
    TimedOut,
    /// Its caller took it back, or went away.
    Cancelled,
    /// The plugin was not there, or died meanwhile, or said what cannot be understood.
    PluginFailed,
}

/// One call of one tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallEvent {
    /// Whose tool; empty when there is no such tool.
    pub plugin: String,
    /// The tool's own name; the name that was called when there is no such tool.
    pub tool: String,
    /// From the call's arrival to its answer, in milliseconds.
    pub duration_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The arguments' size, in bytes of JSON.
    pub argument_bytes: usize,
    /// The result's size as the plugin gave it, in bytes of JSON.
    pub result_bytes: usize,
    /// The arguments as JSON, redacted, and cut after a bound: then it is no JSON any more.
    pub arguments: String,
    /// Why it failed, redacted.
    pub error: Option<String>,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A tool was called.
    Call(CallEvent),
    /// A plugin is ready, for the first time or again.
    PluginReady {
        /// Which.
        plugin: String,
        /// How many tools agents see of it.
        tools: usize,
        /// Which revision of the protocol it speaks.
        revision: String,
    },
    /// A plugin has died and is started again.
    PluginDied {
        /// Which.
        plugin: String,
        /// Why, with the last it said.
        reason: String,
        /// The pause before the next start, in milliseconds.
        restart_after_ms: u64,
    },
    /// A plugin was given up, and its tools are withdrawn.
    PluginGivenUp {
        /// Which.
        plugin: String,
        /// Why, with the last it said.
        reason: String,
    },
    /// Something that people should know.
    Warning {
        /// Which plugin's.
        plugin: String,
        /// What.
        message: String,
    },
}

/// Takes events. It is called between answers: it must not block, and keeps what it cannot pass on at once, or counts
/// what is lost.
pub trait Sink: Send + Sync {
    /// Takes one.
    fn take(&self, event: Event);
}

/// A sink that keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Sink for Discard {
    fn take(&self, _: Event) {}
}

/// A sink that is a bounded channel. What does not fit is counted.
#[derive(Debug)]
pub struct ChannelSink {
    sender: mpsc::Sender<Event>,
    lost: AtomicU64,
}

impl ChannelSink {
    /// A sink for so many events at once, and what they are taken from.
    #[must_use]
    pub fn new(events_max: usize) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(events_max);
        let lost = AtomicU64::new(0);
        (Self { sender, lost }, receiver)
    }

    /// How many did not fit since this was asked last.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Sink for ChannelSink {
    fn take(&self, event: Event) {
        if self.sender.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sink for std::sync::Arc<ChannelSink> {
    fn take(&self, event: Event) {
        (**self).take(event);
    }
}

/// Takes secrets out of a text.
pub trait Redact: Send + Sync {
    /// The text without them.
    fn redact(&self, text: &str) -> String;
}

impl<F: Fn(&str) -> String + Send + Sync> Redact for F {
    fn redact(&self, text: &str) -> String {
        self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let (sink, mut events) = ChannelSink::new(1);
        let warning = |message: &str| Event::Warning {
            plugin: "p".into(),
            message: message.into(),
        };
        sink.take(warning("first"));
        sink.take(warning("second"));
        assert_eq!(sink.take_lost(), 1);
        assert_eq!(sink.take_lost(), 0);
        assert_eq!(events.try_recv().unwrap(), warning("first"));
    }
}
