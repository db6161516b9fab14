//! The socket file: taken, replaced, refused, removed.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use agentd_api::{Claim, RolePolicy, Server, ServerError, ServerOptions};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use support::{Double, Running};

fn options(path: &Path) -> ServerOptions {
    ServerOptions::new(path, Double::new())
}

#[test]
fn the_mode_is_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o660, 0o600, 0o666] {
        let path = dir.path().join("s");
        let server = Server::bind(ServerOptions {
            socket_mode: mode,
            ..options(&path)
        })
        .unwrap();
        assert_eq!(
            fs::metadata(server.socket_path()).unwrap().permissions().mode() & 0o7777,
            mode
        );
        drop(server);
        assert!(!path.exists());
    }
}

#[test]
fn a_second_daemon_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = Server::bind(options(&path)).unwrap();
    let error = Server::bind(options(&path)).unwrap_err().to_string();
    assert!(
        error.contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert!(path.exists());
    drop(server);
    let claim = Claim::take(&path).unwrap();
    Server::bind_claimed(claim, options(&path)).unwrap();
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let live = UnixListener::bind(&path).unwrap();
    let error = Server::bind(options(&path)).unwrap_err();
    assert!(matches!(error, ServerError::InUse { pid: Some(pid), .. } if pid == std::process::id() as i32));
    drop(live);
    let before = fs::metadata(&path).unwrap();
    let server = Server::bind(options(&path)).unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ctime_nsec(), before.ctime_nsec());
    drop(server);
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(
        Server::bind(options(&file)),
        Err(ServerError::NotASocket(_))
    ));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(matches!(
        Server::bind(options(&link)),
        Err(ServerError::NotASocket(_))
    ));
    assert!(matches!(
        Server::bind(options(dir.path())),
        Err(ServerError::NotASocket(_))
    ));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let error = Server::bind(options(&dir.path().join("none/s")))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("none/s.lock") && error.contains("No such file"),
        "{error}"
    );
    let long = dir.path().join("x".repeat(120));
    assert!(matches!(
        Server::bind(options(&long)),
        Err(ServerError::PathTooLong { .. })
    ));
}

#[test]
fn roles_must_name_somebody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let roles = RolePolicy {
        operators: vec!["no-such-user-here".into()],
        ..RolePolicy::default()
    };
    let error = Server::bind(ServerOptions {
        roles,
        ..options(&path)
    })
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("operators") && error.contains("no-such-user-here"),
        "{error}"
    );
    assert!(!path.exists());
}

#[tokio::test]
async fn only_its_own_socket_is_removed() {
    let server = Running::start();
    fs::remove_file(&server.path).unwrap();
    let path = server.path.clone();
    let theirs = UnixListener::bind(&path).unwrap();
    server.begin_to_stop();
    let identity = fs::metadata(&path).unwrap().ino();
    // `stop` insists on the file being gone: another way to wait for the end is the claim.
    support::soon(async {
        while Claim::take(&path).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(fs::metadata(&path).unwrap().ino(), identity);
    drop(theirs);
}
