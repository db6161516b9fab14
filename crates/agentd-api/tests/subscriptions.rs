//! Connections that carry the journal.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use agentd_client::{Client, ClientError};
use agentd_protocol::Reason;
use agentd_protocol::requests::{JournalFilter, SubscribeJournal};
use serde_json::json;
use std::time::Duration;
use support::{ID, Running, reason, soon};

fn event(action_type: &str, payload: u32) -> String {
    let params = json!({"task_id": ID, "node_id": ID, "action_type": action_type, "payload": payload});
    json!({"method": "CommitEvent", "params": params}).to_string()
}

#[tokio::test]
async fn entries_come_as_they_are_written() {
    let server = Running::start();
    server.double.write_entries(700, 10);
    let subscribe = async |params: SubscribeJournal| {
        let client = Client::connect(&server.path).await.unwrap();
        client.subscribe(&params).await.unwrap()
    };
    let mut new = subscribe(SubscribeJournal::default()).await;
    assert_eq!((new.from_seq(), new.last_seq()), (701, 700));
    let mut all = subscribe(SubscribeJournal {
        from_seq: Some(2),
        ..SubscribeJournal::default()
    })
    .await;
    for seq in 2..=700 {
        assert_eq!(soon(all.next()).await.unwrap().unwrap().seq, seq);
    }
    let filter = JournalFilter {
        action_types: vec!["B".into()],
        ..JournalFilter::default()
    };
    let mut some = subscribe(SubscribeJournal {
        from_seq: Some(1),
        filter,
    })
    .await;
    let mut writer = server.connect().await;
    for (seq, action) in [(701, "A"), (702, "B")] {
        writer.call(&event(action, 1)).await;
        assert_eq!(soon(new.next()).await.unwrap().unwrap().seq, seq);
        assert_eq!(soon(all.next()).await.unwrap().unwrap().seq, seq);
    }
    assert_eq!(soon(some.next()).await.unwrap().unwrap().seq, 702);
    server.stop().await;
    for (subscription, last_seq) in [(&mut new, 702), (&mut all, 702), (&mut some, 702)] {
        let ClientError::Rpc(error) = soon(subscription.next()).await.unwrap_err() else {
            panic!("another error")
        };
        assert_eq!(error.reason(), Some(Reason::ShuttingDown));
        assert_eq!(error.data.unwrap().to_value()["last_seq"], last_seq);
        assert!(soon(subscription.next()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_subscriber_may_close_its_half_and_is_noticed_when_it_leaves() {
    let server = Running::start();
    let mut client = server.connect().await;
    client.send("{\"id\":5,\"method\":\"SubscribeJournal\"}\n").await;
    client.half_close().await;
    assert_eq!(client.line().await.unwrap()["id"], 5);
    server.connect().await.call(&event("A", 1)).await;
    assert_eq!(client.line().await.unwrap()["action_type"], "A");
    drop(client);
    let mut talkative = server.connect().await;
    talkative
        .send("{\"id\":5,\"method\":\"SubscribeJournal\"}\nwhatever comes next\n")
        .await;
    assert_eq!(talkative.line().await.unwrap()["result"]["subscribed"], true);
    talkative.send("x".repeat(1_000_000)).await;
    drop(talkative);
    let mut other = server.connect().await;
    while other.call(r#"{"method":"Metrics"}"#).await["result"]["runtime"]["connections"] != 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_told_where_it_was() {
    let server = Running::start();
    let mut client = server.connect().await;
    client
        .send("{\"id\":5,\"method\":\"SubscribeJournal\",\"params\":{\"from_seq\":1}}\n")
        .await;
    client.line().await.unwrap();
    server.double.write_entries(500, 10_000);
    // Longer than it may block, shorter than the grace that follows.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut last_seq = 0;
    let farewell = loop {
        let line = client.line().await.unwrap();
        let Some(seq) = line["seq"].as_i64() else {
            break line;
        };
        assert_eq!(seq, last_seq + 1);
        last_seq = seq;
    };
    assert!((5..200).contains(&last_seq), "{last_seq}");
    assert_eq!(
        (reason(&farewell), farewell["id"].as_i64()),
        ("slow_reader", Some(5))
    );
    assert_eq!(farewell["error"]["data"]["last_seq"], last_seq);
    assert!(client.line().await.is_none());
    // One that never reads is cut off.
    let mut client = server.connect().await;
    client
        .send("{\"id\":5,\"method\":\"SubscribeJournal\",\"params\":{\"from_seq\":1}}\n")
        .await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    let mut other = server.connect().await;
    assert_eq!(
        other.call(r#"{"method":"Metrics"}"#).await["result"]["runtime"]["connections"],
        1
    );
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_ends_it() {
    let server = Running::start();
    server.double.break_down();
    let mut client = server.connect().await;
    client
        .send("{\"id\":5,\"method\":\"SubscribeJournal\",\"params\":{\"from_seq\":1}}\n")
        .await;
    client.line().await.unwrap();
    let farewell = client.line().await.unwrap();
    assert_eq!(
        (reason(&farewell), farewell["error"]["data"]["last_seq"].as_i64()),
        ("storage", Some(0))
    );
    assert!(client.line().await.is_none());
}
