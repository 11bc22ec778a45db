//! Any bytes as records of IOMMU hardware, and any values: decoding is total, what is encoded says the same,
//! and page faults and their answers come back but for what the loss names.

#![no_main]

#[path = "formats/answers.rs"]
mod answers;
#[path = "formats/faults.rs"]
mod faults;
#[path = "../../uapi/tests/hw/said.rs"]
mod said;
#[path = "formats/values.rs"]
mod values;

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use recordfd_uapi::hw::HwError;
use said::{Bytes, KINDS};

/// What the fuzzer decides; when its bytes are used up, always 0.
struct Choices<'a>(Unstructured<'a>);

impl Choices<'_> {
    fn below(&mut self, bound: u8) -> u8 {
        self.0.int_in_range(0..=bound - 1).unwrap_or(0)
    }

    fn once(&mut self) -> bool {
        self.below(2) == 1
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_buffer(&mut bytes).expect("it fills up with zeroes");
        bytes
    }

    /// A number that mostly has no more bits than its field.
    fn number(&mut self, bits: u32) -> u64 {
        let most = u64::MAX >> (64 - bits);
        match self.below(8) {
            0 => most,
            1 => most.wrapping_add(1),
            2 => u64::from_le_bytes(self.bytes()),
            _ => u64::from_le_bytes(self.bytes()) & most,
        }
    }

    /// An address that mostly has no bits but those of its field.
    fn address(&mut self, mask: u64) -> u64 {
        let address = u64::from_le_bytes(self.bytes());
        if self.below(8) == 0 { address } else { address & mask }
    }

    fn optional<T>(&mut self, some: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.once().then(|| some(self))
    }
}

/// Decoding gives a value that is encoded to bytes of the same value, unless it is an answer whose code is
/// never sent; bytes of an unknown kind come back as they were.
fn decode(kind: usize, bytes: &Bytes) {
    let (format, size) = KINDS[kind];
    let (said, again) = said::decode(kind, bytes);
    match again {
        Ok(again) => {
            assert_eq!(said::decode(kind, &again), (said, Ok(again)));
            if said.fields[0] == 0 && format != "smmuv3.event" {
                assert_eq!(again[..size], bytes[..size]);
            }
        }
        Err(HwError::Code { code }) => {
            assert!((2..0xf).contains(&code));
            assert!(["vtd.qi_page_group_response", "amd.complete_ppr", "riscv.ats_prgr"].contains(&format));
        }
        Err(error) => panic!("{error}"),
    }
}

/// The shortest input that is tried: the fuzzer prefers short ones, and would leave most fields 0.
const SHORTEST: usize = 2 + size_of::<Bytes>();

// The seeds are made for these numbers: those of `KINDS`, then a byte that says what is tried.
fuzz_target!(|input: &[u8]| {
    if input.len() < SHORTEST {
        return;
    }
    let mut choices = Choices(Unstructured::new(input));
    let [kind, way] = choices.bytes();
    let kind = usize::from(kind) % KINDS.len();
    match way % 4 {
        0 => decode(kind, &choices.bytes()),
        1 => values::encode(kind, &mut choices),
        2 => faults::there_and_back(kind, &mut choices),
        _ => answers::there_and_back(&mut choices),
    }
});
