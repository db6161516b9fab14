//! Alone in its process, because it uses up the process's file descriptors.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::fs::File;
use support::{Running, reason};

#[tokio::test]
async fn without_descriptors_newcomers_are_told_and_nobody_else_notices() {
    let server = Running::start();
    let mut early = server.connect().await;
    early.call(r#"{"method":"Health"}"#).await;
    let mut hogged: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    for _ in 0..10 {
        // One for the client's own end.
        drop(hogged.pop());
        let mut client = server.connect().await;
        let answer = client.line().await.unwrap();
        assert_eq!(reason(&answer), "busy");
        assert_eq!(early.call(r#"{"id":1,"method":"Health"}"#).await["id"], 1);
        drop(client);
        hogged.extend(File::open("/dev/null"));
    }
    hogged.clear();
    let mut late = server.connect().await;
    let answer = late.call(r#"{"id":2,"method":"Health"}"#).await;
    assert_eq!(answer["id"], 2);
    server.stop().await;
}
