//! Trees that somebody filled who means no good.

use super::support::is_root;
use agentd_runner::session::tree::{Budget, Progress, remove, usage};
use rustix::fs as rfs;
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

fn open_dir(path: &Path) -> OwnedFd {
    rfs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

/// A chain of directories, far longer than a path or a table of descriptors.
fn chain(path: &Path, depth: u32) {
    let mut fd = open_dir(path);
    for _ in 0..depth {
        rfs::mkdirat(&fd, "d", Mode::from_raw_mode(0o700)).unwrap();
        rfs::openat(
            &fd,
            "file",
            OFlags::CREATE | OFlags::WRONLY,
            Mode::from_raw_mode(0o600),
        )
        .unwrap();
        fd = rfs::openat(&fd, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
}

fn hostile(tree: &Path, outside: &Path) {
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    symlink(outside, tree.join("a/link")).unwrap();
    symlink("..", tree.join("a/up")).unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    fs::hard_link(outside.join("kept"), tree.join("a/hard")).unwrap();
    rfs::mknodat(
        CWD,
        tree.join("fifo"),
        rfs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    std::os::unix::net::UnixListener::bind(tree.join("s")).unwrap();
    fs::write(tree.join(OsStr::from_bytes(b"\xff\xfe\n -rf")), "x").unwrap();
    fs::create_dir(tree.join(OsStr::from_bytes(b"dir\x80"))).unwrap();
    fs::write(tree.join("x".repeat(255)), "x").unwrap();
    let closed = tree.join("closed");
    fs::create_dir_all(closed.join("in/deeper")).unwrap();
    fs::write(closed.join("in/file"), "x").unwrap();
    fs::set_permissions(closed.join("in"), PermissionsExt::from_mode(0o000)).unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o444)).unwrap();
}

#[test]
fn a_hostile_tree_is_removed_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "still here").unwrap();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    hostile(&tree, &outside);
    let mut budget = Budget::entries(1000);
    assert_eq!(remove(&tree, &mut budget).unwrap(), Progress::Done);
    assert!(!tree.exists());
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "still here");
    // And again: of nothing, nothing is removed.
    assert_eq!(remove(&tree, &mut budget).unwrap(), Progress::Done);
    assert_eq!(
        remove(&tree.join("no/such/place"), &mut budget).unwrap(),
        Progress::Done
    );
}

#[test]
fn as_an_ordinary_user_directories_without_permissions_are_removed_too() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let tree = place.path().join("tree");
    let script = format!(
        "mkdir -p {0}/a/b/c && touch {0}/a/b/c/f {0}/a/g && chmod 0 {0}/a/b/c {0}/a/b {0}/a && chmod 444 {0}",
        tree.display()
    );
    let as_user = |command: &mut Command| {
        if is_root() {
            use std::os::unix::process::CommandExt;
            command.uid(super::support::OTHER).gid(super::support::OTHER);
        }
        assert!(command.status().unwrap().success());
    };
    as_user(Command::new("/bin/sh").args(["-c", &script]));
    // This very program, as that user, runs the test below.
    let mut again = Command::new("/proc/self/exe");
    again
        .args(["--exact", "tree::removes_what_it_is_told", "--ignored"])
        .env("AGENTD_TEST_TREE", &tree);
    if is_root() {
        // Where it is now, that user may not be able to read it.
        let copy = place.path().join("copy");
        let exe = std::env::current_exe().unwrap();
        assert!(Command::new("cp").arg(exe).arg(&copy).status().unwrap().success());
        fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = Command::new(&copy);
        command
            .args(["--exact", "tree::removes_what_it_is_told", "--ignored"])
            .env("AGENTD_TEST_TREE", &tree);
        again = command;
    }
    as_user(again.current_dir("/"));
    assert!(!tree.exists());
}

#[test]
#[ignore = "run by another test, as another user"]
fn removes_what_it_is_told() {
    let tree = std::env::var_os("AGENTD_TEST_TREE").unwrap();
    assert_eq!(
        remove(Path::new(&tree), &mut Budget::entries(100)).unwrap(),
        Progress::Done
    );
}

#[test]
fn a_tree_deeper_than_descriptors_and_paths_reach_is_measured_and_removed() {
    const DEPTH: u32 = 20_000;
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    chain(&tree, DEPTH);
    let measured = usage(&tree, u64::MAX, &mut Budget::entries(1_000_000)).unwrap();
    assert_eq!(measured.entries, u64::from(DEPTH) * 2 + 1);
    assert!(measured.complete);
    assert_eq!(
        remove(&tree, &mut Budget::entries(1_000_000)).unwrap(),
        Progress::Done
    );
    assert!(!tree.exists());
}

#[test]
fn a_wide_tree_is_removed_in_steps_and_each_step_is_bounded() {
    const FILES: u32 = 5_000;
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..FILES {
        fs::write(tree.join(number.to_string()), "").unwrap();
    }
    let mut steps = 0;
    loop {
        steps += 1;
        let before = fs::read_dir(&tree).unwrap().count();
        let progress = remove(&tree, &mut Budget::entries(1000)).unwrap();
        if progress == Progress::Done {
            break;
        }
        assert_eq!(before - fs::read_dir(&tree).unwrap().count(), 1000);
    }
    assert_eq!(steps, 5);
    assert!(!tree.exists());
}

#[test]
fn a_link_in_the_place_of_a_tree_is_removed_and_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    let tree = place.path().join("tree");
    symlink(&outside, &tree).unwrap();
    assert_eq!(remove(&tree, &mut Budget::entries(10)).unwrap(), Progress::Done);
    assert!(tree.symlink_metadata().is_err());
    assert!(outside.join("kept").exists());
}

#[test]
fn what_is_mounted_in_a_tree_is_left_alone() {
    // In a mount namespace of its own, for which an ordinary user needs a user namespace as well.
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    let outside = place.path().join("outside");
    fs::create_dir_all(tree.join("a/mounted")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    fs::write(tree.join("a/file"), "").unwrap();
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("--map-root-user");
    }
    // From the same file system, so that only the mount tells them apart.
    let script = "mount --bind \"$1\" \"$2\" && exec \"$3\" --exact tree::refuses_what_is_mounted --ignored";
    command.args(["--mount", "/bin/sh", "-c", script, "sh"]);
    command
        .arg(&outside)
        .arg(tree.join("a/mounted"))
        .arg(std::env::current_exe().unwrap());
    command.env("AGENTD_TEST_TREE", &tree);
    assert!(command.status().unwrap().success());
    assert!(outside.join("kept").exists());
    assert!(!tree.join("a/file").exists(), "what is not mounted is removed");
}

#[test]
#[ignore = "run by another test, where something is mounted"]
fn refuses_what_is_mounted() {
    let tree = std::env::var_os("AGENTD_TEST_TREE").unwrap();
    let error = remove(Path::new(&tree), &mut Budget::entries(100))
        .unwrap_err()
        .to_string();
    assert!(error.contains("mounted"), "{error}");
}

#[test]
fn a_file_with_several_names_counts_once_and_the_measure_stops_when_it_is_over() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("one"), vec![1; 1 << 20]).unwrap();
    for number in 0..20 {
        fs::hard_link(tree.join("one"), tree.join(format!("name {number}"))).unwrap();
    }
    let all = usage(&tree, u64::MAX, &mut Budget::entries(1000)).unwrap();
    assert!((1 << 20..2 << 20).contains(&all.bytes), "{all:?}");
    assert!(all.complete);
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    assert!(usage(&tree, u64::MAX, &mut Budget::entries(1000)).unwrap().bytes < 2 << 20);
    assert!(!usage(&tree, 1000, &mut Budget::entries(1000)).unwrap().complete);
    assert!(!usage(&tree, u64::MAX, &mut Budget::entries(5)).unwrap().complete);
}
