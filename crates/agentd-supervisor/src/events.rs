//! Descriptors that become readable when something happens: watches, timers, other processes.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets the runtime wait for the descriptor.
#[expect(
    unsafe_code,
    reason = "registering has no safe form: not every type with a descriptor keeps the same one"
)]
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and the same descriptor for as long as it lives, and it lives in the result, which
    // gives no way to replace it here.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Waits until the descriptor is readable, and takes what one read gives: how often or what does not matter.
pub(crate) async fn drained(fd: &AsyncFd<OwnedFd>) -> io::Result<()> {
    fd.async_io(Interest::READABLE, |fd| {
        Ok(nix::unistd::read(fd, &mut [0; 4096])?)
    })
    .await
    .map(|_| ())
}
