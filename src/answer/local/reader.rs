//! The end that takes groups between threads.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::{LocalResponder, Stage};
use crate::answer::MustAnswer;
use crate::doorbell::Waiter;
use crate::error::TryRecvError;
use crate::sync::lock;
use crate::sys::Owned;
use crate::transport::wait_readable;

/// The responder's end.
#[derive(Debug)]
pub(crate) struct LocalReader<A: MustAnswer> {
    pub(crate) responder: Arc<Owned<LocalResponder<A>>>,
    waiter: Waiter,
    /// Waits that ended by looking, and by a sleep.
    pub(crate) waits: (u64, u64),
}

impl<A: MustAnswer> LocalReader<A> {
    pub(super) fn new(responder: Arc<Owned<LocalResponder<A>>>) -> Self {
        Self { responder, waiter: Waiter::new(), waits: (0, 0) }
    }

    /// Takes at most `most` groups, which go to `pages`, one behind the other; `sink` is told of each:
    /// its cookie and its place.
    pub(crate) fn read(
        &mut self,
        pages: &mut [A],
        most: usize,
        mut sink: impl FnMut(u32, Range<usize>),
    ) -> Result<(), TryRecvError> {
        let exchange = &*self.responder.get()?.exchange;
        self.waiter.enter(&exchange.records_bell.armed);
        let mut guard = lock(&exchange.state);
        let state = &mut *guard;
        let (mut count, mut filled) = (0, 0);
        while count < most {
            let Some(last) = state.unread.iter().position(A::is_last) else { break };
            let place = filled..filled + last + 1;
            if place.end > pages.len() {
                break;
            }
            for (page, record) in pages[place.clone()].iter_mut().zip(state.unread.drain(..=last)) {
                *page = record;
            }
            let cookie = pages[filled].cookie();
            state.places[exchange.slot_of(cookie)].stage = Stage::Held;
            filled = place.end;
            count += 1;
            sink(cookie, place);
        }
        let left = state.unread.iter().position(A::is_last);
        state.noticed = false;
        let gone = state.reporter_gone;
        exchange.records_bell.set_work(gone || left.is_some());
        drop(guard);
        exchange.records_bell.rest(&mut self.waiter, gone || left.is_some(), || exchange.has_unread());
        match (count, left) {
            _ if count > 0 || most == 0 => Ok(()),
            (_, Some(last)) => Err(TryRecvError::BufferTooSmall { needed: last + 1 }),
            _ if gone => Err(TryRecvError::Closed),
            _ => Err(TryRecvError::Empty),
        }
    }

    /// Whether a read would bring something, a notice has come, or the end.
    pub(crate) fn has_unread(&self) -> bool {
        self.responder.peek().exchange.has_unread()
    }

    /// Looks for groups until `until`; true when there are some that were not there before.
    pub(crate) fn look(&mut self, until: Option<Instant>) -> bool {
        let exchange = &*self.responder.peek().exchange;
        let Some(until) = until.filter(|_| !exchange.has_unread()) else { return false };
        let chime = &exchange.records_bell;
        chime.stay_awake(&mut self.waiter);
        let found = chime.spin(until) || !chime.rest(&mut self.waiter, false, || exchange.has_unread());
        self.waits.0 += u64::from(found);
        found
    }

    /// Sleeps until there are groups; false when `deadline` came first.
    pub(crate) fn sleep(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        let woken = wait_readable(self.responder.peek().as_fd(), deadline)?;
        self.waits.1 += u64::from(woken);
        Ok(woken)
    }
}
