//! HTTP on the same socket.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use support::Running;

async fn get(server: &Running, request: &str) -> (String, serde_json::Value) {
    let mut client = server.connect().await;
    client.send(request).await;
    client.half_close().await;
    let text = client.rest().await;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("not HTTP: {text:?}"));
    (head.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test]
async fn health_is_a_get() {
    let server = Running::start();
    let (head, body) = get(&server, "GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("application/json"),
        "{head}"
    );
    assert_eq!(
        (body["state"].as_str(), body["status"].as_str()),
        (Some("running"), Some("ok"))
    );
    assert_eq!(body["database"], "ok");
    assert!(body["uptime_seconds"].is_u64() && body["version"].is_string());
    let (head, _) = get(&server, "HEAD /v1/health HTTP/1.0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    server.double.break_down();
    let (head, body) = get(&server, "GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(
        body["database"].as_str().unwrap().contains("the disk is gone"),
        "{body}"
    );
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_json_too() {
    let server = Running::start();
    let (head, body) = get(&server, "GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 404") && body["error"]["code"] == "not_found",
        "{head}"
    );
    let (head, body) = get(
        &server,
        "POST /v1/health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(
        head.starts_with("HTTP/1.1 405") && body["error"]["code"] == "method_not_allowed",
        "{head}"
    );
    let (head, _) = get(&server, "GET nonsense\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let (head, _) = get(&server, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000))).await;
    assert!(head.starts_with("HTTP/1.1 4"), "{head}");
}

#[tokio::test]
async fn the_method_may_come_in_pieces() {
    let server = Running::start();
    let mut client = server.connect().await;
    for part in [
        "G",
        "E",
        "T",
        " /v1/hea",
        "lth HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ] {
        client.send(part).await;
        server.connect().await.call(r#"{"method":"Health"}"#).await;
    }
    assert!(client.rest().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_only_begins_like_http_is_json_lines() {
    let server = Running::start();
    let mut client = server.connect().await;
    assert_eq!(client.call("GET").await["error"]["code"], -32700);
    let mut client = server.connect().await;
    client.send("DELE").await;
    client.half_close().await;
    assert_eq!(client.line().await.unwrap()["error"]["code"], -32700);
    assert!(client.line().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_given_up() {
    let server = Running::start();
    let mut client = server.connect().await;
    client.send("GET /v1/health HTTP/1.1\r\nHost:").await;
    client.rest().await;
    // Idle connections between two requests end with the server.
    let mut client = server.connect().await;
    client.send("GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.text_line().await.unwrap(), "HTTP/1.1 200 OK");
    server.stop().await;
    client.rest().await;
}
