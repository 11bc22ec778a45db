//! The records of IOMMU hardware against a decoder in C with bit-fields: what either says of any bytes is
//! the same, field by field.

#[path = "header/compiler.rs"]
#[allow(dead_code, reason = "part of it is of use to the header's tests only")]
mod compiler;
#[path = "hw/random.rs"]
mod random;
#[path = "hw/said.rs"]
mod said;
#[path = "common/vectors.rs"]
mod vectors;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use compiler::{C11, VARIANTS, compile};
use random::Random;
use recordfd_uapi::hw::HwError;
use said::{Bytes, FIELDS, KINDS};

const SOURCE: &str = include_str!("c/formats.c");

/// Random records of each kind.
const RECORDS: usize = 20_000;

/// Fields of the vectors that say which kind of record it is.
const TYPES: [&str; 7] = ["TYPE", "TYPE_3_0", "TYPE_6_4", "ID", "OP", "OPCODE", "FUNC3"];

/// A record, and the number of its kind.
type Record = (usize, Bytes);

fn program(name: &str, flags: &[&str], source: &str) -> std::path::PathBuf {
    let flags = [&C11, flags, &["-DFORMATS_MAIN"]].concat();
    compile(&format!("formats-{name}"), "gcc", &flags, source).unwrap()
}

/// What the program says of each record.
fn said_in_c(program: &Path, records: &[Record]) -> Vec<[u64; FIELDS]> {
    let input = program.with_extension("input");
    let bytes: Vec<u8> =
        records.iter().flat_map(|(kind, bytes)| [*kind as u8].into_iter().chain(*bytes)).collect();
    fs::write(&input, bytes).unwrap();
    let output = Command::new(program).stdin(File::open(input).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut words = output.stdout.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    let said: Vec<_> =
        (0..records.len()).map(|_| std::array::from_fn(|_| words.next().expect("a field"))).collect();
    assert_eq!(words.next(), None);
    said
}

/// The first record of which C says something else: its format, its bytes, what C says and what we say.
fn difference(program: &Path, records: &[Record]) -> Option<String> {
    let differing = said_in_c(program, records).into_iter().zip(records).find_map(|(in_c, (kind, bytes))| {
        let (said, _) = said::decode(*kind, bytes);
        (said.fields != in_c).then_some((KINDS[*kind].0, bytes, in_c, said.fields))
    });
    differing.map(|(format, bytes, in_c, said)| format!("{format} {bytes:02x?}: {in_c:x?} and not {said:x?}"))
}

/// The records of all vectors.
fn vector_records() -> Vec<Record> {
    let kind = |format: &str| KINDS.iter().position(|(name, _)| *name == format);
    let known = vectors::all().into_iter().filter_map(|vector| Some((kind(&vector.format)?, vector.bytes)));
    known
        .map(|(kind, short)| {
            let mut bytes = Bytes::default();
            bytes[..short.len()].copy_from_slice(&short);
            (kind, bytes)
        })
        .collect()
}

/// A bit mask of the fields that say which kind of record a vector is.
fn type_bits(vector: &vectors::Vector) -> Bytes {
    let mut mask = Bytes::default();
    // RISC-V's is the code of an answer.
    let is_type = |name: &str| TYPES.contains(&name) || name == "CODE" && vector.format.starts_with("amd");
    for (_, hi, lo) in vector.bits.iter().filter(|(name, ..)| is_type(name)) {
        (*lo..=*hi).for_each(|at| mask[at / 8] |= 1 << (at % 8));
    }
    mask
}

/// This many random records of each kind: of the types that vectors have, of any event, vectors with a few bits changed, and any
/// bytes at all.
fn random_records(count: usize) -> Vec<Record> {
    let mut random = Random::new();
    let vectors = vectors::all();
    let mut records = Vec::new();
    for (kind, (format, _)) in KINDS.iter().enumerate() {
        let vectors: Vec<_> = vectors.iter().filter(|vector| vector.format == *format).collect();
        assert!(!vectors.is_empty(), "{format}");
        for round in 0..count {
            let vector = vectors[round % vectors.len()];
            let types = type_bits(vector);
            let (any, few): (Bytes, Bytes) = (random.bytes(), random.bytes());
            let few: Bytes = std::array::from_fn(|at| any[at] & few[at] & few[31 - at].rotate_left(3));
            let mut bytes: Bytes = std::array::from_fn(|at| {
                let stated = vector.bytes.get(at).copied().unwrap_or(0);
                match round / vectors.len() % 4 {
                    0 | 1 => any[at] & !types[at] | stated & types[at],
                    2 => stated ^ few[at],
                    _ => any[at],
                }
            });
            if *format == "smmuv3.event" && round % 2 == 0 {
                bytes[0] = any[0] % 0x28;
            }
            records.push((kind, bytes));
        }
    }
    records
}

#[test]
fn c_says_the_same() {
    let records = [vector_records(), random_records(RECORDS)].concat();
    let mut encoded = Vec::new();
    let mut known = [0; KINDS.len()];
    for (kind, bytes) in &records {
        let (said, again) = said::decode(*kind, bytes);
        known[*kind] += usize::from(said.fields[0] != 0);
        match again {
            Ok(again) => encoded.push((*kind, again)),
            Err(HwError::Code { code }) => assert!((2..0xf).contains(&code)),
            Err(error) => panic!("{error}: {:?} {bytes:02x?}", KINDS[*kind]),
        }
    }
    assert!(known.iter().all(|count| *count > RECORDS / 4), "{known:?}");
    assert!(encoded.len() > records.len() * 3 / 4, "{}", encoded.len());
    for (name, flags) in VARIANTS.iter() {
        let program = program(name, flags, SOURCE);
        assert_eq!(difference(&program, &records), None, "{name}");
        assert_eq!(difference(&program, &encoded), None, "{name}: of what is encoded");
    }
}

#[test]
fn other_layout_is_found_out() {
    let records = random_records(RECORDS / 10);
    // Each a field moved by a bit, or widened at its neighbour's cost.
    for (name, from, to) in [
        ("payload", "l : 1, prgi : 9, addr", "prgi : 9, l : 1, addr"),
        ("prd", "exr : 1, pmr : 1", "pmr : 1, exr : 1"),
        ("frcd", "t2 : 1, priv : 1", "priv : 1, t2 : 1"),
        ("event", "class : 2, other_107_106 : 2", "class : 3, other_107_106 : 1"),
        ("fetch", "rsvd_194_192 : 3, addr_55_3 : 53", "rsvd_194_192 : 2, addr_55_3 : 54"),
        ("resp", "{ 0xf, 1, 0 }", "{ 0, 1, 0xf }"),
        ("ppr", "r.us, r.read, r.write", "r.us, r.write, r.read"),
        ("virtio", "uint32_t endpoint;\n\tuint32_t reserved1;", "uint32_t reserved1;\n\tuint32_t endpoint;"),
    ] {
        assert!(SOURCE.contains(from), "{from}");
        let program = program(&format!("wrong-{name}"), &[], &SOURCE.replacen(from, to, 1));
        assert!(difference(&program, &records).is_some(), "{name}");
    }
}
