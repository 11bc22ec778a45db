//! Vectors worked out by hand from the header files and specifications, and their fields.

// Each test takes what it needs.
#![allow(dead_code)]

use std::collections::BTreeMap;

use recordfd_uapi::FixedText;

const VECTORS: &str = include_str!("../../../tests/data/vectors.json");

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Number(u64),
    Text(String),
}

macro_rules! numbers {
    ($($int:ty),*) => {
        $(impl From<$int> for Value {
            fn from(number: $int) -> Self {
                Self::Number(number.into())
            }
        })*
    };
}
numbers!(bool, u8, u16, u32, u64);

impl<const N: usize> From<FixedText<N>> for Value {
    fn from(text: FixedText<N>) -> Self {
        let stated = text.as_str().expect("kernel names are ASCII");
        assert_eq!(FixedText::new(stated), Ok(text), "only NUL follows the first NUL");
        Self::Text(stated.to_owned())
    }
}

/// Fields by name. Whole maps are compared, so a field that only one side has is a failure.
pub(crate) type Fields = BTreeMap<String, Value>;

pub(crate) fn fields<const N: usize>(items: [(&str, Value); N]) -> Fields {
    items.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(crate) fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0, "half a byte in {text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A record's bytes and what they mean.
pub(crate) struct Vector {
    pub(crate) format: String,
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fields: Fields,
    /// Where each field lies: its highest and its lowest bit.
    pub(crate) bits: Vec<(String, usize, usize)>,
    /// The page fault that the record is.
    pub(crate) generic: Option<serde_json::Value>,
}

/// Every vector there is.
pub(crate) fn all() -> Vec<Vector> {
    let vectors: Vec<serde_json::Value> = serde_json::from_str(VECTORS).unwrap();
    vectors.iter().map(vector).collect()
}

fn vector(vector: &serde_json::Value) -> Vector {
    let text = |key: &str| vector[key].as_str().unwrap().to_owned();
    let bytes = hex(&text("hex"));
    assert_eq!(vector["size"].as_u64(), Some(bytes.len() as u64));
    Vector {
        format: text("format"),
        name: text("name"),
        bytes,
        fields: vector["fields"].as_object().unwrap().iter().map(json_field).collect(),
        bits: vector["bits"].as_object().unwrap().iter().map(position).collect(),
        generic: vector.get("generic").cloned(),
    }
}

/// A field of a vector: numbers above 9 are texts that begin with `0x`.
fn json_field((name, value): (&String, &serde_json::Value)) -> (String, Value) {
    let value = match value.as_str() {
        Some(text) if text.starts_with("0x") => Value::Number(number(text)),
        Some(text) => Value::Text(text.to_owned()),
        None => Value::Number(value.as_u64().expect("a number")),
    };
    (name.clone(), value)
}

fn position((name, bits): (&String, &serde_json::Value)) -> (String, usize, usize) {
    let bits = bits.as_str().unwrap();
    let (hi, lo) = bits.split_once(':').unwrap_or((bits, bits));
    (name.clone(), hi.parse().unwrap(), lo.parse().unwrap())
}
