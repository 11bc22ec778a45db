//! What an end must make of the indices and slots of its two rings.

use std::fmt::Debug;

use recordfd::uapi::Record;
use recordfd::{TryRecvError, Violation};

use crate::ring_peer::{LOSS, RawRing, Word};

/// The ring that the end under test consumes.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// Number of the next record.
    pub(crate) head: u32,
    /// Records that the end knows to wait.
    known: u32,
    /// The word of a loss that was told, and no record since.
    seen_loss: u32,
    /// What every receive says from now on.
    pub(crate) broken: Option<Violation>,
    /// The end was told, which is for ever.
    pub(crate) has_ended: bool,
}

/// What a receive must bring.
#[derive(Debug, PartialEq)]
pub(crate) struct Brought<T> {
    pub(crate) items: Vec<T>,
    /// Records up to this number were lost, behind the items.
    pub(crate) tail_loss: Option<u32>,
    /// In the place of nothing.
    pub(crate) violation: Option<Violation>,
}

impl Incoming {
    /// A receive of at most `most` records, each of which `check` may find wrong.
    pub(crate) fn receive<T: Record>(
        &mut self,
        ring: &RawRing,
        most: u32,
        mut check: impl FnMut(&T) -> Result<(), Violation>,
    ) -> Brought<T> {
        let mut brought = Brought { items: Vec::new(), tail_loss: None, violation: self.broken };
        if self.broken.is_some() || self.has_ended || most == 0 {
            return brought;
        }
        if self.known < most && !self.look(ring) {
            return self.break_off(brought, Violation::RingIndex);
        }
        for _ in 0..self.known.min(most) {
            let slot = ring.slot(self.head);
            match T::decode(&slot).map_err(Violation::from).and_then(|item| check(&item).map(|()| item)) {
                Ok(item) => brought.items.push(item),
                Err(violation) => return self.break_off(brought, violation),
            }
            self.head = self.head.wrapping_add(1);
            self.known -= 1;
            self.seen_loss = 0;
        }
        let loss = ring.get(Word::TailLoss);
        if self.known == 0
            && (brought.items.len() as u32) < most
            && loss & LOSS != 0
            && loss != self.seen_loss
        {
            // Behind records it looks once more, which may find a lie that it had no need to look for.
            if !brought.items.is_empty() && !self.look(ring) {
                return self.break_off(brought, Violation::RingIndex);
            }
            self.seen_loss = loss;
            brought.tail_loss = Some(loss ^ LOSS);
        }
        // What it found last, when it was about to sleep.
        self.settle(ring);
        brought
    }

    /// Behind a wait, which looks unless something is known to wait.
    pub(crate) fn settle(&mut self, ring: &RawRing) {
        if self.known == 0 {
            self.look(ring);
        }
    }

    fn break_off<T>(&mut self, mut brought: Brought<T>, violation: Violation) -> Brought<T> {
        self.broken = Some(violation);
        brought.violation = Some(violation);
        brought
    }

    /// Looks at the producer's index; false when it cannot be.
    fn look(&mut self, ring: &RawRing) -> bool {
        let waiting = ring.get(Word::Tail).wrapping_sub(self.head);
        let is_possible = (self.known..=ring.depth).contains(&waiting);
        if is_possible {
            self.known = waiting;
        }
        is_possible
    }
}

/// The ring that the end under test produces.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) tail: u32,
    /// The consumer's index, as it was last believed.
    head: u32,
}

impl Outgoing {
    /// How many of `wanted` records have room.
    pub(crate) fn room(&mut self, ring: &RawRing, wanted: u32) -> Result<u32, Violation> {
        let unread = self.tail.wrapping_sub(self.head);
        let wanted = wanted.min(ring.depth);
        if ring.depth - unread < wanted {
            let head = ring.get(Word::Head);
            if self.tail.wrapping_sub(head) > unread {
                return Err(Violation::RingIndex);
            }
            self.head = head;
        }
        Ok(wanted.min(ring.depth - self.tail.wrapping_sub(self.head)))
    }

    /// Takes note of records that were sent: they must be where they belong.
    pub(crate) fn note_sent<T: Record>(&mut self, ring: &RawRing, sent: &[T]) {
        let mut bytes = vec![0; T::SIZE];
        for item in sent {
            item.encode(&mut bytes);
            assert_eq!(ring.slot(self.tail), bytes);
            self.tail = self.tail.wrapping_add(1);
        }
        assert_eq!(ring.get(Word::Tail), self.tail);
    }
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Nothing {
    Empty,
    Closed,
    TooSmall,
    Broken(Violation),
}

impl From<TryRecvError> for Nothing {
    fn from(error: TryRecvError) -> Self {
        match error {
            TryRecvError::Empty => Self::Empty,
            TryRecvError::Closed => Self::Closed,
            TryRecvError::BufferTooSmall { .. } => Self::TooSmall,
            TryRecvError::PeerViolation(violation) => Self::Broken(violation),
            error => panic!("{error:?}"),
        }
    }
}
