//! Supervisors and agentds of different versions, and peers that make no sense.

use crate::support::{BINARY, PATIENCE, Session, exited, within};
use agentd_supervisor::control::{Control, ControlError};
use agentd_supervisor::record::What;
use agentd_supervisor::wire::Versions;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn wait_for(file: &str) -> String {
    format!("echo up; while ! [ -e {file} ]; do sleep 0.01; done; exit 2")
}

#[tokio::test]
async fn an_old_supervisor_under_a_newer_agentd_and_the_other_way_round() {
    // Versions of the supervisor; of agentd; whether they understand each other.
    for (supervisor, (current, oldest), works) in [
        (["1", "1"], (2, 1), true),
        (["1", "1"], (7, 3), false),
        (["2", "1"], (1, 1), true),
        (["9", "2"], (1, 1), false),
    ] {
        let session = Session::sh(&wait_for("go"));
        session.start_as(&supervisor);
        let versions = Versions { current, oldest };
        match Control::connect_as(&session.dir, versions).await {
            Ok(mut control) if works => {
                assert_eq!(control.hello().session_id, session.spec.session_id);
                control.status().await.unwrap();
                std::fs::write(session.path("go"), "").unwrap();
                let mut watch = control.watch(1).await.unwrap();
                let mut last = None;
                while let Some(record) = within(watch.next()).await.unwrap() {
                    last = Some(record);
                }
                assert!(matches!(last.unwrap().what, What::End { .. }));
            }
            Err(error @ ControlError::Version { .. }) if !works => {
                assert!(error.to_string().contains(supervisor[0]), "{error}");
            }
            other => panic!("{supervisor:?} {current} {oldest}: {other:?}"),
        }
        std::fs::write(session.path("go"), "").unwrap();
        // The records are read either way.
        session.gone().await;
        let records = agentd_supervisor::records::read_records(&session.dir).unwrap();
        assert_eq!(exited(&records.records).code, Some(2));
    }
}

#[tokio::test]
async fn orders_of_a_newer_version_are_refused_clearly() {
    let mut session = Session::sh("true");
    session.spec.version = 99;
    let end = session.run_exited().await;
    assert!(end.start_error.unwrap().contains("version 99"));
    // What a newer one added without need for a new number is ignored.
    let session = Session::sh("exit 4");
    session.write_spec();
    let mut spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(session.dir.spec()).unwrap()).unwrap();
    spec["mood"] = "good".into();
    std::fs::write(session.dir.spec(), spec.to_string()).unwrap();
    drop(agentd_supervisor::spawn::spawn(BINARY.as_ref(), &[], &session.dir).unwrap());
    assert_eq!(exited(&session.ended().await).code, Some(4));
    // Orders that make no sense at all.
    let session = Session::sh("true");
    std::fs::write(session.dir.spec(), "{").unwrap();
    drop(agentd_supervisor::spawn::spawn(BINARY.as_ref(), &[], &session.dir).unwrap());
    assert_eq!(session.gone().await.records, []);
    assert!(!session.log().is_empty());
}

fn raw(session: &Session) -> (BufReader<UnixStream>, UnixStream) {
    let stream = UnixStream::connect(session.dir.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (BufReader::new(stream.try_clone().unwrap()), stream)
}

fn line(reader: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    match reader.read_line(&mut line) {
        // What it had not read when it ended the connection.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => _ = other.unwrap(),
    }
    line
}

#[tokio::test]
async fn what_is_not_understood_ends_nothing() {
    let session = Session::sh(&wait_for("go"));
    session.start();
    session.started().await;
    let (mut reader, mut writer) = raw(&session);
    assert!(line(&mut reader).starts_with(r#"{"hello":{"version":1,"oldest":1,"session_id":""#));
    for nonsense in [
        "{\"dance\":{}}",
        "",
        "null",
        "{\"stop\":{\"grace_ms\":-1}}",
        "\u{0}",
        "{\"hello\":{\"version\":9}}",
    ] {
        writeln!(writer, "{nonsense}").unwrap();
        assert!(
            line(&mut reader).starts_with("{\"error\":{\"code\":"),
            "{nonsense}"
        );
    }
    writeln!(writer, "{{\"status\":{{\"color\":\"blue\"}}}}").unwrap();
    assert!(line(&mut reader).starts_with("{\"status\":{\"doing\":\"running\""));
    // A line without end.
    let flood = vec![b'x'; 100_000];
    let _ = writer.write_all(&flood);
    assert!(line(&mut reader).contains("malformed"));
    assert_eq!(line(&mut reader), "");
    session.control().await.status().await.unwrap();
    std::fs::write(session.path("go"), "").unwrap();
    session.ended().await;
}

#[tokio::test]
async fn peers_that_hang_hold_nothing_up() {
    let session = Session::sh(&wait_for("go"));
    session.start();
    session.started().await;
    // They ask much and read nothing.
    let mut stuck: Vec<_> = (0..15)
        .map(|_| {
            let (reader, writer) = raw(&session);
            writer.set_nonblocking(true).unwrap();
            let asks = "{\"status\":{}}\n".repeat(5000);
            let _ = (&writer).write(asks.as_bytes());
            (reader, writer)
        })
        .collect();
    let mut control = session.control().await;
    within(control.status()).await.unwrap();
    // One more than it takes.
    let error = Control::connect(&session.dir).await.unwrap_err();
    assert!(
        matches!(&error, ControlError::Refused { code, .. } if code == "busy"),
        "{error}"
    );
    stuck.pop();
    within(async {
        while Control::connect(&session.dir).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let begun = std::time::Instant::now();
    control.stop(Duration::ZERO).await.unwrap();
    assert!(session.gone().await.has_ended());
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert!(matches!(
        Control::connect(&session.dir).await,
        Err(ControlError::NotThere)
    ));
}

#[tokio::test]
async fn a_watch_begins_where_it_is_asked_to() {
    let session = Session::sh(&wait_for("go"));
    session.start();
    session.started().await;
    let mut watch = session.control().await.watch(2).await.unwrap();
    assert_eq!(within(watch.next()).await.unwrap().unwrap().seq, 2);
    let mut late = session.control().await.watch(4).await.unwrap();
    std::fs::write(session.path("go"), "").unwrap();
    assert_eq!(within(watch.next()).await.unwrap().unwrap().seq, 3);
    assert_eq!(within(late.next()).await.unwrap().unwrap().seq, 4);
    assert_eq!(within(late.next()).await.unwrap(), None);
    assert_eq!(within(late.next()).await.unwrap(), None);
}
