//! Reasons to end the agent: somebody's request, or its time is over.

use super::shared::{Shared, StopOrder};
use crate::events;
use crate::record::StopCause;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

#[derive(Debug)]
pub(super) struct Stops {
    requests: watch::Receiver<Option<Duration>>,
    timer: Option<AsyncFd<OwnedFd>>,
    timeout: Option<Duration>,
    /// The grace that is given when the time is over.
    grace: Duration,
}

impl Stops {
    pub(super) fn new(shared: &Shared, timeout: Option<Duration>, grace: Duration) -> Self {
        Self {
            requests: shared.stop.subscribe(),
            timer: None,
            timeout,
            grace,
        }
    }

    /// The agent has begun, and its time runs.
    pub(super) fn agent_began(&mut self) -> io::Result<()> {
        self.timer = self.timeout.map(timer).transpose()?;
        Ok(())
    }

    /// A request that has not been answered yet.
    pub(super) fn pending(&mut self) -> Option<StopOrder> {
        self.requests
            .has_changed()
            .is_ok_and(|changed| changed)
            .then(|| {
                let grace = *self.requests.borrow_and_update();
                request(grace)
            })?
    }

    /// The next reason. May be dropped and called again.
    pub(super) async fn next(&mut self) -> StopOrder {
        loop {
            tokio::select! {
                biased;
                changed = self.requests.changed() => {
                    if changed.is_err() {
                        pending::<()>().await;
                    }
                    let grace = *self.requests.borrow_and_update();
                    if let Some(order) = request(grace) {
                        return order;
                    }
                }
                () = over(self.timer.as_ref()) => {
                    self.timer = None;
                    return StopOrder { cause: StopCause::Timeout, grace: self.grace };
                }
            }
        }
    }
}

fn request(grace: Option<Duration>) -> Option<StopOrder> {
    grace.map(|grace| StopOrder {
        cause: StopCause::Request,
        grace,
    })
}

async fn over(timer: Option<&AsyncFd<OwnedFd>>) {
    match timer {
        // A timer that cannot be read is no reason to end anything.
        Some(timer) if events::drained(timer).await.is_ok() => {}
        _ => pending().await,
    }
}

/// A timer on the clock that nobody can set, and that goes on while the machine sleeps.
fn timer(after: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = timerfd_create(
        TimerfdClockId::Boottime,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    // A time of zero would mean never.
    let after = after.max(Duration::from_nanos(1));
    let value = Timespec {
        tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX / 2),
        tv_nsec: after.subsec_nanos().into(),
    };
    let once = Itimerspec {
        it_interval: Timespec::default(),
        it_value: value,
    };
    timerfd_settime(&fd, TimerfdTimerFlags::empty(), &once)?;
    events::register(fd)
}
