//! Byte buffers that cost nothing while their connection is idle.
//!
//! A busy connection needs a buffer a hundred thousand times a second, an idle one never. Buffers are
//! therefore lent for as long as there is something in them, from a small store that each thread keeps.

use std::cell::RefCell;

const BYTES: usize = 16 * 1024;
/// A buffer that grew beyond this for one large message is not kept.
const KEPT_BYTES_MAX: usize = 64 * 1024;
const KEPT_MAX: usize = 32;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room.
pub(crate) fn lend() -> Vec<u8> {
    KEPT.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(BYTES))
}

/// Takes a buffer back, whatever is in it, and leaves one without memory in its place.
pub(crate) fn give_back(buffer: &mut Vec<u8>) {
    let mut buffer = std::mem::take(buffer);
    if (BYTES..=KEPT_BYTES_MAX).contains(&buffer.capacity()) {
        buffer.clear();
        KEPT.with_borrow_mut(|kept| {
            if kept.len() < KEPT_MAX {
                kept.push(buffer);
            }
        });
    }
}
