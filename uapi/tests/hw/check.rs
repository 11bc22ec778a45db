//! What every record is held to.

use std::collections::BTreeMap;
use std::fmt::Debug;

use recordfd_uapi::hw::HwError;
use recordfd_uapi::hw::pcie::{PageRequest, Pasid, PrgResponse, ResponseCode};

use crate::random::Random;
use crate::vectors::{self, Fields, Value};

fn slice(bytes: &[u8], hi: usize, lo: usize) -> u64 {
    (lo..=hi).rev().fold(0, |value, at| value << 1 | u64::from(bytes[at / 8] >> (at % 8) & 1))
}

/// Holds a format's `count` vectors to their fields and bytes: whatever the bits outside of the fields
/// are, and to what the fields would be with any other bits in all but the `fixed` ones.
pub(crate) fn vectors<const N: usize>(
    format: &str,
    count: usize,
    fixed: &[&str],
    take: impl Fn(&[u8; N]) -> (Fields, Result<[u8; N], HwError>),
) {
    let mut random = Random::new();
    let vectors: Vec<_> = vectors::all().into_iter().filter(|vector| vector.format == format).collect();
    assert_eq!(vectors.len(), count, "{format}");
    for name in fixed {
        assert!(vectors.iter().any(|vector| vector.fields.contains_key(*name)), "{format} has no {name}");
    }
    for vector in vectors {
        let name = format!("{format} {}", vector.name);
        let bytes: [u8; N] = vector.bytes.try_into().expect("the record's size");
        let (found, encoded) = take(&bytes);
        assert_eq!(found, vector.fields, "{name}");
        if vector.name.starts_with("decode_only") {
            assert!(matches!(encoded, Err(HwError::Code { .. })), "{name}: {encoded:?}");
            continue;
        }
        assert_eq!(encoded, Ok(bytes), "{name}");
        for at in 0..N * 8 {
            if !vector.bits.iter().any(|(_, hi, lo)| (*lo..=*hi).contains(&at)) {
                let mut other = bytes;
                other[at / 8] ^= 1 << (at % 8);
                assert_eq!(take(&other).0, vector.fields, "{name}: bit {at}");
            }
        }
        for _ in 0..500 {
            let mut other = bytes;
            for (_, hi, lo) in vector.bits.iter().filter(|(name, ..)| !fixed.contains(&name.as_str())) {
                for at in *lo..=*hi {
                    other[at / 8] ^= ((random.next() >> 40) as u8 & 1) << (at % 8);
                }
            }
            let (found, encoded) = take(&other);
            let expected: BTreeMap<_, _> = vector
                .bits
                .iter()
                .map(|(name, hi, lo)| (name.clone(), Value::Number(slice(&other, *hi, *lo))))
                .collect();
            assert_eq!(found, expected, "{name}: {other:02x?}");
            assert_eq!(encoded, Ok(other), "{name}");
        }
    }
}

/// Holds decoding to be total, and what it gives to be encoded to bytes that say the same; those of an
/// unknown record to be the same.
///
/// `set` makes random bytes ones of a record that is known, from a random number.
pub(crate) fn stable<T: PartialEq + Debug, const N: usize>(
    set: impl Fn(&mut [u8; N], u64),
    decode: impl Fn(&[u8; N]) -> T,
    encode: impl Fn(&T) -> Result<[u8; N], HwError>,
    is_unknown: impl Fn(&T) -> bool,
) {
    let mut random = Random::new();
    let (mut known, mut unknown) = (0, 0);
    for round in 0..50_000 {
        let mut bytes = random.bytes();
        match round {
            0 => bytes = [0; N],
            1 => bytes = [0xff; N],
            _ if round % 2 == 0 => set(&mut bytes, random.next() >> 20),
            _ => {}
        }
        let value = decode(&bytes);
        match encode(&value) {
            Ok(again) => {
                assert_eq!(decode(&again), value, "{bytes:02x?}");
                if is_unknown(&value) {
                    assert_eq!(again, bytes);
                    unknown += 1;
                } else {
                    known += 1;
                }
            }
            Err(HwError::Code { code }) => assert!((2..0xf).contains(&code), "{value:?}"),
            Err(error) => panic!("{error}: {value:?} of {bytes:02x?}"),
        }
    }
    assert!(known > 5_000, "{known} known, {unknown} unknown");
}

/// Holds encoding to refuse each value because of the field named.
pub(crate) fn refused<T: Debug, B: PartialEq + Debug>(
    encode: impl Fn(&T) -> Result<B, HwError>,
    values: impl IntoIterator<Item = (T, &'static str, u64)>,
) {
    for (item, field, value) in values {
        assert_eq!(encode(&item), Err(HwError::DoesNotFit { field, value }), "{item:?}");
    }
}

/// A request that every record can say, with the widest values of the narrowest.
pub(crate) const REQUEST: PageRequest = PageRequest {
    rid: 0xffff,
    pasid: Some(Pasid { value: 0xf_ffff, exec: true, privileged: true }),
    prgi: 0x1ff,
    read: true,
    write: true,
    last: true,
    addr: !0xfff,
};

/// A request with an index, an address and a PASID that no record can say, and the field's values.
pub(crate) fn wide_requests() -> [(PageRequest, u64); 5] {
    let pasid = Some(Pasid { value: 0x10_0000, ..Pasid::default() });
    [
        (PageRequest { pasid, ..REQUEST }, 0x10_0000),
        (PageRequest { prgi: 0x200, ..REQUEST }, 0x200),
        (PageRequest { prgi: u16::MAX, ..REQUEST }, 0xffff),
        (PageRequest { addr: 0x1800, ..REQUEST }, 0x1800),
        (PageRequest { addr: 1, ..REQUEST }, 1),
    ]
}

/// An answer that every record can say, with the widest values of the narrowest.
pub(crate) const RESPONSE: PrgResponse =
    PrgResponse { rid: 0xffff, pasid: Some(0xf_ffff), prgi: 0x1ff, code: ResponseCode::RESPONSE_FAILURE };

/// Answers with an index and a PASID that no record can say.
pub(crate) fn wide_responses() -> [(PrgResponse, u64); 2] {
    [
        (PrgResponse { pasid: Some(0x10_0000), ..RESPONSE }, 0x10_0000),
        (PrgResponse { prgi: 0x200, ..RESPONSE }, 0x200),
    ]
}

/// Holds encoding to send no code but the three.
pub(crate) fn codes<B: PartialEq + Debug>(encode: impl Fn(PrgResponse) -> Result<B, HwError>) {
    for code in 0..=u8::MAX {
        let result = encode(PrgResponse { code: ResponseCode::new(code), ..RESPONSE });
        match code {
            0 | 1 | 0xf => assert!(result.is_ok(), "{code:#x}"),
            _ => assert_eq!(result, Err(HwError::Code { code: code.into() })),
        }
    }
}
