//! What another user may do. Needs root, to become another user; without it there is nothing to see.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use agentd_api::RolePolicy;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use support::{ID, Running, reason};

const SOCKET: &str = "ROLES_TEST_SOCKET";
const UID: u32 = 65_534;
const GID: u32 = 65_533;
const MARK: &str = "answer: ";

fn requests() -> String {
    let work = r#"{"work":{"kind":"command","argv":["true"],"cwd":"/"}}"#;
    format!(
        "{{\"method\":\"WhoAmI\"}}\n\
         {{\"method\":\"TaskStatus\",\"params\":{{\"task_id\":\"{ID}\"}}}}\n\
         {{\"method\":\"RegisterTask\",\"params\":{{\"goal\":\"g\"}}}}\n\
         {{\"method\":\"RegisterTask\",\"params\":{{\"goal\":\"g\",\"initial_nodes\":[{work}]}}}}\n\
         {{\"method\":\"PruneTasks\"}}\n\
         {{\"method\":\"ListAgents\"}}\n\
         {{\"method\":\"ListSessions\"}}\n\
         {{\"method\":\"GetSession\",\"params\":{{\"session_id\":\"{ID}\"}}}}\n\
         {{\"method\":\"RunAgent\",\"params\":{{\"agent\":\"a\"}}}}\n\
         {{\"method\":\"StopSession\",\"params\":{{\"session_id\":\"{ID}\"}}}}\n\
         {{\"method\":\"RemoveSession\",\"params\":{{\"session_id\":\"{ID}\"}}}}\n\
         {{\"method\":\"ReadTranscript\",\"params\":{{\"session_id\":\"{ID}\"}}}}\n\
         {{\"method\":\"Reload\"}}\n"
    )
}

/// The other user's part: this same program, started again as somebody else.
#[test]
fn be_the_other_user() {
    let Some(path) = std::env::var_os(SOCKET) else {
        return;
    };
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(requests().as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    for line in BufReader::new(stream).lines() {
        println!("\n{MARK}{}", line.unwrap());
    }
}

async fn ask_as_another_user(program: &Path, socket: &Path) -> Vec<Value> {
    let mut command = Command::new(program);
    command
        .args(["--exact", "be_the_other_user", "--nocapture"])
        .env(SOCKET, socket)
        .uid(UID)
        .gid(GID);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix(MARK))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_kernels_word_decides_what_a_user_may_do() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    // Of sessions both may only look: whoever runs agents acts as the daemon's user, and what they print may be
    // secret.
    let of_sessions = [false, false, false, true, true, true, true, true];
    for (workers, role, of_tasks) in [
        (vec![], "observer", [false, false, true, true, true]),
        (
            vec![format!("%{GID}")],
            "worker",
            [false, false, false, true, true],
        ),
    ] {
        let forbidden = [&of_tasks[..], &of_sessions[..]].concat();
        let socket = dir.path().join(role);
        let server = Running::start_with(|options| {
            options.socket_path.clone_from(&socket);
            options.socket_mode = 0o666;
            options.roles = RolePolicy {
                workers,
                ..RolePolicy::default()
            };
        });
        let answers = ask_as_another_user(&program, &socket).await;
        assert_eq!(answers.len(), forbidden.len(), "{answers:?}");
        let who = &answers[0]["result"];
        assert_eq!(
            (who["uid"].as_u64(), who["gid"].as_u64()),
            (Some(UID.into()), Some(GID.into()))
        );
        assert_eq!(who["role"], role);
        assert_eq!(
            answers
                .iter()
                .map(|answer| reason(answer) == "forbidden")
                .collect::<Vec<_>>(),
            forbidden
        );
        drop(server);
    }
}
