//! An MCP client in a few lines: JSON objects on the pipes of a child, in either lifecycle.

use crate::support::{PATIENCE, TestEnvironment};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

/// How a session begins, and what every request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    /// 2025-11-25: `initialize`, then `notifications/initialized`.
    Legacy,
    /// 2026-07-28: nothing; every request says for itself which protocol it speaks.
    Modern,
}

pub(crate) const BOTH: [Lifecycle; 2] = [Lifecycle::Legacy, Lifecycle::Modern];

/// One client with its server.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    lifecycle: Lifecycle,
    name: String,
    last_id: i64,
    // What came while something else was waited for.
    others: Vec<Value>,
}

impl Client {
    #[track_caller]
    pub(crate) fn start(env: &TestEnvironment, name: &str, lifecycle: Lifecycle) -> Self {
        Self::with(env.command(&["mcp"]), name, lifecycle)
    }

    /// The server, and nothing said to it yet.
    pub(crate) fn raw(mut command: Command, name: &str, lifecycle: Lifecycle) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the server can be started");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                let message = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "garbage": line }));
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            lifecycle,
            name: name.into(),
            last_id: 0,
            others: Vec::new(),
        }
    }

    #[track_caller]
    pub(crate) fn with(command: Command, name: &str, lifecycle: Lifecycle) -> Self {
        let mut client = Self::raw(command, name, lifecycle);
        if lifecycle == Lifecycle::Legacy {
            let id = client.send(
                "initialize",
                json!({
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "clientInfo": { "name": name, "version": "1" },
                }),
            );
            let answer = client.answer(id);
            assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
            assert_eq!(answer["result"]["serverInfo"]["name"], "agentd");
            client.line(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string());
        }
        client
    }

    /// A line as it stands.
    pub(crate) fn line(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("an open pipe");
        stdin.write_all(text.as_bytes()).expect("the server reads");
        stdin.write_all(b"\n").expect("the server reads");
    }

    /// Sends a request and goes on.
    pub(crate) fn send(&mut self, method: &str, mut params: Value) -> i64 {
        self.last_id += 1;
        if self.lifecycle == Lifecycle::Modern {
            let meta = &mut params["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
            meta["io.modelcontextprotocol/clientInfo"] = json!({ "name": self.name, "version": "1" });
            meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        let request = json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params });
        self.line(&request.to_string());
        self.last_id
    }

    /// Waits for a message.
    #[track_caller]
    pub(crate) fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.others.iter().position(&wanted) {
            return self.others.remove(at);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(message) if wanted(&message) => return message,
                Ok(message) => self.others.push(message),
                Err(error) => panic!("{error}; what came: {:?}", self.others),
            }
        }
    }

    /// The whole response to a request.
    #[track_caller]
    pub(crate) fn answer(&mut self, id: i64) -> Value {
        self.wait(|message| message["id"] == id && message.get("method").is_none())
    }

    #[track_caller]
    pub(crate) fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        self.answer(id)
    }

    pub(crate) fn send_call(&mut self, tool: &str, arguments: Value) -> i64 {
        self.send("tools/call", json!({ "name": tool, "arguments": arguments }))
    }

    /// The same, and wants to be told how it goes on: waits until it has begun.
    #[track_caller]
    pub(crate) fn begin_wait(&mut self, tool: &str, arguments: Value) -> i64 {
        let token = format!("t{}", self.last_id);
        let id = self.send(
            "tools/call",
            json!({ "name": tool, "arguments": arguments, "_meta": { "progressToken": token } }),
        );
        let progress = self.wait(|message| message["params"]["progressToken"] == *token);
        assert_eq!(progress["method"], "notifications/progress");
        assert!(progress["params"]["total"].is_number(), "{progress}");
        id
    }

    #[track_caller]
    fn result(&mut self, id: i64) -> Value {
        let mut answer = self.answer(id);
        let mut result = answer["result"].take();
        assert!(result.is_object(), "{answer}");
        let is_modern = self.lifecycle == Lifecycle::Modern;
        assert_eq!(result.get("resultType").is_some(), is_modern, "{result}");
        let text = result["content"][0]["text"].as_str().unwrap();
        let text: Value = serde_json::from_str(text).unwrap();
        assert_eq!(text, result["structuredContent"]);
        result["structuredContent"]["is_error"] = result["isError"].take();
        result["structuredContent"].take()
    }

    /// The result of a call that must work.
    #[track_caller]
    pub(crate) fn done(&mut self, id: i64) -> Value {
        let mut result = self.result(id);
        assert_ne!(result["is_error"].take(), true, "{result}");
        result
    }

    #[track_caller]
    pub(crate) fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let id = self.send_call(tool, arguments);
        self.done(id)
    }

    /// The result of a call that must be refused, with a reason, a message and a next step.
    #[track_caller]
    pub(crate) fn refused(&mut self, tool: &str, arguments: Value) -> Value {
        let id = self.send_call(tool, arguments);
        let result = self.result(id);
        assert_eq!(result["is_error"], true, "{result}");
        for part in ["reason", "message", "next"] {
            assert!(
                result["error"][part]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{result}"
            );
        }
        result
    }

    pub(crate) fn cancel(&mut self, id: i64) {
        let params = json!({ "requestId": id, "reason": "not interested any more" });
        self.line(
            &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }).to_string(),
        );
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("a process of ours");
    }

    /// Closes the server's stdin and waits for its end.
    pub(crate) fn close(mut self) -> ExitStatus {
        self.stdin = None;
        self.child.wait().expect("a child")
    }

    /// Closes the server's stdin, and goes on reading.
    pub(crate) fn shut(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> ExitStatus {
        self.child.wait().expect("a child")
    }

    /// No line came that is not a message.
    pub(crate) fn said_only_messages(&self) -> bool {
        self.others.iter().all(|message| message.get("garbage").is_none())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
