//! Where sessions have their things.

use super::support::{OTHER, Place, is_root, listed, machine, ourselves, owner_and_mode, session, users};
use agentd_runner::session::state::{Machine, StateDirs};
use agentd_runner::session::tree::{Budget, Progress};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

#[test]
fn directories_are_made_as_they_are_to_be_and_found_again() {
    let place = Place::new();
    let shared = if is_root() { 0o711 } else { 0o700 };
    for name in ["", "sessions", "homes", "bin"] {
        assert_eq!(owner_and_mode(&place.dirs.root().join(name)).2, shared, "{name}");
    }
    let id = session();
    let dir = place.dirs.make_session(id).unwrap();
    place.dirs.make_run(&dir, &ourselves()).unwrap();
    assert_eq!(owner_and_mode(dir.root()).2, shared);
    assert_eq!(owner_and_mode(&dir.run()).2, 0o700);
    fs::create_dir(place.dirs.root().join("sessions/somebody's")).unwrap();
    assert_eq!(place.dirs.sessions().unwrap(), [id]);
    // What an earlier set-up left is gone when it begins anew.
    fs::write(dir.spec(), "{}").unwrap();
    place.dirs.make_session(id).unwrap();
    assert_eq!(listed(dir.root()), Vec::<std::path::PathBuf>::new());
    let removed = place.dirs.remove_session(id, &mut Budget::entries(100)).unwrap();
    assert_eq!(removed, Progress::Done);
    assert!(!dir.root().exists());
}

#[test]
fn a_session_whose_lock_is_held_is_not_removed() {
    let place = Place::new();
    let id = session();
    let dir = place.dirs.make_session(id).unwrap();
    let lock = File::create(dir.lock()).unwrap();
    lock.lock().unwrap();
    place
        .dirs
        .remove_session(id, &mut Budget::entries(100))
        .unwrap_err();
    place.dirs.make_session(id).unwrap_err();
    assert!(dir.root().exists());
    // Not by closing: a child that another test starts has the descriptor until it runs its program.
    lock.unlock().unwrap();
    let removed = place.dirs.remove_session(id, &mut Budget::entries(100)).unwrap();
    assert_eq!(removed, Progress::Done);
}

#[test]
fn a_run_directory_that_is_filled_again_does_not_follow_what_was_there() {
    let place = Place::new();
    let dir = place.dirs.make_session(session()).unwrap();
    let outside = place.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, dir.run()).unwrap();
    let run = place.dirs.make_run(&dir, &ourselves()).unwrap();
    run.write("mission.json", b"{}", 0o600).unwrap();
    run.write("mission.json", b"{}", 0o600).unwrap_err();
    assert!(dir.run().join("mission.json").exists());
    assert!(listed(&outside).is_empty());
}

#[test]
fn secrets_are_on_a_tmpfs_of_ours_or_nowhere() {
    let root = tempfile::tempdir().unwrap();
    let state = root.path().join("state");
    // A disk is none.
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let error = StateDirs::open(&state, "test", &machine(disk.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("tmpfs"), "{error}");
    // A directory that somebody put there before us is not taken.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let uid = nix::unistd::geteuid().as_raw();
    let ours = memory.path().join(format!("agentd-{uid}"));
    let elsewhere = memory.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &ours).unwrap();
    let error = StateDirs::open(&state, "test", &machine(memory.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("not a directory"), "{error}");
    fs::remove_file(&ours).unwrap();
    if is_root() {
        fs::create_dir(&ours).unwrap();
        chown(&ours, Some(OTHER), Some(OTHER)).unwrap();
        let error = StateDirs::open(&state, "test", &machine(memory.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains(&OTHER.to_string()), "{error}");
        fs::remove_dir(&ours).unwrap();
    }
    // One of ours with a mode that is too wide is mended.
    fs::create_dir(&ours).unwrap();
    fs::set_permissions(&ours, PermissionsExt::from_mode(0o777)).unwrap();
    let dirs = StateDirs::open(&state, "test", &machine(memory.path())).unwrap();
    assert_eq!(owner_and_mode(&ours).2, if is_root() { 0o711 } else { 0o700 });
    assert!(dirs.secrets(session()).starts_with(ours.join("test")));
    StateDirs::open(&state, "../x", &machine(memory.path())).unwrap_err();
}

#[test]
fn an_ordinary_user_has_secrets_in_the_runtime_directory_when_that_is_a_tmpfs_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let runtime = tempfile::tempdir_in("/dev/shm").unwrap();
    let machine = |runtime_dir: &std::path::Path| Machine {
        runtime_dir: Some(runtime_dir.to_owned()),
        ..machine(memory.path())
    };
    let open = |runtime_dir: &std::path::Path| {
        StateDirs::open(&root.path().join("state"), "test", &machine(runtime_dir))
            .unwrap()
            .secrets(session())
    };
    let on_disk = root.path().join("runtime");
    fs::create_dir(&on_disk).unwrap();
    assert!(open(&on_disk).starts_with(memory.path()));
    let chosen = open(runtime.path());
    // Root's runtime directory is closed to the users of its agents.
    assert_eq!(chosen.starts_with(runtime.path()), !is_root());
}

#[test]
fn root_gives_a_run_directory_to_its_agent() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let dir = place.dirs.make_session(session()).unwrap();
    let run = place.dirs.make_run(&dir, &users(OTHER, OTHER + 1)).unwrap();
    run.write("prompt.txt", b"x", 0o600).unwrap();
    assert_eq!(owner_and_mode(&dir.run()), (OTHER, OTHER + 1, 0o700));
    assert_eq!(
        owner_and_mode(&dir.run().join("prompt.txt")),
        (OTHER, OTHER + 1, 0o600)
    );
    assert_eq!(owner_and_mode(dir.root()).0, 0);
}
