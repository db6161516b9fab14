//! The client against a peer that answers what the test tells it to.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use agentd_client::{Client, ClientError};
use agentd_protocol::requests::{NoParams, SubscribeJournal};
use agentd_protocol::{Json, Method, Reason};
use serde_json::Value;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

struct Peer {
    _dir: TempDir,
    path: PathBuf,
}

/// Answers the n-th line of every connection with the n-th of `answers`, then closes.
fn peer(answers: &'static [&'static str]) -> Peer {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            for answer in answers {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    Peer { _dir: dir, path }
}

#[tokio::test]
async fn results_errors_and_nulls_are_told_apart() {
    let peer = peer(&[
        "{\"id\":1,\"result\":null}\n",
        "{\"id\":2,\"error\":{\"code\":-32000,\"message\":\"no\",\"data\":{\"reason\":\"busy\"}}}\n",
        "{\"id\":3,\"result\":{\"a\": 1.50}}\n",
        "{\"id\":4}\n",
    ]);
    let mut client = Client::connect(&peer.path).await.unwrap();
    let none: Option<Value> = client.call(Method::AcquireNextNode, &NoParams {}).await.unwrap();
    assert!(none.is_none());
    let error = client
        .call::<_, Value>(Method::Health, &NoParams {})
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ClientError::Rpc(error) if error.reason() == Some(Reason::Busy)),
        "{error:?}"
    );
    let json = client.call_raw("health", &Json::empty_object()).await.unwrap();
    assert_eq!(json.text(), "{\"a\": 1.50}");
    let error = client
        .call::<_, Value>(Method::Health, &NoParams {})
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("neither a result nor an error"),
        "{error}"
    );
}

#[tokio::test]
async fn a_cancelled_call_ends_the_connections_use() {
    let peer = peer(&["", "{\"id\":1,\"result\":1}\n"]);
    let mut client = Client::connect(&peer.path).await.unwrap();
    {
        let call = client.call::<_, Value>(Method::Health, &NoParams {});
        tokio::select! { biased; _ = call => panic!("answered"), () = tokio::task::yield_now() => {} }
    }
    let error = client
        .call::<_, Value>(Method::Health, &NoParams {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("connect again"), "{error}");
}

#[tokio::test]
async fn a_missing_daemon_is_named_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let error = Client::connect(&path).await.unwrap_err().to_string();
    assert!(
        error.contains("there is no socket at") && error.contains("start it with `agentd`"),
        "{error}"
    );
    drop(UnixListener::bind(&path).unwrap());
    let error = Client::connect(&path).await.unwrap_err().to_string();
    assert!(
        error.contains("nobody listens") && error.contains("start it with `agentd`"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_too_long_is_not_sent() {
    let peer = peer(&["{\"id\":2,\"result\":7}\n"]);
    let mut client = Client::connect(&peer.path).await.unwrap();
    let long = "x".repeat(agentd_protocol::limits::LINE_BYTES_MAX);
    let error = client.call::<_, Value>(Method::Health, &long).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Rpc(error) if error.code == -32001),
        "{error:?}"
    );
    assert_eq!(
        client.call::<_, u8>(Method::Health, &NoParams {}).await.unwrap(),
        7
    );
}

#[tokio::test]
async fn a_subscription_ends_with_the_daemons_reason() {
    let peer = peer(&[
        "{\"id\":1,\"result\":{\"subscribed\":true,\"from_seq\":4,\"last_seq\":3}}\n\
         {\"seq\":4,\"id\":\"00000000-0000-0000-0000-000000000000\",\"timestamp\":\"2026-01-31T09:15:00.250Z\",\
         \"action_type\":\"X\",\"payload\":{}}\n\
         {\"id\":1,\"error\":{\"code\":-32000,\"message\":\"bye\",\"data\":{\"reason\":\"shutting_down\",\"last_seq\":4}}}\n",
    ]);
    let client = Client::connect(&peer.path).await.unwrap();
    let mut journal = client.subscribe(&SubscribeJournal::default()).await.unwrap();
    assert_eq!((journal.from_seq(), journal.last_seq()), (4, 3));
    assert_eq!(journal.next().await.unwrap().unwrap().seq, 4);
    let error = journal.next().await.unwrap_err();
    assert!(matches!(&error, ClientError::Rpc(error) if error.reason() == Some(Reason::ShuttingDown)));
    assert!(journal.next().await.unwrap().is_none());
}

/// A call whose answer nobody waited for, on a connection with its other end.
async fn given_up(dir: &TempDir) -> (Client, BufReader<tokio::net::UnixStream>) {
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).await.unwrap();
    let mut daemon = BufReader::new(listener.accept().await.unwrap().0);
    let mut line = String::new();
    tokio::select! {
        biased;
        _ = client.call::<_, Value>(Method::AcquireNextNode, &NoParams {}) => unreachable!("nobody answers"),
        read = daemon.read_line(&mut line) => assert!(read.unwrap() > 0),
    }
    (client, daemon)
}

#[tokio::test]
async fn a_call_that_is_given_up_gives_what_was_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let (client, mut daemon) = given_up(&dir).await;
    let answer = b"{\"id\":1,\"result\":{\"granted\":true}}\n";
    daemon.get_mut().write_all(answer).await.unwrap();
    let granted: Option<Value> = client.abandon().await;
    assert_eq!(granted.unwrap()["granted"], true);
}

#[tokio::test]
async fn what_comes_after_a_call_was_given_up_cannot_be_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (client, mut daemon) = given_up(&dir).await;
    daemon.get_mut().write_all(b"{\"id\":1,\"res").await.unwrap();
    // Half an answer is none, and the other half has nowhere to go.
    assert!(client.abandon::<Value>().await.is_none());
    assert!(daemon.get_mut().write_all(b"ult\":1}\n").await.is_err());

    let dir = tempfile::tempdir().unwrap();
    let (client, _daemon) = given_up(&dir).await;
    assert!(client.abandon::<Value>().await.is_none());
}
