//! What a program that embeds wayleave may see and change of what is relayed: the traits, and what becomes of its verdicts
//! and its bugs. Where octets are given to them is in `relay/tapped.rs`.
//!
//! - The policy has decided by what the client has sent; what is changed afterwards is not held against it again.
//! - TLS is not decrypted: what is given of a connection that speaks it is its records, and to change them breaks it.
//! - All is called on the thread that carries the connection, and many others with it: nothing here may wait.

use crate::record::{Cause, End, Known, Side};
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whose octets, and where they go. The record counts in the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the far side.
    Up,
    /// From the far side to the client.
    Down,
}

/// Decides about each connection whether it is looked into. One for all of them. A function of the same form is one too.
pub trait Interceptor: Send + Sync {
    /// Asked once for each connection, when both sides are up and nothing has been relayed: what is known of it is what its
    /// record will say. None: it is relayed as if there were no interceptor, without its octets ever being copied out of the
    /// kernel if they are many.
    fn intercept(&self, connection: &Known) -> Option<Box<dyn Intercept>>;
}

/// Looks into one connection, both ways. Dropped when it ends, however it does. A function that takes what
/// [`Self::block`] takes is one too.
///
/// Should it panic, its connection ends and leaves a record that says so (`end=error`); others go on. Where the program is
/// compiled with `panic = "abort"`, all of it ends.
pub trait Intercept: Send {
    /// Changes what goes on. A block is what was read at once: up to 64 KiB, cut wherever the network has cut it; what the
    /// client said before there was a far side, or an upstream said behind its reply, is one as well. Emptied, nothing goes
    /// on, and it can be kept for later. However long it becomes, nothing more is read in this direction until the other
    /// side has taken all of it.
    ///
    /// # Errors
    /// The connection is not to go on: see [`Cut`].
    fn block(&mut self, direction: Direction, block: &mut Vec<u8>) -> Result<(), Cut>;

    /// This side has said all it has to say; what is put into `rest` goes on before its end of data. Not called where the
    /// connection ends in another way.
    ///
    /// # Errors
    /// As for [`Self::block`].
    fn end(&mut self, direction: Direction, rest: &mut Vec<u8>) -> Result<(), Cut> {
        let _ = (direction, rest);
        Ok(())
    }
}

impl<F> Interceptor for F
where
    F: Fn(&Known) -> Option<Box<dyn Intercept>> + Send + Sync,
{
    fn intercept(&self, connection: &Known) -> Option<Box<dyn Intercept>> {
        self(connection)
    }
}

impl<F> Intercept for F
where
    F: FnMut(Direction, &mut Vec<u8>) -> Result<(), Cut> + Send,
{
    fn block(&mut self, direction: Direction, block: &mut Vec<u8>) -> Result<(), Cut> {
        self(direction, block)
    }
}

impl fmt::Debug for dyn Interceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interceptor")
    }
}

/// Ends a connection: both sides are reset, after what has gone on so far has been delivered. The record says
/// `end=intercepted`, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut(Box<str>);

impl Cut {
    /// For a reason that the record gives as its detail.
    #[must_use]
    pub fn because(reason: impl fmt::Display) -> Self {
        Self(reason.to_string().into_boxed_str())
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cut {}

impl From<Cut> for End {
    fn from(cut: Cut) -> Self {
        Self { cause: Cause::Intercepted, by: Side::Wayleave, detail: Some(cut.0) }
    }
}

/// Calls the program's code. Nothing that it panics in is called again.
///
/// # Errors
/// It panicked; this is what becomes of the connection.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, End> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let detail = format_args!("the interceptor panicked: {}", said(&*panic)).to_string();
        End::because(Cause::Error, Side::Wayleave, detail)
    })
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("see the log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_end_that_says_what_was_said() {
        for (panic, detail) in [
            (guarded(|| panic!("a {}", "bug")), "the interceptor panicked: a bug"),
            (guarded(|| panic!("plain")), "the interceptor panicked: plain"),
            (guarded(|| std::panic::panic_any(7)), "the interceptor panicked: see the log"),
        ] {
            let panic: Result<(), End> = panic;
            assert_eq!(panic, Err(End::because(Cause::Error, Side::Wayleave, detail)));
        }
        assert_eq!(guarded(|| 7), Ok(7));
    }

    #[test]
    fn functions_are_interceptors() {
        let interceptor: &dyn Interceptor = &|connection: &Known| -> Option<Box<dyn Intercept>> {
            connection.dst.is_none().then(|| -> Box<dyn Intercept> {
                Box::new(|direction, block: &mut Vec<u8>| {
                    block.push(b'!');
                    if direction == Direction::Up { Ok(()) } else { Err(Cut::because("enough")) }
                })
            })
        };
        let known = Known::new(crate::addr::ClientAddr::new("10.0.0.1:1".parse().unwrap()));
        let mut one = interceptor.intercept(&known).unwrap();
        let mut block = b"a".to_vec();
        assert_eq!(one.block(Direction::Up, &mut block), Ok(()));
        assert_eq!(one.block(Direction::Down, &mut block), Err(Cut::because("enough")));
        assert_eq!(block, b"a!!");
        assert_eq!(End::from(Cut::because("enough")).cause(), "intercepted");
    }
}
