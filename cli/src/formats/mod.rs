//! The formats the tool knows, one row each: [`own`] has those of recordfd and of Linux, [`hw`] those of the
//! hardware.

mod hw;
mod own;

use recordfd::uapi::hw::HwError;
use recordfd::uapi::{Format as ChannelFormat, Protocol, Record};

use crate::convert::Converts;
use crate::field::Field;

/// A format of records or of answers.
pub(crate) struct Format {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Bytes of one record.
    pub(crate) size: usize,
    /// What is where. Of several shapes the first one whose tags fit; the last one has none.
    pub(crate) shapes: &'static [Shape],
    /// What the library makes of the bytes.
    pub(crate) read: fn(&[u8]) -> Reading,
    /// The channel that carries it.
    pub(crate) channel: Option<ChannelFormat>,
    /// The format of what it is answered with.
    pub(crate) reply: Option<&'static str>,
    /// A word more on a record, for people.
    pub(crate) remark: Option<Remark>,
    /// How it becomes a page fault or an answer to one, and is made of it.
    pub(crate) converts: Option<Converts>,
}

/// What there is to say about a record, if anything.
pub(crate) type Remark = fn(&[u8]) -> Option<String>;

/// One kind of record of a format.
pub(crate) struct Shape {
    /// As the specification names it; empty where there is one kind only.
    pub(crate) name: &'static str,
    /// Fields with the values that tell this kind.
    pub(crate) tags: &'static [(&'static str, u64)],
    pub(crate) fields: &'static [Field],
}

/// The bytes of a record after the library has read and written it.
pub(crate) enum Reading {
    /// What it wrote.
    Bytes(Vec<u8>),
    /// It does not read such bytes.
    Refused(String),
    /// It reads them, but never writes such a record.
    Unsendable(String),
}

impl Format {
    const fn new(name: &'static str, size: usize, read: fn(&[u8]) -> Reading, about: &'static str) -> Self {
        Self {
            name,
            about,
            size,
            shapes: &[],
            read,
            channel: None,
            reply: None,
            remark: None,
            converts: None,
        }
    }

    const fn shapes(self, shapes: &'static [Shape]) -> Self {
        Self { shapes, ..self }
    }

    const fn converts(self, converts: Converts) -> Self {
        Self { converts: Some(converts), ..self }
    }

    const fn reply(self, reply: &'static str) -> Self {
        Self { reply: Some(reply), ..self }
    }

    /// What a channel promises about it, or what else it is.
    pub(crate) fn protocol(&self) -> &'static str {
        match self.channel.and_then(ChannelFormat::layout).map(|layout| layout.protocol) {
            Some(Protocol::Event) => "event",
            Some(Protocol::MustAnswer) => "must-answer",
            None if all().any(|other| other.reply == Some(self.name)) => "reply",
            None => "record",
        }
    }
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every format.
pub(crate) fn all() -> impl Iterator<Item = &'static Format> {
    own::FORMATS.iter().chain(hw::FORMATS)
}

/// The format of this name.
pub(crate) fn find(name: &str) -> Option<&'static Format> {
    all().find(|format| format.name == name)
}

/// The format of what the channel carries.
pub(crate) fn of_channel(channel: ChannelFormat) -> Option<&'static Format> {
    all().find(|format| format.channel == Some(channel))
}

/// How the library reads and writes a record of a channel.
fn read<R: Record>(bytes: &[u8]) -> Reading {
    match R::decode(bytes) {
        Ok(record) => Reading::Bytes(bytes_of(&record)),
        Err(error) => Reading::Refused(error.to_string()),
    }
}

/// The record's bytes.
pub(crate) fn bytes_of<R: Record>(record: &R) -> Vec<u8> {
    let mut bytes = vec![0; R::SIZE];
    record.encode(&mut bytes);
    bytes
}

/// How the library reads and writes a record of the hardware.
fn hardware<T, const N: usize>(
    bytes: &[u8],
    decode: impl Fn(&[u8; N]) -> T,
    encode: impl Fn(&T) -> Result<[u8; N], HwError>,
) -> Reading {
    let Ok(bytes) = bytes.try_into() else {
        return Reading::Refused(format!("{} bytes where the record has {N}", bytes.len()));
    };
    match encode(&decode(bytes)) {
        Ok(bytes) => Reading::Bytes(bytes.to_vec()),
        Err(error) => Reading::Unsendable(error.to_string()),
    }
}
