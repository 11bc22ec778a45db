//! What a hardware record cannot say.

use core::fmt;

use super::Loss;

/// Why a value cannot be written as a hardware record, or cannot be turned into another kind of one.
///
/// Only encoding and converting fail. Decoding does not: any bytes are a value.
// With a tag of a word, so that in a `Result` a record's words lie where the processor can load them as they
// were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u64)]
pub enum HwError {
    /// A value has more bits than its field, or an address has bits that its field leaves out.
    DoesNotFit {
        /// The field, as the specification names it.
        field: &'static str,
        /// The value that was to go there.
        value: u64,
    },
    /// The record has a field that must have a value, and there is none.
    Missing {
        /// The field, as the specification names it.
        field: &'static str,
    },
    /// Two things that the record cannot say together.
    Contradiction {
        /// The one.
        field: &'static str,
        /// The other.
        with: &'static str,
    },
    /// A last page without read and write: on the wire that is a Stop Marker and no page request.
    StopMarker,
    /// A response code that is never sent: all but 0, 1 and 0xf of PCIe's.
    Code {
        /// The code.
        code: u32,
    },
    /// Words given as unknown that say what another variant says.
    Known,
    /// A record that is no page request, so no page fault either: an event of another kind, or one
    /// without a stalled transaction or an address.
    NoPageFault,
    /// The guest would refuse the request: answer it INVALID at once.
    GuestRefuses {
        /// What the guest objects to.
        what: Loss,
    },
}

impl HwError {
    /// The errno that stands for it in C: always `EINVAL` (22).
    pub const fn errno(&self) -> i32 {
        22
    }
}

impl fmt::Display for HwError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoesNotFit { field, value } => write!(f, "{value:#x} does not fit field {field}"),
            Self::Missing { field } => write!(f, "field {field} must have a value"),
            Self::Contradiction { field, with } => write!(f, "{field} cannot be said together with {with}"),
            Self::StopMarker => f.write_str("last page without read and write is a Stop Marker"),
            Self::Code { code } => write!(f, "response code {code:#x} is never sent"),
            Self::Known => f.write_str("words given as unknown are those of a known record"),
            Self::NoPageFault => f.write_str("record is no page fault"),
            Self::GuestRefuses { what } => write!(f, "guest refuses {what:?}"),
        }
    }
}

impl core::error::Error for HwError {}
