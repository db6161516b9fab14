//! What every child of a supervisor has in common.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getpid, getppid, setsid};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A session of its own, no descriptor but the three, the usual file mode mask, and an end when the supervisor is killed;
/// at most so many processes of its user.
#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to give a child a session and a death signal"
)]
pub(super) fn prepare(command: &mut Command, processes_max: Option<u64>) {
    let supervisor = getpid();
    // Nobody but root may have more than the hard limit.
    let processes_max = processes_max.map(|max| match getrlimit(Resource::RLIMIT_NPROC) {
        Ok((_, hard)) => max.min(hard),
        Err(_) => max,
    });
    let prepare = move || {
        setsid()?;
        umask(Mode::from_bits_truncate(0o022));
        // After the change of user, which would take it back.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != supervisor {
            return Err(Errno::ESRCH.into());
        }
        if let Some(max) = processes_max {
            setrlimit(Resource::RLIMIT_NPROC, max, max)?;
        }
        SigSet::empty().thread_set_mask()?;
        // Nothing of ours is open in a child anyway; this is for what a library might open otherwise. Kernels before
        // 5.11 do not know the flag.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. These are bare system calls on values that
    // were made before; nothing is allocated or locked.
    unsafe {
        command.pre_exec(prepare);
    }
}
