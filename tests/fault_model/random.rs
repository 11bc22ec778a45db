//! Decisions that a seed determines.

use super::choices::Choices;

/// Numbers that a seed determines (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Any state but 0, and seeds that follow each other far apart.
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl Choices for Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((high * u64::from(bound)) >> 32) as u32
    }
}
