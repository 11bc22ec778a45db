//! Records of one format as those of another, by way of the page fault or the answer that they are.

pub(crate) mod request;
pub(crate) mod response;

use recordfd::uapi::hw::{GuestPolicy, HwError, Loss};

use crate::formats::Format;

/// How a format becomes a page fault or an answer to one, and is made of it.
#[derive(Clone, Copy)]
pub(crate) enum Converts {
    Request(request::Ways),
    Response(response::Ways),
}

/// What the user has given that records lack, or that both sides number differently.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Devices and the requester ids they go by; the numbers are the same if there are none.
    pub(crate) rids: Vec<(u32, u32)>,
    pub(crate) policy: GuestPolicy,
    pub(crate) requester: Option<u32>,
    pub(crate) pasid: Option<u32>,
    pub(crate) index: Option<u16>,
    pub(crate) cookie: Option<u32>,
    pub(crate) segment: Option<u8>,
}

impl Given {
    fn rid_of(&self, device: u32) -> Result<u32, String> {
        if self.rids.is_empty() {
            return Ok(device);
        }
        let pair = self.rids.iter().find(|(dev_id, _)| *dev_id == device);
        pair.map(|(_, rid)| *rid)
            .ok_or_else(|| format!("device {device} has no requester id: give --rid {device}=RID"))
    }

    fn device_of(&self, rid: u32) -> Result<u32, String> {
        if self.rids.is_empty() {
            return Ok(rid);
        }
        let pair = self.rids.iter().find(|(_, of)| *of == rid);
        pair.map(|(device, _)| *device)
            .ok_or_else(|| format!("requester id {rid:#x} is of no device: give --rid DEV={rid:#x}"))
    }
}

/// The way from one format to another.
pub(crate) enum Way {
    Requests(request::Ways, request::Ways),
    Responses(response::Ways, response::Ways),
}

impl Way {
    pub(crate) fn new(from: &Format, to: &Format) -> Result<Self, String> {
        match (from.converts, to.converts) {
            (Some(Converts::Request(from)), Some(Converts::Request(to))) => Ok(Self::Requests(from, to)),
            (Some(Converts::Response(from)), Some(Converts::Response(to))) => Ok(Self::Responses(from, to)),
            (Some(Converts::Request(_)), _) => {
                Err(format!("{} is a request, and {} an answer", from.name, to.name))
            }
            _ => Err(format!("{} is an answer, and {} a request", from.name, to.name)),
        }
    }

    /// The record as one of the other format, and what was lost on the way.
    pub(crate) fn convert(&self, bytes: &[u8], given: &Given) -> Result<(Vec<u8>, Loss), String> {
        let ((bytes, behind), before) = match self {
            Self::Requests(from, to) => {
                let (fault, loss) = (from.to_fault)(bytes, given)?;
                ((to.from_fault)(&fault, given)?, loss)
            }
            Self::Responses(from, to) => {
                let (answer, loss) = (from.to_answer)(bytes, given)?;
                ((to.from_answer)(&answer, given)?, loss)
            }
        };
        Ok((bytes, before | behind))
    }
}

/// The bytes of a format's record.
fn fixed<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], String> {
    bytes.try_into().map_err(|_| format!("{} bytes where the record has {N}", bytes.len()))
}

/// What cannot be said, as a message.
fn said(error: HwError) -> String {
    error.to_string()
}

/// A requester id as wide as the record has it.
fn narrow(rid: u32) -> Result<u16, String> {
    rid.try_into().map_err(|_| format!("requester id {rid:#x} has more than 16 bits: give --rid DEV=RID"))
}
