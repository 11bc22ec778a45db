//! Text in a field of fixed size.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::RecordError;

/// A text of at most `N` bytes, padded with NUL and not necessarily terminated by one.
///
/// Any bytes are a value: what a peer or the kernel sent is kept as it is. [`Display`](fmt::Display)
/// escapes everything that is not printable ASCII, so the text of a hostile peer is safe to print.
///
/// Equality and hashing take in all `N` bytes, padding included: two fields that show the same text
/// are different values when something else than NUL follows the first NUL in one of them. Compare
/// [`as_bytes`](Self::as_bytes) where only the text counts.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FixedText<const N: usize>([u8; N]);

impl<const N: usize> FixedText<N> {
    /// The empty text.
    pub const EMPTY: Self = Self([0; N]);

    /// The text, padded with NUL.
    ///
    /// # Errors
    ///
    /// [`RecordError::TextTooLong`] when it has more than `N` bytes, [`RecordError::TextNul`] when one
    /// of them is NUL, where a reader would take it to end; nothing is cut off silently.
    pub fn new(text: impl AsRef<[u8]>) -> Result<Self, RecordError> {
        let text = text.as_ref();
        let mut bytes = [0; N];
        bytes.get_mut(..text.len()).ok_or(RecordError::TextTooLong { room: N })?.copy_from_slice(text);
        match text.iter().position(|byte| *byte == 0) {
            Some(at) => Err(RecordError::TextNul { at }),
            None => Ok(Self(bytes)),
        }
    }

    /// The field as it is, padding included.
    pub const fn from_padded(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// All bytes of the field, padding included.
    pub const fn as_padded(&self) -> &[u8; N] {
        &self.0
    }

    /// The bytes before the first NUL.
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(N);
        &self.0[..end]
    }

    /// The text before the first NUL, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        core::str::from_utf8(self.as_bytes()).ok()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.0.first().is_none_or(|byte| *byte == 0)
    }
}

impl<const N: usize> Default for FixedText<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> fmt::Display for FixedText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().escape_ascii().fmt(f)
    }
}

impl<const N: usize> fmt::Debug for FixedText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn text_may_fill_its_field_but_not_exceed_it() {
        assert_eq!(FixedText::<4>::new("abcd").unwrap().as_bytes(), b"abcd");
        assert_eq!(FixedText::<4>::new("abcde"), Err(RecordError::TextTooLong { room: 4 }));
        assert_eq!(FixedText::<4>::new(""), Ok(FixedText::EMPTY));
        assert!(FixedText::<4>::EMPTY.is_empty());
    }

    #[test]
    fn nul_is_no_part_of_a_text() {
        for (text, at) in [(&b"\0"[..], 0), (b"a\0b", 1), (b"abc\0", 3)] {
            assert_eq!(FixedText::<4>::new(text), Err(RecordError::TextNul { at }));
        }
        // What cannot fit at all is told first.
        assert_eq!(FixedText::<4>::new("ab\0de"), Err(RecordError::TextTooLong { room: 4 }));
    }

    #[test]
    fn equality_takes_in_the_padding() {
        let (clean, dirty) = (FixedText::new("a").unwrap(), FixedText::from_padded(*b"a\0b\0"));
        assert_eq!(clean.as_bytes(), dirty.as_bytes());
        assert_ne!(clean, dirty);
    }

    #[test]
    fn hostile_bytes_are_escaped() {
        assert_eq!(FixedText::<8>::new(b"\x1b[2J\xff").unwrap().to_string(), "\\x1b[2J\\xff");
    }
}
