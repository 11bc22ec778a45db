//! What a format keeps of its requests, from one to the next.

use std::fmt::Debug;
use std::time::Instant;

use super::recovery::Refusal;
use super::{Completion, Options, Request};

/// What a reporter keeps beside the engine, under the same lock.
pub trait Course<R: Request>: Debug + Send + 'static {
    fn new(depth: u32, options: &Options) -> Self;

    /// Whether `record` may be reported now.
    fn admit(&self, record: &R) -> Result<(), Refusal>;

    /// Whether there is room to take note of it.
    fn has_room(&self, _record: &R) -> bool {
        true
    }

    /// Takes note of a record that was admitted and published, under its cookie.
    fn published(&mut self, record: &R);

    /// Takes note of a completion that is collected.
    fn completed(&mut self, completion: &Completion<R>);

    /// Forgets a device.
    fn detached(&mut self, _dev_id: u32) {}

    /// When a request is to be sent again next.
    fn next_due(&self) -> Option<Instant> {
        None
    }

    /// The next request that is to be sent again by `now`, if it is still open.
    fn take_due(&mut self, _now: Instant) -> Option<R> {
        None
    }
}
