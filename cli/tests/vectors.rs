//! Every recorded vector, through the tool in both directions.

// The bytes were recorded on a little-endian machine, and the values of some are host-endian.
#![cfg(target_endian = "little")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Vector, recordfd, vectors};
use serde_json::Value;

fn by_format() -> BTreeMap<String, Vec<Vector>> {
    let mut formats = BTreeMap::<String, Vec<Vector>>::new();
    for vector in vectors() {
        formats.entry(vector.format.clone()).or_default().push(vector);
    }
    assert_eq!(formats.len(), 20);
    formats
}

#[test]
fn every_vector_is_decoded_to_its_fields() {
    for (format, vectors) in by_format() {
        let lines: String = vectors.iter().map(|vector| vector.hex.clone() + "\n").collect();
        let ran = recordfd(&format!("decode --format {format}"), lines);
        ran.quiet_lines();
        let found: Vec<_> = ran.json();
        assert_eq!(found.len(), vectors.len(), "{format}");
        for (found, vector) in found.iter().zip(&vectors) {
            assert_eq!(found.as_object(), Some(&vector.fields), "{format} {}", vector.name);
        }
    }
}

#[test]
fn every_vector_is_decoded_from_bytes() {
    for (format, vectors) in by_format() {
        let bytes: Vec<u8> = vectors.iter().flat_map(|vector| common::unhex(&vector.hex)).collect();
        let ran = recordfd(&format!("decode --raw --format {format}"), bytes);
        let expected: Vec<_> = vectors.iter().map(|vector| Value::Object(vector.fields.clone())).collect();
        assert_eq!((ran.json(), ran.status), (expected, 0), "{format}");
    }
}

/// Encodes the vectors with their fields as `number` writes them.
fn check_encoding(number: impl Fn(u64) -> Value) {
    let mut never_sent = 0;
    for (format, vectors) in by_format() {
        let (refused, vectors): (Vec<_>, Vec<_>) = vectors.into_iter().partition(Vector::is_never_sent);
        let line = |vector: &Vector| {
            let value = |value: &Value| value.as_u64().map_or(value.clone(), &number);
            let fields = vector.fields.iter().map(|(name, field)| (name.clone(), value(field))).collect();
            Value::Object(fields).to_string() + "\n"
        };
        let ran =
            recordfd(&format!("encode --format {format}"), vectors.iter().map(line).collect::<String>());
        let expected: Vec<_> = vectors.iter().map(|vector| vector.hex.as_str()).collect();
        assert_eq!(ran.quiet_lines(), expected, "{format}");
        for vector in refused {
            let ran = recordfd(&format!("encode --format {format}"), line(&vector));
            assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
            assert_eq!(ran.stderr, "recordfd: line 1: response code 0x2 is never sent\n");
            never_sent += 1;
        }
    }
    assert_eq!(never_sent, 2);
}

#[test]
fn every_vector_is_encoded_from_integers() {
    check_encoding(Value::from);
}

#[test]
fn every_vector_is_encoded_from_texts() {
    check_encoding(|number| format!("{number:#x}").into());
}

#[test]
fn every_vector_has_a_line_for_people_with_every_field() {
    for (format, vectors) in by_format() {
        for vector in vectors {
            let ran = recordfd(&format!("decode --pretty --format {format}"), &vector.hex);
            let lines = ran.quiet_lines();
            assert_eq!(lines.len(), 1);
            assert!(lines[0].starts_with(&format), "{lines:?}");
            for (name, value) in &vector.fields {
                let shown = match value.as_u64() {
                    Some(number) if number > 9 => format!(" {name}={number:#x}"),
                    _ => format!(" {name}={value}"),
                };
                let end = lines[0].find(&shown).map(|at| &lines[0][at + shown.len()..]);
                assert!(
                    end.is_some_and(|end| end.is_empty() || end.starts_with([' ', ':'])),
                    "{shown}: {lines:?}"
                );
            }
        }
    }
}

#[test]
fn reason_of_a_fault_has_its_name_for_people() {
    let vectors = by_format().remove("vtd.frcd").unwrap();
    let vector = vectors.iter().find(|vector| vector.name == "pasid_table_access_fr_0x58").unwrap();
    let ran = recordfd("decode --pretty --format vtd.frcd", &vector.hex);
    assert!(ran.stdout.contains(" FR=0x58 (PASID_TABLE_ACCESS) "), "{ran:?}");
}

#[test]
fn every_format_of_the_vectors_is_listed_with_its_size() {
    let rows = recordfd("formats --json", "").json();
    let size_of = |name: &str| rows.iter().find(|row| row["name"] == name).map(|row| row["size"].clone());
    let names: BTreeSet<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!((rows.len(), names.len()), (31, 31));
    for vector in vectors() {
        assert_eq!(size_of(&vector.format), Some((vector.hex.len() / 2).into()), "{}", vector.format);
    }
}
