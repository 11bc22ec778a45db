//! A sender of events.

use std::os::fd::OwnedFd;

use recordfd::event::{SoleSender, shared};
use recordfd::uapi::{AcpiNotify, AcpiOst, Event, Format, Record, Sequence};
use recordfd::{DrainError, Error, Options, TrySendError, Violation};

use super::hostile::Hostile;
use super::model::{Incoming, Nothing, Outgoing};
use super::receiver::notification;
use super::{SHORT, timed};
use crate::choices::Choices;
use crate::ring_peer::{LOSS, RingPeer, Word};

pub(crate) fn make(_: Format, depth: u32, replies: u32) -> (SoleSender<AcpiNotify>, RingPeer) {
    let (tx, end) = shared(&Options::new().depth(depth).reply_depth(replies)).unwrap();
    (tx, RingPeer::attach(end))
}

pub(crate) fn attach(end: OwnedFd) -> Result<SoleSender<AcpiNotify>, Error> {
    Ok(SoleSender::from_shared(end)?)
}

pub(crate) struct Machine<C> {
    tx: SoleSender<AcpiNotify>,
    pub(crate) hostile: Hostile<C>,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Number of the next record, dropped or not.
    next: u32,
    known_violation: Option<Violation>,
    /// Records sent and dropped, and replies.
    counts: (u64, u64, u64),
}

impl<C: Choices> Machine<C> {
    pub(crate) fn new(tx: SoleSender<AcpiNotify>, hostile: Hostile<C>) -> Self {
        let (incoming, outgoing) = (Incoming::default(), Outgoing::default());
        assert_eq!(tx.capacity(), hostile.peer.consumed.depth as usize);
        Self { tx, hostile, incoming, outgoing, next: 0, known_violation: None, counts: (0, 0, 0) }
    }

    pub(crate) fn step(&mut self) {
        match self.hostile.choices.below(16) {
            0..6 => self.hostile.act(wire),
            6..9 => self.send(),
            9..11 => self.post(),
            11..14 => self.receive(),
            _ => self.look(),
        }
    }

    /// How many of `count` records are accepted; none when it is closed, as the outcome `is_closed` says.
    fn accepted(&mut self, count: u32, is_closed: bool) -> Option<u32> {
        if is_closed && self.may_be_closed() {
            return None;
        }
        assert!(self.known_violation.is_none() && !self.incoming.has_ended, "sent to nobody");
        match self.outgoing.room(&self.hostile.peer.consumed, count) {
            Ok(room) => {
                assert!(!is_closed, "closed for no reason");
                Some(room)
            }
            Err(violation) => {
                assert!(is_closed, "an index that cannot be was believed");
                self.known_violation = Some(violation);
                None
            }
        }
    }

    fn may_be_closed(&self) -> bool {
        self.known_violation.is_some() || self.incoming.has_ended || self.hostile.may_be_gone()
    }

    fn note_sent(&mut self, records: &[AcpiNotify]) {
        let number = |index: u32| Sequence::wrapping(self.next + index);
        let events = (0..).zip(records).map(|(index, record)| Event::new(number(index), *record));
        let events: Vec<_> = events.collect();
        self.outgoing.note_sent(&self.hostile.peer.consumed, &events);
        self.next += records.len() as u32;
        self.counts.0 += records.len() as u64;
    }

    fn send(&mut self) {
        let count = 1 + self.hostile.choices.below(20);
        let records: Vec<_> = (0..count).map(notification).collect();
        let sent = timed("send_batch", || self.tx.send_batch(&records));
        let Some(room) = self.accepted(count, matches!(sent, Err(TrySendError::Closed(())))) else { return };
        match sent {
            Ok(accepted) => {
                assert_eq!(accepted as u32, room);
                self.note_sent(&records[..accepted]);
            }
            Err(error) => assert!(room == 0 && matches!(error, TrySendError::Full(())), "{error:?}"),
        }
    }

    fn post(&mut self) {
        let record = notification(self.next);
        let sent = timed("post", || self.tx.post(record));
        match self.accepted(1, sent.is_err()) {
            None => {}
            Some(0) => {
                assert_eq!(self.hostile.peer.consumed.get(Word::TailLoss), LOSS | self.next);
                self.next += 1;
                self.counts.1 += 1;
            }
            Some(_) => self.note_sent(&[record]),
        }
    }

    fn receive(&mut self) {
        let ring = &self.hostile.peer.produced;
        let expected = self.incoming.receive(ring, 1, |_: &AcpiOst| Ok(()));
        let received = timed("try_recv_reply", || self.tx.try_recv_reply());
        match (received.map_err(Nothing::from), self.incoming.broken) {
            (Ok(reply), _) => {
                assert_eq!(vec![reply], expected.items);
                self.counts.2 += 1;
            }
            (Err(nothing), broken) => {
                assert!(expected.items.is_empty(), "{nothing:?} instead of {expected:?}");
                match (nothing, broken) {
                    (Nothing::Broken(found), Some(expected)) => {
                        assert_eq!(found, expected);
                        self.known_violation.get_or_insert(found);
                    }
                    (Nothing::Broken(found), None) => {
                        // One whose socket is closed may have been found out before that.
                        let is_index = found == Violation::RingIndex && self.hostile.has_closed;
                        let by_records = is_index || self.known_violation == Some(found);
                        let stray = found == Violation::StrayToken && self.hostile.has_put_anything;
                        assert!(by_records || stray, "{found:?} for no reason");
                        self.incoming.broken = Some(found);
                        self.known_violation = Some(found);
                    }
                    (Nothing::Closed, None) => {
                        assert!(self.may_be_closed(), "closed for no reason");
                        self.incoming.has_ended = true;
                    }
                    // A loss of replies, which there is none of, is passed over.
                    (Nothing::Empty, None) => {
                        let knows_better = self.known_violation.is_some() || self.incoming.has_ended;
                        assert!(!knows_better || expected.tail_loss.is_some());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn look(&mut self) {
        let counters = self.tx.counters();
        assert_eq!((counters.sent, counters.dropped, counters.replies), self.counts);
        // By the consumer's word and what was sent, whatever the peer has written over that index.
        let is_drained = self.outgoing.tail == self.hostile.peer.consumed.get(Word::Head);
        match self.tx.is_drained() {
            Ok(said) => assert_eq!(said, is_drained),
            Err(DrainError::Closed) => {
                assert!(!is_drained && self.may_be_closed());
            }
            Err(error) => panic!("{error:?}"),
        }
        if self.hostile.choices.once_in(4) {
            let waited = timed("wait_drained", || self.tx.wait_drained(Some(SHORT)));
            assert_eq!(waited.is_ok(), is_drained, "{waited:?}");
            self.incoming.settle(&self.hostile.peer.produced);
        }
        if self.tx.is_closed() {
            assert!(self.may_be_closed());
        } else {
            assert!(self.known_violation.is_none() && !self.incoming.has_ended);
        }
    }

    pub(crate) fn finish(mut self) {
        self.look();
        for _ in 0..3 {
            self.receive();
        }
        drop(self.tx);
        assert_eq!(self.hostile.peer.consumed.get(Word::Gone), 1);
    }
}

/// A reply that is mostly right.
fn wire(choices: &mut impl Choices) -> Vec<u8> {
    let mut bytes = vec![0; AcpiOst::SIZE];
    AcpiOst::new(choices.below(9), 1, 2).encode(&mut bytes);
    if choices.once_in(64) {
        bytes[12 + choices.below(4) as usize] = 1;
    }
    bytes
}
