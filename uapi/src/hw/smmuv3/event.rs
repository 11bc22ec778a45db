//! Event records of the SMMUv3 event queue.

use static_assertions::const_assert;

use super::detail::{
    BadAtsTreq, Fetch, PageRequestHint, REASON, RNW, TlbConflict, TranslationFault, Uut, WalkEabt,
};
use crate::hw::HwError;
use crate::hw::bits::{Field, bit, bytes4, flag, words4};
use crate::{Le64, Smmuv3Event};

const ID: Field = Field::new("ID", 7, 0);
const SSV: u32 = 11;
const SUBSTREAM_ID: Field = Field::new("SubstreamID", 31, 12);
const STREAM_ID: Field = Field::new("StreamID", 63, 32);
const F_STREAM_DISABLED: u64 = 0x06;
const C_BAD_SUBSTREAMID: u64 = 0x08;

/// What happened, by event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// 0x01.
    FUut(Uut),
    /// 0x02: the StreamID is out of range.
    CBadStreamid,
    /// 0x03: the stream table entry could not be fetched.
    FSteFetch(Fetch),
    /// 0x04: the stream table entry is invalid.
    CBadSte,
    /// 0x05.
    FBadAtsTreq(BadAtsTreq),
    /// 0x06: the stream is disabled. The record has no substream.
    FStreamDisabled,
    /// 0x07: a translated transaction that is not allowed. Not confirmed: that it has a substream.
    FTranslForbidden {
        /// RnW: a read, else a write.
        read: bool,
        /// InputAddr.
        input_addr: u64,
    },
    /// 0x08: the SubstreamID is out of range. The record always has one, without the bit SSV.
    CBadSubstreamid,
    /// 0x09: the context descriptor could not be fetched.
    FCdFetch(Fetch),
    /// 0x0a: the context descriptor is invalid.
    CBadCd,
    /// 0x0b.
    FWalkEabt(WalkEabt),
    /// 0x10: there is no translation.
    FTranslation(TranslationFault),
    /// 0x11: an address is too large.
    FAddrSize(TranslationFault),
    /// 0x12: the access flag is not set.
    FAccess(TranslationFault),
    /// 0x13: the access is not permitted.
    FPermission(TranslationFault),
    /// 0x20.
    FTlbConflict(TlbConflict),
    /// 0x21: cached configuration is in conflict.
    FCfgConflict {
        /// Reason, implementation defined.
        reason: u16,
    },
    /// 0x24.
    EPageRequest(PageRequestHint),
    /// 0x25: the virtual machine structure could not be fetched.
    FVmsFetch(Fetch),
    /// Another id, those of the implementation (0xe0 to 0xef) among them: the whole record. StreamID and
    /// the substream of the [`EventRecord`] are written over what these words have there.
    Unknown([u64; 4]),
}

impl Event {
    /// The event id.
    #[inline]
    pub const fn id(&self) -> u8 {
        match self {
            Self::FUut(_) => 0x01,
            Self::CBadStreamid => 0x02,
            Self::FSteFetch(_) => 0x03,
            Self::CBadSte => 0x04,
            Self::FBadAtsTreq(_) => 0x05,
            Self::FStreamDisabled => 0x06,
            Self::FTranslForbidden { .. } => 0x07,
            Self::CBadSubstreamid => 0x08,
            Self::FCdFetch(_) => 0x09,
            Self::CBadCd => 0x0a,
            Self::FWalkEabt(_) => 0x0b,
            Self::FTranslation(_) => 0x10,
            Self::FAddrSize(_) => 0x11,
            Self::FAccess(_) => 0x12,
            Self::FPermission(_) => 0x13,
            Self::FTlbConflict(_) => 0x20,
            Self::FCfgConflict { .. } => 0x21,
            Self::EPageRequest(_) => 0x24,
            Self::FVmsFetch(_) => 0x25,
            Self::Unknown([w0, ..]) => ID.get(*w0) as u8,
        }
    }

    /// The fault of the four kinds that may be stalled.
    #[inline]
    pub const fn translation_fault(&self) -> Option<&TranslationFault> {
        match self {
            Self::FTranslation(fault)
            | Self::FAddrSize(fault)
            | Self::FAccess(fault)
            | Self::FPermission(fault) => Some(fault),
            _ => None,
        }
    }

    // Always inlined, as are the three others: each is a long match with one caller or two, and a returned event is
    // slow to move, its narrow fields having been written one by one just before.
    #[inline(always)]
    fn get(words: [u64; 4]) -> Self {
        let [w0, w1, w2, _] = words;
        match ID.get(w0) {
            0x01 => Self::FUut(Uut::get(words)),
            0x02 => Self::CBadStreamid,
            0x03 => Self::FSteFetch(Fetch::get(words)),
            0x04 => Self::CBadSte,
            0x05 => Self::FBadAtsTreq(BadAtsTreq { other: w1, input_addr: w2 }),
            0x06 => Self::FStreamDisabled,
            0x07 => Self::FTranslForbidden { read: bit(w1, RNW), input_addr: w2 },
            0x08 => Self::CBadSubstreamid,
            0x09 => Self::FCdFetch(Fetch::get(words)),
            0x0a => Self::CBadCd,
            0x0b => Self::FWalkEabt(WalkEabt::get(words)),
            0x10 => Self::FTranslation(TranslationFault::get(words)),
            0x11 => Self::FAddrSize(TranslationFault::get(words)),
            0x12 => Self::FAccess(TranslationFault::get(words)),
            0x13 => Self::FPermission(TranslationFault::get(words)),
            0x20 => Self::FTlbConflict(TlbConflict::get(words)),
            0x21 => Self::FCfgConflict { reason: REASON.get(w1) as u16 },
            0x24 => Self::EPageRequest(PageRequestHint::get(words)),
            0x25 => Self::FVmsFetch(Fetch::get(words)),
            _ => Self::Unknown(words),
        }
    }

    /// Words 1 to 3, of an unknown event as well.
    #[inline(always)]
    fn put(&self) -> Result<[u64; 3], HwError> {
        Ok(match self {
            Self::FUut(uut) => uut.put()?,
            Self::FSteFetch(fetch) | Self::FCdFetch(fetch) | Self::FVmsFetch(fetch) => fetch.put()?,
            Self::FBadAtsTreq(BadAtsTreq { other, input_addr }) => [*other, *input_addr, 0],
            Self::FTranslForbidden { read, input_addr } => [flag(*read, RNW), *input_addr, 0],
            Self::FWalkEabt(abort) => abort.put()?,
            Self::FTranslation(fault)
            | Self::FAddrSize(fault)
            | Self::FAccess(fault)
            | Self::FPermission(fault) => fault.put()?,
            Self::FTlbConflict(conflict) => conflict.put()?,
            Self::FCfgConflict { reason } => [REASON.put(*reason)?, 0, 0],
            Self::EPageRequest(hint) => hint.put()?,
            Self::CBadStreamid
            | Self::CBadSte
            | Self::FStreamDisabled
            | Self::CBadSubstreamid
            | Self::CBadCd => [0; 3],
            Self::Unknown(words) => Self::put_unknown(words)?,
        })
    }

    // Apart, for it decodes: what is known is encoded without.
    #[cold]
    fn put_unknown(words: &[u64; 4]) -> Result<[u64; 3], HwError> {
        match Self::get(*words) {
            Self::Unknown([_, rest @ ..]) => Ok(rest),
            _ => Err(HwError::Known),
        }
    }
}

/// An event record, 32 bytes of the event queue.
///
/// | bits | field |
/// |---|---|
/// | 7:0 | event id |
/// | 11 | SSV |
/// | 31:12 | SubstreamID |
/// | 63:32 | StreamID |
/// | 79:64 | Reason, or STAG |
/// | 80 | GPCF |
/// | 95 | Stall |
/// | 97, 98, 99 | PnU, InD, RnW; uX, uW, uR of E_PAGE_REQUEST, with pX, pW, pR in 101, 102, 103 |
/// | 103 | S2 |
/// | 105:104 | CLASS |
/// | 108 | TTRnW |
/// | 115:108 | Span of E_PAGE_REQUEST |
/// | 191:128 | InputAddr |
/// | 247:195, 247:204 | FetchAddr, or IPA |
///
/// Linux hands a guest's record on as a [`Smmuv3Event`], which turns into this type and back. The emulator of OpenVMM
/// has the flags of the access in bits 95:64 (RnW is bit 66), and its F_TLB_CONFLICT is 0x14.
///
/// Source: Arm IHI 0070, "Event records"; Linux `EVTQ_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventRecord {
    /// StreamID.
    pub stream_id: u32,
    /// SubstreamID, 20 bits, when SSV says that there is one.
    pub substream_id: Option<u32>,
    /// What happened.
    pub event: Event,
}

// Events are moved about by value.
const_assert!(size_of::<EventRecord>() <= 80);

impl EventRecord {
    /// The record with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 32]) -> Self {
        Self::from_words(words4(bytes))
    }

    /// The record's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `SubstreamID`, `FetchAddr`, `IPA`, `CLASS`, `ADDR` (the InputAddr of
    /// E_PAGE_REQUEST) or `other`; [`HwError::Contradiction`] for a substream in F_STREAM_DISABLED;
    /// [`HwError::Missing`] for none in C_BAD_SUBSTREAMID; [`HwError::Known`].
    #[inline]
    pub fn encode(&self) -> Result<[u8; 32], HwError> {
        self.words().map(bytes4)
    }

    #[inline(always)]
    fn from_words(words: [u64; 4]) -> Self {
        let [w0, ..] = words;
        let has_substream = match ID.get(w0) {
            F_STREAM_DISABLED => false,
            C_BAD_SUBSTREAMID => true,
            _ => bit(w0, SSV),
        };
        Self {
            stream_id: STREAM_ID.get(w0) as u32,
            substream_id: has_substream.then(|| SUBSTREAM_ID.get(w0) as u32),
            event: Event::get(words),
        }
    }

    #[inline(always)]
    fn words(&self) -> Result<[u64; 4], HwError> {
        let [w1, w2, w3] = self.event.put()?;
        let substream = match self.substream_id {
            Some(substream) => flag(true, SSV) | SUBSTREAM_ID.put(substream)?,
            None => 0,
        };
        let w0 = match (&self.event, substream) {
            (Event::FStreamDisabled, 1..) => {
                return Err(HwError::Contradiction { field: "SubstreamID", with: "F_STREAM_DISABLED" });
            }
            (Event::CBadSubstreamid, 0) => return Err(HwError::Missing { field: "SubstreamID" }),
            (Event::CBadSubstreamid, _) => u64::from(self.event.id()) | substream & !flag(true, SSV),
            // All other bits stay as they came, and so does a SubstreamID without SSV.
            (Event::Unknown([w0, ..]), 0) => w0 & !STREAM_ID.mask() & !flag(true, SSV),
            (Event::Unknown([w0, ..]), _) => w0 & !STREAM_ID.mask() & !SUBSTREAM_ID.mask() | substream,
            _ => u64::from(self.event.id()) | substream,
        };
        Ok([w0 | STREAM_ID.put(self.stream_id)?, w1, w2, w3])
    }
}

impl From<Smmuv3Event> for EventRecord {
    #[inline]
    fn from(event: Smmuv3Event) -> Self {
        Self::from_words(event.evt.map(Le64::get))
    }
}

impl TryFrom<EventRecord> for Smmuv3Event {
    type Error = HwError;

    /// As [`EventRecord::encode`].
    #[inline]
    fn try_from(record: EventRecord) -> Result<Self, HwError> {
        Ok(Self { evt: record.words()?.map(Le64::new) })
    }
}
