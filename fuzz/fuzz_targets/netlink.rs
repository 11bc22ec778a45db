//! Any bytes as a buffer of netlink messages: the walk follows the messages' own lengths to the end or
//! to the first that is cut off, and what is read can be sent again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recordfd_uapi::acpi_genl::{ATTR_EVENT, AcpiGenlError, AcpiGenlMessage, AcpiGenlMessages, CMD_EVENT};

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The first message by the length it states, and what follows it; none when it is cut off.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if bytes.len() < 16 {
        return None;
    }
    let length = word(bytes, 0) as usize;
    let (message, rest) = (bytes.get(..length).filter(|_| length >= 16)?, &bytes[length..]);
    let padding = (4 - length % 4) % 4;
    Some((message, rest.get(padding..).unwrap_or(&[])))
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

/// What is read of a whole message is true.
fn check(bytes: &[u8], item: Result<AcpiGenlMessage, AcpiGenlError>) {
    match item {
        Ok(message) => {
            // No shorter message can hold an event.
            assert!(bytes.len() >= AcpiGenlMessage::SIZE);
            assert_eq!((message.family, bytes[16]), (half(bytes, 4), CMD_EVENT));
            let again = message.encode();
            assert_eq!(AcpiGenlMessage::parse(&again), Ok((message, &[][..])));
            if is_canonical(bytes) {
                assert_eq!(again[..], *bytes);
            }
        }
        Err(AcpiGenlError::Control { kind }) => assert!(kind < 16 && kind == half(bytes, 4)),
        Err(AcpiGenlError::Command { cmd }) => assert!(cmd != CMD_EVENT && cmd == bytes[16]),
        Err(AcpiGenlError::Attribute { .. } | AcpiGenlError::NoEvent) => assert!(!is_canonical(bytes)),
        Err(error) => panic!("{error}, in a message of its full length"),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let mut messages = AcpiGenlMessages::new(input);
    while let Some(item) = messages.next() {
        assert_eq!(item, AcpiGenlMessage::parse(rest).map(|(message, _)| message));
        if let Err(error) = &item {
            assert!(!error.to_string().is_empty());
        }
        let Some((message, behind)) = split(rest) else {
            assert!(matches!(item, Err(AcpiGenlError::Truncated { found }) if found <= rest.len()));
            assert!(messages.next().is_none());
            return;
        };
        if item.is_ok() {
            assert_eq!(AcpiGenlMessage::parse(rest).unwrap().1, behind);
        }
        check(message, item);
        rest = behind;
    }
    assert!(rest.is_empty());
});
