//! The offer with which the maker of a shared-memory channel describes it.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Format;
use crate::record::{pin_layout, wire_flags};

wire_flags! {
    /// Flags of an [`Offer`]. A reader refuses those it does not know.
    OfferFlags {
        /// Who reads the offer produces the records and consumes the replies. Without it, it is the other
        /// way round.
        PRODUCER = 0x1,
    }
}

/// Layout of a shared-memory channel, extensible by the kernel's rule for structs that configure
/// (Linux `include/linux/uaccess.h`, `copy_struct_from_user()`).
///
/// New fields come only at the end and mean what is done today when they are zero. So a reader
/// accepts a longer struct with a zero tail and refuses one that asks for what it does not know.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Offer {
    /// Bytes of the struct as its writer knows it; at least [`Offer::MIN_SIZE`].
    pub size: u32,
    /// The oldest version of the ring protocol the maker speaks.
    pub abi_min: u16,
    /// The newest version of the ring protocol the maker speaks.
    pub abi_max: u16,
    /// What the records are.
    pub format: Format,
    /// Which end the offer is for.
    pub flags: OfferFlags,
    /// Records in the ring, a power of two.
    pub depth: u32,
    /// Bytes of one record.
    pub record_size: u32,
    /// Replies in the ring, a power of two; 0 when the format has none.
    pub reply_depth: u32,
    /// Bytes of one reply; 0 when the format has none.
    pub reply_size: u32,
    /// Where the record ring begins in the mapping, in bytes.
    pub records_offset: u64,
    /// Where the reply ring begins in the mapping, in bytes.
    pub replies_offset: u64,
    /// Length of the mapping, in bytes.
    pub map_size: u64,
    reserved: u64,
}

pin_layout!(Offer, size 64, align 8, {
    size: 0, abi_min: 4, abi_max: 6, format: 8, flags: 12, depth: 16, record_size: 20, reply_depth: 24,
    reply_size: 28, records_offset: 32, replies_offset: 40, map_size: 48, reserved: 56,
});

impl Offer {
    /// Bytes of the first version, the least a reader accepts.
    pub const MIN_SIZE: usize = 64;

    /// An offer of `format` with everything else zero and `size` filled in.
    pub const fn new(format: Format) -> Self {
        Self {
            size: Self::MIN_SIZE as u32,
            abi_min: 0,
            abi_max: 0,
            format,
            flags: OfferFlags::empty(),
            depth: 0,
            record_size: 0,
            reply_depth: 0,
            reply_size: 0,
            records_offset: 0,
            replies_offset: 0,
            map_size: 0,
            reserved: 0,
        }
    }

    /// Reads an offer by the extension rule; `bytes` is everything that was received.
    ///
    /// The values themselves (depths, offsets) are not judged here.
    ///
    /// # Errors
    ///
    /// [`OfferError::TooShort`] when `size` is below the minimum or there are fewer bytes than `size`
    /// says, [`OfferError::UnknownTail`] when bytes beyond the known fields are not zero,
    /// [`OfferError::Reserved`] when a field that must be zero is not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OfferError> {
        let too_short = |found, needed| OfferError::TooShort { found, needed };
        let (offer, tail) =
            Self::read_from_prefix(bytes).map_err(|_| too_short(bytes.len(), Self::MIN_SIZE))?;
        let size = usize::try_from(offer.size).unwrap_or(usize::MAX);
        if size < Self::MIN_SIZE {
            return Err(too_short(size, Self::MIN_SIZE));
        }
        match bytes.len() {
            found if found < size => return Err(too_short(found, size)),
            found if found > size => return Err(OfferError::TrailingBytes { found: found - size }),
            _ => {}
        }
        if let Some(at) = tail.iter().position(|byte| *byte != 0) {
            return Err(OfferError::UnknownTail { offset: Self::MIN_SIZE + at });
        }
        if !OfferFlags::PRODUCER.contains(offer.flags) {
            return Err(OfferError::Reserved { field: "flags" });
        }
        if offer.reserved != 0 {
            return Err(OfferError::Reserved { field: "reserved" });
        }
        Ok(offer)
    }
}

/// Why an [`Offer`] is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OfferError {
    /// Shorter than the first version, or than it says itself.
    TooShort {
        /// Bytes of the offer: what came, or what it says itself when that is less than `needed`.
        found: usize,
        /// Bytes it must have: those of the first version, or as many as it says itself.
        needed: usize,
    },
    /// More bytes came than the offer says it has.
    TrailingBytes {
        /// How many more.
        found: usize,
    },
    /// It asks for something this version does not know.
    UnknownTail {
        /// Where the first unknown non-zero byte is.
        offset: usize,
    },
    /// A field that must be zero is not, or a flag is none that this version knows.
    Reserved {
        /// The field, as the C header names it.
        field: &'static str,
    },
}

impl OfferError {
    /// The errno that a C reader of the same bytes is told: `E2BIG` (7) for an unknown tail, else
    /// `EINVAL` (22).
    pub const fn errno(&self) -> i32 {
        match self {
            Self::UnknownTail { .. } => 7,
            _ => 22,
        }
    }
}

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { found, needed } => {
                write!(f, "offer has {found} bytes where it must have {needed}")
            }
            Self::TrailingBytes { found } => write!(f, "{found} bytes behind the end of the offer"),
            Self::UnknownTail { offset } => {
                write!(f, "offer asks for something unknown at byte {offset}")
            }
            Self::Reserved { field } => write!(f, "field {field} of the offer has a value that is reserved"),
        }
    }
}

impl core::error::Error for OfferError {}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;
    use std::string::ToString;

    fn with_size(size: u32) -> [u8; 80] {
        let mut bytes = [0; 80];
        let mut offer = Offer::new(Format::ACPI_NOTIFY_V1);
        offer.size = size;
        bytes[..64].copy_from_slice(offer.as_bytes());
        bytes
    }

    #[test]
    fn first_version_is_accepted() {
        let offer = Offer::from_bytes(&with_size(64)[..64]).unwrap();
        assert_eq!(offer, Offer::new(Format::ACPI_NOTIFY_V1));
    }

    #[test]
    fn shorter_is_einval() {
        for (size, length, found, needed) in [
            (0, 0, 0, 64),
            (63, 63, 63, 64),
            (64, 63, 63, 64),
            (80, 10, 10, 64),
            (63, 64, 63, 64),
            (63, 80, 63, 64),
            (0, 80, 0, 64),
            (65, 64, 64, 65),
            (u32::MAX, 80, 80, u32::MAX as usize),
        ] {
            let error = Offer::from_bytes(&with_size(size)[..length]).unwrap_err();
            assert_eq!((error, error.errno()), (OfferError::TooShort { found, needed }, 22), "{size}");
            let text = format!("offer has {found} bytes where it must have {needed}");
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn longer_with_zero_tail_is_accepted_and_with_another_is_e2big() {
        let mut bytes = with_size(80);
        assert_eq!(Offer::from_bytes(&bytes).unwrap().size, 80);
        bytes[79] = 1;
        let error = Offer::from_bytes(&bytes).unwrap_err();
        assert_eq!((error, error.errno()), (OfferError::UnknownTail { offset: 79 }, 7));
    }

    #[test]
    fn reserved_fields_and_bytes_behind_the_end_are_refused() {
        let mut bytes = with_size(64);
        assert_eq!(Offer::from_bytes(&bytes).unwrap_err(), OfferError::TrailingBytes { found: 16 });
        bytes[63] = 1;
        assert_eq!(Offer::from_bytes(&bytes[..64]).unwrap_err(), OfferError::Reserved { field: "reserved" });
        bytes[12] = 2;
        assert_eq!(Offer::from_bytes(&bytes[..64]).unwrap_err(), OfferError::Reserved { field: "flags" });
        (bytes[12], bytes[63]) = (1, 0);
        assert_eq!(Offer::from_bytes(&bytes[..64]).unwrap().flags, OfferFlags::PRODUCER);
    }
}
