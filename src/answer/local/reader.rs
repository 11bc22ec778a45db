//! The end that takes groups between threads.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::{Exchange, LocalResponder, Stage, State};
use crate::answer::MustAnswer;
use crate::doorbell::Waiter;
use crate::error::TryRecvError;
use crate::sync::lock;
use crate::sys::Owned;
use crate::wait::wait_readable;

impl<A: MustAnswer> Exchange<A> {
    /// Moves groups from the queue to `taken`, as many as have a place there: at most `most`, of `room` records in
    /// all. Returns how many records the next one has, and whether the reporter is gone.
    fn take(&self, taken: &mut Vec<A>, room: usize, most: usize) -> (Option<usize>, bool) {
        taken.clear();
        let room = room.min(taken.capacity());
        let state = &mut *lock(&self.state);
        let State { unread, places, .. } = &mut *state;
        let (mut count, mut end) = (0, 0);
        let next = loop {
            let Some(first) = unread.get(end) else { break None };
            let place = &mut places[self.slot_of(first.cookie())];
            let records = place.records as usize;
            if count == most || end + records > room {
                break Some(records);
            }
            place.stage = Stage::Held;
            count += 1;
            end += records;
        };
        let (front, back) = unread.as_slices();
        let middle = end.min(front.len());
        taken.extend_from_slice(&front[..middle]);
        taken.extend_from_slice(&back[..end - middle]);
        unread.drain(..end);
        state.noticed = false;
        self.records_bell.set_work(state.reporter_gone || next.is_some());
        (next, state.reporter_gone)
    }
}

/// The responder's end.
#[derive(Debug)]
pub(crate) struct LocalReader<A: MustAnswer> {
    pub(crate) responder: Arc<Owned<LocalResponder<A>>>,
    waiter: Waiter,
    /// Groups that have left the queue and that the caller is given next.
    taken: Vec<A>,
    /// Waits that ended by looking, and by a sleep.
    pub(crate) waits: (u64, u64),
}

impl<A: MustAnswer> LocalReader<A> {
    /// The end of `responder`, whose groups have at most `most` records.
    pub(super) fn new(responder: Arc<Owned<LocalResponder<A>>>, most: usize) -> Self {
        Self { responder, waiter: Waiter::new(), taken: Vec::with_capacity(most), waits: (0, 0) }
    }

    /// Takes at most `most` groups, of `room` records in all; `sink` is given the records of each.
    ///
    /// `sink` is called without the lock, so the other side reports and detaches meanwhile: the caller's memory may
    /// be a page whose fault waits. A group is held from before that, so its detach finds it as any other.
    pub(crate) fn read(
        &mut self,
        mut room: usize,
        most: usize,
        mut sink: impl FnMut(&[A]),
    ) -> Result<(), TryRecvError> {
        let Self { responder, waiter, taken, .. } = self;
        let exchange = &*responder.get()?.exchange;
        waiter.enter(&exchange.records_bell.armed);
        let mut count = 0;
        let (next, gone) = loop {
            let (next, gone) = exchange.take(taken, room, most - count);
            for group in taken.chunk_by(|record, _| !record.is_last()) {
                sink(group);
                count += 1;
                room -= group.len();
            }
            if count == most || taken.is_empty() || next.is_none_or(|next| next > room) {
                break (next, gone);
            }
        };
        exchange.records_bell.rest(waiter, gone || next.is_some(), || exchange.has_unread());
        match next {
            _ if count > 0 || most == 0 => Ok(()),
            Some(needed) => Err(TryRecvError::BufferTooSmall { needed }),
            None if gone => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use recordfd_uapi::{PageResponse, Payload, PgFault};
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

    use super::*;
    use crate::answer::link::Link;
    use crate::answer::reporter::Reporter;
    use crate::answer::{Cause, Group, Ledger};
    use crate::error::RespondError;
    use crate::fault::ResponseCode;

    thread_local! {
        /// How many records were looked at for the last one of their group.
        static LOOKS: Cell<usize> = const { Cell::new(0) };
        /// Where the answer was that was read last.
        static ANSWER: Cell<*const PageResponse> = const { Cell::new(std::ptr::null()) };
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    struct Page {
        cookie: u32,
        last: u32,
    }

    impl Payload for Page {}

    impl MustAnswer for Page {
        type Answer = PageResponse;
        type Verdict = ResponseCode;
        type Tag = ();

        const NEGATIVE: ResponseCode = ResponseCode::Invalid;

        fn answer(cookie: u32, verdict: ResponseCode) -> PageResponse {
            PgFault::answer(cookie, verdict)
        }

        fn verdict(answer: &PageResponse) -> (u32, Option<ResponseCode>) {
            ANSWER.set(answer);
            PgFault::verdict(answer)
        }

        fn grouped(self, cookie: u32, last: bool) -> Self {
            Self { cookie, last: last.into() }
        }

        fn cookie(&self) -> u32 {
            self.cookie
        }

        fn is_last(&self) -> bool {
            LOOKS.set(LOOKS.get() + 1);
            self.last != 0
        }

        fn cancelled(_dev_id: u32, cookie: u32) -> Self {
            Self { cookie, last: 1 }
        }
    }

    fn sides(depth: u32) -> (Reporter<Page>, LocalReader<Page>) {
        let (reporter, reader) = Exchange::pair(depth, true).unwrap();
        (Reporter::new(Ledger::new(depth, depth, None), Link::Local(reporter)), reader)
    }

    fn publish(reporter: &mut Reporter<Page>, dev_id: u32, count: usize) -> u32 {
        let group = Group { dev_id, tag: () };
        reporter.publish(&group, count, |_| Page::default(), Instant::now()).unwrap()
    }

    #[test]
    fn other_side_reports_and_detaches_while_a_group_is_copied() {
        let (mut reporter, mut reader) = sides(8);
        let cookies = [publish(&mut reporter, 1, 2), publish(&mut reporter, 1, 1)];
        let (copying, begin) = mpsc::channel();
        let (done, end) = mpsc::channel();
        let thread = thread::spawn(move || {
            begin.recv().unwrap();
            publish(&mut reporter, 2, 3);
            reporter.detach(|dev_id, _| dev_id == 1);
            done.send(()).unwrap();
            reporter
        });
        let mut copied = Vec::new();
        let read = reader.read(8, 1, |group| {
            // As memory does whose page is missing.
            copying.send(()).unwrap();
            end.recv_timeout(Duration::from_secs(5)).expect("the other side waits for the copy");
            copied.push((group[0].cookie, group.len()));
        });
        assert!(read.is_ok() && copied == [(cookies[0], 2)], "{copied:?}");
        let mut reporter = thread.join().unwrap();
        assert!(reader.responder.peek().is_cancelled(cookies[0]));
        assert!(
            reader
                .responder
                .peek()
                .respond_batch(&[Page::answer(cookies[0], ResponseCode::Success)])
                .is_err()
        );
        let mut causes = Vec::new();
        reporter.collect(8, |ended| causes.push((ended.dev_id, ended.cause))).unwrap();
        assert_eq!(causes, [(1, Cause::Detached); 2]);
        reader.read(8, 8, |group| copied.push((0, group.len()))).unwrap();
        assert_eq!(copied[1..], [(0, 3)], "what was unread is never received");
        assert_eq!((reporter.ledger().in_flight(), reporter.ledger().unanswered()), (1, 1));
    }

    #[test]
    fn answers_are_copied_before_they_are_applied() {
        let (mut reporter, mut reader) = sides(256);
        let cookies: Vec<_> = (0..200).map(|_| publish(&mut reporter, 1, 1)).collect();
        reader.read(256, 256, |_| {}).unwrap();
        let answers: Vec<_> =
            cookies.iter().map(|cookie| Page::answer(*cookie, ResponseCode::Success)).collect();
        assert_eq!(reader.responder.peek().respond_batch(&answers).unwrap(), 200);
        assert!(!ANSWER.get().is_null() && !answers.as_ptr_range().contains(&ANSWER.get()));
        let (answered, late) =
            (reader.responder.peek().respond_batch(&answers), reader.responder.peek().respond_batch(&[]));
        assert!(matches!((answered, late), (Err(RespondError::StaleCookie), Ok(0))));
        assert_eq!(reporter.collect(256, |ended| assert_eq!(ended.cause, Cause::Answered)).unwrap(), 200);
    }

    #[test]
    fn each_record_is_looked_at_once() {
        let (mut reporter, mut reader) = sides(64);
        (0..8).for_each(|_| assert_ne!(publish(&mut reporter, 1, 8), 0));
        LOOKS.set(0);
        for room in [0, 1, 7] {
            let outcome = reader.read(room, 1, |_| panic!("it does not fit"));
            assert!(matches!(outcome, Err(TryRecvError::BufferTooSmall { needed: 8 })), "{outcome:?}");
        }
        assert_eq!(LOOKS.get(), 0, "how long the group is was counted when it was sent");
        let mut lengths = Vec::new();
        for most in [1, 1, 2, 100] {
            reader.read(64, most, |group| lengths.push(group.len())).unwrap();
        }
        assert_eq!(lengths, [8; 8]);
        assert!(LOOKS.get() <= 64, "{} looks", LOOKS.get());
    }

    #[test]
    fn read_that_is_larger_than_its_room_takes_everything_in_order() {
        let (mut reporter, mut reader) = sides(1 << 14);
        // More than are taken out of the queue together, by a number of groups that does not divide it.
        let most = reader.taken.capacity();
        let groups = 2 * most / 7;
        let cookies: Vec<_> = (0..groups).map(|_| publish(&mut reporter, 1, 7)).collect();
        for fits in [1, groups - 2, 1] {
            let mut read = Vec::new();
            reader
                .read(7 * fits + 6, groups, |group| read.extend(group.iter().map(|page| page.cookie)))
                .unwrap();
            let from = groups - reporter.ledger().unanswered() as usize;
            assert_eq!(read.chunks(7).map(|group| group[0]).collect::<Vec<_>>(), cookies[from..from + fits]);
            for cookie in &cookies[from..from + fits] {
                reader.responder.peek().apply(&[Page::answer(*cookie, ResponseCode::Success)]).unwrap();
            }
            reporter.collect(groups, |_| {}).unwrap();
        }
        assert_eq!(reader.taken.capacity(), most, "nothing is allocated");
    }
}
