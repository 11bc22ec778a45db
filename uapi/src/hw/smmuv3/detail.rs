//! What the event records of SMMUv3 tell of, by kind.

use crate::hw::HwError;
use crate::hw::bits::{Field, bit, flag};
use crate::hw::pcie::ADDR;
use crate::record::wire_code;

// Word 1.
pub(super) const REASON: Field = Field::new("Reason", 15, 0);
const STAG: Field = Field::new("STAG", 15, 0);
const GPCF: u32 = 16;
const STALL: u32 = 31;
const PNU: u32 = 33;
const IND: u32 = 34;
pub(super) const RNW: u32 = 35;
const S2: u32 = 39;
const CLASS: Field = Field::new("CLASS", 41, 40);
const TTRNW: u32 = 44;
const UX: u32 = 33;
const UW: u32 = 34;
const UR: u32 = 35;
const PX: u32 = 37;
const PW: u32 = 38;
const PR: u32 = 39;
const SPAN: Field = Field::new("Span", 51, 44);
// Word 3.
const FETCH_ADDR: Field = Field::new("FetchAddr", 55, 3);
const IPA: Field = Field::new("IPA", 55, 12);

/// The bits of word 1 that [`TranslationFault`] names.
const FAULT_BITS: u64 = STAG.mask()
    | flag(true, STALL)
    | flag(true, PNU)
    | flag(true, IND)
    | flag(true, RNW)
    | flag(true, S2)
    | CLASS.mask()
    | flag(true, TTRNW);

/// The access that failed: RnW, InD and PnU.
///
/// Arm has InD 0 in a write. Linux does not ask: to it a write with InD is one of an instruction, and so it is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// RnW: a read, else a write.
    pub read: bool,
    /// InD: an instruction fetch, else data.
    pub instruction: bool,
    /// PnU: privileged, else user.
    pub privileged: bool,
}

impl Access {
    #[inline]
    const fn get(word: u64) -> Self {
        Self { read: bit(word, RNW), instruction: bit(word, IND), privileged: bit(word, PNU) }
    }

    #[inline]
    const fn put(self) -> u64 {
        flag(self.read, RNW) | flag(self.instruction, IND) | flag(self.privileged, PNU)
    }
}

wire_code! {
    /// CLASS: what the SMMU was accessing when it failed, 2 bits.
    Class(u8) {
        /// A context descriptor.
        CD = 0,
        /// A translation table.
        TT = 1,
        /// The input address itself.
        IN = 2,
    }
}

/// F_UUT: a transaction that the SMMU does not support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Uut {
    /// Reason, implementation defined.
    pub reason: u16,
    /// The access.
    pub access: Access,
    /// InputAddr.
    pub input_addr: u64,
}

impl Uut {
    #[inline]
    pub(super) const fn get([_, w1, w2, _]: [u64; 4]) -> Self {
        Self { reason: REASON.get(w1) as u16, access: Access::get(w1), input_addr: w2 }
    }

    #[inline]
    pub(super) fn put(&self) -> Result<[u64; 3], HwError> {
        Ok([REASON.put(self.reason)? | self.access.put(), self.input_addr, 0])
    }
}

/// F_STE_FETCH, F_CD_FETCH or F_VMS_FETCH: a structure that could not be fetched.
///
/// The address is in word 3, where Arm and Linux have it. QEMU 10.2 writes that of F_CD_FETCH to word 2, so that it is 0
/// here, and that of F_STE_FETCH to word 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fetch {
    /// Reason, implementation defined.
    pub reason: u16,
    /// GPCF: a granule protection check failed.
    pub gpcf: bool,
    /// FetchAddr, a physical address of 56 bits, in bytes; a multiple of 8. Linux 7.2 reads bits 51:3 of it.
    pub fetch_addr: u64,
}

impl Fetch {
    #[inline]
    pub(super) const fn get([_, w1, _, w3]: [u64; 4]) -> Self {
        Self { reason: REASON.get(w1) as u16, gpcf: bit(w1, GPCF), fetch_addr: w3 & FETCH_ADDR.mask() }
    }

    #[inline]
    pub(super) fn put(&self) -> Result<[u64; 3], HwError> {
        let w1 = REASON.put(self.reason)? | flag(self.gpcf, GPCF);
        Ok([w1, 0, FETCH_ADDR.put_address(self.fetch_addr)?])
    }
}

/// F_BAD_ATS_TREQ: an address translation request that is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BadAtsTreq {
    /// Bits 127:64, which hold Span and the permissions asked for. Not confirmed where: kept as they
    /// came.
    pub other: u64,
    /// InputAddr.
    pub input_addr: u64,
}

/// F_WALK_EABT: an external abort while a translation table was walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WalkEabt {
    /// Reason, implementation defined. Not confirmed where.
    pub reason: u16,
    /// GPCF: a granule protection check failed. Not confirmed where.
    pub gpcf: bool,
    /// The access that was to be translated.
    pub access: Access,
    /// S2: in the walk of stage 2.
    pub stage2: bool,
    /// CLASS.
    pub class: Class,
    /// Bits 191:128, where other faults have InputAddr; kept as they came.
    pub input_addr: u64,
    /// FetchAddr, as in [`Fetch`].
    pub fetch_addr: u64,
}

impl WalkEabt {
    #[inline]
    pub(super) const fn get(words: [u64; 4]) -> Self {
        let [_, w1, input_addr, _] = words;
        let Fetch { reason, gpcf, fetch_addr } = Fetch::get(words);
        let (access, class) = (Access::get(w1), Class::new(CLASS.get(w1) as u8));
        Self { reason, gpcf, access, stage2: bit(w1, S2), class, input_addr, fetch_addr }
    }

    #[inline]
    pub(super) fn put(&self) -> Result<[u64; 3], HwError> {
        let Self { reason, gpcf, fetch_addr, .. } = *self;
        let [w1, _, w3] = Fetch { reason, gpcf, fetch_addr }.put()?;
        let w1 = w1 | self.access.put() | flag(self.stage2, S2) | CLASS.put(self.class.get())?;
        Ok([w1, self.input_addr, w3])
    }
}

/// F_TRANSLATION, F_ADDR_SIZE, F_ACCESS or F_PERMISSION.
///
/// With a `stag` the transaction is stalled and must be answered by CMD_RESUME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TranslationFault {
    /// Stall and STAG: what CMD_RESUME names, when the transaction is stalled. Not a PRG index: it has
    /// 16 bits.
    pub stag: Option<u16>,
    /// The access.
    pub access: Access,
    /// CLASS.
    pub class: Class,
    /// TTRnW: of F_PERMISSION with class TT, that the walk itself was a read.
    pub ttrnw: bool,
    /// InputAddr, all 64 bits, with the tag byte.
    pub input_addr: u64,
    /// S2 and IPA: the page at fault, in bytes (bits 55:12, of which Linux 7.2 reads 51:12), when stage 2 failed.
    pub ipa: Option<u64>,
    /// All other bits of 127:64, in place: NSIPA of the secure queue and the newer bits of
    /// F_PERMISSION among them. Not confirmed where: kept as they came.
    pub other: u64,
}

impl Default for TranslationFault {
    /// A user's write of data at 0, not stalled.
    fn default() -> Self {
        let (class, access) = (Class::IN, Access::default());
        Self { stag: None, access, class, ttrnw: false, input_addr: 0, ipa: None, other: 0 }
    }
}

impl TranslationFault {
    #[inline]
    pub(super) fn get([_, w1, w2, w3]: [u64; 4]) -> Self {
        Self {
            stag: bit(w1, STALL).then(|| STAG.get(w1) as u16),
            access: Access::get(w1),
            class: Class::new(CLASS.get(w1) as u8),
            ttrnw: bit(w1, TTRNW),
            input_addr: w2,
            ipa: get_ipa(w1, w3),
            other: w1 & !FAULT_BITS,
        }
    }

    #[inline]
    pub(super) fn put(&self) -> Result<[u64; 3], HwError> {
        if self.other & FAULT_BITS != 0 {
            return Err(HwError::DoesNotFit { field: "other", value: self.other });
        }
        let mut w1 = self.other | self.access.put() | CLASS.put(self.class.get())? | flag(self.ttrnw, TTRNW);
        if let Some(stag) = self.stag {
            w1 |= flag(true, STALL) | STAG.put(stag)?;
        }
        let (s2, ipa) = put_ipa(self.ipa)?;
        Ok([w1 | s2, self.input_addr, ipa])
    }
}

#[inline]
fn get_ipa(w1: u64, w3: u64) -> Option<u64> {
    bit(w1, S2).then_some(w3 & IPA.mask())
}

/// Word 1's S2, and word 3.
#[inline]
fn put_ipa(ipa: Option<u64>) -> Result<(u64, u64), HwError> {
    match ipa {
        Some(ipa) => Ok((flag(true, S2), IPA.put_address(ipa)?)),
        None => Ok((0, 0)),
    }
}

/// F_TLB_CONFLICT: several TLB entries match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlbConflict {
    /// Reason, implementation defined.
    pub reason: u16,
    /// The access.
    pub access: Access,
    /// InputAddr.
    pub input_addr: u64,
    /// S2 and IPA: the page, in bytes (bits 55:12), when the entries are of stage 2.
    pub ipa: Option<u64>,
}

impl TlbConflict {
    #[inline]
    pub(super) fn get([_, w1, w2, w3]: [u64; 4]) -> Self {
        Self { reason: REASON.get(w1) as u16, access: Access::get(w1), input_addr: w2, ipa: get_ipa(w1, w3) }
    }

    #[inline]
    pub(super) fn put(&self) -> Result<[u64; 3], HwError> {
        let (s2, w3) = put_ipa(self.ipa)?;
        Ok([REASON.put(self.reason)? | self.access.put() | s2, self.input_addr, w3])
    }
}

/// E_PAGE_REQUEST: a hint that pages will be accessed. No answer is due, and it is no PRI request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageRequestHint {
    /// uX: execute, unprivileged.
    pub user_exec: bool,
    /// uW: write, unprivileged.
    pub user_write: bool,
    /// uR: read, unprivileged.
    pub user_read: bool,
    /// pX: execute, privileged.
    pub privileged_exec: bool,
    /// pW: write, privileged.
    pub privileged_write: bool,
    /// pR: read, privileged.
    pub privileged_read: bool,
    /// Span, in units of 4096 bytes.
    pub span: u8,
    /// InputAddr, in bytes; the low 12 bits are 0.
    pub input_addr: u64,
}

impl PageRequestHint {
    #[inline]
    pub(super) const fn get([_, w1, w2, _]: [u64; 4]) -> Self {
        Self {
            user_exec: bit(w1, UX),
            user_write: bit(w1, UW),
            user_read: bit(w1, UR),
            privileged_exec: bit(w1, PX),
            privileged_write: bit(w1, PW),
            privileged_read: bit(w1, PR),
            span: SPAN.get(w1) as u8,
            input_addr: w2 & ADDR.mask(),
        }
    }

    #[inline]
    pub(super) fn put(&self) -> Result<[u64; 3], HwError> {
        let user = flag(self.user_exec, UX) | flag(self.user_write, UW) | flag(self.user_read, UR);
        let privileged =
            flag(self.privileged_exec, PX) | flag(self.privileged_write, PW) | flag(self.privileged_read, PR);
        Ok([SPAN.put(self.span)? | user | privileged, ADDR.put_address(self.input_addr)?, 0])
    }
}
