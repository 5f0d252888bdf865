//! One buffer for all connections of a worker: between polls no connection holds any.

use std::cell::RefCell;

/// Octets read at once.
const SIZE: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
}

/// Lends the buffer, or so much of it. What is in it is nothing that anybody may rely on.
pub(crate) fn with<T>(at_most: usize, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        let room = buffer.len().min(at_most);
        use_it(buffer.get_mut(..room).unwrap_or_default())
    })
}
