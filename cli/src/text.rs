//! Hex and numbers, as texts.

use serde_json::Value;

/// The bytes as hex.
pub(crate) fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that `text` gives in hex; spaces between bytes, and a `0x` in front, do no harm.
pub(crate) fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    let digits: Vec<u8> = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text)
        .chars()
        .filter(|digit| !digit.is_ascii_whitespace())
        .map(|digit| match digit.to_digit(16) {
            Some(value) => Ok(value as u8),
            None => Err(format!("{digit:?} is no hex digit")),
        })
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err("ends in the middle of a byte".to_owned());
    }
    Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The number that `text` gives, in decimal or, behind `0x`, in hex.
pub(crate) fn number(text: &str) -> Option<u64> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((text, 10), |digits| (digits, 16));
    // from_str_radix takes a sign, too.
    let has_sign = !digits.starts_with(|digit: char| digit.is_digit(radix));
    if has_sign { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// The number that a JSON value gives: as an integer, or as a text.
pub(crate) fn number_of(value: &Value) -> Result<u64, String> {
    let found = match value {
        Value::String(text) => number(text),
        _ => value.as_u64(),
    };
    found.ok_or_else(|| format!("is {value}, not an integer from 0 to 2^64 - 1 or a text such as \"0x1f\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_whole_bytes() {
        assert_eq!(unhex(" 0x00 ffA5\n"), Ok(vec![0, 0xff, 0xa5]));
        assert_eq!(unhex(""), Ok(vec![]));
        for text in ["0", "0g", "0x0x00", "é0"] {
            assert!(unhex(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_have_no_sign() {
        assert_eq!(
            (number("0x1f"), number("31"), number("0Xffffffffffffffff")),
            (Some(31), Some(31), Some(u64::MAX))
        );
        for text in ["", "0x", "0x+1", "-1", "+1", "0x10000000000000000", "1f"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
