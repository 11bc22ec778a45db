//! What a page holds, which pages are refused, and in what order they are touched.

/// Bytes of a page.
pub(crate) const PAGE_SIZE: usize = 4096;
/// Words of a page.
pub(crate) const WORDS: usize = PAGE_SIZE / size_of::<u64>();

/// The word at `index` of page `page`; no two pages share a content, and none is all zero.
pub(crate) fn word(page: usize, index: usize) -> u64 {
    mix(page as u64).wrapping_add(index as u64)
}

/// Makes the content of page `page`.
pub(crate) fn fill(page: usize, bytes: &mut [u8; PAGE_SIZE]) {
    for (index, bytes) in bytes.chunks_exact_mut(size_of::<u64>()).enumerate() {
        bytes.copy_from_slice(&word(page, index).to_ne_bytes());
    }
}

/// Whether a pager that refuses every `every`th page refuses this one; 0 refuses none.
pub(crate) fn is_refused(page: usize, every: u32) -> bool {
    every != 0 && page % every as usize == 0
}

/// A small generator of numbers in random order (splitmix64): not for secrets.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is small enough for the remainder's bias not to matter.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The pages below `pages` in random order (Fisher and Yates).
pub(crate) fn shuffled(pages: usize, seed: u64) -> Vec<usize> {
    let mut random = Random(seed);
    let mut order: Vec<usize> = (0..pages).collect();
    for last in (1..pages).rev() {
        order.swap(last, random.below(last + 1));
    }
    order
}

/// splitmix64's finaliser: a bijection, so different numbers stay different.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
