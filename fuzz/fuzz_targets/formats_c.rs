//! Any bytes as a record of IOMMU hardware: a decoder in C with bit-fields says the same of them, field by
//! field, and of what they are encoded to.

#![no_main]

#[path = "../../uapi/tests/hw/said.rs"]
mod said;

use libfuzzer_sys::fuzz_target;
use said::{Bytes, FIELDS, KINDS};

unsafe extern "C" {
    fn formats_decode(kind: u32, bytes: *const Bytes, fields: *mut [u64; FIELDS]);
}

fn said_in_c(kind: usize, bytes: &Bytes) -> [u64; FIELDS] {
    let mut fields = [0; FIELDS];
    // SAFETY: it reads 32 bytes and writes FIELDS numbers of 64 bits, which is what these are, and keeps
    // neither pointer.
    unsafe { formats_decode(kind as u32, bytes, &mut fields) };
    fields
}

// The seeds are made for these numbers: those of `KINDS`. Nothing depends on how long a record is, so short
// inputs, which the fuzzer prefers, are left out.
fuzz_target!(|input: &[u8]| {
    let Some((&[kind], rest)) = input.split_first_chunk() else { return };
    let Some(bytes) = rest.first_chunk::<{ size_of::<Bytes>() }>() else { return };
    let kind = usize::from(kind) % KINDS.len();
    let (said, again) = said::decode(kind, bytes);
    assert_eq!(said_in_c(kind, bytes), said.fields);
    if let Ok(again) = again {
        assert_eq!(said_in_c(kind, &again), said.fields);
    }
});
