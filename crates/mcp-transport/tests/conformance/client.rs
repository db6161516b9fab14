//! A small client of the older revisions: lines, and an answer to whatever it is asked.

use serde_json::{Value, json};
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, Lines};

pub(crate) struct Client<R, W> {
    lines: Lines<BufReader<R>>,
    writer: W,
    next: u64,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Client<R, W> {
    /// Introduces itself as one that can be asked for everything.
    pub(crate) async fn begin(reader: R, writer: W) -> io::Result<Self> {
        let mut client = Self {
            lines: BufReader::new(reader).lines(),
            writer,
            next: 0,
        };
        let params = json!({
            "protocolVersion": "2025-11-25", "clientInfo": {"name": "conformance", "version": "1"},
            "capabilities": capabilities(),
        });
        client.ask("initialize", params).await?;
        client
            .say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await?;
        Ok(client)
    }

    async fn say(&mut self, message: Value) -> io::Result<()> {
        self.writer.write_all(format!("{message}\n").as_bytes()).await
    }

    /// The whole answer: a `result` or an `error`.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> io::Result<Value> {
        self.next += 1;
        let id = self.next;
        self.say(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .await?;
        loop {
            let line = self.lines.next_line().await?;
            let line = line.ok_or_else(|| io::Error::other("the gateway has ended the connection"))?;
            let message: Value = serde_json::from_str(&line)?;
            let asked = message["method"].as_str();
            match asked {
                None if message["id"] == id => return Ok(message),
                Some(method) if !message["id"].is_null() => {
                    let result = answer(method, &message["params"]);
                    self.say(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}))
                        .await?;
                }
                _ => {}
            }
        }
    }

    /// All of a list, by its pages.
    pub(crate) async fn list(&mut self, what: &str) -> io::Result<Vec<Value>> {
        let answer = self.ask(&format!("{what}/list"), json!({})).await?;
        let list = answer["result"][what].as_array();
        list.cloned()
            .ok_or_else(|| io::Error::other(format!("no {what} in {answer}")))
    }
}

/// What this client says that it can do.
pub(crate) fn capabilities() -> Value {
    json!({"sampling": {}, "elicitation": {"form": {}}, "roots": {}})
}

fn answer(method: &str, params: &Value) -> Value {
    match method {
        "elicitation/create" => {
            let asked = params["requestedSchema"]["properties"].as_object();
            let content = asked.into_iter().flatten();
            let content = content.map(|(name, schema)| (name.clone(), of_kind(schema)));
            json!({"action": "accept", "content": content.collect::<serde_json::Map<_, _>>()})
        }
        "sampling/createMessage" => json!({
            "role": "assistant", "model": "none", "content": {"type": "text", "text": "Hello"},
        }),
        "roots/list" => json!({"roots": [{"uri": "file:///"}]}),
        _ => json!({}),
    }
}

/// A value that a schema allows: its default, if it has one.
pub(crate) fn of_kind(schema: &Value) -> Value {
    if let Some(default) = schema.get("default") {
        return default.clone();
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("string") => json!("text"),
        Some("number") => json!(1.5),
        Some("integer") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("null") => Value::Null,
        _ => json!({}),
    }
}
