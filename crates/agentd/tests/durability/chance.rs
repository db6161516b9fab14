//! Random choices that can be made again, and how many rounds there are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Pseudo-random numbers (SplitMix64): good enough to choose moments, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Chance {
    state: u64,
}

impl Chance {
    /// A new one, whose seed is printed: the one asked for, or one of this moment.
    pub(crate) fn new(what: &str) -> Self {
        let asked = std::env::var("AGENTD_TEST_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = asked.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(now.subsec_nanos()) ^ now.as_secs().rotate_left(32)
        });
        println!("{what}: AGENTD_TEST_SEED={seed}");
        Self { state: seed }
    }

    /// Another one that follows from this one.
    pub(crate) fn fork(&mut self) -> Self {
        Self { state: self.next() }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, and not including, `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True this often in a hundred times.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

/// How many rounds: as many as said, times `AGENTD_TEST_ROUNDS`.
pub(crate) fn rounds(usually: usize) -> usize {
    let factor: usize = std::env::var("AGENTD_TEST_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    usually * factor.max(1)
}

/// Lets a moment of a length chosen by chance go by: there is no event to wait for when any moment will do.
pub(crate) fn a_moment(time: Duration) {
    let (_sender, receiver) = std::sync::mpsc::channel::<()>();
    let _ = receiver.recv_timeout(time);
}
