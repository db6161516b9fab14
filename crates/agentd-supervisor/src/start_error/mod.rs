//! Why a program could not be started, in one sentence that names the one thing that is wrong, and what mends it.

mod cause;

use crate::access::{self, Want};
use crate::shell;
use crate::tools::ProcessUser;
use cause::{Attempt, Cause};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a program was not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartError {
    /// There is no such program. A shell's exit status is 127 then, and 126 otherwise.
    pub not_found: bool,
    /// A sentence without its end.
    pub why: String,
}

impl StartError {
    fn other(why: String) -> Self {
        Self {
            not_found: false,
            why,
        }
    }
}

/// Finds out what was in the way of a command that could not be started as this user, or as this process's own.
#[must_use]
pub fn explain(command: &Command, user: Option<&ProcessUser>, error: &io::Error) -> StartError {
    let found = look(command, user, Some(error));
    // Without having found out more than the kernel has said.
    found.unwrap_or_else(|| StartError::other(error.to_string()))
}

/// Finds out what would keep a command from being started, without starting it. Nothing when nothing is seen.
#[must_use]
pub fn examine(command: &Command, user: Option<&ProcessUser>) -> Option<StartError> {
    look(command, user, None)
}

fn look(command: &Command, user: Option<&ProcessUser>, error: Option<&io::Error>) -> Option<StartError> {
    let cwd = match command.get_current_dir() {
        Some(cwd) => cwd.to_owned(),
        None => std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
    };
    if let Some(why) = unusable_dir(&cwd, user) {
        return Some(StartError::other(why));
    }
    let path = path_of(command);
    let attempt = Attempt {
        program: command.get_program(),
        path: path.as_deref(),
        cwd: &cwd,
        may_execute: access::may_enter,
    };
    let cause = access::as_user(user, || match error {
        Some(error) => Some(attempt.cause(error)),
        None => attempt.look(),
    });
    let cause = cause.ok().flatten()?;
    Some(told(&cause, user))
}

/// What keeps a user from beginning in a directory.
fn unusable_dir(dir: &Path, user: Option<&ProcessUser>) -> Option<String> {
    let shown = dir.display();
    match dir.metadata() {
        Ok(metadata) if !metadata.is_dir() => {
            return Some(format!("the working directory {shown} is not a directory"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some(format!("the working directory {shown} does not exist"));
        }
        _ => {}
    }
    closed(dir, user).map(|why| format!("it cannot begin in its working directory: {why}"))
}

/// What keeps a user from entering a directory, and what lets it in.
fn closed(dir: &Path, user: Option<&ProcessUser>) -> Option<String> {
    let denied = access::ask(dir, user, Want::Enter).err()?;
    let shut = denied.all_closed();
    let user = shown(user);
    Some(if shut.is_empty() {
        format!("{user} {denied}")
    } else {
        format!("{user} {denied}; `chmod a+x {}` lets it", shell::words(&shut))
    })
}

fn told(cause: &Cause, user: Option<&ProcessUser>) -> StartError {
    let why = match cause {
        Cause::NotExecutable(path) => {
            let (path, word) = (path.display(), shell::word(path));
            format!(
                "{path} is not executable by {}; `chmod a+rx {word}` lets it",
                shown(user)
            )
        }
        Cause::Closed(path) => path.parent().and_then(|dir| closed(dir, user)).map_or_else(
            || cause.sentence(),
            |why| format!("{} cannot be reached: {why}", path.display()),
        ),
        Cause::NotFound(_) | Cause::Other(_) => cause.sentence(),
    };
    StartError {
        not_found: matches!(cause, Cause::NotFound(_)),
        why,
    }
}

fn shown(user: Option<&ProcessUser>) -> String {
    let own = || nix::unistd::geteuid().as_raw();
    format!("user {}", user.map_or_else(own, |user| user.uid))
}

/// The command's own, or this process's.
fn path_of(command: &Command) -> Option<OsString> {
    let own = command.get_envs().find(|(name, _)| *name == OsStr::new("PATH"));
    match own {
        Some((_, value)) => value.map(OsStr::to_owned),
        None => std::env::var_os("PATH"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            Self(dir)
        }

        fn file(&self, name: &str, text: &[u8], mode: u32) -> PathBuf {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn command(&self, program: impl AsRef<OsStr>) -> Command {
            let mut command = Command::new(program);
            command.current_dir(self.0.path()).env("PATH", "bin:/no/such");
            command
        }
    }

    #[track_caller]
    fn refused(mut command: Command, user: Option<u32>) -> StartError {
        let user = user.map(|id| ProcessUser {
            uid: id,
            gid: id,
            groups: Vec::new(),
        });
        if let Some(user) = &user {
            command.uid(user.uid).gid(user.gid);
        }
        let error = command.spawn().expect_err("it cannot be started");
        let explained = explain(&command, user.as_ref(), &error);
        assert_eq!(examine(&command, user.as_ref()), Some(explained.clone()));
        explained
    }

    #[test]
    fn each_reason_is_told_from_the_others() {
        let place = Place::new();
        let path = |name: &str| place.0.path().join(name).display().to_string();
        place.file("bin/closed", b"#!/bin/sh\n", 0o644);
        place.file("bin/script", b"#! /no/such -x\n", 0o755);
        place.file("bin/windows", b"#!/bin/sh\r\n", 0o755);
        place.file(
            "bin/outer",
            format!("#!{}\n", path("bin/script")).as_bytes(),
            0o755,
        );
        place.file("bin/data", b"#!data\n", 0o755);
        place.file("data", b"", 0o644);
        let mut program = fs::read("/bin/true").unwrap();
        let name = b"/ld-linux";
        let at = program
            .windows(name.len())
            .position(|part| part == name)
            .expect("a loader");
        program[at + 1] = b'X';
        place.file("bin/foreign", &program, 0o755);
        for (program, not_found, why) in [
            (
                "nowhere",
                true,
                "not found: there is no such program in PATH (bin:/no/such)".to_owned(),
            ),
            (
                "./nowhere",
                true,
                format!("not found: there is no such program: {}", path("./nowhere")),
            ),
            (
                "/no/where",
                true,
                "not found: there is no such program: /no/where".into(),
            ),
            (
                "./bin",
                false,
                format!("{} is not a file that can be executed", path("./bin")),
            ),
            (
                "bin/script",
                false,
                format!(
                    "the interpreter that {} names in its first line is not there: \"/no/such\"",
                    path("bin/script")
                ),
            ),
            (
                "windows",
                false,
                format!(
                    "the interpreter that {} names in its first line is not there: \"/bin/sh\\r\"",
                    path("bin/windows")
                ),
            ),
            (
                "outer",
                false,
                format!(
                    "the interpreter that {} names in its first line is not there: \"/no/such\"",
                    path("bin/script")
                ),
            ),
            (
                "data",
                false,
                format!(
                    "the interpreter that {} names in its first line is not executable by the program's user: \"data\"",
                    path("bin/data")
                ),
            ),
        ] {
            let error = refused(place.command(program), None);
            assert_eq!((error.why, error.not_found), (why, not_found), "{program}");
        }
        let foreign = refused(place.command("foreign"), None).why;
        assert!(
            foreign.contains("the loader that") && foreign.contains("/Xd-linux"),
            "{foreign}"
        );
        let mut command = place.command("true");
        command.current_dir("/no/dir");
        assert_eq!(
            refused(command, None).why,
            "the working directory /no/dir does not exist"
        );
        let mut command = place.command("true");
        command.current_dir(path("data"));
        let file = refused(command, None).why;
        assert_eq!(
            file,
            format!("the working directory {} is not a directory", path("data"))
        );
    }

    /// The commands that are printed are run as printed, until the program starts.
    fn mended(command: impl Fn() -> Command, user: u32, said: &[&str]) {
        for said in said {
            let why = refused(command(), Some(user)).why;
            assert!(why.contains(said), "{why}");
            let remedy = why.split('`').nth(1).expect("a command");
            assert!(
                Command::new("/bin/sh")
                    .args(["-c", remedy])
                    .status()
                    .unwrap()
                    .success()
            );
        }
        let mut command = command();
        let as_user = ProcessUser {
            uid: user,
            gid: user,
            groups: Vec::new(),
        };
        assert_eq!(examine(&command, Some(&as_user)), None);
        assert!(command.uid(user).gid(user).status().unwrap().success());
    }

    #[test]
    fn what_is_closed_to_the_user_is_named_and_mended() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let place = Place::new();
        let program = place.file("it's a/b c/program", b"#!/bin/sh\n", 0o600);
        let top = place.0.path().join("it's a");
        for dir in [&*top, program.parent().unwrap()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let walk = format!("user 4711 may not walk through {}", top.display());
        mended(
            || place.command(&program),
            4711,
            &[&walk, "program is not executable by user 4711"],
        );
        let work = place.file("work/inner/file", b"", 0o600);
        let work = work.parent().unwrap().to_owned();
        fs::set_permissions(&work, fs::Permissions::from_mode(0o700)).unwrap();
        let said = format!(
            "it cannot begin in its working directory: user 4711 cannot enter {} (permission denied)",
            work.display()
        );
        let command = || {
            let mut command = place.command("/bin/true");
            command.current_dir(&work);
            command
        };
        mended(command, 4711, &[&said]);
        // A PATH with a closed directory in it is searched to its end.
        place.file("shut/tool", b"#!/bin/sh\n", 0o755);
        fs::set_permissions(place.0.path().join("shut"), fs::Permissions::from_mode(0o700)).unwrap();
        let mut command = place.command("tool");
        command.env("PATH", "shut:bin");
        let error = refused(command, Some(4711));
        assert!(
            error.not_found && error.why.contains("shut/tool cannot be entered"),
            "{}",
            error.why
        );
    }
}
