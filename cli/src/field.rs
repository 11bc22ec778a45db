//! Where a field lies in a record, and how its value is written in JSON.

use recordfd::uapi::Format as ChannelFormat;
use serde_json::Value;

use crate::formats;
use crate::text::{hex_of, number_of, unhex};

/// Bits `hi` down to `lo` of a record, counted as in a little-endian number of its size.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    hi: u32,
    lo: u32,
    kind: Kind,
    /// Whether numbers are in this machine's byte order; little-endian if not.
    host: bool,
    /// What a number means, for people.
    pub(crate) meaning: Option<fn(u64) -> String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    /// An array of as many numbers.
    Numbers(u32),
    /// Text, padded with NUL.
    Text,
    /// The record of the format that the field `format` names, padded with zeroes.
    Inner,
}

impl Field {
    pub(crate) const fn bits(name: &'static str, hi: u32, lo: u32) -> Self {
        assert!(lo <= hi);
        Self { name, hi, lo, kind: Kind::Number, host: false, meaning: None }
    }

    pub(crate) const fn bit(name: &'static str, at: u32) -> Self {
        Self::bits(name, at, at)
    }

    const fn bytes(name: &'static str, at: u32, count: u32, kind: Kind) -> Self {
        Self { kind, host: true, ..Self::bits(name, (at + count) * 8 - 1, at * 8) }
    }

    /// A number of this machine, of `size` bytes from byte `at` on.
    pub(crate) const fn host(name: &'static str, at: u32, size: u32) -> Self {
        Self::bytes(name, at, size, Kind::Number)
    }

    /// The `u32` at byte `at`.
    pub(crate) const fn word(name: &'static str, at: u32) -> Self {
        Self::host(name, at, 4)
    }

    /// As many numbers of `size` bytes each, from byte `at` on.
    pub(crate) const fn words(name: &'static str, at: u32, size: u32, count: u32) -> Self {
        Self::bytes(name, at, size * count, Kind::Numbers(count))
    }

    pub(crate) const fn text(name: &'static str, at: u32, size: u32) -> Self {
        Self::bytes(name, at, size, Kind::Text)
    }

    pub(crate) const fn inner(name: &'static str, at: u32, size: u32) -> Self {
        Self::bytes(name, at, size, Kind::Inner)
    }

    pub(crate) const fn little_endian(self) -> Self {
        Self { host: false, ..self }
    }

    pub(crate) const fn means(self, meaning: fn(u64) -> String) -> Self {
        Self { meaning: Some(meaning), ..self }
    }

    /// The number in these bits; of a field of up to 64.
    pub(crate) fn number(&self, record: &[u8]) -> u64 {
        number_at(record, self.hi, self.lo, self.host)
    }

    /// The value, or `None` for what JSON cannot say: it is left to the record's other bits.
    pub(crate) fn get(&self, record: &[u8]) -> Option<Value> {
        match self.kind {
            Kind::Number => Some(self.number(record).into()),
            Kind::Numbers(count) => {
                Some(self.parts(count).map(|(hi, lo)| number_at(record, hi, lo, self.host)).collect())
            }
            Kind::Text => {
                let bytes = &record[self.place()];
                let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
                let text = std::str::from_utf8(&bytes[..end]).ok()?;
                bytes[end..].iter().all(|byte| *byte == 0).then(|| text.into())
            }
            Kind::Inner => {
                let bytes = &record[self.place()];
                Some(inner_object(record, bytes).unwrap_or_else(|| {
                    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    hex_of(&bytes[..end]).into()
                }))
            }
        }
    }

    /// Writes the value into `record`, whose bits are zero there.
    pub(crate) fn put(&self, value: &Value, record: &mut [u8]) -> Result<(), String> {
        match self.kind {
            Kind::Number => put_number(value, record, self.hi, self.lo, self.host),
            Kind::Numbers(count) => match value.as_array() {
                Some(items) if items.len() == count as usize => self
                    .parts(count)
                    .zip(items)
                    .try_for_each(|((hi, lo), item)| put_number(item, record, hi, lo, self.host)),
                _ => Err(format!("is {value}, not an array of {count} numbers")),
            },
            Kind::Text => {
                let text = value.as_str().ok_or_else(|| format!("is {value}, not a text"))?;
                let place = self.place();
                if text.len() > place.len() {
                    return Err(format!("has {} bytes, and room for {}", text.len(), place.len()));
                } else if text.contains('\0') {
                    return Err("has a NUL in it, where a reader would take it to end".to_owned());
                }
                record[place.start..place.start + text.len()].copy_from_slice(text.as_bytes());
                Ok(())
            }
            Kind::Inner => {
                let bytes = match value {
                    Value::String(text) => unhex(text)?,
                    _ => {
                        let format =
                            inner_format(record).ok_or("is an object, of a format not known here")?;
                        crate::record::encode(format, value)?
                    }
                };
                let place = self.place();
                if bytes.len() > place.len() {
                    return Err(format!("has {} bytes, and room for {}", bytes.len(), place.len()));
                }
                record[place.start..place.start + bytes.len()].copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    /// Sets all bits of the field to zero.
    pub(crate) fn clear(&self, record: &mut [u8]) {
        (self.lo..=self.hi).for_each(|at| record[at as usize / 8] &= !(1 << (at % 8)));
    }

    /// Whether any bit of the field is set.
    pub(crate) fn is_set(&self, record: &[u8]) -> bool {
        (self.lo..=self.hi).any(|at| record[at as usize / 8] >> (at % 8) & 1 != 0)
    }

    /// The bytes of a field that has whole ones.
    fn place(&self) -> std::ops::Range<usize> {
        self.lo as usize / 8..(self.hi as usize + 1) / 8
    }

    fn parts(&self, count: u32) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (lo, size) = (self.lo, (self.hi + 1 - self.lo) / count);
        (0..count).map(move |part| (lo + (part + 1) * size - 1, lo + part * size))
    }
}

fn number_at(record: &[u8], hi: u32, lo: u32, host: bool) -> u64 {
    let bit = |at: u32| u64::from(record[at as usize / 8] >> (at % 8) & 1);
    let value = (lo..=hi).rev().fold(0, |value, at| value << 1 | bit(at));
    if host { host_order(value, hi + 1 - lo) } else { value }
}

fn put_number(value: &Value, record: &mut [u8], hi: u32, lo: u32, host: bool) -> Result<(), String> {
    let (number, size) = (number_of(value)?, hi + 1 - lo);
    if size < 64 && number >> size != 0 {
        return Err(format!("is {number:#x}, and has {size} bits"));
    }
    let number = if host { host_order(number, size) } else { number };
    for at in lo..=hi {
        record[at as usize / 8] |= ((number >> (at - lo) & 1) as u8) << (at % 8);
    }
    Ok(())
}

/// A little-endian number of so many bits, which are whole bytes, as this machine's, and back.
fn host_order(value: u64, size: u32) -> u64 {
    if cfg!(target_endian = "big") { value.swap_bytes() >> (64 - size) } else { value }
}

/// The format of the record inside of a mixed one, whose first word names it.
fn inner_format(record: &[u8]) -> Option<&'static formats::Format> {
    formats::of_channel(ChannelFormat(Field::word("format", 0).number(record) as u32))
}

fn inner_object(record: &[u8], bytes: &[u8]) -> Option<Value> {
    let format = inner_format(record)?;
    let (inner, padding) = bytes.split_at_checked(format.size)?;
    let is_padded = padding.iter().all(|byte| *byte == 0);
    is_padded.then(|| crate::record::decode(format, inner).ok()).flatten().map(Value::Object)
}
