//! The 31-bit sequence number and the exact count of what was lost.

use crate::RecordError;

/// A record's number: 31 bits, counts dropped records too, wraps from `INT_MAX` to 0.
///
/// Source: Linux `include/uapi/linux/iommufd.h`, `struct iommufd_vevent_header`, and
/// `drivers/iommu/iommufd/iommufd_private.h`, `iommufd_vevent_handler()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Sequence(u32);

impl Sequence {
    /// The first number of a channel.
    pub const ZERO: Self = Self(0);
    /// The largest number, `INT_MAX`; the next is 0.
    pub const MAX: Self = Self(0x7fff_ffff);
    /// The most records that a recordfd channel loses between two that arrive, or before one `LOST_EVENTS` header.
    ///
    /// Numbers are compared as serial numbers: a larger count means that the number went backwards, as that of a
    /// sender does that was started anew on a kept descriptor. Senders count no further. Linux' own streams have no
    /// such limit, so [`LossMeter`] does not check it; `recordfd::event::Receiver` does.
    pub const LOSS_MAX: u32 = 0x3fff_ffff;

    /// The low 31 bits of `value`.
    #[inline]
    pub const fn wrapping(value: u32) -> Self {
        Self(value & Self::MAX.0)
    }

    /// The number as found on the wire.
    ///
    /// # Errors
    ///
    /// [`RecordError::Sequence`] when it is above `INT_MAX`.
    #[inline]
    pub const fn from_wire(value: u32) -> Result<Self, RecordError> {
        if value > Self::MAX.0 { Err(RecordError::Sequence { found: value }) } else { Ok(Self(value)) }
    }

    /// The number as an integer in `0..=INT_MAX`.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number `count` records later.
    #[must_use]
    #[inline]
    pub const fn plus(self, count: u32) -> Self {
        Self::wrapping(self.0.wrapping_add(count))
    }

    /// How many records later than `earlier` this one is, modulo 2^31.
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        Self::wrapping(self.0.wrapping_sub(earlier.0)).0
    }

    /// Records lost before this data record, when `last` was the one read before it.
    #[inline]
    pub const fn lost_before(self, last: Self) -> u32 {
        Self::wrapping(self.since(last).wrapping_sub(1)).0
    }

    /// Records a `LOST_EVENTS` header with this number stands for, when `last` was read before it.
    #[inline]
    pub const fn lost_through(self, last: Self) -> u32 {
        self.since(last)
    }
}

/// Follows a stream's sequence numbers and tells how many records were lost at each step.
///
/// Counts are exact up to 2^31 - 1 records between two that arrive. On a recordfd channel a count above
/// [`Sequence::LOSS_MAX`] is none: the number went backwards, and the rest of the stream cannot be told apart from
/// what came before.
///
/// ```
/// use recordfd_uapi::{LossMeter, Sequence};
/// let mut meter = LossMeter::from_start();
/// assert_eq!(meter.record(Sequence::ZERO), 0);
/// assert_eq!(meter.record(Sequence::wrapping(3)), 2);
/// assert_eq!(meter.lost_header(Sequence::wrapping(7)), 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossMeter {
    /// The number read last.
    last: Sequence,
}

impl LossMeter {
    /// For a channel's reader, which expects number 0.
    pub const fn from_start() -> Self {
        Self { last: Sequence::MAX }
    }

    /// Takes note of a data record; returns how many were lost before it.
    #[inline]
    pub fn record(&mut self, sequence: Sequence) -> u32 {
        let lost = sequence.lost_before(self.last);
        self.last = sequence;
        lost
    }

    /// Takes note of a `LOST_EVENTS` header; returns how many records it stands for.
    #[inline]
    pub fn lost_header(&mut self, sequence: Sequence) -> u32 {
        let lost = sequence.lost_through(self.last);
        self.last = sequence;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(value: u32) -> Sequence {
        Sequence::wrapping(value)
    }

    #[test]
    fn loss_is_exact_at_the_wrap() {
        assert_eq!(Sequence::MAX.plus(1), Sequence::ZERO);
        assert_eq!(Sequence::ZERO.lost_before(Sequence::MAX), 0);
        assert_eq!(seq(1).lost_before(Sequence::MAX), 1);
        assert_eq!(seq(1).lost_through(seq(0x7fff_fffe)), 3);
        assert_eq!(seq(5).lost_before(seq(5)), Sequence::MAX.get());
    }

    #[test]
    fn number_that_goes_backwards_counts_more_than_a_channel_can_lose() {
        for last in [0, 1, 5, Sequence::LOSS_MAX, Sequence::LOSS_MAX + 1, Sequence::MAX.get()] {
            for step in [0, 1, 5, Sequence::LOSS_MAX] {
                assert!(seq(last).lost_before(seq(last).plus(step)) > Sequence::LOSS_MAX);
                assert!(seq(last).plus(step).lost_through(seq(last)) <= Sequence::LOSS_MAX);
                assert!(seq(last).plus(step + 1).lost_before(seq(last)) <= Sequence::LOSS_MAX);
            }
        }
    }

    #[test]
    fn kernel_figures_hold() {
        assert_eq!(seq(9).lost_through(seq(5)), 4);
        assert_eq!(seq(21).lost_before(seq(18)), 2);
    }

    #[test]
    fn what_is_missing_before_the_first_record_is_lost() {
        let mut meter = LossMeter::from_start();
        assert_eq!(meter.record(seq(100)), 100);
        assert_eq!(meter.record(seq(102)), 1);
    }

    #[test]
    fn wire_number_above_int_max_is_refused() {
        assert_eq!(Sequence::from_wire(0x7fff_ffff), Ok(Sequence::MAX));
        assert_eq!(Sequence::from_wire(0x8000_0000), Err(RecordError::Sequence { found: 0x8000_0000 }));
    }
}
