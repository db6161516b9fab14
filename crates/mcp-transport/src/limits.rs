//! How much, how often, how long.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// On average.
    pub per_sec: f64,
    /// At once.
    pub burst: u32,
}

/// The limits of one plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Calls, of all clients together; none for as many as come.
    pub rate: Option<Rate>,
    /// How long one call may take.
    pub call_max: Duration,
    /// How long it may take from the start to the first complete list of tools.
    pub start_max: Duration,
    /// How long `server/discover` is waited for before the plugin is taken for one of the older revisions.
    pub probe_max: Duration,
    /// The largest result that an agent gets in one piece, in bytes of JSON.
    pub output_bytes_max: usize,
    /// The longest message that is read, in bytes.
    pub line_bytes_max: usize,
    /// Tools, and as many prompts and resources.
    pub entries_max: usize,
    /// How often a plugin that dies is started again before it is given up; counted anew after it has run for
    /// [`Limits::stable_after`].
    pub restarts_max: u32,
    /// The pause before the first restart; each further one is twice as long.
    pub restart_after: Duration,
    /// See [`Limits::restarts_max`].
    pub stable_after: Duration,
    /// How long a plugin has to end after its standard input was closed, and again after TERM.
    pub stop_grace: Duration,
}

/// A time for people: `1 second`, `0.5 seconds`.
pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let unit = if time == Duration::from_secs(1) {
        "second"
    } else {
        "seconds"
    };
    format!("{seconds} {unit}")
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rate: None,
            call_max: Duration::from_secs(120),
            start_max: Duration::from_secs(30),
            probe_max: Duration::from_secs(2),
            output_bytes_max: 512 * 1024,
            line_bytes_max: 16 * 1024 * 1024,
            entries_max: 1000,
            restarts_max: 5,
            restart_after: Duration::from_millis(200),
            stable_after: Duration::from_secs(60),
            stop_grace: Duration::from_secs(1),
        }
    }
}

/// A token bucket. The clock is the caller's.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            tokens: f64::from(rate.burst.max(1)),
            at: now,
        }
    }

    /// Takes one, or says in how long there will be one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let per_sec = self.rate.per_sec.max(1e-6);
        self.tokens = (self.tokens + elapsed * per_sec).min(f64::from(self.rate.burst.max(1)));
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / per_sec))
    }
}

/// When a plugin that dies is started again: a pure decision.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    in_a_row: u32,
}

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Restarts {
    /// It has died after it had been ready for so long (none: it never was). The pause before the next start, or none
    /// when it is to be given up.
    pub(crate) fn after(&mut self, limits: &Limits, ready_for: Option<Duration>) -> Option<Duration> {
        if ready_for.is_some_and(|time| time >= limits.stable_after) {
            self.in_a_row = 0;
        }
        if self.in_a_row >= limits.restarts_max {
            return None;
        }
        let pause = limits.restart_after.saturating_mul(1 << self.in_a_row.min(16));
        self.in_a_row += 1;
        Some(pause.min(PAUSE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_is_one() {
        let shown = |ms| seconds(Duration::from_millis(ms));
        assert_eq!(
            (&*shown(1000), &*shown(500), &*shown(30_000)),
            ("1 second", "0.5 seconds", "30 seconds")
        );
    }
    use proptest::prelude::*;

    #[test]
    fn restarts_are_bounded() {
        let limits = Limits {
            restarts_max: 3,
            ..Limits::default()
        };
        let mut restarts = Restarts::default();
        let pauses: Vec<_> = (0..4).map(|_| restarts.after(&limits, None)).collect();
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(pauses, [ms(200), ms(400), ms(800), None]);
        assert_eq!(restarts.after(&limits, Some(limits.stable_after)), ms(200));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate(
            per_sec in 0.5..100.0_f64, burst in 1..20_u32, steps in prop::collection::vec(0..500_u64, 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(Rate { per_sec, burst }, start);
            let (mut now, mut taken) = (start, 0_u32);
            for step in steps {
                now += Duration::from_millis(step);
                match bucket.take(now) {
                    Ok(()) => taken += 1,
                    Err(wait) => {
                        let ready = now + wait + Duration::from_millis(1);
                        let mut later = Bucket { rate: bucket.rate, tokens: bucket.tokens, at: bucket.at };
                        let is_ready = later.take(ready).is_ok();
                        prop_assert!(is_ready);
                    }
                }
            }
            let allowed = f64::from(burst) + (now - start).as_secs_f64() * per_sec;
            prop_assert!(f64::from(taken) <= allowed + 1e-6);
        }
    }
}
