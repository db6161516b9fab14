//! How many processes of a container the kernel has killed for memory. The counter goes with the container's cgroup, so
//! it is read whenever it may have changed, and kept.

use crate::events;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use std::fs::{self, File};
use std::future::pending;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// The most that is read of a file of the kernel's, in bytes.
const FILE_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct OomKills {
    /// Has a line `oom_kill NUMBER`.
    counter: File,
    changes: Option<AsyncFd<OwnedFd>>,
    seen: u64,
}

impl OomKills {
    /// Watches the cgroup that the process is in. None when it has none of its own, or there is no such counter.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let ours = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        for version in [Version::One, Version::Two] {
            let place = |text: &str| version.path(text).map(str::to_owned);
            let (Some(path), Some(mount)) = (place(&theirs), version.mount(&mounts)) else {
                continue;
            };
            // In our own cgroup the counter counts others as well.
            if place(&ours).as_ref() == Some(&path) || path == "/" || path.starts_with("/..") {
                continue;
            }
            let dir = mount.join(path.trim_start_matches('/'));
            let Ok(counter) = File::open(dir.join(version.file())) else {
                continue;
            };
            let changes = version.watch(&dir, &counter).and_then(events::register).ok();
            let mut kills = Self {
                counter,
                changes,
                seen: 0,
            };
            kills.read();
            return Some(kills);
        }
        None
    }

    /// How many there are, or were before the cgroup was removed.
    pub(super) fn read(&mut self) -> u64 {
        let mut text = vec![0; FILE_BYTES_MAX];
        if let Ok(length) = self.counter.read_at(&mut text, 0) {
            let text = String::from_utf8_lossy(&text[..length]);
            let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            self.seen = self
                .seen
                .max(count.and_then(|count| count.parse().ok()).unwrap_or(0));
        }
        self.seen
    }

    /// How many there were when it was read last.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Waits until the counter may have changed.
    pub(super) async fn changed(&mut self) {
        if let Some(changes) = &self.changes
            && events::drained(changes).await.is_ok()
        {
            return;
        }
        self.changes = None;
        pending().await
    }
}

#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

impl Version {
    /// The path in `/proc/PID/cgroup`.
    fn path(self, text: &str) -> Option<&str> {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let fits = match self {
                Self::One => controllers.split(',').any(|name| name == "memory"),
                Self::Two => controllers.is_empty(),
            };
            fits.then(|| fields.next())?
        })
    }

    /// Where it is mounted, in `/proc/self/mountinfo`.
    fn mount(self, text: &str) -> Option<PathBuf> {
        text.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let kind = after.next()?;
            let options = after.nth(1)?;
            let fits = match self {
                Self::One => kind == "cgroup" && options.split(',').any(|name| name == "memory"),
                Self::Two => kind == "cgroup2",
            };
            let mut before = before.split(' ').skip(3);
            let root = before.next()?;
            // Of a mount of a part, paths would have to be cut.
            (fits && root == "/").then(|| before.next().map(PathBuf::from))?
        })
    }

    fn file(self) -> &'static str {
        match self {
            Self::One => "memory.oom_control",
            Self::Two => "memory.events",
        }
    }

    fn watch(self, dir: &Path, counter: &File) -> io::Result<OwnedFd> {
        match self {
            Self::One => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                let order = format!("{} {}", event.as_raw_fd(), counter.as_raw_fd());
                fs::write(dir.join("cgroup.event_control"), order)?;
                Ok(event)
            }
            Self::Two => {
                let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
                inotify::add_watch(&watch, dir.join(self.file()), inotify::WatchFlags::MODIFY)?;
                Ok(watch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_in_what_the_kernel_says() {
        let cgroup = "9:pids:/a\n4:cpu,memory:/libpod/x:y\n0::/unified\n";
        assert_eq!(Version::One.path(cgroup), Some("/libpod/x:y"));
        assert_eq!(Version::Two.path(cgroup), Some("/unified"));
        assert_eq!(Version::One.path("0::/x"), None);
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(
            Version::One.mount(mounts).unwrap(),
            Path::new("/sys/fs/cgroup/memory")
        );
        assert_eq!(
            Version::Two.mount(mounts).unwrap(),
            Path::new("/sys/fs/cgroup/unified")
        );
    }
}
