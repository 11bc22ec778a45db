//! By which rules an Offer is taken: from the text of the ring protocol, and not the library's way to check them.

#![allow(unreachable_pub, reason = "compiled into each test")]

use recordfd::uapi::{Format, Offer};

/// Bytes that may be unused in front of a ring, and after the last one.
const MOST_UNUSED: u128 = 4096;

/// Where a ring begins and ends.
pub type Place = (u128, u128);

/// The rings of records and of replies that an offer of notifications describes.
pub fn rings(offer: &Offer) -> [Place; 2] {
    let ring = |offset: u64, depth: u32, size: u128| {
        let first = u128::from(offset);
        (first, first + 384 + u128::from(depth) * size)
    };
    [ring(offer.records_offset, offer.depth, 64), ring(offer.replies_offset, offer.reply_depth, 16)]
}

/// Whether an end of a channel of notifications may be attached by the offer, with memory of `size` bytes.
pub fn is_good(offer: &Offer, size: u64) -> bool {
    let mut rings = rings(offer);
    rings.sort();
    let [first, second] = rings;
    let depths = [offer.depth, offer.reply_depth];
    let is_near = |end: u128, begin: u128| (end..=end + MOST_UNUSED).contains(&begin);
    (offer.abi_min..=offer.abi_max).contains(&1)
        && offer.format == Format::ACPI_NOTIFY_V1
        && (offer.record_size, offer.reply_size) == (64, 16)
        && depths.iter().all(|depth| depth.count_ones() == 1 && *depth <= 1 << 20)
        && [first, second].iter().all(|(begin, _)| begin % 128 == 0)
        && is_near(0, first.0)
        && is_near(first.1, second.0)
        && is_near(second.1, u128::from(size))
        && (offer.map_size == size && size & 4095 != 0)
}
