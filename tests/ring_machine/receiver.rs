//! A receiver of events.

use std::os::fd::OwnedFd;

use recordfd::event::{Received, Receiver, shared_receiver};
use recordfd::uapi::{AcpiNotify, AcpiOst, Event, EventFlags, FixedText, Format, Record, Sequence};
use recordfd::{Error, Options, TrySendError, Violation};

use super::hostile::Hostile;
use super::model::{Incoming, Nothing, Outgoing};
use super::{BUSY, SHORT, timed};
use crate::choices::Choices;
use crate::ring_peer::{RingPeer, Word};

pub(crate) fn make(_: Format, depth: u32, replies: u32) -> (Receiver<AcpiNotify>, RingPeer) {
    let (rx, end) = shared_receiver(&Options::new().depth(depth).reply_depth(replies)).unwrap();
    (rx, RingPeer::attach(end))
}

pub(crate) fn attach(end: OwnedFd) -> Result<Receiver<AcpiNotify>, Error> {
    Ok(Receiver::from_shared(end)?)
}

/// A notification that can be told apart.
pub(super) fn notification(data: u32) -> AcpiNotify {
    let (bus_id, device_class) = (FixedText::EMPTY, FixedText::EMPTY);
    AcpiNotify { dev_id: 1, value: 0x80, data, cookie: data, bus_id, device_class }
}

pub(crate) struct Machine<C> {
    rx: Receiver<AcpiNotify>,
    pub(crate) hostile: Hostile<C>,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The number received last, or told as lost.
    last: u32,
    /// What is known to be wrong with the peer by either direction: nothing more is sent to it.
    known_violation: Option<Violation>,
    /// Records received, counted as lost, and replies.
    counts: (u64, u64, u64),
    /// Of the next record that the peer publishes.
    number: u32,
}

impl<C: Choices> Machine<C> {
    pub(crate) fn new(rx: Receiver<AcpiNotify>, hostile: Hostile<C>) -> Self {
        let (incoming, outgoing) = (Incoming::default(), Outgoing::default());
        let last = Sequence::MAX.get();
        Self { rx, hostile, incoming, outgoing, last, known_violation: None, counts: (0, 0, 0), number: 0 }
    }

    pub(crate) fn step(&mut self) {
        match self.hostile.choices.below(8) {
            0..3 => {
                let number = &mut self.number;
                self.hostile.act(|choices| wire(choices, number));
            }
            3..6 => self.receive(),
            6 => self.reply(),
            _ => self.look(),
        }
    }

    fn receive(&mut self) {
        let most = self.hostile.choices.below(20);
        let blocks = most == 1 && self.hostile.choices.once_in(8);
        let mut items = vec![Received::default(); most as usize];
        let (last, ring) = (&mut self.last, &self.hostile.peer.produced);
        let was_broken = self.incoming.broken.is_some();
        let mut lost = Vec::new();
        let expected = self.incoming.receive(ring, most, |event: &Event<AcpiNotify>| {
            let number = event.sequence().get();
            let since = number.wrapping_sub(*last) & Sequence::MAX.get();
            let count = if event.is_lost() { since } else { since.wrapping_sub(1) & Sequence::MAX.get() };
            if count >= 1 << 30 {
                return Err(Violation::SequenceBackwards);
            }
            if event.is_lost() && count == 0 {
                return Err(Violation::NothingLost);
            }
            *last = number;
            lost.push(count);
            Ok(())
        });
        let violation = expected.violation.filter(|_| !was_broken);
        let mut expected_items: Vec<_> =
            expected.items.iter().zip(lost).map(|(event, lost)| item(event, lost)).collect();
        if let Some(number) = expected.tail_loss {
            let count = number.wrapping_sub(self.last) & Sequence::MAX.get();
            self.last = number;
            // What is wrong is found by the receiver, above the ring: replies are still sent.
            match count {
                0 => self.incoming.broken = Some(Violation::NothingLost),
                1..0x4000_0000 => expected_items.push(Received::Lost { count }),
                _ => self.incoming.broken = Some(Violation::SequenceBackwards),
            }
        }
        let received = if blocks {
            timed("recv_timeout", || self.rx.recv_timeout(SHORT)).map(|item| {
                items[0] = item;
                1
            })
        } else {
            timed("recv_batch", || self.rx.recv_batch(&mut items))
        };
        match received.map_err(Nothing::from) {
            Ok(count) => assert_eq!(items[..count], expected_items),
            Err(nothing) => {
                assert!(expected_items.is_empty(), "{nothing:?} instead of {expected_items:?}");
                self.note_nothing(nothing);
            }
        }
        // What the ring is broken by, nothing is sent to any more; the first reason is told.
        self.known_violation = self.known_violation.or(violation);
        for item in &expected_items {
            self.counts.0 += u64::from(item.record().is_some());
            self.counts.1 += u64::from(item.lost());
        }
        if !expected_items.is_empty() && self.incoming.head > 0 && expected.violation.is_none() {
            let records = expected_items.iter().any(|item| item.record().is_some());
            assert!(!records || self.hostile.peer.produced.get(Word::Head) == self.incoming.head);
        }
    }

    fn note_nothing(&mut self, nothing: Nothing) {
        match (nothing, self.incoming.broken) {
            (Nothing::Broken(found), Some(expected)) => assert_eq!(found, expected),
            (Nothing::Broken(found), None) => {
                // One whose socket is closed may have been found out before that.
                let is_index = found == Violation::RingIndex && self.hostile.has_closed;
                let by_replies = is_index || self.known_violation == Some(found);
                let stray = found == Violation::StrayToken && self.hostile.has_put_anything;
                assert!(by_replies || stray, "{found:?} for no reason");
                self.incoming.broken = Some(found);
                self.known_violation = Some(found);
            }
            (Nothing::Closed, None) => {
                assert!(self.incoming.has_ended || self.hostile.may_be_gone(), "closed for no reason");
                self.incoming.has_ended = true;
            }
            (Nothing::Empty, None) => {
                assert!(
                    self.known_violation.is_none() && !self.incoming.has_ended,
                    "it was told something else"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    fn reply(&mut self) {
        let reply = AcpiOst::new(self.hostile.choices.below(9), 2, 3);
        let ring = self.hostile.peer.consumed.clone();
        let sent = timed("reply", || self.rx.reply(reply));
        let is_closed = matches!(sent, Err(TrySendError::Closed(_)));
        if is_closed
            && (self.known_violation.is_some() || self.incoming.has_ended || self.hostile.may_be_gone())
        {
            return;
        }
        assert!(self.known_violation.is_none() && !self.incoming.has_ended, "sent to nobody: {sent:?}");
        match self.outgoing.room(&ring, 1) {
            Ok(0) => assert!(matches!(sent, Err(TrySendError::Full(_))), "{sent:?}"),
            Ok(_) => {
                sent.unwrap();
                self.outgoing.note_sent(&ring, &[reply]);
                self.counts.2 += 1;
            }
            Err(violation) => {
                assert!(matches!(sent, Err(TrySendError::Closed(_))), "{sent:?}");
                self.known_violation = Some(violation);
            }
        }
    }

    fn look(&mut self) {
        if self.hostile.choices.once_in(4) {
            self.rx.set_busy_poll(BUSY * self.hostile.choices.below(2));
        }
        let counters = self.rx.counters();
        assert_eq!((counters.received, counters.dropped, counters.replies), self.counts);
    }

    /// What the peer has done wrong is told for ever, and the end is left in its words.
    pub(crate) fn finish(mut self) {
        self.look();
        for _ in 0..3 {
            self.receive();
        }
        drop(self.rx);
        assert_eq!(self.hostile.peer.consumed.get(Word::Gone), 1);
    }
}

fn item(event: &Event<AcpiNotify>, lost: u32) -> Received<AcpiNotify> {
    if event.is_lost() {
        Received::Lost { count: lost }
    } else {
        Received::Record { lost, sequence: event.sequence(), record: event.payload }
    }
}

/// A record that is mostly the next one.
fn wire(choices: &mut impl Choices, number: &mut u32) -> Vec<u8> {
    let mut event = Event::new(Sequence::wrapping(*number), notification(*number));
    *number = number.wrapping_add(1);
    match choices.below(32) {
        0 => event.header.sequence = choices.below(u32::MAX),
        1 => *number = number.wrapping_add(choices.below(9)),
        2 => event = Event::lost(Sequence::wrapping(*number + choices.below(3))),
        3 if choices.once_in(4) => event.header.flags = EventFlags::from_bits_retain(choices.below(u32::MAX)),
        _ => {}
    }
    let mut bytes = vec![0; Event::<AcpiNotify>::SIZE];
    event.encode(&mut bytes);
    bytes
}
