//! The same gateway over HTTP, through the bridge; and a gateway as another gateway's remote plugin.

use crate::support::{MAX, World, modern, plugin};
use mcp_transport::{PluginOptions, RemoteOptions, Source};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::timeout;

/// One request on a connection of its own: status, headers and body.
async fn http(port: u16, method: &str, headers: &str, body: &str) -> (u16, String, String) {
    let request = format!(
        "{method} /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{headers}\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(MAX, exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        head.to_lowercase(),
        body.to_owned(),
    )
}

const TOKEN: &str = "Authorization: Bearer sesame\r\n";

/// A gateway's HTTP socket, and a bridge that leads to it.
fn bridged(world: &World) -> u16 {
    let socket = world.dir.path().join("mcp-http.sock");
    world
        .gateway
        .serve_http_unix(UnixListener::bind(&socket).unwrap(), Some("sesame".into()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || mcp_transport::bridge::serve_http(&listener, socket));
    port
}

#[tokio::test]
async fn a_session_of_the_older_revisions() {
    let world = World::of(vec![plugin("one", "legacy")]).await;
    let port = bridged(&world);
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params":
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
    .to_string();
    assert_eq!(http(port, "POST", "", &initialize).await.0, 401);
    assert_eq!(
        http(port, "POST", "Authorization: Bearer wrong\r\n", &initialize)
            .await
            .0,
        401
    );
    let evil = format!("{TOKEN}Origin: https://evil.example\r\n");
    assert_eq!(http(port, "POST", &evil, &initialize).await.0, 403);
    assert_eq!(http(port, "POST", TOKEN, "nonsense").await.0, 400);
    assert_eq!(http(port, "PUT", TOKEN, "").await.0, 405);
    let (status, head, body) = http(port, "POST", TOKEN, &initialize).await;
    assert_eq!(status, 200, "{body}");
    let session = head
        .lines()
        .find_map(|line| line.strip_prefix("mcp-session-id: "))
        .unwrap()
        .trim()
        .to_owned();
    let headers = format!("{TOKEN}Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
    let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    assert_eq!(http(port, "POST", &headers, &note).await.0, 202);
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params":
        {"name": "one__progress", "_meta": {"progressToken": 5}}})
    .to_string();
    let (status, head, body) = http(port, "POST", &headers, &call).await;
    assert_eq!(status, 200);
    assert!(head.contains("text/event-stream"), "{head}");
    assert_eq!(body.matches("notifications/progress").count(), 3, "{body}");
    assert!(body.contains("done"));
    assert_eq!(http(port, "POST", TOKEN, &call).await.0, 400);
    assert_eq!(http(port, "DELETE", &headers, "").await.0, 200);
    assert_eq!(http(port, "POST", &headers, &call).await.0, 404);
    world.gateway.stop().await;
}

#[tokio::test]
async fn requests_of_the_newer_revision() {
    let world = World::of(vec![plugin("one", "legacy")]).await;
    let port = bridged(&world);
    let mut params = json!({"name": "one__echo", "arguments": {"text": "x"}});
    modern(&mut params);
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}).to_string();
    let good = format!(
        "{TOKEN}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: one__echo\r\n"
    );
    let (status, _, body) = http(port, "POST", &good, &call).await;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["result"]["content"][0]["text"], "x");
    for bad in [
        good.replace("one__echo", "one__other"),
        good.replace("tools/call", "tools/list"),
        good.replace("2026-07-28", "2025-11-25"),
        TOKEN.to_owned(),
    ] {
        let (status, _, body) = http(port, "POST", &bad, &call).await;
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &json!(-32020)),
            "{bad}{body}"
        );
    }
    assert_eq!(http(port, "GET", &good, "").await.0, 405);
    world.gateway.stop().await;
}

#[tokio::test]
async fn a_remote_plugin_in_both_revisions() {
    use mcp_transport::Lifecycle;
    let far = World::of(vec![plugin("one", "legacy")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://127.0.0.1:{}/mcp", listener.local_addr().unwrap().port());
    far.gateway.serve_http_tcp(listener, Some("sesame".into()));
    for lifecycle in [Lifecycle::Auto, Lifecycle::Initialize] {
        let source = Source::Remote(RemoteOptions {
            url: url.clone(),
            bearer: Some("sesame".into()),
        });
        let mut remote = PluginOptions::new("far", source);
        remote.lifecycle = lifecycle;
        let near = World::of(vec![remote]).await;
        let mut client = near.legacy(json!({})).await;
        let params = json!({"name": "far__one__progress", "_meta": {"progressToken": "mine"}});
        let answer = client.ask("tools/call", params).await;
        assert_eq!(crate::support::text(&answer), "done", "{answer}");
        assert_eq!(client.others.len(), 3, "{:?}", client.others);
        near.gateway.stop().await;
    }
    let source = Source::Remote(RemoteOptions {
        url,
        bearer: Some("wrong".into()),
    });
    let options = mcp_transport::GatewayOptions::new(vec![PluginOptions::new("far", source)]);
    let error = mcp_transport::Gateway::start(options)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("401") && !error.contains("wrong\""), "{error}");
    far.gateway.stop().await;
}

/// A server that breaks off the stream of a call, and goes on with it where it is asked to. Gives what it was asked.
async fn breaks_off(listener: TcpListener) -> Vec<String> {
    let mut asked = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let head = loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            request.push(byte[0]);
            if request.ends_with(b"\r\n\r\n") {
                break String::from_utf8(std::mem::take(&mut request))
                    .unwrap()
                    .to_lowercase();
            }
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await.unwrap();
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let result =
            |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
        let (kind, answer) = match message["method"].as_str() {
            Some("server/discover") => {
                let error = json!({"code": -32601, "message": "unknown"});
                (
                    "application/json",
                    json!({"jsonrpc": "2.0", "id": message["id"], "error": error}).to_string(),
                )
            }
            Some("initialize") => {
                let greeting = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}});
                ("application/json", result(greeting))
            }
            Some("tools/list") => (
                "application/json",
                result(json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]})),
            ),
            Some("tools/call") => {
                asked.push(message["id"].to_string());
                ("text/event-stream", "id: first\nretry: 20\ndata: \n\n".to_owned())
            }
            None if head.starts_with("get ") && head.contains("last-event-id: ") => {
                let last = head
                    .lines()
                    .find_map(|line| line.strip_prefix("last-event-id: "))
                    .unwrap();
                asked.push(last.to_owned());
                // Once more for nothing, and then with the answer.
                let answer = json!({"jsonrpc": "2.0", "id": asked[0].parse::<u64>().unwrap(), "result":
                    {"content": [{"type": "text", "text": "at last"}]}});
                let event = if asked.len() == 2 {
                    "id: second\ndata:\n\n".to_owned()
                } else {
                    format!("id: third\ndata: {answer}\n\n")
                };
                ("text/event-stream", event)
            }
            _ => ("text/plain", String::new()),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
            answer.len()
        );
        let answer = format!("{head}Connection: close\r\n\r\n{answer}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        if asked.len() == 3 {
            return asked;
        }
    }
}

#[tokio::test]
async fn an_answer_whose_stream_breaks_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://127.0.0.1:{}/mcp", listener.local_addr().unwrap().port());
    let server = tokio::spawn(breaks_off(listener));
    let source = Source::Remote(RemoteOptions { url, bearer: None });
    let near = World::of(vec![PluginOptions::new("far", source)]).await;
    let mut client = near.legacy(json!({})).await;
    let answer = client.call("far__t", json!({})).await;
    assert_eq!(crate::support::text(&answer), "at last", "{answer}");
    assert_eq!(
        timeout(MAX, server).await.unwrap().unwrap()[1..],
        ["first", "second"]
    );
    near.gateway.stop().await;
}

#[tokio::test]
async fn what_is_no_message_is_answered_with_an_error() {
    let world = World::with(vec![plugin("one", "legacy")], |options| {
        options.client_line_bytes_max = 100_000;
    })
    .await;
    let port = bridged(&world);
    let long = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\"}}",
        "x".repeat(150_000)
    );
    for (body, status, code, id) in [
        ("nonsense", 400, -32700, json!(null)),
        ("", 400, -32700, json!(null)),
        ("[]", 400, -32600, json!(null)),
        ("{\"id\":5}", 400, -32600, json!(5)),
        (&long, 413, -32600, json!(null)),
    ] {
        let (got, _, answer) = http(port, "POST", TOKEN, body).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            (got, &answer["error"]["code"]),
            (status, &json!(code)),
            "{answer}"
        );
        assert_eq!(answer.get("id"), Some(&id), "{answer}");
    }
    world.gateway.stop().await;
}
