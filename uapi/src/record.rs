//! What a fixed-size item of a channel is, and why bytes may be refused.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{EventFlags, Format, Sequence};

/// A fixed-size item as it travels on a channel: a record or a reply.
///
/// Implemented for every [`Payload`] (an item without a header of its own, [`Mixed`](crate::Mixed)
/// among them) and for [`Event<T>`](crate::Event) (a header and a payload).
pub trait Record: Copy + fmt::Debug + Send + Sync + 'static {
    /// Bytes the item takes on the wire; a channel carries whole multiples of it.
    const SIZE: usize;

    /// Writes the item's bytes into `out`.
    ///
    /// # Panics
    ///
    /// If `out` is not exactly [`SIZE`](Self::SIZE) bytes long.
    fn encode(&self, out: &mut [u8]);

    /// Reads an item and checks everything the format promises about it.
    ///
    /// # Errors
    ///
    /// [`RecordError`] when `bytes` is not [`SIZE`](Self::SIZE) long, or holds what the format forbids.
    fn decode(bytes: &[u8]) -> Result<Self, RecordError>;
}

/// A plain struct of the contract: no padding, any bytes are a value, the layout is pinned.
pub trait Payload:
    FromBytes + IntoBytes + Immutable + KnownLayout + Copy + fmt::Debug + Send + Sync + 'static
{
    /// Flags that the header of an [`Event`](crate::Event) with this payload may carry; any other is
    /// refused.
    ///
    /// | format | flags |
    /// |---|---|
    /// | events of our own, the default | `LOST_EVENTS` |
    /// | records that must be answered, and so are never lost | `CANCELLED` |
    /// | events that Linux defines, and may add flags to | every bit |
    ///
    /// Without meaning where the payload is an item by itself, without a header.
    const FLAGS: EventFlags = EventFlags::LOST_EVENTS;

    /// Checks what the format promises beyond the layout: reserved fields of our own formats are zero.
    ///
    /// # Errors
    ///
    /// The first broken promise.
    fn check(&self) -> Result<(), RecordError> {
        Ok(())
    }
}

impl<T: Payload> Record for T {
    const SIZE: usize = size_of::<T>();

    #[inline]
    fn encode(&self, out: &mut [u8]) {
        out.copy_from_slice(self.as_bytes());
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let item = T::read_from_bytes(bytes)
            .map_err(|_| RecordError::Length { expected: Self::SIZE, found: bytes.len() })?;
        item.check()?;
        Ok(item)
    }
}

/// What happened, of an event format: what an event channel is typed by.
pub trait EventRecord: Copy + fmt::Debug + Send + Sync + 'static {
    /// The format of a channel of these events.
    const FORMAT: Format;
    /// What the channel carries: [`Event<Self>`](crate::Event) but for [`MixedEvent`](crate::MixedEvent).
    type Wire: Sequenced<Content = Self>;
    /// What the consumer writes back on the same descriptor; [`NoReply`] where the format has none.
    type Reply: Record;
}

/// A record on the wire of an event format: a number, and what happened or a notice of loss.
pub trait Sequenced: Record {
    /// What happened.
    type Content;

    /// The record number `sequence` with `content`.
    fn new(sequence: Sequence, content: Self::Content) -> Self;

    /// The notice that every record after the last accepted one, up to `sequence`, was lost.
    fn lost(sequence: Sequence) -> Self;

    /// Whether this is a loss notice and no event.
    fn is_lost(&self) -> bool;

    /// The record's number.
    fn sequence(&self) -> Sequence;

    /// What happened; of no meaning in a loss notice.
    fn content(&self) -> Self::Content;
}

/// The reply of a format that has none: it has no value, so none can be sent.
///
/// Its [`SIZE`](Record::SIZE) is 1 although [`Layout::reply_size`](crate::Layout::reply_size) of such
/// a format is 0. A reader takes items of `SIZE` bytes, and of 0 bytes it would never see one that
/// should not be there. So the first byte that a peer writes back is looked at, and refused with
/// [`RecordError::NoReply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReply {}

impl Record for NoReply {
    const SIZE: usize = 1;

    fn encode(&self, _out: &mut [u8]) {
        match *self {}
    }

    /// Refuses any bytes: nothing may be written back on such a channel.
    fn decode(_bytes: &[u8]) -> Result<Self, RecordError> {
        Err(RecordError::NoReply)
    }
}

/// Why bytes are not a record of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes are not as many as the record has.
    Length {
        /// What the format asks for, in bytes.
        expected: usize,
        /// What there was, in bytes.
        found: usize,
    },
    /// A field that must be zero is not.
    Reserved {
        /// The field, as the C header names it.
        field: &'static str,
    },
    /// A sequence number is above `INT_MAX`.
    Sequence {
        /// The number found.
        found: u32,
    },
    /// A header carries a flag that its format does not define.
    Flags {
        /// The undefined bits.
        unknown: u32,
    },
    /// A text does not fit its field.
    TextTooLong {
        /// Room of the field, in bytes.
        room: usize,
    },
    /// A text has a NUL in it, where a reader would take it to end.
    TextNul {
        /// Where the first one is, in bytes from the text's start.
        at: usize,
    },
    /// There are bytes where the format has no reply; see [`NoReply`].
    NoReply,
}

impl RecordError {
    /// The errno that a C reader of the same bytes is told: always `EINVAL` (22).
    pub const fn errno(&self) -> i32 {
        22
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { expected, found } => write!(f, "{found} bytes where the record has {expected}"),
            Self::Reserved { field } => write!(f, "reserved field {field} is not zero"),
            Self::Sequence { found } => write!(f, "sequence number {found:#x} is above INT_MAX"),
            Self::Flags { unknown } => write!(f, "header flags {unknown:#x} are not part of the format"),
            Self::TextTooLong { room } => write!(f, "text is longer than its field of {room} bytes"),
            Self::TextNul { at } => write!(f, "text has a NUL at byte {at}"),
            Self::NoReply => f.write_str("reply on a channel whose format has none"),
        }
    }
}

impl core::error::Error for RecordError {}

/// Derives what every code on the wire has: a transparent `u32` or `u16` with named constants.
macro_rules! wire_code {
    ($(#[$meta:meta])* $name:ident($int:ty) { $($(#[$vmeta:meta])* $value:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        pub struct $name($int);

        impl $name {
            $($(#[$vmeta])* pub const $value: Self = Self($number);)*

            /// The code with this number, known or not.
            pub const fn new(number: $int) -> Self {
                Self(number)
            }

            /// The number on the wire.
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self {
                    $(Self::$value => f.write_str(stringify!($value)),)*
                    Self(other) => write!(f, concat!(stringify!($name), "({:#x})"), other),
                }
            }
        }
    };
}
pub(crate) use wire_code;

/// Derives what every flag set on the wire has: a transparent `u32` that keeps unknown bits.
macro_rules! wire_flags {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $vdoc:literal])* $value:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash, Default,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        pub struct $name(u32);

        bitflags::bitflags! {
            impl $name: u32 {
                $($(#[doc = $vdoc])* const $value = $number;)*
                const _ = !0;
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x}"), self.bits())?;
                for (name, _) in self.iter_names() {
                    write!(f, " {name}")?;
                }
                f.write_str(")")
            }
        }
    };
}
pub(crate) use wire_flags;

/// Pins size, alignment and every field offset of a wire struct at build time.
macro_rules! pin_layout {
    ($name:ty, size $size:literal, align $align:literal, { $($field:ident: $offset:literal),* $(,)? }) => {
        static_assertions::const_assert_eq!(size_of::<$name>(), $size);
        static_assertions::const_assert_eq!(align_of::<$name>(), $align);
        $(static_assertions::const_assert_eq!(core::mem::offset_of!($name, $field), $offset);)*
        static_assertions::assert_impl_all!(
            $name: Copy, Send, Sync, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable
        );
    };
}
pub(crate) use pin_layout;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn no_bytes_are_a_reply_where_there_is_none() {
        for bytes in [&[][..], &[0], &[1], &[0; 8]] {
            assert_eq!(NoReply::decode(bytes), Err(RecordError::NoReply));
        }
        assert_eq!(RecordError::NoReply.to_string(), "reply on a channel whose format has none");
        assert_eq!(RecordError::NoReply.errno(), 22);
    }
}
