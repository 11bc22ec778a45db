//! Where the machine's decisions come from: a seed, or the bytes of a fuzzer.

pub(crate) trait Choices {
    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u32) -> u32;

    /// True once in `times`.
    fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }
}
