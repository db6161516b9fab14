//! The process: what comes on stdin and what goes out, how it ends, and what it makes of nonsense.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rmcp::model::{CallToolRequest, CallToolRequestParams, ClientRequest};
use rmcp::service::PeerRequestOptions;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::fake::{Fault, Flavour, Forge};
use crate::mcp::{BINARY, Mcp, command, of};
use crate::spec::object;

/// How long anything may take here. It is only reached by a defect.
const LONG: Duration = Duration::from_secs(60);

/// The process, spoken to by hand.
struct Raw {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Raw {
    fn start(url: &str) -> Self {
        let mut command = command(url, &[]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
        }
    }

    async fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).await.unwrap();
        stdin.write_all(b"\n").await.unwrap();
    }

    /// The answer to a request, whatever else is said before.
    async fn answer(&mut self, id: u64) -> Value {
        let wanted = async {
            loop {
                let line = self
                    .lines
                    .next_line()
                    .await
                    .unwrap()
                    .expect("the process is there");
                let message: Value = serde_json::from_str(&line).expect("nothing but JSON-RPC on stdout");
                if message["id"] == id {
                    return message;
                }
            }
        };
        tokio::time::timeout(LONG, wanted)
            .await
            .expect("an answer in time")
    }

    async fn initialize(&mut self) {
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        self.send(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}).to_string())
            .await;
        assert_eq!(self.answer(0).await["result"]["protocolVersion"], "2025-11-25");
        self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
            .await;
    }

    async fn ends(&mut self) -> ExitStatus {
        tokio::time::timeout(LONG, self.child.wait())
            .await
            .expect("it ends")
            .unwrap()
    }
}

fn call(id: u64, tool: &str, arguments: Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}).to_string()
}

#[tokio::test]
async fn the_list_of_tools_is_small_and_plain() {
    let forge = Forge::start(Flavour::Forgejo).await;
    let mut raw = Raw::start(&forge.url);
    raw.initialize().await;
    raw.send(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#)
        .await;
    let listed = raw.answer(1).await["result"].clone();
    let tools = listed["tools"].as_array().unwrap();
    let bytes = listed["tools"].to_string().len();
    eprintln!("{} tools in {bytes} bytes", tools.len());
    assert!(tools.len() <= 25 && bytes < 20_000);
    for tool in tools {
        assert!(tool["description"].as_str().unwrap().len() < 600, "{tool}");
        assert_eq!(tool["inputSchema"]["type"], "object");
        assert!(tool["annotations"]["readOnlyHint"].is_boolean());
        jsonschema::validator_for(&tool["inputSchema"]).unwrap();
    }
}

#[tokio::test]
async fn the_newer_revision_needs_no_handshake() {
    let forge = Forge::start(Flavour::Forgejo).await;
    let mut raw = Raw::start(&forge.url);
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"}, "io.modelcontextprotocol/clientCapabilities": {}});
    let ask = |id: u64, method: &str, mut params: Value| {
        params["_meta"] = meta.clone();
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
    };
    raw.send(&ask(1, "server/discover", json!({}))).await;
    let found = raw.answer(1).await;
    assert!(
        found["result"]["supportedVersions"]
            .to_string()
            .contains("2026-07-28"),
        "{found}"
    );
    raw.send(&ask(
        2,
        "tools/call",
        json!({"name": "user_read", "arguments": {"method": "me"}}),
    ))
    .await;
    let answer = raw.answer(2).await;
    assert_eq!(answer["result"]["structuredContent"]["login"], "ann", "{answer}");
    assert_eq!(answer["result"]["resultType"], "complete");
    raw.send(&ask(3, "tools/list", json!({}))).await;
    let listed = raw.answer(3).await;
    assert!(
        listed["result"]["ttlMs"].is_u64() && listed["result"]["cacheScope"].is_string(),
        "{}",
        listed["result"]["ttlMs"]
    );
}

#[tokio::test]
async fn nonsense_on_stdin_ends_nothing() {
    let forge = Forge::start(Flavour::Forgejo).await;
    let mut raw = Raw::start(&forge.url);
    raw.initialize().await;
    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    for nonsense in [
        "",
        "garbage",
        "{",
        "[]",
        "17",
        "null",
        "{\"jsonrpc\":\"2.0\"}",
        "\u{0}\u{1}",
        deep.as_str(),
        r#"{"jsonrpc":"2.0","id":{"a":1},"method":7}"#,
        r#"{"jsonrpc":"2.0","id":99,"result":{}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":12345}}"#,
    ] {
        raw.send(nonsense).await;
    }
    // A line longer than any message may be is dropped, and those after it are not.
    let stdin = raw.stdin.as_mut().unwrap();
    for _ in 0..13 {
        stdin.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
    }
    raw.send("").await;
    raw.send(&call(1, "user_read", json!({"method": "me"}))).await;
    assert_eq!(raw.answer(1).await["result"]["structuredContent"]["login"], "ann");
    // Requests that are well-formed and wrong.
    raw.send(&call(2, "no_such_tool", json!({}))).await;
    assert!(
        raw.answer(2).await["error"]["message"]
            .as_str()
            .unwrap()
            .contains("tools/list")
    );
    raw.send(&call(
        3,
        "issue_read",
        json!({"method": "get", "owner": 1, "repo": [], "index": "NaN"}),
    ))
    .await;
    let wrong = raw.answer(3).await["result"].clone();
    assert_eq!(wrong["isError"], true);
    let words = wrong["content"][0]["text"].as_str().unwrap();
    assert!(
        words.contains("owner: a text is wanted") && words.contains("index: a whole number"),
        "{words}"
    );
    raw.send(
        r#"{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"issue_read","arguments":[1]}}"#,
    )
    .await;
    raw.send(r#"{"jsonrpc":"2.0","id":5,"method":"no/such/method"}"#)
        .await;
    assert!(raw.answer(5).await["error"].is_object());
    raw.send(r#"{"jsonrpc":"2.0","id":6,"method":"ping"}"#).await;
    assert!(raw.answer(6).await["result"].is_object());
}

#[tokio::test]
async fn many_calls_at_once_are_all_answered() {
    let forge = Forge::start(Flavour::Forgejo).await;
    let mut raw = Raw::start(&forge.url);
    raw.initialize().await;
    for id in 1..=100 {
        raw.send(&call(id, "user_read", json!({"method": "me"}))).await;
    }
    let mut open: std::collections::BTreeSet<u64> = (1..=100).collect();
    while !open.is_empty() {
        let line = tokio::time::timeout(LONG, raw.lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let message: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(message["result"]["structuredContent"]["login"], "ann");
        assert!(open.remove(&message["id"].as_u64().unwrap()));
    }
}

#[tokio::test]
async fn a_call_is_cancelled_while_the_forge_is_silent() {
    let forge = Forge::start(Flavour::Forgejo).await;
    let mcp = Mcp::start(&forge.url, &[]).await;
    forge.fault("/ann/tool", Fault::Silence);
    let params = CallToolRequestParams::new("repository_read").with_arguments(object(of("get", json!({}))));
    let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
    let handle = mcp
        .client
        .send_cancellable_request(request, PeerRequestOptions::no_options())
        .await
        .unwrap();
    forge.silent().await;
    handle.cancel(Some("no longer wanted".to_owned())).await.unwrap();
    // Its turn is given back: as many silent calls as there are turns would block all others.
    for _ in 0..20 {
        mcp.on("repository_read", "get", json!({})).await;
    }
}

#[tokio::test]
async fn it_ends_with_its_client_and_at_a_signal() {
    let forge = Forge::start(Flavour::Forgejo).await;
    // With nothing going on, and with a call that will never be answered.
    for busy in [false, true] {
        for signal in [
            None,
            Some(nix::sys::signal::Signal::SIGTERM),
            Some(nix::sys::signal::Signal::SIGINT),
        ] {
            let mut raw = Raw::start(&forge.url);
            raw.initialize().await;
            if busy {
                forge.fault("/ann/tool", Fault::Silence);
                raw.send(&call(1, "repository_read", of("get", json!({})))).await;
                tokio::time::timeout(LONG, forge.silent()).await.unwrap();
            }
            match signal {
                Some(signal) => {
                    let pid = nix::unistd::Pid::from_raw(raw.child.id().unwrap().try_into().unwrap());
                    nix::sys::signal::kill(pid, signal).unwrap();
                }
                None => drop(raw.stdin.take()),
            }
            let began = std::time::Instant::now();
            assert!(raw.ends().await.success(), "{busy} {signal:?}");
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{busy} {signal:?}: {:?}",
                began.elapsed()
            );
        }
    }
    // Before a word was said.
    let mut raw = Raw::start(&forge.url);
    drop(raw.stdin.take());
    raw.ends().await;
}

#[tokio::test]
async fn what_it_lacks_is_said_at_once() {
    for (variables, words) in [
        (vec![], "FORGEJO_URL is not set"),
        (
            vec![("FORGEJO_URL", "codeberg.org")],
            "FORGEJO_URL is not an address of a forge",
        ),
        (
            vec![("FORGEJO_URL", "https://u:secret@x.example")],
            "it holds a password",
        ),
        (
            vec![
                ("FORGEJO_URL", "https://x.example"),
                ("FORGEJO_TOKEN_FILE", "/no/such/file"),
            ],
            "/no/such/file cannot be read",
        ),
        (
            vec![("FORGEJO_URL", "https://x.example"), ("FORGEJO_TOKEN", "a b")],
            "the token in FORGEJO_TOKEN is not one",
        ),
    ] {
        let mut command = tokio::process::Command::new(BINARY);
        command
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut told = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut told)
            .await
            .unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(64), "{told}");
        assert!(told.contains(words) && !told.contains("secret"), "{told}");
    }
}
