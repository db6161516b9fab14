//! The real binary, driven by a client over stdio.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rmcp::model::{CallToolRequestParams, CallToolResult, ProtocolVersion};
use rmcp::service::{RunningService, ServiceError};
use rmcp::transport::TokioChildProcess;
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::spec::object;

pub(crate) const TOKEN: &str = "s3cret-token-0123456789";
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_forgejo-mcp");

/// A client with its server.
pub(crate) struct Mcp {
    pub(crate) client: RunningService<RoleClient, ()>,
    /// Which tools and methods were called.
    pub(crate) called: Mutex<Vec<(String, String)>>,
    pub(crate) log: Arc<Mutex<String>>,
}

/// The binary with nothing in its environment but a forge and a token.
pub(crate) fn command(url: &str, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(BINARY);
    command
        .args(arguments)
        .env_clear()
        .env("FORGEJO_URL", url)
        .env("FORGEJO_TOKEN", TOKEN)
        .kill_on_drop(true);
    command
}

/// The revision without `initialize`.
pub(crate) fn discover() -> ClientLifecycleMode {
    ClientLifecycleMode::Discover {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
    }
}

impl Mcp {
    pub(crate) async fn start(url: &str, arguments: &[&str]) -> Self {
        Self::of(command(url, arguments), ClientLifecycleMode::Initialize).await
    }

    pub(crate) async fn of(command: tokio::process::Command, lifecycle: ClientLifecycleMode) -> Self {
        let (transport, stderr) = TokioChildProcess::builder(command)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr.unwrap()).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let client = ().serve_with_lifecycle(transport, lifecycle).await.unwrap();
        Self {
            client,
            called: Mutex::default(),
            log,
        }
    }

    pub(crate) async fn result(&self, tool: &str, arguments: Value) -> Result<CallToolResult, ServiceError> {
        let method = arguments["method"].as_str().unwrap_or_default().to_owned();
        self.called.lock().unwrap().push((tool.to_owned(), method));
        let request = CallToolRequestParams::new(tool.to_owned()).with_arguments(object(arguments));
        self.client.call_tool(request).await
    }

    /// The value of a call that succeeds.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        let shown = arguments.to_string();
        let result = self
            .result(tool, arguments)
            .await
            .unwrap_or_else(|error| panic!("{tool} {shown}: {error}"));
        let text = text(&result);
        assert_ne!(result.is_error, Some(true), "{tool} {shown}: {text}");
        result.structured_content.unwrap()
    }

    /// A call on a repository that succeeds.
    pub(crate) async fn on(&self, tool: &str, method: &str, arguments: Value) -> Value {
        self.call(tool, of(method, arguments)).await
    }

    /// The words of a call that fails.
    pub(crate) async fn fails(&self, tool: &str, arguments: Value) -> String {
        let result = self.result(tool, arguments).await.unwrap();
        assert_eq!(result.is_error, Some(true), "{}", text(&result));
        text(&result)
    }

    /// All of a list, by its cursors.
    pub(crate) async fn all(&self, tool: &str, mut arguments: Value) -> Vec<Value> {
        let mut items = Vec::new();
        loop {
            let part = self.call(tool, arguments.clone()).await;
            items.extend(part["items"].as_array().unwrap().clone());
            match part["next_cursor"].as_str() {
                Some(next) => arguments["cursor"] = json!(next),
                None => return items,
            }
            assert!(items.len() < 10_000, "a list without end");
        }
    }

    /// All of a text, by its cursors, and in how many parts it came.
    pub(crate) async fn whole(&self, tool: &str, mut arguments: Value) -> (String, usize) {
        let (mut text, mut parts) = (String::new(), 0);
        loop {
            let part = self.call(tool, arguments.clone()).await;
            text.push_str(part["text"].as_str().unwrap());
            parts += 1;
            match part["next_cursor"].as_str() {
                Some(next) => arguments["cursor"] = json!(next),
                None => return (text, parts),
            }
            assert!(parts < 10_000, "a text without end");
        }
    }
}

/// Arguments for the repository that the fake forge begins with.
pub(crate) fn of(method: &str, mut arguments: Value) -> Value {
    if !method.is_empty() {
        arguments["method"] = json!(method);
    }
    arguments["owner"] = json!("ann");
    arguments["repo"] = json!("tool");
    arguments
}

pub(crate) fn text(result: &CallToolResult) -> String {
    result
        .content
        .iter()
        .filter_map(|part| part.as_text())
        .map(|part| part.text.clone())
        .collect()
}
