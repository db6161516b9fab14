//! What the daemon asks of the kernel for its process, and the signals that it hears.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use std::io;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal as listen};

/// Prepares a process that is to be a daemon. Call it while there is one thread.
///
/// None of it is worth not starting for; what the kernel refuses is given back to be logged.
pub(crate) fn prepare() -> Vec<String> {
    let mut refused = Vec::new();
    // Whatever is made from now on is for this user alone, unless its mode is set.
    umask(Mode::from_bits_truncate(0o077));
    ignore_file_size_signal();
    // Lease ids and results are in memory; they are not to land in a core file.
    if let Err(error) =
        nix::sys::prctl::set_dumpable(false).and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0))
    {
        refused.push(format!("core dumps could not be turned off: {error}"));
    }
    refused.extend(raise_open_files());
    refused
}

/// Raises the soft limit of open files to the hard one: each connection is one, and the usual soft limit of
/// 1024 is for programs that use `select`.
pub(crate) fn raise_open_files() -> Option<String> {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        } else {
            Ok(())
        }
    });
    raised
        .err()
        .map(|error| format!("the limit of open files could not be raised: {error}"))
}

// A file size limit is then an error that the store can answer with (EFBIG) and not the end of the process.
// SIGPIPE is ignored already: the Rust runtime does that.
#[expect(unsafe_code, reason = "setting a disposition has no safe wrapper")]
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN runs no code, so there is none that could be unsafe in a signal handler.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// The signals that end a program.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Stream,
    interrupt: Stream,
}

impl Signals {
    /// Hears them from now on. Without this they would end the process on the spot.
    ///
    /// # Errors
    /// The kernel's or the runtime's refusal.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and says its name. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Asks for SIGHUP, at which a daemon reads its configuration again.
///
/// # Errors
/// As [`Signals::new`].
pub(crate) fn hangups() -> io::Result<Stream> {
    listen(SignalKind::hangup())
}

/// What a shell shows for a program that a signal ended.
pub(crate) fn exit_number(signal: &str) -> u8 {
    if signal == "SIGTERM" { 143 } else { 130 }
}
