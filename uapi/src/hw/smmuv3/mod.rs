//! Arm SMMUv3: event records, PRI queue, and the commands that answer them.
//!
//! Source: Arm IHI 0070 (System Memory Management Unit Architecture Specification, version 3), chapters
//! "Commands", "Event records" and "Page request queue"; Linux
//! `drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h` (`EVTQ_*`, `PRIQ_*`, `CMDQ_PRI_*`, `CMDQ_RESUME_*`).

mod detail;
mod event;

pub use detail::{
    Access, BadAtsTreq, Class, Fetch, PageRequestHint, TlbConflict, TranslationFault, Uut, WalkEabt,
};
pub use event::{Event, EventRecord};

use super::HwError;
use super::bits::{Field, bit, bytes2, flag, unknown, words2};
use super::pcie::{ADDR, PageRequest, Pasid, PrgResponse, ResponseCode, StopMarker};
use crate::record::wire_code;

const PRIQ_STREAM_ID: Field = Field::new("StreamID", 31, 0);
const PRIQ_SUBSTREAM_ID: Field = Field::new("SubstreamID", 51, 32);
const PRIQ_PRIV: u32 = 58;
const PRIQ_X: u32 = 59;
const PRIQ_R: u32 = 60;
const PRIQ_W: u32 = 61;
const PRIQ_LAST: u32 = 62;
const PRIQ_SSV: u32 = 63;
const PRG_INDEX: Field = Field::new("PRGIndex", 8, 0);

/// An entry of the PRI queue, 16 bytes.
///
/// | bits | field |
/// |---|---|
/// | 31:0 | StreamID |
/// | 51:32 | SubstreamID |
/// | 58, 59 | Priv, X |
/// | 60, 61, 62 | R, W, Last |
/// | 63 | SSV |
/// | 72:64 | PRGIndex |
/// | 127:76 | Address |
///
/// Source: Arm IHI 0070, "Page request queue"; Linux `PRIQ_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PriQueueEntry {
    /// A page request. Last, W, R = 1, 0, 0 without a substream is one too.
    Request(PageRequest),
    /// The end of a substream's requests.
    StopMarker(StopMarker),
}

impl PriQueueEntry {
    /// The entry with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let [w0, w1] = words2(bytes);
        let request = PageRequest {
            rid: PRIQ_STREAM_ID.get(w0) as u32,
            pasid: bit(w0, PRIQ_SSV).then(|| Pasid {
                value: PRIQ_SUBSTREAM_ID.get(w0) as u32,
                exec: bit(w0, PRIQ_X),
                privileged: bit(w0, PRIQ_PRIV),
            }),
            prgi: PRG_INDEX.get(w1) as u16,
            read: bit(w0, PRIQ_R),
            write: bit(w0, PRIQ_W),
            last: bit(w0, PRIQ_LAST),
            addr: w1 & ADDR.mask(),
        };
        match request.stop_marker() {
            Some(marker) => Self::StopMarker(marker),
            None => Self::Request(request),
        }
    }

    /// The entry's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `SubstreamID`, `PRGIndex` or `ADDR`; [`HwError::StopMarker`];
    /// [`HwError::Missing`] for a Stop Marker without a substream.
    #[inline]
    pub fn encode(&self) -> Result<[u8; 16], HwError> {
        match self {
            Self::Request(request) => {
                request.check()?;
                let mut w0 = PRIQ_STREAM_ID.put(request.rid)?;
                if let Some(pasid) = request.pasid {
                    w0 |= flag(true, PRIQ_SSV) | PRIQ_SUBSTREAM_ID.put(pasid.value)?;
                    w0 |= flag(pasid.exec, PRIQ_X) | flag(pasid.privileged, PRIQ_PRIV);
                }
                w0 |= flag(request.read, PRIQ_R) | flag(request.write, PRIQ_W);
                w0 |= flag(request.last, PRIQ_LAST);
                Ok(bytes2([w0, PRG_INDEX.put(request.prgi)? | ADDR.put_address(request.addr)?]))
            }
            Self::StopMarker(marker) => {
                let substream = PRIQ_SUBSTREAM_ID.put(marker.pasid("SubstreamID")?)?;
                let flags = flag(true, PRIQ_SSV) | flag(true, PRIQ_LAST);
                Ok(bytes2([PRIQ_STREAM_ID.put(marker.rid)? | substream | flags, 0]))
            }
        }
    }
}

wire_code! {
    /// Resp of CMD_PRI_RESP, 2 bits. The order is the reverse of PCIe's.
    ///
    /// Linux calls them `PRI_RESP_DENY`, `PRI_RESP_FAIL` and `PRI_RESP_SUCC`: its "fail" is Invalid
    /// Request.
    PriResp(u8) {
        /// Response Failure.
        RESPONSE_FAILURE = 0,
        /// Invalid Request.
        INVALID_REQUEST = 1,
        /// Success.
        SUCCESS = 2,
    }
}

impl PriResp {
    /// Resp for PCIe's code.
    ///
    /// # Errors
    ///
    /// [`HwError::Code`] for a code that is never sent.
    #[inline]
    pub const fn from_code(code: ResponseCode) -> Result<Self, HwError> {
        match code {
            ResponseCode::SUCCESS => Ok(Self::SUCCESS),
            ResponseCode::INVALID_REQUEST => Ok(Self::INVALID_REQUEST),
            ResponseCode::RESPONSE_FAILURE => Ok(Self::RESPONSE_FAILURE),
            _ => Err(HwError::Code { code: code.get() as u32 }),
        }
    }

    /// PCIe's code for it; `None` for 3, which makes the command illegal, and for more.
    #[inline]
    pub const fn code(self) -> Option<ResponseCode> {
        match self {
            Self::SUCCESS => Some(ResponseCode::SUCCESS),
            Self::INVALID_REQUEST => Some(ResponseCode::INVALID_REQUEST),
            Self::RESPONSE_FAILURE => Some(ResponseCode::RESPONSE_FAILURE),
            _ => None,
        }
    }
}

/// What becomes of a stalled transaction: Ac and Ab of CMD_RESUME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResumeAction {
    /// Ac = 1: it is tried again; Ab is ignored, and 0 when written.
    Retry,
    /// Ac = 0, Ab = 1: it is ended with an abort.
    Abort,
    /// Ac = 0, Ab = 0: it is ended, reads giving zero and writes being ignored.
    RazWi,
}

/// CMD_RESUME: what becomes of the transaction that stalled with this STAG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CmdResume {
    /// The stream that stalled.
    pub stream_id: u32,
    /// The tag of the event that told of it. One that matches nothing has no effect.
    pub stag: u16,
    /// What becomes of it.
    pub action: ResumeAction,
}

const CMD_PRI_RESP: u64 = 0x41;
const CMD_RESUME: u64 = 0x44;
const CMD_OP: Field = Field::new("OP", 7, 0);
const CMD_STREAM_ID: Field = Field::new("StreamID", 63, 32);
const PRI_SSV: u32 = 11;
const PRI_SUBSTREAM_ID: Field = Field::new("SubstreamID", 31, 12);
const PRI_RESP: Field = Field::new("Resp", 13, 12);
const RESUME_SSEC: u32 = 10;
const RESUME_AC: u32 = 12;
const RESUME_AB: u32 = 13;
const RESUME_STAG: Field = Field::new("STAG", 15, 0);

/// A command, 16 bytes of the command queue, as far as it answers page requests and stalls.
///
/// | bits | CMD_PRI_RESP | CMD_RESUME |
/// |---|---|---|
/// | 7:0 | OP = 0x41 | OP = 0x44 |
/// | 10 | | SSec = 0 |
/// | 11 | SSV | |
/// | 12, 13 | | Ac, Ab |
/// | 31:12 | SubstreamID | |
/// | 63:32 | StreamID | StreamID |
/// | 72:64 | PRGIndex | |
/// | 77:76 | Resp | |
/// | 79:64 | | STAG |
///
/// Source: Arm IHI 0070, "Commands"; Linux `CMDQ_PRI_*` and `CMDQ_RESUME_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// CMD_PRI_RESP; its Resp is [`PriResp::from_code`] of the code.
    PriResp(PrgResponse),
    /// CMD_RESUME.
    Resume(CmdResume),
    /// Another command. Also the two when they are illegal: CMD_PRI_RESP with Resp 3, CMD_RESUME for a
    /// secure stream (SSec).
    Unknown([u64; 2]),
}

impl Command {
    /// The command with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let words @ [w0, w1] = words2(bytes);
        let stream_id = CMD_STREAM_ID.get(w0) as u32;
        match CMD_OP.get(w0) {
            CMD_PRI_RESP => match PriResp::new(PRI_RESP.get(w1) as u8).code() {
                Some(code) => Self::PriResp(PrgResponse {
                    rid: stream_id,
                    pasid: bit(w0, PRI_SSV).then(|| PRI_SUBSTREAM_ID.get(w0) as u32),
                    prgi: PRG_INDEX.get(w1) as u16,
                    code,
                }),
                None => Self::Unknown(words),
            },
            CMD_RESUME if !bit(w0, RESUME_SSEC) => Self::Resume(CmdResume {
                stream_id,
                stag: RESUME_STAG.get(w1) as u16,
                action: match (bit(w0, RESUME_AC), bit(w0, RESUME_AB)) {
                    (true, _) => ResumeAction::Retry,
                    (false, true) => ResumeAction::Abort,
                    (false, false) => ResumeAction::RazWi,
                },
            }),
            _ => Self::Unknown(words),
        }
    }

    /// The command's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `SubstreamID` or `PRGIndex`; [`HwError::Code`]; [`HwError::Known`].
    #[inline]
    pub fn encode(&self) -> Result<[u8; 16], HwError> {
        match self {
            Self::PriResp(response) => {
                let mut w0 = CMD_PRI_RESP | CMD_STREAM_ID.put(response.rid)?;
                if let Some(pasid) = response.pasid {
                    w0 |= flag(true, PRI_SSV) | PRI_SUBSTREAM_ID.put(pasid)?;
                }
                let resp = PRI_RESP.put(PriResp::from_code(response.code)?.get())?;
                Ok(bytes2([w0, PRG_INDEX.put(response.prgi)? | resp]))
            }
            Self::Resume(CmdResume { stream_id, stag, action }) => {
                let action = match action {
                    ResumeAction::Retry => flag(true, RESUME_AC),
                    ResumeAction::Abort => flag(true, RESUME_AB),
                    ResumeAction::RazWi => 0,
                };
                let w0 = CMD_RESUME | CMD_STREAM_ID.put(*stream_id)? | action;
                Ok(bytes2([w0, RESUME_STAG.put(*stag)?]))
            }
            Self::Unknown(words) => {
                let bytes = bytes2(*words);
                unknown(bytes, matches!(Self::decode(&bytes), Self::Unknown(_)))
            }
        }
    }
}
