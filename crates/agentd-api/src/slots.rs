//! How many connections there may be, and how much of the memory for what is large each may use.
//!
//! Both bounds are shared between processes, so that one that asks for everything leaves something to the
//! others.

use crate::options::{LARGE_ANSWERS_BYTES_MAX, LONG_LINE_BYTES, LONG_LINES_BYTES_MAX};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places for connections.
#[derive(Debug)]
pub(crate) struct Slots {
    connections_max: usize,
    connections_per_process_max: usize,
    processes: Mutex<Processes>,
    large_bytes: AtomicUsize,
    line_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Processes {
    connections: usize,
    by_pid: HashMap<i32, Arc<Process>>,
}

#[derive(Debug, Default)]
struct Process {
    connections: AtomicUsize,
    large_bytes: AtomicUsize,
    line_bytes: AtomicUsize,
}

/// The place of one connection, free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    pid: i32,
    process: Arc<Process>,
    charged_bytes: usize,
    line_bytes: usize,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// So many connections are open in all.
    Server(usize),
    /// So many connections are open from that process.
    Process(usize),
}

impl Slots {
    pub(crate) fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            connections_max,
            connections_per_process_max: (connections_max * 3 / 4).max(1),
            processes: Mutex::default(),
            large_bytes: AtomicUsize::new(0),
            line_bytes: AtomicUsize::new(0),
        })
    }

    /// A place for a connection from a process. Peers whose process the kernel does not know (they are in
    /// another pid namespace) share one allowance.
    pub(crate) fn take(self: &Arc<Self>, pid: Option<i32>) -> Result<Slot, Full> {
        let pid = pid.unwrap_or(0);
        let mut processes = self.processes();
        if processes.connections >= self.connections_max {
            return Err(Full::Server(self.connections_max));
        }
        let process = Arc::clone(processes.by_pid.entry(pid).or_default());
        if process.connections.load(Relaxed) >= self.connections_per_process_max {
            return Err(Full::Process(self.connections_per_process_max));
        }
        process.connections.fetch_add(1, Relaxed);
        processes.connections += 1;
        drop(processes);
        Ok(Slot {
            slots: Arc::clone(self),
            pid,
            process,
            charged_bytes: 0,
            line_bytes: 0,
        })
    }

    pub(crate) fn connections(&self) -> usize {
        self.processes().connections
    }

    // Nothing that is done under the lock can leave it half done.
    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Counts a large answer that waits to be read. False when there is no room for it now.
    pub(crate) fn charge(&mut self, bytes: usize) -> bool {
        let counters = [&self.slots.large_bytes, &self.process.large_bytes];
        let charged = charge(counters, bytes, LARGE_ANSWERS_BYTES_MAX);
        if charged {
            self.charged_bytes += bytes;
        }
        charged
    }

    /// All answers have been read.
    pub(crate) fn settle(&mut self) {
        let bytes = std::mem::take(&mut self.charged_bytes);
        give_back([&self.slots.large_bytes, &self.process.large_bytes], bytes);
    }

    /// Counts what there is of a line that has not come to its end, once it is long. False when there is no
    /// room for more of it.
    pub(crate) fn hold_line(&mut self, bytes: usize) -> bool {
        let bytes = if bytes > LONG_LINE_BYTES { bytes } else { 0 };
        let counters = [&self.slots.line_bytes, &self.process.line_bytes];
        if bytes > self.line_bytes {
            if !charge(counters, bytes - self.line_bytes, LONG_LINES_BYTES_MAX) {
                return false;
            }
        } else {
            give_back(counters, self.line_bytes - bytes);
        }
        self.line_bytes = bytes;
        true
    }
}

// Of all processes, and of one, which may have half.
fn charge(counters: [&AtomicUsize; 2], bytes: usize, max: usize) -> bool {
    for (index, (counter, max)) in counters.iter().zip([max, max / 2]).enumerate() {
        if counter.fetch_add(bytes, Relaxed) + bytes > max {
            for counter in &counters[..=index] {
                counter.fetch_sub(bytes, Relaxed);
            }
            return false;
        }
    }
    true
}

fn give_back(counters: [&AtomicUsize; 2], bytes: usize) {
    if bytes > 0 {
        for counter in counters {
            counter.fetch_sub(bytes, Relaxed);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.settle();
        self.hold_line(0);
        let mut processes = self.slots.processes();
        processes.connections -= 1;
        if self.process.connections.fetch_sub(1, Relaxed) == 1 {
            processes.by_pid.remove(&self.pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_leaves_room_for_others() {
        let slots = Slots::new(8);
        let mut held: Vec<Slot> = (0..6).map(|_| slots.take(Some(7)).unwrap()).collect();
        assert_eq!(slots.take(Some(7)).unwrap_err(), Full::Process(6));
        held.extend((0..2).map(|_| slots.take(Some(8)).unwrap()));
        assert_eq!(slots.take(Some(9)).unwrap_err(), Full::Server(8));
        drop(held);
        assert_eq!(slots.connections(), 0);
        assert!(slots.processes().by_pid.is_empty());
    }

    #[test]
    fn large_answers_have_a_budget_in_all_and_per_process() {
        let slots = Slots::new(8);
        let half = LARGE_ANSWERS_BYTES_MAX / 2;
        let (mut one, mut two, mut three) = (
            slots.take(Some(1)).unwrap(),
            slots.take(Some(2)).unwrap(),
            slots.take(Some(3)).unwrap(),
        );
        assert!(one.charge(half));
        assert!(!one.charge(1));
        assert!(two.charge(half));
        assert!(!three.charge(1));
        one.settle();
        assert!(three.charge(1));
        drop((one, two, three));
        assert_eq!(slots.large_bytes.load(Relaxed), 0);
    }

    #[test]
    fn so_have_lines_that_do_not_come_to_their_end() {
        let slots = Slots::new(400);
        let mut held: Vec<Slot> = (0..200).map(|_| slots.take(Some(1)).unwrap()).collect();
        let mib = 1024 * 1024;
        let fit = held
            .iter_mut()
            .filter_map(|slot| slot.hold_line(mib).then_some(()))
            .count();
        assert_eq!(fit, LONG_LINES_BYTES_MAX / 2 / mib);
        assert!(held[0].hold_line(0));
        assert!(held[199].hold_line(mib));
        assert!(held[150].hold_line(LONG_LINE_BYTES), "short ones are not counted");
        drop(held);
        assert_eq!(slots.line_bytes.load(Relaxed), 0);
    }
}
