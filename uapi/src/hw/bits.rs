//! Fields of 64-bit words, and words of little-endian bytes.

use super::HwError;
use crate::Le64;

/// Bits `hi` down to `lo` of a word, under the name that the specification gives them.
#[derive(Clone, Copy)]
pub(super) struct Field {
    name: &'static str,
    hi: u32,
    lo: u32,
}

impl Field {
    pub(super) const fn new(name: &'static str, hi: u32, lo: u32) -> Self {
        assert!(lo <= hi && hi < 64);
        Self { name, hi, lo }
    }

    const fn max(self) -> u64 {
        u64::MAX >> (63 - (self.hi - self.lo))
    }

    /// The field's bits, where they lie in the word.
    pub(super) const fn mask(self) -> u64 {
        self.max() << self.lo
    }

    /// The field's value.
    #[inline]
    pub(super) const fn get(self, word: u64) -> u64 {
        (word >> self.lo) & self.max()
    }

    /// The word that holds nothing but this value.
    #[inline]
    pub(super) fn put(self, value: impl Into<u64>) -> Result<u64, HwError> {
        let value = value.into();
        if value > self.max() {
            return Err(HwError::DoesNotFit { field: self.name, value });
        }
        Ok(value << self.lo)
    }

    /// Refuses an address that has bits outside of the field, which holds it where its bits lie anyway.
    #[inline]
    pub(super) const fn put_address(self, address: u64) -> Result<u64, HwError> {
        if address & !self.mask() != 0 {
            return Err(HwError::DoesNotFit { field: self.name, value: address });
        }
        Ok(address)
    }
}

/// Whether bit `at` is set.
#[inline]
pub(super) const fn bit(word: u64, at: u32) -> bool {
    word >> at & 1 != 0
}

/// The word in which bit `at` alone says `value`.
#[inline]
pub(super) const fn flag(value: bool, at: u32) -> u64 {
    (value as u64) << at
}

#[inline]
pub(super) fn words2(bytes: &[u8; 16]) -> [u64; 2] {
    let words: [Le64; 2] = zerocopy::transmute!(*bytes);
    words.map(Le64::get)
}

#[inline]
pub(super) fn bytes2(words: [u64; 2]) -> [u8; 16] {
    zerocopy::transmute!(words.map(Le64::new))
}

#[inline]
pub(super) fn words4(bytes: &[u8; 32]) -> [u64; 4] {
    let words: [Le64; 4] = zerocopy::transmute!(*bytes);
    words.map(Le64::get)
}

#[inline]
pub(super) fn bytes4(words: [u64; 4]) -> [u8; 32] {
    zerocopy::transmute!(words.map(Le64::new))
}

/// The bytes of words that no other variant can say.
#[inline]
pub(super) const fn unknown<const N: usize>(bytes: [u8; N], is_unknown: bool) -> Result<[u8; N], HwError> {
    if is_unknown { Ok(bytes) } else { Err(HwError::Known) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_keeps_to_its_bits() {
        let field = Field::new("PASID", 51, 32);
        assert_eq!(field.mask(), 0x000f_ffff_0000_0000);
        assert_eq!(field.get(u64::MAX), 0xf_ffff);
        assert_eq!(field.put(0xf_ffff_u32), Ok(field.mask()));
        assert_eq!(field.put(0x10_0000_u32), Err(HwError::DoesNotFit { field: "PASID", value: 0x10_0000 }));
        let whole = Field::new("all", 63, 0);
        assert_eq!((whole.mask(), whole.put(u64::MAX)), (u64::MAX, Ok(u64::MAX)));
    }

    #[test]
    fn address_has_no_bits_beside_its_field() {
        let field = Field::new("FetchAddr", 55, 3);
        assert_eq!(field.put_address(field.mask()), Ok(0x00ff_ffff_ffff_fff8));
        for address in [4, 1 << 56] {
            assert_eq!(
                field.put_address(address),
                Err(HwError::DoesNotFit { field: "FetchAddr", value: address })
            );
        }
    }

    #[test]
    fn words_are_little_endian() {
        let mut bytes = [0; 32];
        bytes[8] = 0x34;
        bytes[9] = 0x12;
        assert_eq!(words4(&bytes), [0, 0x1234, 0, 0]);
        assert_eq!(bytes4([0, 0x1234, 0, 0]), bytes);
        assert_eq!(bytes2(words2(&[0x5a; 16])), [0x5a; 16]);
    }
}
