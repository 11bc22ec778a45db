//! The kernel's ACPI events on generic netlink: family `acpi_event`, group `acpi_mc_group`.
//!
//! Linux broadcasts one netlink message for each event. No uAPI header describes it; the layout here
//! is that of `drivers/acpi/event.c`. The family's id is given out at run time, so the caller
//! compares [`AcpiGenlMessage::family`] with what it resolved.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::pin_layout;
use crate::{AcpiNotify, FixedText, Payload};

/// Name of the generic netlink family, `ACPI_GENL_FAMILY_NAME`.
pub const FAMILY_NAME: &str = "acpi_event";
/// Name of the multicast group that carries the events, `ACPI_GENL_MCAST_GROUP_NAME`.
pub const GROUP_NAME: &str = "acpi_mc_group";
/// Version of the family, `ACPI_GENL_VERSION`.
pub const FAMILY_VERSION: u8 = 1;
/// `ACPI_GENL_CMD_EVENT`, the only command.
pub const CMD_EVENT: u8 = 1;
/// `ACPI_GENL_ATTR_EVENT`, the attribute that holds an [`AcpiGenlEvent`].
pub const ATTR_EVENT: u16 = 1;

/// An event as the kernel sends it: `struct acpi_genl_event`, 44 bytes.
///
/// Source: Linux `drivers/acpi/event.c`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AcpiGenlEvent {
    /// The device's class, such as `button/power`.
    pub device_class: FixedText<20>,
    /// The device's name on the ACPI bus, such as `LNXPWRBN:00`.
    pub bus_id: FixedText<15>,
    /// The hole the compiler leaves; kept as it came.
    pub pad: u8,
    /// The notification value (`type`), narrowed to 8 bits by `acpi_bus_generate_netlink_event()`.
    pub kind: u32,
    /// Detail from the driver.
    pub data: u32,
}

pin_layout!(AcpiGenlEvent, size 44, align 4, { device_class: 0, bus_id: 20, pad: 35, kind: 36, data: 40 });

impl Payload for AcpiGenlEvent {}

impl AcpiGenlEvent {
    /// The same event as a notification record for a channel.
    ///
    /// `cookie` is what an `_OST` answer shall name; 0 when none is wanted.
    pub fn to_notify(&self, dev_id: u32, cookie: u32) -> AcpiNotify {
        let mut bus_id = [0; 16];
        bus_id[..15].copy_from_slice(self.bus_id.as_padded());
        let mut device_class = [0; 24];
        device_class[..20].copy_from_slice(self.device_class.as_padded());
        AcpiNotify {
            dev_id,
            value: self.kind,
            data: self.data,
            cookie,
            bus_id: FixedText::from_padded(bus_id),
            device_class: FixedText::from_padded(device_class),
        }
    }
}

/// `struct nlmsghdr` (Linux `include/uapi/linux/netlink.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct NlMsgHdr {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    pid: u32,
}

/// `struct genlmsghdr` (Linux `include/uapi/linux/genetlink.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct GenlMsgHdr {
    cmd: u8,
    version: u8,
    reserved: u16,
}

/// `struct nlattr` (Linux `include/uapi/linux/netlink.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct NlAttr {
    len: u16,
    kind: u16,
}

/// Bits of `nlattr.nla_type` that are the type; the two above are flags.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Message types below this one are netlink's own (`NLMSG_MIN_TYPE`).
const NLMSG_MIN_TYPE: u16 = 0x10;

/// Rounds up to netlink's alignment of 4 bytes.
const fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// One netlink message with an ACPI event in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AcpiGenlMessage {
    /// The family's id, from `nlmsg_type`.
    pub family: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: counts the kernel's events, for all listeners.
    pub sequence: u32,
    /// `nlmsg_pid`: 0 when the kernel sent it. Anything else is another process that pretends.
    pub port: u32,
    /// The family's version.
    pub version: u8,
    /// The event.
    pub event: AcpiGenlEvent,
}

impl AcpiGenlMessage {
    /// Bytes of a message as the kernel sends it.
    pub const SIZE: usize =
        size_of::<NlMsgHdr>() + size_of::<GenlMsgHdr>() + size_of::<NlAttr>() + size_of::<AcpiGenlEvent>();

    /// Reads the first message of `buffer`; returns it and the bytes that follow.
    ///
    /// Attributes and bytes that the kernel may add are passed over. For all messages of a buffer
    /// there is [`AcpiGenlMessages`].
    ///
    /// # Errors
    ///
    /// [`AcpiGenlError`]; the buffer's first message is then not an ACPI event.
    pub fn parse(buffer: &[u8]) -> Result<(Self, &[u8]), AcpiGenlError> {
        let (header, body, rest) = split_message(buffer)?;
        Ok((Self::read(&header, body)?, rest))
    }

    /// The message with this header and what follows the header.
    fn read(header: &NlMsgHdr, body: &[u8]) -> Result<Self, AcpiGenlError> {
        if header.kind < NLMSG_MIN_TYPE {
            return Err(AcpiGenlError::Control { kind: header.kind });
        }
        let (genl, attributes) = GenlMsgHdr::read_from_prefix(body).map_err(|_| AcpiGenlError::NoEvent)?;
        if genl.cmd != CMD_EVENT {
            return Err(AcpiGenlError::Command { cmd: genl.cmd });
        }
        Ok(Self {
            family: header.kind,
            flags: header.flags,
            sequence: header.seq,
            port: header.pid,
            version: genl.version,
            event: find_event(attributes)?,
        })
    }

    /// The message as the kernel would send it.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let header = NlMsgHdr {
            len: Self::SIZE as u32,
            kind: self.family,
            flags: self.flags,
            seq: self.sequence,
            pid: self.port,
        };
        let genl = GenlMsgHdr { cmd: CMD_EVENT, version: self.version, reserved: 0 };
        let attribute =
            NlAttr { len: (size_of::<NlAttr>() + size_of::<AcpiGenlEvent>()) as u16, kind: ATTR_EVENT };
        let mut bytes = [0; Self::SIZE];
        let mut at = 0;
        for part in [header.as_bytes(), genl.as_bytes(), attribute.as_bytes(), self.event.as_bytes()] {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        bytes
    }
}

/// The header of the buffer's first message, what follows the header, and what follows the message.
fn split_message(buffer: &[u8]) -> Result<(NlMsgHdr, &[u8], &[u8]), AcpiGenlError> {
    let truncated = AcpiGenlError::Truncated { found: buffer.len() };
    let (header, _) = NlMsgHdr::read_from_prefix(buffer).map_err(|_| truncated)?;
    let length = usize::try_from(header.len).unwrap_or(usize::MAX);
    let message = buffer.get(..length).ok_or(truncated)?;
    let body = message.get(size_of::<NlMsgHdr>()..).ok_or(AcpiGenlError::Truncated { found: length })?;
    Ok((header, body, buffer.get(aligned(length)..).unwrap_or(&[])))
}

/// Walks the netlink messages of a buffer, such as one receive from a socket returned.
///
/// A message that is no ACPI event is reported by its error and passed over. After
/// [`AcpiGenlError::Truncated`] the walk ends, for nobody can tell where a next message begins.
///
/// ```
/// use recordfd_uapi::acpi_genl::{AcpiGenlError, AcpiGenlMessages};
/// // NLMSG_DONE, then three bytes that are no message.
/// let buffer = [&16_u32.to_ne_bytes()[..], &3_u16.to_ne_bytes(), &[0; 10], &[1, 2, 3]].concat();
/// let mut messages = AcpiGenlMessages::new(&buffer);
/// assert_eq!(messages.next(), Some(Err(AcpiGenlError::Control { kind: 3 })));
/// assert_eq!(messages.next(), Some(Err(AcpiGenlError::Truncated { found: 3 })));
/// assert_eq!(messages.next(), None);
/// ```
#[derive(Clone, Debug)]
pub struct AcpiGenlMessages<'a> {
    rest: &'a [u8],
}

impl<'a> AcpiGenlMessages<'a> {
    /// A walk over `buffer`.
    pub const fn new(buffer: &'a [u8]) -> Self {
        Self { rest: buffer }
    }
}

impl Iterator for AcpiGenlMessages<'_> {
    type Item = Result<AcpiGenlMessage, AcpiGenlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(match split_message(self.rest) {
            Ok((header, body, rest)) => {
                self.rest = rest;
                AcpiGenlMessage::read(&header, body)
            }
            Err(error) => {
                self.rest = &[];
                Err(error)
            }
        })
    }
}

/// The event in the first attribute that holds one.
fn find_event(mut attributes: &[u8]) -> Result<AcpiGenlEvent, AcpiGenlError> {
    while let Ok((attribute, _)) = NlAttr::read_from_prefix(attributes) {
        let length = usize::from(attribute.len);
        let value = attributes
            .get(size_of::<NlAttr>()..length)
            .ok_or(AcpiGenlError::Attribute { kind: attribute.kind, length: attribute.len })?;
        if attribute.kind & NLA_TYPE_MASK == ATTR_EVENT {
            let (event, _) = AcpiGenlEvent::read_from_prefix(value)
                .map_err(|_| AcpiGenlError::Attribute { kind: attribute.kind, length: attribute.len })?;
            return Ok(event);
        }
        attributes = attributes.get(aligned(length)..).unwrap_or(&[]);
    }
    Err(AcpiGenlError::NoEvent)
}

/// Why bytes are not a netlink message with an ACPI event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcpiGenlError {
    /// The bytes end before the message does, or the message before its header does. Nothing can be
    /// read behind it.
    Truncated {
        /// What there was, in bytes.
        found: usize,
    },
    /// A message of netlink itself: 1 NOOP, 2 ERROR, 3 DONE, 4 OVERRUN (Linux
    /// `include/uapi/linux/netlink.h`).
    Control {
        /// The message type.
        kind: u16,
    },
    /// Another command than an event.
    Command {
        /// The command.
        cmd: u8,
    },
    /// An attribute's length is wrong.
    Attribute {
        /// The attribute's type, flags included.
        kind: u16,
        /// The length it claims.
        length: u16,
    },
    /// No attribute holds an event, or the message is too short for generic netlink at all.
    NoEvent,
}

impl fmt::Display for AcpiGenlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { found } => write!(f, "netlink message is cut off after {found} bytes"),
            Self::Control { kind } => write!(f, "netlink control message of type {kind}"),
            Self::Command { cmd } => write!(f, "command {cmd} is not an ACPI event"),
            Self::Attribute { kind, length } => {
                write!(f, "netlink attribute {kind} has the impossible length {length}")
            }
            Self::NoEvent => f.write_str("netlink message has no ACPI event in it"),
        }
    }
}

impl core::error::Error for AcpiGenlError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> AcpiGenlMessage {
        AcpiGenlMessage {
            family: 0x14,
            flags: 0,
            sequence: 7,
            port: 0,
            version: 1,
            event: AcpiGenlEvent {
                device_class: FixedText::new("battery").unwrap(),
                bus_id: FixedText::new("PNP0C0A:00").unwrap(),
                pad: 0,
                kind: 0x81,
                data: 1,
            },
        }
    }

    #[test]
    fn messages_follow_each_other_in_one_buffer() {
        let mut buffer = [0; 2 * AcpiGenlMessage::SIZE];
        let mut second = message();
        second.sequence = 8;
        buffer[..68].copy_from_slice(&message().encode());
        buffer[68..].copy_from_slice(&second.encode());
        let (first, rest) = AcpiGenlMessage::parse(&buffer).unwrap();
        assert_eq!(first, message());
        assert_eq!(AcpiGenlMessage::parse(rest), Ok((second, &[][..])));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = message().encode();
        for length in 0..bytes.len() {
            let error = AcpiGenlMessage::parse(&bytes[..length]).unwrap_err();
            assert_eq!(error, AcpiGenlError::Truncated { found: length });
        }
    }

    #[test]
    fn lying_lengths_are_errors() {
        let mut bytes = message().encode();
        bytes[0] = 12;
        assert_eq!(AcpiGenlMessage::parse(&bytes), Err(AcpiGenlError::Truncated { found: 12 }));
        let mut bytes = message().encode();
        for length in [0, 3, 47, 49, u16::MAX] {
            bytes[20..22].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(AcpiGenlMessage::parse(&bytes), Err(AcpiGenlError::Attribute { kind: 1, length }));
        }
    }

    #[test]
    fn foreign_messages_are_told_apart() {
        let mut control = message();
        control.family = 2;
        assert_eq!(AcpiGenlMessage::parse(&control.encode()), Err(AcpiGenlError::Control { kind: 2 }));
        let mut bytes = message().encode();
        bytes[16] = 9;
        assert_eq!(AcpiGenlMessage::parse(&bytes), Err(AcpiGenlError::Command { cmd: 9 }));
        let mut bytes = message().encode();
        bytes[22] = 5;
        assert_eq!(AcpiGenlMessage::parse(&bytes), Err(AcpiGenlError::NoEvent));
    }

    #[test]
    fn message_without_room_for_its_second_header_has_no_event() {
        let bytes = message().encode();
        for length in 16..20 {
            let mut bytes = bytes;
            bytes[0] = length;
            assert_eq!(AcpiGenlMessage::parse(&bytes), Err(AcpiGenlError::NoEvent), "{length}");
        }
    }

    #[test]
    fn walk_passes_over_what_is_no_event_and_ends_at_a_cut() {
        let event = message().encode();
        let mut control = message();
        control.family = 2;
        let mut foreign = event;
        foreign[16] = 9;
        let mut without = [0; 20];
        without.copy_from_slice(&event[..20]);
        without[0] = 18; // And 2 bytes to the next multiple of 4.
        let parts: [&[u8]; 6] = [&control.encode(), &event, &foreign, &without, &event, &event[..67]];
        let mut buffer = [0; 359];
        let mut at = 0;
        for part in parts {
            buffer[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        assert_eq!(at, buffer.len());
        let mut messages = AcpiGenlMessages::new(&buffer);
        for expected in [
            Err(AcpiGenlError::Control { kind: 2 }),
            Ok(message()),
            Err(AcpiGenlError::Command { cmd: 9 }),
            Err(AcpiGenlError::NoEvent),
            Ok(message()),
            Err(AcpiGenlError::Truncated { found: 67 }),
        ] {
            assert_eq!(messages.next(), Some(expected));
        }
        assert_eq!(messages.next(), None);
        assert_eq!(AcpiGenlMessages::new(&[]).next(), None);
    }

    #[test]
    fn unknown_attribute_before_the_event_is_passed_over() {
        let mut bytes = [0; 76];
        bytes[..68].copy_from_slice(&message().encode());
        bytes.copy_within(20..68, 28);
        bytes[0] = 76;
        bytes[20..28].copy_from_slice(&[7, 0, 99, 0, 1, 2, 3, 0]);
        assert_eq!(AcpiGenlMessage::parse(&bytes).unwrap().0, message());
    }

    #[test]
    fn notification_keeps_the_names() {
        let notify = message().event.to_notify(3, 9);
        assert_eq!((notify.dev_id, notify.value, notify.data, notify.cookie), (3, 0x81, 1, 9));
        assert_eq!(notify.bus_id.as_bytes(), b"PNP0C0A:00");
        assert_eq!(notify.value_name(), Some("Information Change"));
    }
}
