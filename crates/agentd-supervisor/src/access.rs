//! What a user may do with a file, answered by the kernel: modes, access lists, groups, read-only mounts and security
//! modules all count.
//!
//! A root daemon asks as its agents' users. The question is put by a thread of its own that takes on the user's *file
//! system* ids, as file servers do, and ends with the answer. Its other ids stay root's, so the user can neither signal
//! nor trace it. A daemon that is not root can only ask for itself.

use crate::tools::ProcessUser;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io, thread};

/// What is to be done with a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Walk through a directory, or execute a file.
    Enter,
    /// List a directory, and walk through it.
    Read,
    /// The same, and make and remove what is in it.
    Write,
}

impl Want {
    fn mode(self) -> libc::c_int {
        match self {
            Self::Enter => libc::X_OK,
            Self::Read => libc::R_OK | libc::X_OK,
            Self::Write => libc::R_OK | libc::W_OK | libc::X_OK,
        }
    }
}

/// What keeps a user from a path.
#[derive(Debug)]
pub struct Denied {
    /// The directories on the way that the user cannot walk through, from the top.
    pub closed: Vec<PathBuf>,
    /// What the kernel says about the path itself, unless that may be used as wanted.
    pub own: Option<io::Error>,
    path: PathBuf,
    want: Want,
}

impl Denied {
    /// Whether the path itself refuses for lack of a right. A read-only file system or an immutable file refuses everyone.
    #[must_use]
    pub fn lacks_right(&self) -> bool {
        let number = self.own.as_ref().and_then(io::Error::raw_os_error);
        number == Some(libc::EACCES)
    }

    /// Every directory that does not let the user through for lack of permission, the path itself included.
    #[must_use]
    pub fn all_closed(&self) -> Vec<PathBuf> {
        let own = self.lacks_right().then(|| self.path.clone());
        self.closed.iter().cloned().chain(own).collect()
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = self.closed.first() {
            return write!(f, "may not walk through {}", dir.display());
        }
        let what = match self.want {
            Want::Enter => "enter",
            Want::Read => "read",
            Want::Write => "write to",
        };
        write!(f, "cannot {what} {}", self.path.display())?;
        match &self.own {
            Some(error) => write!(f, " ({})", reason(error)),
            None => Ok(()),
        }
    }
}

/// An error of the system's without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((reason, _)) => reason.to_lowercase(),
        None => text,
    }
}

/// Asks whether a user may do something with a path, or this process when `user` is absent or this process is not root.
/// A kernel that cannot be asked (before 5.8) refuses nothing here.
///
/// # Errors
/// With what is in the way.
pub fn ask(path: &Path, user: Option<&ProcessUser>, want: Want) -> Result<(), Denied> {
    // The way that counts is the one behind all links. What cannot be resolved is named as it is.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    // Opened before the ids change, so that a directory is asked about for itself, also below a closed one.
    let opened: Vec<io::Result<OwnedFd>> = way.iter().map(|place| open(place)).collect();
    let answers = as_user(user, || {
        let last = opened.len() - 1;
        let answers = opened.iter().enumerate().map(|(index, fd)| {
            let want = if index == last { want } else { Want::Enter };
            fd.as_ref()
                .map_err(copy)
                .and_then(|fd| may(fd.as_fd(), c"", want))
        });
        answers.collect::<Vec<_>>()
    });
    let mut answers = answers.unwrap_or_else(|error| vec![Err(error)]);
    let own = answers.pop().and_then(Result::err);
    let closed = way.iter().zip(&opened).zip(answers);
    // Nothing is known of what lies below a directory that is closed to this process itself.
    let closed = closed.filter(|((_, fd), answer)| fd.is_ok() && answer.is_err());
    let closed: Vec<PathBuf> = closed.map(|((dir, _), _)| (*dir).to_owned()).collect();
    if closed.is_empty() && own.is_none() {
        return Ok(());
    }
    Err(Denied {
        closed,
        own,
        want,
        path,
    })
}

/// Asks whether the calling thread may enter a directory or execute a file.
///
/// # Errors
/// The kernel's.
pub(crate) fn may_enter(path: &Path) -> io::Result<()> {
    may(CWD, &CString::new(path.as_os_str().as_bytes())?, Want::Enter)
}

/// Does some work with a user's rights to files, or with this process's own when `user` is absent or this process is not
/// root. No process is started in it: that would have root's rights again.
///
/// # Errors
/// When a thread cannot be started, or cannot take on the user's ids.
pub(crate) fn as_user<T: Send>(user: Option<&ProcessUser>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let Some(user) = user.filter(|_| nix::unistd::geteuid().is_root()) else {
        return Ok(work());
    };
    thread::scope(|scope| {
        let asking = thread::Builder::new()
            .name("access".into())
            .spawn_scoped(scope, || take_on(user).map(|()| work()))?;
        asking
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that asks has panicked")))
    })
}

/// Gives the calling thread, and no other, a user's rights to files. There is no way back.
#[expect(
    unsafe_code,
    reason = "the C library changes the groups of all threads; the system call changes those of one"
)]
fn take_on(user: &ProcessUser) -> io::Result<()> {
    // SAFETY: the pointer is to as many groups as are told.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // These calls give the id from before, and never fail: the second one of each tells what came of the first.
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setfsgid(gid);
    setfsuid(uid);
    if setfsgid(gid) != gid || setfsuid(uid) != uid {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Asks for the effective ids, as files are opened. An empty path is the descriptor itself.
#[expect(
    unsafe_code,
    reason = "nix has no empty path here, and rustix asks for the real ids where the kernel refuses"
)]
fn may(dir: BorrowedFd<'_>, path: &CStr, want: Want) -> io::Result<()> {
    // SAFETY: the descriptor and the path outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            want.mode(),
            libc::AT_EACCESS | libc::AT_EMPTY_PATH,
        )
    };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
            error => Err(error),
        },
    }
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => error.kind().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    fn user(id: u32, groups: &[u32]) -> ProcessUser {
        ProcessUser {
            uid: id,
            gid: id,
            groups: groups.to_vec(),
        }
    }

    fn dir_in(parent: &Path, name: &str, mode: u32) -> PathBuf {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn every_closed_directory_on_the_way_is_named() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let top = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let first = dir_in(top.path(), "first", 0o700);
        let open = dir_in(&first, "open", 0o755);
        let second = dir_in(&open, "second", 0o750);
        let target = dir_in(&second, "target", 0o755);
        let other = user(4711, &[]);
        let denied = ask(&target, Some(&other), Want::Write).unwrap_err();
        assert_eq!(denied.closed, [&*first, &*second]);
        assert!(denied.own.is_some());
        let said = denied.to_string();
        assert!(
            said.ends_with(&format!("walk through {}", first.display())),
            "{said}"
        );
        // Root itself may do all of it, and can still, after it has asked.
        assert!(ask(&target, None, Want::Write).is_ok());
        assert!(ask(&target, Some(&user(0, &[])), Want::Write).is_ok());
        // The way is open; reading is granted, writing is not.
        fs::set_permissions(&first, fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(
            ask(&target, Some(&other), Want::Read).unwrap_err().closed,
            [&*second]
        );
        // A group of the user's, one that is not the first.
        chown(&second, None, Some(4712)).unwrap();
        let grouped = user(4711, &[4712]);
        assert!(ask(&target, Some(&grouped), Want::Read).is_ok());
        let denied = ask(&target, Some(&grouped), Want::Write).unwrap_err();
        assert_eq!(denied.closed, [] as [PathBuf; 0]);
        assert_eq!(
            denied.to_string(),
            format!("cannot write to {} (permission denied)", target.display())
        );
        chown(&target, Some(4711), None).unwrap();
        assert!(ask(&target, Some(&grouped), Want::Write).is_ok());
    }

    #[test]
    fn a_link_leads_to_what_is_asked_about() {
        let top = tempfile::tempdir().unwrap();
        let real = dir_in(top.path(), "real", 0o755);
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(ask(&link, None, Want::Write).is_ok());
        let missing = ask(&top.path().join("missing"), None, Want::Read).unwrap_err();
        assert!(missing.to_string().contains("no such file"), "{missing}");
    }
}
