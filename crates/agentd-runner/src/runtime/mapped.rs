//! Mapped mounts: a directory is there a second time, and what belongs to one user on disk belongs to another one
//! in it. So an agent with ids of its own works on a user's files, and they stay that user's.

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A user and a group.
pub(crate) type Ids = (u32, u32);

/// Who is on disk, and as whom they are shown. Everybody else is shown as nobody, and can make nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) on_disk: Ids,
    pub(crate) shown: Ids,
}

/// The most mounts of one session: the workspace, and what its worktree needs besides.
const MOUNTS_MAX: usize = 64;

/// Engines that give up root's rights before they mount must be able to walk through.
const PASSABLE: u32 = 0o711;

/// Whether the kernel and the directory's file system can do it. Changes nothing.
pub(crate) fn supported(source: &Path) -> bool {
    let some = Shown {
        on_disk: (1000, 1000),
        shown: (1001, 1001),
    };
    tree(source, &[some]).is_ok()
}

/// Mounts `sources` as `0`, `1` … below `dir`, which is made.
pub(crate) fn mount(dir: &Path, sources: &[&Path], map: &[Shown]) -> io::Result<()> {
    if sources.len() > MOUNTS_MAX {
        return Err(io::Error::other("more mounts than a session may have"));
    }
    for dir in dir.parent().into_iter().chain([dir]) {
        make_passable(dir)?;
        // Also one that an earlier agentd has made.
        fs::set_permissions(dir, Permissions::from_mode(PASSABLE))?;
    }
    for (index, source) in sources.iter().enumerate() {
        let target = place(dir, index);
        make_passable(&target)?;
        let tree = tree(source, map)?;
        move_mount(&tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

/// Makes a directory unless it is there. Its mode is what it is to be, whatever the process's mask is; one that is there
/// is left alone, for something may be mounted on it.
fn make_passable(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(PASSABLE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Where the mount of the source with this index is.
pub(crate) fn place(dir: &Path, index: usize) -> PathBuf {
    dir.join(index.to_string())
}

/// Takes away what [`mount`] made. Nothing below a mount is ever removed: only empty directories are.
pub(crate) fn clear(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.take(MOUNTS_MAX + 1) {
        let target = entry?.path();
        // As often as something is mounted there: a crash between two mounts leaves at most a few.
        for _ in 0..MOUNTS_MAX {
            match unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                // Nothing is mounted there.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
                Err(error) => return Err(error.into()),
            }
        }
        fs::remove_dir(&target)?;
    }
    fs::remove_dir(dir)
}

/// A mount of `source` that is attached nowhere, and is gone when its descriptor is closed.
fn tree(source: &Path, map: &[Shown]) -> io::Result<OwnedFd> {
    // Without what is mounted below it: other file systems need not be able to do it.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)?;
    set_map(&tree, &user_namespace(map)?)?;
    Ok(tree)
}

#[expect(unsafe_code, reason = "neither nix nor rustix has mount_setattr")]
fn set_map(tree: &OwnedFd, namespace: &File) -> io::Result<()> {
    // SAFETY: all zeroes is a valid value of a structure of integers.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    attributes.userns_fd = namespace.as_raw_fd() as u64;
    attributes.propagation = libc::MS_PRIVATE;
    // SAFETY: the path is an empty string with its zero byte, the structure is there and has the size that is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw mut attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The kernel takes the map from a user namespace, which needs a process to come into being.
fn user_namespace(map: &[Shown]) -> io::Result<File> {
    let mut command = Command::new("cat");
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    in_user_namespace(&mut command);
    // It is in its namespace when `spawn` returns, and stays until its input ends.
    let mut child = command.spawn()?;
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    // In one write each: the kernel takes no second.
    let write = |file: &str, line: fn(&Shown) -> (u32, u32)| {
        let lines = map.iter().map(line);
        let text: String = lines.map(|(from, to)| format!("{from} {to} 1\n")).collect();
        fs::write(proc.join(file), text)
    };
    let namespace = write("uid_map", |of| (of.on_disk.0, of.shown.0))
        .and_then(|()| write("gid_map", |of| (of.on_disk.1, of.shown.1)))
        .and_then(|()| File::open(proc.join("ns/user")));
    // It has nothing to lose.
    let _ = child.kill();
    child.wait()?;
    namespace
}

#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to give a child a namespace"
)]
fn in_user_namespace(command: &mut Command) {
    // SAFETY: a bare system call between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?));
    }
}
