//! A gateway with fixture plugins, and a client that speaks lines.

use mcp_transport::event::{CallEvent, ChannelSink, Event};
use mcp_transport::process::ProcessOptions;
use mcp_transport::{Gateway, GatewayOptions, PluginOptions, Source};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longer than anything takes on a busy machine.
pub(crate) const MAX: Duration = Duration::from_secs(60);

pub(crate) fn plugin(name: &str, mode: &str) -> PluginOptions {
    let mut options = PluginOptions::new(
        name,
        Source::Process(ProcessOptions {
            argv: vec![env!("CARGO_BIN_EXE_mcp-fixture").into(), mode.into()],
            env: vec![("FIXTURE".into(), "set".into())],
            cwd: "/".into(),
        }),
    );
    options.limits.probe_max = Duration::from_secs(20);
    options.limits.restart_after = Duration::from_millis(10);
    options
}

pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) async fn of(plugins: Vec<PluginOptions>) -> Self {
        Self::with(plugins, |_| {}).await
    }

    pub(crate) async fn with(plugins: Vec<PluginOptions>, change: impl FnOnce(&mut GatewayOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("spool")).unwrap();
        let (sink, events) = ChannelSink::new(1024);
        let mut options = GatewayOptions::new(plugins);
        options.events = Arc::new(sink);
        options.redact = Arc::new(|text: &str| text.replace("sesame", "[redacted]"));
        options.spool_dir = Some(dir.path().join("spool"));
        change(&mut options);
        let gateway = timeout(MAX, Gateway::start(options)).await.unwrap().unwrap();
        gateway.serve_unix(UnixListener::bind(dir.path().join("mcp.sock")).unwrap());
        Self { gateway, events, dir }
    }

    pub(crate) async fn client(&self) -> Client {
        let stream = UnixStream::connect(self.dir.path().join("mcp.sock"))
            .await
            .unwrap();
        Client::new(stream)
    }

    /// A client that has introduced itself in the older way.
    pub(crate) async fn legacy(&self, capabilities: Value) -> Client {
        let mut client = self.client().await;
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}});
        let answer = client.ask("initialize", params).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        client
            .say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await;
        client
    }

    /// The next event of a call; others are left out.
    pub(crate) async fn call_event(&mut self) -> CallEvent {
        loop {
            if let Event::Call(call) = self.event().await {
                return call;
            }
        }
    }

    pub(crate) async fn event(&mut self) -> Event {
        timeout(MAX, self.events.recv()).await.unwrap().unwrap()
    }
}

pub(crate) struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    next: u64,
    /// What came while an answer was waited for.
    pub(crate) others: Vec<Value>,
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            lines: BufReader::new(reader).lines(),
            writer,
            next: 0,
            others: Vec::new(),
        }
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        timeout(MAX, self.writer.write_all(bytes)).await.unwrap().unwrap();
    }

    pub(crate) async fn say(&mut self, message: &Value) {
        self.raw(format!("{message}\n").as_bytes()).await;
    }

    pub(crate) async fn next(&mut self) -> Value {
        let line = timeout(MAX, self.lines.next_line()).await.unwrap().unwrap();
        serde_json::from_str(&line.expect("the gateway has ended the connection")).unwrap()
    }

    /// Begins a request and gives its id.
    pub(crate) async fn begin(&mut self, method: &str, params: Value) -> u64 {
        self.next += 1;
        let id = self.next;
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .await;
        id
    }

    pub(crate) async fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.next().await;
            if message["id"] == id && message["method"].is_null() {
                return message;
            }
            self.others.push(message);
        }
    }

    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params).await;
        self.answer(id).await
    }

    /// In the newer revision.
    pub(crate) async fn ask_modern(&mut self, method: &str, mut params: Value) -> Value {
        modern(&mut params);
        self.ask(method, params).await
    }

    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments}))
            .await
    }

    /// What came, until a message with this method.
    pub(crate) async fn until(&mut self, method: &str) -> Value {
        if let Some(at) = self.others.iter().position(|message| message["method"] == method) {
            return self.others.remove(at);
        }
        loop {
            let message = self.next().await;
            if message["method"] == method {
                return message;
            }
            self.others.push(message);
        }
    }
}

pub(crate) fn modern(params: &mut Value) {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
    params["_meta"]["io.modelcontextprotocol/clientInfo"] = json!({"name": "t", "version": "1"});
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
}

/// The text of a call's answer.
pub(crate) fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("no text in {answer}"))
}

pub(crate) fn names(answer: &Value, what: &str) -> Vec<String> {
    let all = answer["result"][what]
        .as_array()
        .unwrap_or_else(|| panic!("no {what} in {answer}"));
    all.iter()
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect()
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}
