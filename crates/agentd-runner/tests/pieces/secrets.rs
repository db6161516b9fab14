//! The secret store, and what a session is given of it.

use super::support::{OTHER, Place, is_root, listed, ourselves, owner_and_mode, session, users};
use agentd_config::Credential;
use agentd_runner::session::secrets::{SECRET_BYTES_MAX, SecretStore, deliver, take_down};
use agentd_runner::session::tree::Progress;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const VALUE: &str = "hunter2-hunter2";

fn write(dir: &Path, name: &str, value: &[u8]) {
    fs::write(dir.join(name), value).unwrap();
    fs::set_permissions(dir.join(name), PermissionsExt::from_mode(0o600)).unwrap();
}

fn store() -> (tempfile::TempDir, SecretStore) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "TOKEN", format!("{VALUE}\r\n\n\n").as_bytes());
    let store = SecretStore::new(dir.path().to_owned());
    (dir, store)
}

fn credential(name: &str, env: Option<&str>) -> Credential {
    Credential {
        name: name.into(),
        env: env.map(str::to_owned),
    }
}

#[test]
fn a_store_is_files_and_the_values_are_without_their_last_newlines() {
    let (dir, store) = store();
    write(dir.path(), ".hidden", b"x");
    fs::create_dir(dir.path().join("directory")).unwrap();
    symlink("TOKEN", dir.path().join("LINK")).unwrap();
    symlink("directory", dir.path().join("DIRLINK")).unwrap();
    symlink("nowhere", dir.path().join("DANGLING")).unwrap();
    assert_eq!(store.names().unwrap(), ["LINK", "TOKEN"]);
    for name in ["TOKEN", "LINK"] {
        let read = store.read(name).unwrap();
        assert_eq!(read.secret.expose(), VALUE.as_bytes());
        assert!(read.warnings.is_empty(), "{:?}", read.warnings);
        assert!(!format!("{read:?}").contains("hunter2"));
    }
    let absent = SecretStore::new(dir.path().join("absent"));
    assert!(absent.names().unwrap().is_empty());
}

#[test]
fn what_is_no_secret_is_refused_with_the_reason() {
    let (dir, store) = store();
    fs::create_dir(dir.path().join("directory")).unwrap();
    nix::unistd::mkfifo(
        &dir.path().join("PIPE"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    write(dir.path(), "LARGE", &vec![b'x'; SECRET_BYTES_MAX + 1]);
    write(dir.path(), "FITS", &vec![b'x'; SECRET_BYTES_MAX]);
    symlink("/dev/zero", dir.path().join("ENDLESS")).unwrap();
    let refused = |name: &str| store.read(name).unwrap_err().to_string();
    let missing = refused("MISSING");
    for part in ["MISSING", &dir.path().display().to_string(), "install -d"] {
        assert!(missing.contains(part), "{missing}");
    }
    for name in ["directory", "PIPE", "ENDLESS"] {
        assert!(
            refused(name).contains("not an ordinary file"),
            "{}",
            refused(name)
        );
    }
    assert!(refused("LARGE").contains("larger"));
    assert_eq!(
        store.read("FITS").unwrap().secret.expose().len(),
        SECRET_BYTES_MAX
    );
    for name in ["", ".", "..", "../x", ".hidden", "a/b", "a\0b"] {
        assert!(refused(name).contains("cannot be a secret's name"), "{name:?}");
    }
}

#[test]
fn a_session_gets_what_is_declared_and_nothing_else() {
    let place = Place::new();
    let (dir, store) = store();
    write(dir.path(), "OTHER", b"not for this one");
    let id = session();
    let declared = [credential("TOKEN", None), credential("TOKEN", Some("API_TOKEN"))];
    // Twice: what a crashed set-up left is no hindrance.
    let before = place.dirs.secrets(id);
    fs::create_dir(&before).unwrap();
    fs::write(before.join("STALE"), "x").unwrap();
    let delivered = deliver(&store, &declared, &ourselves(), &place.dirs, id).unwrap();
    assert_eq!(delivered.dir.as_deref(), Some(&*before));
    assert_eq!(listed(&before), [Path::new("TOKEN")]);
    assert_eq!(fs::read_to_string(before.join("TOKEN")).unwrap(), VALUE);
    assert_eq!(delivered.variables["API_TOKEN"], "TOKEN");
    assert_eq!(owner_and_mode(&before).2, 0o700);
    assert_eq!(owner_and_mode(&before.join("TOKEN")).2, 0o400);
    assert_eq!(place.dirs.sessions_with_secrets().unwrap(), [id]);
    assert!(!format!("{delivered:?}").contains("hunter2"));
    assert_eq!(take_down(&place.dirs, id).unwrap(), Progress::Done);
    assert_eq!(take_down(&place.dirs, id).unwrap(), Progress::Done);
    assert!(!before.exists());
    let none = deliver(&store, &[], &ourselves(), &place.dirs, id).unwrap();
    assert_eq!(none.dir, None);
    assert!(!before.exists());
}

#[test]
fn when_one_is_missing_none_is_left() {
    let place = Place::new();
    let (dir, store) = store();
    write(dir.path(), "BINARY", b"abc\0defghi");
    for declared in [credential("MISSING", None), credential("BINARY", Some("B"))] {
        let id = session();
        let declared = [credential("TOKEN", None), declared];
        let error = deliver(&store, &declared, &ourselves(), &place.dirs, id).unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert!(!place.dirs.secrets(id).exists());
    }
    deliver(
        &store,
        &[credential("BINARY", None)],
        &ourselves(),
        &place.dirs,
        session(),
    )
    .unwrap();
}

#[test]
fn people_are_told_of_what_is_weak() {
    let place = Place::new();
    let (dir, store) = store();
    write(dir.path(), "SHORT", b"abc\n");
    fs::set_permissions(dir.path().join("TOKEN"), PermissionsExt::from_mode(0o644)).unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o770)).unwrap();
    let declared = [credential("SHORT", None), credential("TOKEN", None)];
    let warnings = deliver(&store, &declared, &ourselves(), &place.dirs, session())
        .unwrap()
        .warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let error = deliver(&store, &declared, &ourselves(), &place.dirs, session()).unwrap_err();
    assert!(error.to_string().contains("every user may write"), "{error}");
}

#[test]
fn root_gives_secrets_to_their_agent_alone() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let (_dir, store) = store();
    let id = session();
    let declared = [credential("TOKEN", None)];
    let delivered = deliver(&store, &declared, &users(OTHER, OTHER), &place.dirs, id).unwrap();
    let dir = delivered.dir.unwrap();
    let cat = |uid: u32| {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("cat");
        command.arg(dir.join("TOKEN")).uid(uid).gid(uid).output().unwrap()
    };
    assert_eq!(cat(OTHER).stdout, VALUE.as_bytes());
    assert!(!cat(OTHER + 1).status.success());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_name_leads_out_of_the_store(name in "\\PC{0,20}|[./]{0,6}[a-z]{0,3}") {
        let (dir, store) = store();
        fs::create_dir(dir.path().join("in")).unwrap();
        let inside = SecretStore::new(dir.path().join("in"));
        prop_assert!(inside.read(&name).is_err());
        drop(store);
    }

    #[test]
    fn only_newlines_at_the_end_are_taken_off(value in "[a-c\r\n]{0,12}") {
        let (dir, store) = store();
        write(dir.path(), "V", value.as_bytes());
        let read = store.read("V").unwrap();
        let kept = std::str::from_utf8(read.secret.expose()).unwrap().to_owned();
        prop_assert!(!kept.ends_with('\n'));
        let rest = value.strip_prefix(&kept).unwrap();
        prop_assert!(rest.chars().all(|c| c == '\n' || c == '\r'));
        prop_assert!(rest.is_empty() || rest.ends_with('\n'));
    }
}
