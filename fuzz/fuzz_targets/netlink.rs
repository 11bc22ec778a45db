//! Any bytes as a buffer of netlink messages: the walk ends, and what is read can be sent again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recordfd_uapi::acpi_genl::{ATTR_EVENT, AcpiGenlMessage, CMD_EVENT};

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Whether the kernel could have sent exactly these bytes: one attribute, nothing reserved in use.
fn is_canonical(bytes: &[u8]) -> bool {
    bytes.len() == AcpiGenlMessage::SIZE
        && word(bytes, 0) as usize == bytes.len()
        && half(bytes, 4) >= 16
        && bytes[16] == CMD_EVENT
        && half(bytes, 18) == 0
        && (half(bytes, 20), half(bytes, 22)) == (48, ATTR_EVENT)
}

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while !rest.is_empty() {
        match AcpiGenlMessage::parse(rest) {
            Ok((message, behind)) => {
                assert!(behind.len() < rest.len() && rest.ends_with(behind));
                let used = &rest[..rest.len() - behind.len()];
                // No shorter message can hold an event.
                assert!(used.len() >= AcpiGenlMessage::SIZE);
                let again = message.encode();
                assert_eq!(AcpiGenlMessage::parse(&again), Ok((message, &[][..])));
                if is_canonical(used) {
                    assert_eq!(again[..], *used);
                }
                rest = behind;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(!is_canonical(rest));
                break;
            }
        }
    }
});
