//! What agentd puts into sessions: the static program that is a container's first process, the file that tells that
//! program what to do, and the bridge to the session's tools.

use crate::runtime::engine::{EngineError, Program};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

// The program's own source, for its reader of launch files.
#[cfg(test)]
#[allow(dead_code, reason = "the rest is the program")]
mod init;

/// The program: a static executable of this machine's architecture.
pub const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agentd-init"));

/// The bridge to the gateway's sockets, likewise: see [`mcp_transport::bridge`].
pub const BRIDGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agentd-mcp"));

/// The name of the launch file in a session's run directory.
pub const LAUNCH_FILE: &str = "launch";

/// What the reader takes; see `init.rs`.
const LAUNCH_BYTES_MAX: usize = 4 * 1024 * 1024;
const ENTRIES_MAX: usize = 4096;

/// Writes the program where containers can be given it, and tells where: `<dir>/agentd-init-<hash>`. A file that
/// is there already is used, so that sessions which run keep theirs when agentd is upgraded.
///
/// # Errors
/// When the directory cannot be written.
pub fn install_init(dir: &Path) -> Result<PathBuf, EngineError> {
    install(dir, "agentd-init", INIT)
}

/// Does the same with the bridge: `<dir>/agentd-mcp-<hash>`.
///
/// # Errors
/// When the directory cannot be written.
pub fn install_bridge(dir: &Path) -> Result<PathBuf, EngineError> {
    install(dir, "agentd-mcp", BRIDGE)
}

fn install(dir: &Path, name: &str, program: &[u8]) -> Result<PathBuf, EngineError> {
    let hash: String = Sha256::digest(program)[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = dir.join(format!("{name}-{hash}"));
    match fs::read(&path) {
        Ok(content) if content == program => {
            // Whatever umask it was copied with.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .map_err(EngineError::io("make executable", &path))?;
            return Ok(path);
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(EngineError::io("read", &path)(error)),
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(EngineError::io("make", dir))?;
    // Under another name first: two daemons that begin at once each write a whole file.
    let part = dir.join(format!(".{name}-{hash}.{}", uuid::Uuid::new_v4().simple()));
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&part)?;
        file.write_all(program)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&part, &path)
    };
    write().map_err(|error| {
        // Nobody knows the name of a part that was not finished.
        let _ = fs::remove_file(&part);
        EngineError::io("write", &path)(error)
    })?;
    Ok(path)
}

/// The content of a launch file.
///
/// # Errors
/// When something in it cannot be told to a process at all: a zero byte, a variable without a name, too much.
pub fn launch_file(program: &Program, cwd: &Path, secrets: &Path) -> Result<Vec<u8>, EngineError> {
    let refused = |what: String| Err(EngineError::Refused(what));
    if program.argv.is_empty() {
        return refused("the command is empty".into());
    }
    let mut entries: Vec<&[u8]> = vec![b"agentd-launch 1"];
    entries.extend([&b"cwd"[..], cwd.as_os_str().as_encoded_bytes()]);
    entries.extend([&b"secrets"[..], secrets.as_os_str().as_encoded_bytes()]);
    for argument in &program.argv {
        entries.extend([&b"argv"[..], argument.as_bytes()]);
    }
    for (kind, variables) in [(&b"env"[..], &program.env), (b"secret", &program.secret_env)] {
        for (name, value) in variables {
            if name.is_empty() || name.contains('=') {
                return refused(format!("a variable cannot be named {name:?}"));
            }
            entries.extend([kind, name.as_bytes(), value.as_bytes()]);
        }
    }
    let most = program
        .argv
        .len()
        .max(program.env.len())
        .max(program.secret_env.len());
    if most > ENTRIES_MAX {
        return refused(format!(
            "the command has more than {ENTRIES_MAX} arguments or variables"
        ));
    }
    if let Some(file) = program
        .secret_env
        .values()
        .find(|file| matches!(&file[..], "" | "." | "..") || file.contains('/'))
    {
        return refused(format!("a secret cannot be named {file:?}"));
    }
    // Which entry it is could be a prompt's text, so it is not quoted.
    if entries.iter().any(|entry| entry.contains(&0)) {
        return refused("the command, the prompt or a variable holds a zero byte".into());
    }
    entries.push(b"end");
    let size = entries.iter().map(|entry| entry.len() + 1).sum();
    if size > LAUNCH_BYTES_MAX {
        return refused(format!(
            "the command and its variables have {size} bytes together, which no program can be given; a long \
             prompt goes by file"
        ));
    }
    let mut content = Vec::with_capacity(size);
    for entry in entries {
        content.extend_from_slice(entry);
        content.push(0);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    fn program() -> Program {
        Program {
            argv: vec![
                "/bin/agent".into(),
                "--".into(),
                "läs\nthis".into(),
                String::new(),
            ],
            env: BTreeMap::from([("A".into(), "b=c".into()), ("EMPTY".into(), String::new())]),
            secret_env: BTreeMap::from([("TOKEN".into(), "token".into())]),
        }
    }

    fn pairs(map: &BTreeMap<String, String>) -> Vec<(OsString, OsString)> {
        map.iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let program = program();
        let content = launch_file(&program, Path::new("/work"), Path::new("/run/secrets")).unwrap();
        let Ok(launch) = init::parse(&content) else {
            panic!("refused");
        };
        let argv: Vec<OsString> = program.argv.iter().map(Into::into).collect();
        assert_eq!(launch.argv, argv);
        assert_eq!(launch.env, pairs(&program.env));
        assert_eq!(launch.secret_env, pairs(&program.secret_env));
        assert_eq!(launch.cwd, Path::new("/work"));
        assert_eq!(launch.secrets, Path::new("/run/secrets"));
        assert!(content.starts_with(init::HEADER));
        assert_eq!(
            (LAUNCH_BYTES_MAX, ENTRIES_MAX),
            (init::LAUNCH_BYTES_MAX, init::ENTRIES_MAX)
        );
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let content = launch_file(&program(), Path::new("/work"), Path::new("/s")).unwrap();
        for length in 0..content.len() {
            assert!(
                init::parse(&content[..length]).is_err(),
                "{length} bytes were accepted"
            );
        }
        for addition in ["\0", "end\0", "argv\0x\0"] {
            let more = [&content[..], addition.as_bytes()].concat();
            assert!(init::parse(&more).is_err(), "{addition:?} was accepted");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let whole = |entries: &str| format!("agentd-launch 1\0{entries}end\0").replace(' ', "\0");
        let good = "cwd /w secrets /s argv x ";
        assert!(
            init::parse(
                whole(good)
                    .replace("agentd-launch\0", "agentd-launch ")
                    .as_bytes()
            )
            .is_ok()
        );
        for bad in [
            "cwd /w secrets /s ",
            "cwd /w argv x ",
            "secrets /s argv x ",
            "cwd w secrets /s argv x ",
            "cwd /w cwd /w secrets /s argv x ",
            "cwd /w secrets /s argv x env =x y ",
            "cwd /w secrets /s argv x env a=b y ",
            "cwd /w secrets /s argv x secret A ../b ",
            "cwd /w secrets /s argv x secret A .. ",
            "cwd /w secrets /s argv x secret A  ",
            "cwd /w secrets /s argv x uid 0 ",
        ] {
            let content = whole(bad).replace("agentd-launch\0", "agentd-launch ");
            assert!(init::parse(content.as_bytes()).is_err(), "{bad:?} was accepted");
        }
        assert!(init::parse(b"agentd-launch 2\0cwd\0/w\0secrets\0/s\0argv\0x\0end\0").is_err());
        let many = "argv\0x\0".repeat(ENTRIES_MAX + 1);
        assert!(init::parse(format!("agentd-launch 1\0{many}end\0").as_bytes()).is_err());
    }

    #[test]
    fn what_no_process_can_be_told_is_not_written() {
        let refused = |change: fn(&mut Program)| {
            let mut program = program();
            change(&mut program);
            let error = launch_file(&program, Path::new("/w"), Path::new("/s")).unwrap_err();
            assert!(matches!(error, EngineError::Refused(_)), "{error}");
            error.to_string()
        };
        refused(|program| program.argv.clear());
        refused(|program| program.argv = vec![String::new(); ENTRIES_MAX + 1]);
        refused(|program| program.argv.push("x".repeat(LAUNCH_BYTES_MAX)));
        refused(|program| {
            program.env.insert("A=B".into(), String::new());
        });
        refused(|program| {
            program.secret_env.insert("A".into(), "../b".into());
        });
        let said = refused(|program| program.argv.push("prompt\0text".into()));
        assert!(!said.contains("text"), "{said}");
    }

    #[test]
    fn newlines_after_a_secret_do_not_belong_to_it() {
        assert_eq!(init::value(b"a\nb\r\n\n".to_vec()), b"a\nb");
        assert_eq!(init::value(b"\n\n".to_vec()), b"");
    }

    #[test]
    fn an_end_is_what_waitpid_tells() {
        assert_eq!(init::End::of(0x700), init::End::Exit(7));
        assert_eq!(init::End::of(9), init::End::Signal(9));
        assert_eq!(init::End::of(0x8b), init::End::Signal(11));
    }

    #[test]
    fn the_program_is_installed_once_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        let path = install_init(&bin).unwrap();
        assert_eq!(fs::read(&path).unwrap(), INIT);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        fs::write(&path, b"half").unwrap();
        assert_eq!(install_init(&bin).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), INIT);
        assert_eq!(fs::read_dir(&bin).unwrap().count(), 1);
    }
}
