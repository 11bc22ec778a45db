//! Where everything is in the memory of a shared channel: version 1 of the ring protocol.
//!
//! ```text
//! ring of records: 0 producer's line | 128 consumer's line | 256 bell's line | 384 slots ...
//! ring of replies: the same, on the next multiple of 128
//! ```
//!
//! Each line is written by one side in the main, so that the two do not take it from each other: 128 bytes,
//! for processors that fetch cache lines in pairs.

use recordfd_uapi::{Format, Offer, OfferFlags};

use crate::error::Error;
use crate::ring::MOST_DEPTH;

/// The version of the ring protocol spoken here.
pub(super) const ABI: u16 = 1;
/// Bytes of a line.
const LINE: u64 = 128;
/// Bytes in front of a ring's slots.
const CONTROL: u64 = 3 * LINE;
/// The most bytes that may be unused in front of a ring, and after the last one: a page, so that a ring may begin
/// on one.
const MOST_UNUSED: u64 = 4096;
/// Words of a line.
const WORDS: usize = LINE as usize / size_of::<u32>();
/// Words in front of a ring's slots.
pub(super) const CONTROL_WORDS: usize = 3 * WORDS;

/// Producer's line. Number of the next record that will be published.
pub(super) const TAIL: usize = 0;
/// `LOSS | sequence`: records up to that number were lost and none was accepted since. 0: none.
pub(super) const TAIL_LOSS: usize = 1;
/// 1: the producer's end was dropped.
pub(super) const GONE: usize = 2;
/// Consumer's line. Number of the next record that will be taken out.
pub(super) const HEAD: usize = WORDS;
/// Bell's line. The doorbell's word.
pub(super) const ARMED: usize = 2 * WORDS;
/// 1: the producer wants to be told when the ring was read empty.
pub(super) const DRAIN: usize = 2 * WORDS + 1;
/// 1: the consumer fences for both sides when it arms the bell. The producer looks here with each record, so it is
/// not where the consumer writes with each.
pub(super) const FENCES: usize = 2 * WORDS + 2;
/// 1: someone has attached the end that was given away. In the ring of records alone.
pub(super) const ATTACHED: usize = 2 * WORDS + 3;

/// One ring in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingPlace {
    /// Bytes from the beginning of the memory.
    pub(super) offset: usize,
    /// Slots: a power of two; 0 if nothing is carried.
    pub(super) depth: u32,
    /// Bytes of a slot.
    pub(super) size: usize,
}

impl RingPlace {
    /// Where the slots begin, in bytes from the beginning of the memory.
    pub(super) fn slots(&self) -> usize {
        self.offset + CONTROL as usize
    }

    fn end(&self) -> Option<u64> {
        let slots = u64::from(self.depth).checked_mul(self.size as u64)?;
        (self.offset as u64).checked_add(CONTROL)?.checked_add(slots)
    }

    /// Checks a ring that a peer has described.
    fn checked(offset: u64, depth: u32, size: usize, map_size: u64) -> Result<Self, Error> {
        if offset % LINE != 0 {
            return Err(Error::BadOffer { reason: "a ring is not aligned" });
        }
        let place = usize::try_from(offset).ok().map(|offset| Self { offset, depth, size });
        place
            .filter(|place| place.end().is_some_and(|end| end <= map_size))
            .ok_or(Error::BadOffer { reason: "a ring is not within the memory" })
    }
}

/// Everything about the memory that has to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) format: Format,
    pub(super) records: RingPlace,
    pub(super) replies: RingPlace,
    /// Bytes. Never a multiple of 4096: that is what tells the memory from a file of huge pages, of which
    /// touching a hole may raise SIGBUS.
    pub(super) map_size: u64,
}

impl Layout {
    /// The layout of a new channel of `format` with room for `depth` records and `reply_depth` replies, each
    /// rounded up to a power of two.
    pub(super) fn new(format: Format, depth: u32, reply_depth: u32) -> Result<Self, Error> {
        let sizes = sizes_of(format)?;
        let ring = |offset: u64, depth: u32, size: usize| RingPlace {
            offset: offset as usize,
            depth: if size == 0 { 0 } else { depth.next_power_of_two() },
            size,
        };
        let end = |place: &RingPlace| place.end().map_or(u64::MAX, |end| end.next_multiple_of(LINE));
        let records = ring(0, depth, sizes.0);
        let replies = ring(end(&records), reply_depth, sizes.1);
        let mut map_size = end(&replies);
        if map_size % 4096 == 0 {
            map_size += LINE;
        }
        Ok(Self { format, records, replies, map_size })
    }

    /// What is told to the other side, which `produces` the records or consumes them.
    pub(super) fn offer(&self, produces: bool) -> Offer {
        let mut offer = Offer::new(self.format);
        offer.flags.set(OfferFlags::PRODUCER, produces);
        (offer.abi_min, offer.abi_max) = (ABI, ABI);
        (offer.depth, offer.record_size) = (self.records.depth, self.records.size as u32);
        (offer.reply_depth, offer.reply_size) = (self.replies.depth, self.replies.size as u32);
        (offer.records_offset, offer.replies_offset) =
            (self.records.offset as u64, self.replies.offset as u64);
        offer.map_size = self.map_size;
        offer
    }

    /// What a peer that is not trusted has told: everything is checked that anything here relies on.
    pub(super) fn checked(offer: &Offer) -> Result<Self, Error> {
        let bad = |reason| Err(Error::BadOffer { reason });
        if !(offer.abi_min..=offer.abi_max).contains(&ABI) {
            return bad("no version of the ring protocol is known to both sides");
        }
        let (record_size, reply_size) = sizes_of(offer.format)?;
        if (offer.record_size as usize, offer.reply_size as usize) != (record_size, reply_size) {
            return bad("the records are not as long as those of the format");
        }
        let is_depth = |depth: u32| depth.is_power_of_two() && depth <= MOST_DEPTH;
        let has_replies = if reply_size == 0 { offer.reply_depth == 0 } else { is_depth(offer.reply_depth) };
        if !is_depth(offer.depth) || !has_replies {
            return bad("a depth is no power of two up to 1048576");
        }
        if offer.map_size % 4096 == 0 {
            return bad("the memory may be of huge pages");
        }
        let map_size = offer.map_size;
        let records = RingPlace::checked(offer.records_offset, offer.depth, record_size, map_size)?;
        let replies = RingPlace::checked(offer.replies_offset, offer.reply_depth, reply_size, map_size)?;
        let (first, second) =
            if records.offset <= replies.offset { (records, replies) } else { (replies, records) };
        let end = |place: &RingPlace| place.end().unwrap_or(map_size);
        let Some(between) = (second.offset as u64).checked_sub(end(&first)) else {
            return bad("the rings overlap");
        };
        // Unused memory costs this side, too: where it is locked, and the time for a hole that the peer punches.
        if [first.offset as u64, between, map_size - end(&second)].iter().any(|unused| *unused > MOST_UNUSED)
        {
            return bad("the memory is larger than its rings need");
        }
        Ok(Self { format: offer.format, records, replies, map_size })
    }
}

/// Bytes of a record and of a reply.
fn sizes_of(format: Format) -> Result<(usize, usize), Error> {
    let layout = format.layout().ok_or(Error::BadOffer { reason: "the format is not known" })?;
    Ok((layout.record_size, layout.reply_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_layouts_pass_their_own_check() {
        for format in Format::ALL {
            for (depth, reply_depth) in [(1, 1), (2, 2), (3, 64), (64, 64), (1000, 7), (1 << 20, 1 << 20)] {
                let layout = Layout::new(format, depth, reply_depth).unwrap();
                assert!(layout.records.depth.is_power_of_two() && layout.records.depth >= depth);
                for produces in [false, true] {
                    let offer = layout.offer(produces);
                    assert_eq!(Layout::checked(&offer).unwrap(), layout);
                }
            }
        }
    }

    #[test]
    fn idle_channel_takes_two_pages() {
        let layout = Layout::new(Format::ACPI_NOTIFY_V1, 64, 64).unwrap();
        assert_eq!((layout.map_size, layout.replies.offset), (768 + 64 * 64 + 64 * 16, 384 + 64 * 64));
    }

    #[test]
    fn offer_that_is_wrong_in_one_field_is_refused() {
        let good = Layout::new(Format::ACPI_NOTIFY_V1, 64, 64).unwrap().offer(true);
        let wrong: [fn(&mut Offer); 25] = [
            |offer| offer.abi_min = 2,
            |offer| offer.abi_max = 0,
            |offer| offer.format = Format::new(99, 1),
            |offer| offer.format = Format::VIOMMU_ARM_SMMUV3_V1,
            |offer| offer.depth = 0,
            |offer| offer.depth = 65,
            |offer| offer.depth = 128,
            |offer| offer.depth = 1 << 21,
            |offer| offer.depth = 1 << 31,
            |offer| offer.record_size = 56,
            |offer| offer.reply_size = 0,
            |offer| offer.reply_depth = 0,
            |offer| offer.reply_depth = 48,
            |offer| offer.records_offset = 4,
            |offer| offer.records_offset = u64::MAX - 127,
            |offer| offer.records_offset = offer.replies_offset,
            |offer| offer.records_offset = 128,
            |offer| offer.replies_offset = 0,
            |offer| offer.replies_offset += 128,
            |offer| offer.replies_offset = 1 << 63,
            |offer| offer.map_size -= 1,
            |offer| offer.map_size = 8192,
            |offer| offer.map_size += MOST_UNUSED + 1,
            |offer| offer.map_size = (1 << 46) + 1,
            |offer| {
                // Between the rings, and not after them.
                offer.replies_offset += MOST_UNUSED + LINE;
                offer.map_size += MOST_UNUSED + LINE;
            },
        ];
        for (number, change) in wrong.into_iter().enumerate() {
            let mut offer = good;
            change(&mut offer);
            assert!(Layout::checked(&offer).is_err(), "number {number}: {offer:?}");
        }
    }
}
