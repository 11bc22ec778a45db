//! What the peer does, as it is decided: mostly by the rules, so that the end under test gets anywhere.

use std::net::Shutdown;

use nix::sys::socket::MsgFlags;
use recordfd::uapi::Offer;

use crate::choices::Choices;
use crate::ring_peer::{LOSS, RawRing, RingPeer, Word};

pub(crate) struct Hostile<C> {
    pub(crate) choices: C,
    pub(crate) peer: RingPeer,
    /// It has put bytes in that nobody asked for, or withdrawn wishes.
    pub(crate) has_put_anything: bool,
    /// It has closed the socket, or a half of it.
    pub(crate) has_closed: bool,
}

impl<C: Choices> Hostile<C> {
    pub(crate) fn new(choices: C, peer: RingPeer) -> Self {
        Self { choices, peer, has_put_anything: false, has_closed: false }
    }

    /// Does one thing. `record` makes a record that is mostly right.
    pub(crate) fn act(&mut self, record: impl FnMut(&mut C) -> Vec<u8>) {
        match self.choices.below(16) {
            0..5 => self.publish(record),
            5..8 => {
                for _ in 0..=self.choices.below(8) {
                    self.peer.take_record();
                }
            }
            8 => self.write_word(),
            9 => self.write_slot(),
            10 => {
                let count = 1 + self.choices.below(40) as usize;
                self.has_put_anything = true;
                self.peer.put(&vec![0; count]);
            }
            11 => drop(self.peer.take()),
            12 if self.choices.once_in(2) => self.notify_of_a_drain(),
            12 => {
                let ring = if self.choices.once_in(2) { &self.peer.produced } else { &self.peer.consumed };
                let word = if self.choices.once_in(2) { Word::Armed } else { Word::Drain };
                // A wish that is taken back and no token put in, or one that is made anew.
                self.has_put_anything = true;
                ring.set(word, self.choices.below(2));
            }
            13 => self.peer.ring_bell(),
            14 if self.choices.once_in(4) => self.punch_hole(),
            15 if self.choices.once_in(8) => self.close(),
            _ => self.put_something_else(),
        }
    }

    /// Some records, published together by the rules.
    fn publish(&mut self, mut record: impl FnMut(&mut C) -> Vec<u8>) {
        let count = 1 + self.choices.below(4);
        let tail = self.peer.produced.get(Word::Tail);
        for ahead in 0..count {
            let record = record(&mut self.choices);
            self.peer.produced.set_slot(tail.wrapping_add(ahead), &record);
        }
        // Not so many that they are a lie, if the consumer's index is none.
        let head = self.peer.produced.get(Word::Head);
        let room = self.peer.produced.depth.saturating_sub(tail.wrapping_sub(head));
        self.peer.produced.add(Word::Tail, count.min(room));
        self.peer.ring_bell();
    }

    /// Takes the wish to be notified of a drain back and puts a token in, whatever was read.
    fn notify_of_a_drain(&mut self) {
        if self.peer.consumed.get(Word::Drain) == 1 {
            self.peer.consumed.set(Word::Drain, 0);
            self.peer.put(&[0]);
        }
    }

    fn ring(&mut self) -> RawRing {
        let ring = if self.choices.once_in(2) { &self.peer.produced } else { &self.peer.consumed };
        ring.clone()
    }

    fn write_word(&mut self) {
        let ring = self.ring();
        let word = Word::ALL[self.choices.below(Word::ALL.len() as u32) as usize];
        if matches!(word, Word::Armed | Word::Drain) {
            self.has_put_anything = true;
        }
        let value = match self.choices.below(8) {
            0 => 0,
            1 => 1,
            2 => u32::MAX,
            3 => LOSS | self.choices.below(40),
            4 => self.choices.below(40),
            5 => self.choices.below(u32::MAX),
            6 => ring.get(word).wrapping_add(self.choices.below(7)).wrapping_sub(3),
            _ => ring.get(word).wrapping_add(1 << self.choices.below(32)),
        };
        ring.set(word, value);
    }

    fn write_slot(&mut self) {
        let ring = self.ring();
        let number = self.choices.below(32);
        let mut bytes = ring.slot(number);
        for _ in 0..=self.choices.below(4) {
            let (at, value) = (self.choices.below(80) as usize, self.choices.below(256) as u8);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        // A format without replies has no slots for them.
        if ring.depth > 0 {
            ring.set_slot(number, &bytes);
        }
    }

    fn punch_hole(&mut self) {
        let offset = u64::from(self.choices.below(2)) * 4096;
        let length = 1 + u64::from(self.choices.below(8192));
        self.peer.punch_hole(offset, length);
    }

    fn close(&mut self) {
        self.has_closed = true;
        let how = self.choices.below(4);
        if how == 3 {
            self.peer.hang_up();
        } else if !self.peer.has_hung_up() {
            let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both][how as usize];
            // One half twice is an error.
            let _ = self.peer.socket().shutdown(how);
        }
    }

    /// A descriptor along with a byte, or a byte out of band.
    fn put_something_else(&mut self) {
        if self.choices.once_in(8) {
            self.has_put_anything = true;
            if self.choices.once_in(2) {
                self.peer.put_with(&[0], &[0, 1], MsgFlags::empty());
            } else {
                self.peer.put_with(&[0], &[], MsgFlags::MSG_OOB);
            }
        }
    }

    /// Whether the end under test may find that its peer is gone.
    pub(crate) fn may_be_gone(&self) -> bool {
        self.has_closed || self.peer.produced.get(Word::Gone) != 0
    }
}

/// Makes nonsense of an offer, or leaves it as it is.
pub(crate) fn spoil(offer: &mut Offer, choices: &mut impl Choices) {
    let number = choices.below(u32::MAX);
    let near = choices.below(5).wrapping_sub(2);
    let far = u64::from(near as i32 as u32) << choices.below(33);
    match choices.below(12) {
        0 => offer.size = number,
        1 => offer.abi_min = number as u16,
        2 => offer.abi_max = number as u16,
        3 => offer.depth = offer.depth.wrapping_add(near),
        4 => offer.depth = 1 << (number % 32),
        5 => offer.reply_depth = 1 << (number % 32),
        6 => offer.record_size = offer.record_size.wrapping_add(near),
        7 => offer.reply_size = offer.reply_size.wrapping_add(near),
        8 => offer.records_offset = offer.records_offset.wrapping_add(far),
        9 => offer.replies_offset = offer.replies_offset.wrapping_add(far),
        10 => offer.map_size = offer.map_size.wrapping_add(far),
        _ => {}
    }
}
