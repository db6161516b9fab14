//! Plugins that are servers elsewhere: tried without an agent, and called by one. Their tokens come from the secret store,
//! and are in no other place.

use crate::support::{Running, TestEnvironment, code, shown};
use crate::tools_support::CLIENT;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const TOKEN: &str = "rem0te/t0ken+of-these-tests";

/// A server that knows its token by a hash alone, and says what it was shown when it refuses, as some do. Its tools: `echo`;
/// `shown`, the token that came with the request; `fails`.
const SERVER: &str = r#"
import hashlib, http.server, json, sys

kind, wanted = sys.argv[1:]
modern = kind == "modern"
ALL = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if modern else {}
TOOLS = [{"name": name, "description": f"Does {name}.", "inputSchema": {"type": "object"}} for name in ["echo", "shown", "fails"]]


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, document=None):
        body = json.dumps(document).encode() if document is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(405)

    def do_DELETE(self):
        self.answer(405)

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if hashlib.sha256(token.encode()).hexdigest() != wanted:
            return self.answer(401, {"error": f"{token} is no token of mine"})
        if "id" not in message:
            return self.answer(202)
        method, params = message["method"], message.get("params") or {}
        answer = {"error": {"code": -32601, "message": "no such method"}}
        text = lambda words: {"result": ALL | {"content": [{"type": "text", "text": words}]}}
        if method == "server/discover" and modern:
            answer = {"result": ALL | {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}}
        elif method == "initialize" and not modern:
            answer = {"result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}}
        elif method == "tools/list":
            answer = {"result": ALL | {"tools": TOOLS}}
        elif method == "tools/call" and params["name"] == "echo":
            answer = text(params["arguments"].get("text", "nothing"))
        elif method == "tools/call" and params["name"] == "shown":
            answer = text(f"you have shown {token}")
        elif method == "tools/call":
            answer = {"error": {"code": -32000, "message": f"{token} may not do this"}}
        self.answer(200, {"jsonrpc": "2.0", "id": message["id"]} | answer)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// Starts the server, and declares it as `far`.
fn far(env: &TestEnvironment, kind: &str, token: &str, more: &str) -> Running {
    let mut wanted = String::new();
    for byte in Sha256::digest(TOKEN) {
        let _ = write!(wanted, "{byte:02x}");
    }
    let script = env.write("server.py", SERVER);
    let mut python = Command::new("python3");
    env.prepare(&mut python);
    let mut server = Running::start(python.arg(script).args([kind, &wanted]));
    let port = server.wait_stdout("").trim().to_owned();
    for (name, value) in [("TOKEN", TOKEN), ("WRONG", "wr0ng/t0ken+of-these-tests")] {
        let path = env.write(&format!(".agentd/secrets/{name}"), value);
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    env.write(
        ".agentd/agentd.toml",
        &format!(
            "[[plugins]]\nname = \"far\"\nurl = \"http://127.0.0.1:{port}/mcp\"\n{token}\n\
             tools = {{ deny = [\"hidden\"] }}\n\n{more}"
        ),
    );
    server
}

/// The files below a directory with the token in them.
fn files_with_token(dir: &Path) -> Vec<String> {
    let grep = Command::new("grep")
        .args(["-rlaF", TOKEN])
        .arg(dir)
        .output()
        .unwrap();
    let found = String::from_utf8(grep.stdout).unwrap();
    found.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_only_in_the_store(env: &TestEnvironment) {
    let store = env.state().join("secrets/TOKEN");
    assert_eq!(files_with_token(&env.home()), [store.to_str().unwrap()]);
    assert_eq!(files_with_token(Path::new("/dev/shm")), [""; 0]);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        for file in ["cmdline", "environ"] {
            let text = fs::read(entry.path().join(file)).unwrap_or_default();
            let has = text.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes());
            assert!(
                !is_process || !has,
                "{}: {}",
                entry.path().display(),
                String::from_utf8_lossy(&text)
            );
        }
    }
}

#[test]
fn a_remote_plugin_is_tried_without_an_agent() {
    for (kind, revision) in [("legacy", "2025-11-25"), ("modern", "2026-07-28")] {
        let mut env = TestEnvironment::new();
        env.set("RUST_LOG", "trace");
        let server = far(&env, kind, "token = \"TOKEN\"", "");
        env.ok(&["check"]);
        let listed = env.json(&["plugin", "tools", "far"]);
        assert_eq!(listed["revision"], revision);
        assert_eq!(listed["tools"][0]["definition"]["name"], "far__echo");
        let called = env.run(&["plugin", "call", "far", "echo", r#"{"text": "a word"}"#, "--log"]);
        assert_eq!(called.stdout, b"a word\n", "{}", shown(&called));
        assert!(!shown(&called).contains(TOKEN), "{}", shown(&called));
        // What a server says in an error is shown to people, without the token.
        let failed = env.run(&["plugin", "call", "far", "fails"]);
        assert_eq!(code(failed.status), 1, "{}", shown(&failed));
        assert!(
            shown(&failed).contains("[redacted] may not do this"),
            "{}",
            shown(&failed)
        );
        assert_only_in_the_store(&env);
        drop(server);
        let gone = env.fails(1, &["plugin", "tools", "far", "--timeout", "5s"]);
        assert!(
            gone.contains("its server 127.0.0.1 cannot be reached: Connection refused"),
            "{gone}"
        );
    }
}

#[test]
fn a_server_that_is_shown_another_token_or_none() {
    for (token, shown_of_it) in [
        ("token = \"WRONG\"", "[redacted] is no token"),
        ("", " is no token"),
    ] {
        let env = TestEnvironment::new();
        let _server = far(&env, "modern", token, "");
        for args in [&["tools", "far"][..], &["call", "far", "echo"]] {
            let said = env.fails(1, &[&["plugin"], args].concat());
            assert!(said.contains("401") && said.contains(shown_of_it), "{said}");
            assert!(!said.contains("wr0ng"), "{said}");
        }
    }
}

#[test]
fn an_agent_calls_a_remote_plugin() {
    let script = json!(format!(
        "{CLIENT}tool far__echo '{{\"text\":\"a word\"}}'; tool far__shown '{{}}'; tool far__fails '{{}}'; env; echo called\n\
         until [ -e \"$AGENTD_RUN_DIR/go\" ]; do sleep 0.02; done; tool far__echo '{{\"text\":\"at last\"}}'"
    ));
    let agent = format!(
        "[[agents]]\nname = \"a\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\n\
         command = [\"sh\", \"-c\", {script}, \"agent\"]\nplugins = [\"far\"]\n"
    );
    for kind in ["legacy", "modern"] {
        let mut env = TestEnvironment::new();
        env.set("RUST_LOG", "trace");
        let server = far(&env, kind, "token = \"TOKEN\"", &agent);
        let daemon = env.daemon();
        let mut running = env.spawn(&["run", "a"]);
        running.wait_stdout("a word");
        running.wait_stdout("you have shown [redacted]");
        running.wait_stdout("[redacted] may not do this");
        running.wait_stdout("called");
        assert_only_in_the_store(&env);
        let active = env.json(&["sessions", "--active"]);
        let id = active["sessions"][0]["id"].as_str().unwrap();
        // It goes away, and what is called then says so.
        drop(server);
        fs::write(env.state().join("sessions").join(id).join("run/go"), "").unwrap();
        running.wait_stdout("its server 127.0.0.1 cannot be reached: Connection refused");
        let output = running.output();
        assert!(!shown(&output).contains(TOKEN), "{}", shown(&output));

        let mut wire = env.connect();
        let page = wire.call("ReadJournal", json!({ "action_types": ["SESSION_TOOL_CALL"] }));
        let entries = page["entries"].as_array().unwrap();
        let outcomes: Vec<&str> = entries
            .iter()
            .map(|entry| entry["payload"]["outcome"].as_str().unwrap())
            .collect();
        assert_eq!(outcomes[..2], ["ok", "ok"], "{page}");
        assert_eq!((outcomes.len(), outcomes[3]), (4, "plugin_failed"), "{page}");
        assert!(!page.to_string().contains(TOKEN), "{page}");
        let log = daemon.stop();
        assert!(!log.contains(TOKEN), "{log}");
        assert_only_in_the_store(&env);
    }
}

#[test]
fn a_remote_plugin_that_does_not_answer_fails_the_set_up() {
    let agent = "[[agents]]\nname = \"a\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\n\
                 command = [\"true\"]\nplugins = [\"far\"]\n";
    let env = TestEnvironment::new();
    let _server = far(&env, "legacy", "token = \"WRONG\"", agent);
    let daemon = env.daemon();
    let output = env.run(&["run", "a"]);
    let said = shown(&output);
    assert_eq!(code(output.status), 125, "{said}");
    assert!(
        said.contains("plugins: far: ") && said.contains("401") && said.contains("[redacted] is no token"),
        "{said}"
    );
    assert!(!said.contains("wr0ng"), "{said}");
    daemon.stop();
}
