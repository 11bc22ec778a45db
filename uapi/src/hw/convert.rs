//! Page faults to hardware records and back, and what is lost on the way.

use super::HwError;
use super::amd::{PageServiceRequest, PprLogEntry};
use super::pcie::{self, PageRequest, Pasid};
use super::smmuv3::{Access, Event, EventRecord, TranslationFault};
use super::virtio::{Fault, FaultFlags, FaultReason};
use super::vtd::PageRequestDescriptor;
use crate::{PgFault, PgFaultFlags, PgFaultPerm};

bitflags::bitflags! {
    /// What a conversion left behind, because the other side has no place for it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Loss: u32 {
        /// The low 12 bits of the address, which were not all zero: a page request names a page.
        const ADDR = 0x1;
        /// The length hint, which was not zero.
        const LENGTH = 0x2;
        /// The cookie, which was not zero: the caller keeps it by requester id and group index, see [`hw`](super).
        const COOKIE = 0x4;
        /// The PASID.
        const PASID = 0x8;
        /// Execute.
        const EXEC = 0x10;
        /// Privileged.
        const PRIV = 0x20;
        /// That more faults of the group were to come.
        const LAST = 0x40;
        /// The group index, which was not zero.
        const GROUP = 0x80;
        /// Bits of flags, permissions or `reserved` that this version does not know.
        const UNKNOWN = 0x100;
        /// What an event or a report said beside the access: which kind it was, stage, class.
        const DETAIL = 0x200;
        /// Response Failure, which a host cannot be told: it gets INVALID. The function's page request
        /// interface is now disabled, and that is the VMM's to model: set Response Failure in its PRI
        /// status (bit 0), clear its enable, answer later requests likewise, await no more answers.
        const PRI_DISABLED = 0x400;
        /// That reads were to give zero and writes to be ignored; INVALID aborts the transaction.
        const RAZ_WI = 0x800;
    }
}

impl Loss {
    /// What no record here has a place for.
    #[inline]
    fn of(fault: &PgFault) -> Self {
        let known = PgFaultPerm::READ | PgFaultPerm::WRITE | PgFaultPerm::EXEC | PgFaultPerm::PRIV;
        // NEEDS_PASID is of the answer, which names the cookie alone.
        let flags = PgFaultFlags::PASID_VALID | PgFaultFlags::LAST_PAGE | PgFaultFlags::NEEDS_PASID;
        let unknown = fault.perm.bits() & !known.bits() | fault.flags.bits() & !flags.bits() | fault.reserved;
        Self::LENGTH.when(fault.length != 0)
            | Self::COOKIE.when(fault.cookie != 0)
            | Self::UNKNOWN.when(unknown != 0)
    }

    #[inline]
    const fn when(self, lost: bool) -> Self {
        if lost { self } else { Self::empty() }
    }
}

/// What to do with a request that is legal, but that a Linux guest refuses: it would answer Invalid
/// Request or worse.
///
/// It is for VT-d and AMD. Linux serves no other page request queue, and no policy helps there: give such a guest
/// stalls, or no page faults at all.
///
/// | queue | a Linux guest (7.2) |
/// |---|---|
/// | VT-d | serves it, with the refusals of [`PageRequestDescriptor::from_fault`] |
/// | AMD | serves it, with the refusals of [`PprLogEntry::from_fault`] |
/// | SMMUv3 | answers every last request of a group with Response Failure (`PRI_RESP_DENY`); QEMU's SMMUv3 has no such queue |
/// | RISC-V | never enables it |
///
/// Source: Linux `drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c`, `arm_smmu_handle_ppr()`; `drivers/iommu/riscv/iommu.c`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GuestPolicy {
    /// Pass it on: the guest is not Linux, or may well refuse.
    #[default]
    AsIs,
    /// Take off what the guest objects to, and say so in the [`Loss`]. What cannot be taken off is
    /// refused.
    Strip,
    /// Refuse it with [`HwError::GuestRefuses`], so that the caller answers INVALID at once.
    Refuse,
}

/// The parts of a fault's permissions and flags.
struct Asked {
    read: bool,
    write: bool,
    exec: bool,
    privileged: bool,
    last: bool,
    pasid: Option<u32>,
}

impl Asked {
    #[inline]
    const fn by(fault: &PgFault) -> Self {
        Self {
            read: fault.perm.contains(PgFaultPerm::READ),
            write: fault.perm.contains(PgFaultPerm::WRITE),
            exec: fault.perm.contains(PgFaultPerm::EXEC),
            privileged: fault.perm.contains(PgFaultPerm::PRIV),
            last: fault.flags.contains(PgFaultFlags::LAST_PAGE),
            pasid: if fault.flags.contains(PgFaultFlags::PASID_VALID) { Some(fault.pasid) } else { None },
        }
    }

    /// A fault with these, and nothing else.
    #[inline]
    fn fault(self) -> PgFault {
        let perm = |perm: PgFaultPerm, asked| if asked { perm } else { PgFaultPerm::empty() };
        let flag = |flag: PgFaultFlags, set| if set { flag } else { PgFaultFlags::empty() };
        PgFault {
            flags: flag(PgFaultFlags::PASID_VALID, self.pasid.is_some())
                | flag(PgFaultFlags::LAST_PAGE, self.last),
            pasid: self.pasid.unwrap_or(0),
            perm: perm(PgFaultPerm::READ, self.read)
                | perm(PgFaultPerm::WRITE, self.write)
                | perm(PgFaultPerm::EXEC, self.exec)
                | perm(PgFaultPerm::PRIV, self.privileged),
            ..PgFault::default()
        }
    }
}

impl PageRequest {
    /// The page request that a fault is, for any of the page request queues.
    ///
    /// `rid` is the requester as the queue names it; `dev_id` is not looked at. The address is rounded
    /// down to its page, and without a PASID nothing is executed or privileged: PCIe has no place for it.
    ///
    /// # Errors
    ///
    /// [`HwError::StopMarker`] for a last page that is neither read nor written, whatever else it asks
    /// for; [`HwError::DoesNotFit`] for `PASID` or for `PRGI`, which the 16-bit tag of an SMMUv3 stall
    /// need not fit: give that group an index of the guest's own.
    #[inline]
    pub fn from_fault(fault: &PgFault, rid: u32) -> Result<(Self, Loss), HwError> {
        let Asked { read, write, exec, privileged, last, pasid } = Asked::by(fault);
        let mut loss = Loss::of(fault) | Loss::ADDR.when(fault.addr & !pcie::ADDR.mask() != 0);
        let pasid = match pasid {
            Some(value) => {
                pcie::PASID.put(value)?;
                Some(Pasid { value, exec, privileged })
            }
            None => {
                loss |= Loss::EXEC.when(exec) | Loss::PRIV.when(privileged);
                None
            }
        };
        pcie::PRGI.put(fault.grpid)?;
        let prgi = fault.grpid as u16;
        let request = Self { rid, pasid, prgi, read, write, last, addr: fault.addr & pcie::ADDR.mask() };
        if request.is_marked() {
            return Err(HwError::StopMarker);
        }
        Ok((request, loss))
    }

    /// The fault that this request is. Nothing is lost but the requester, which `dev_id` stands for.
    #[inline]
    pub fn to_fault(&self, dev_id: u32, cookie: u32) -> PgFault {
        let asked = Asked {
            read: self.read,
            write: self.write,
            exec: self.pasid.is_some_and(|pasid| pasid.exec),
            privileged: self.pasid.is_some_and(|pasid| pasid.privileged),
            last: self.last,
            pasid: self.pasid.map(|pasid| pasid.value),
        };
        PgFault { dev_id, grpid: self.prgi.into(), addr: self.addr, cookie, ..asked.fault() }
    }
}

impl PageRequestDescriptor {
    /// The descriptor for a fault; see [`PageRequest::from_fault`].
    ///
    /// A Linux guest refuses privileged requests that read or write, and execute requests that read. It
    /// also refuses an address that is not canonical for its processor (48 or 57 bits), which the caller
    /// has to look at, and says nothing at all when that is not the last page.
    ///
    /// # Errors
    ///
    /// Those of [`PageRequest::from_fault`]; [`HwError::GuestRefuses`] by `policy`.
    #[inline]
    pub fn from_fault(fault: &PgFault, rid: u16, policy: GuestPolicy) -> Result<(Self, Loss), HwError> {
        let (request, loss) = PageRequest::from_fault(fault, rid.into())?;
        let what = request.pasid.map_or(Loss::empty(), |pasid| {
            Loss::PRIV.when(pasid.privileged && (request.read || request.write))
                | Loss::EXEC.when(pasid.exec && request.read)
        });
        match policy {
            GuestPolicy::Refuse if !what.is_empty() => Err(HwError::GuestRefuses { what }),
            GuestPolicy::Strip => {
                let pasid = request.pasid.map(|pasid| Pasid {
                    exec: pasid.exec && !what.contains(Loss::EXEC),
                    privileged: pasid.privileged && !what.contains(Loss::PRIV),
                    ..pasid
                });
                Ok((Self::Request(PageRequest { pasid, ..request }), loss | what))
            }
            GuestPolicy::AsIs | GuestPolicy::Refuse => Ok((Self::Request(request), loss)),
        }
    }
}

impl PprLogEntry {
    /// The entry for a fault; see [`PageRequest::from_fault`].
    ///
    /// A Linux guest refuses requests without a PASID and those of PASID 0, with a failure that disables
    /// the function's page requests; so it does with a PASID that it never gave out, which the caller has
    /// to look at. There is nothing to strip about that: both policies refuse.
    ///
    /// Its answer need not have the PASID, see [`amd::Command`](super::amd::Command).
    ///
    /// # Errors
    ///
    /// Those of [`PageRequest::from_fault`]; [`HwError::GuestRefuses`] by `policy`.
    #[inline]
    pub fn from_fault(fault: &PgFault, device_id: u16, policy: GuestPolicy) -> Result<(Self, Loss), HwError> {
        let (request, loss) = PageRequest::from_fault(fault, device_id.into())?;
        if policy != GuestPolicy::AsIs && request.pasid.is_none_or(|pasid| pasid.value == 0) {
            return Err(HwError::GuestRefuses { what: Loss::PASID });
        }
        let entry = PageServiceRequest { request, reserved_set: false, other: 0 };
        Ok((Self::Request(entry), loss))
    }
}

impl EventRecord {
    /// The stalled F_TRANSLATION that a fault is. The group index becomes the STAG, the address stays
    /// exact.
    ///
    /// # Errors
    ///
    /// [`HwError::Contradiction`] where one bit cannot tell: both read and write, or neither, or more faults to
    /// come; [`HwError::DoesNotFit`] for `SubstreamID` or `STAG`.
    #[inline]
    pub fn from_fault(fault: &PgFault, stream_id: u32) -> Result<(Self, Loss), HwError> {
        let Asked { read, write, exec, privileged, last, pasid } = Asked::by(fault);
        let refused = |field, with| Err(HwError::Contradiction { field, with });
        if read == write {
            return refused("RnW", if read { "read and write" } else { "neither read nor write" });
        } else if !last {
            return refused("Stall", "more pages to come");
        }
        if let Some(value) = pasid {
            if pcie::PASID.put(value).is_err() {
                return Err(HwError::DoesNotFit { field: "SubstreamID", value: value.into() });
            }
        }
        let stag = u16::try_from(fault.grpid)
            .map_err(|_| HwError::DoesNotFit { field: "STAG", value: fault.grpid.into() })?;
        let event = Event::FTranslation(TranslationFault {
            stag: Some(stag),
            access: Access { read, instruction: exec, privileged },
            input_addr: fault.addr,
            ..TranslationFault::default()
        });
        Ok((Self { stream_id, substream_id: pasid, event }, Loss::of(fault)))
    }

    /// The fault that a stalled event is, as Linux makes it. [`Loss::DETAIL`] tells that the event was not
    /// a plain F_TRANSLATION of stage 1.
    ///
    /// Linux also makes one of C_BAD_STE, F_STREAM_DISABLED, C_BAD_SUBSTREAMID or C_BAD_CD with bit 95 set. Arm has no
    /// Stall there, so the bit is ignored here.
    ///
    /// # Errors
    ///
    /// [`HwError::NoPageFault`] for an event that is not stalled.
    #[inline]
    pub fn to_fault(&self, dev_id: u32, cookie: u32) -> Result<(PgFault, Loss), HwError> {
        let fault = self.event.translation_fault().ok_or(HwError::NoPageFault)?;
        let stag = fault.stag.ok_or(HwError::NoPageFault)?;
        let Access { read, instruction, privileged } = fault.access;
        let asked =
            Asked { read, write: !read, exec: instruction, privileged, last: true, pasid: self.substream_id };
        let plain = Event::FTranslation(TranslationFault {
            stag: fault.stag,
            access: fault.access,
            input_addr: fault.input_addr,
            ..TranslationFault::default()
        });
        let converted =
            PgFault { dev_id, grpid: stag.into(), addr: fault.input_addr, cookie, ..asked.fault() };
        Ok((converted, Loss::DETAIL.when(self.event != plain)))
    }
}

impl Fault {
    /// The report (reason MAPPING) of a fault that was refused: nobody answers it, and an access is all it
    /// tells of.
    #[inline]
    pub fn from_fault(fault: &PgFault, endpoint: u32) -> (Self, Loss) {
        let Asked { read, write, exec, privileged, last, pasid } = Asked::by(fault);
        let flag = |flag: FaultFlags, set| if set { flag } else { FaultFlags::empty() };
        let report = Self {
            reason: FaultReason::MAPPING,
            reserved: [0; 3],
            flags: FaultFlags::ADDRESS
                | flag(FaultFlags::READ, read)
                | flag(FaultFlags::WRITE, write)
                | flag(FaultFlags::EXEC, exec),
            endpoint,
            reserved1: 0,
            address: fault.addr,
        };
        let loss = Loss::of(fault)
            | Loss::PASID.when(pasid.is_some())
            | Loss::PRIV.when(privileged)
            | Loss::LAST.when(!last)
            | Loss::GROUP.when(fault.grpid != 0);
        (report, loss)
    }

    /// The fault that a report tells of, a group of its own. [`Loss::DETAIL`] tells that the reason was not
    /// MAPPING, or that flags or `reserved1` say something unknown.
    ///
    /// # Errors
    ///
    /// [`HwError::NoPageFault`] for a report without an address, or one that a driver ignores.
    #[inline]
    pub fn to_fault(&self, dev_id: u32, cookie: u32) -> Result<(PgFault, Loss), HwError> {
        if self.reserved != [0; 3] || !self.flags.contains(FaultFlags::ADDRESS) {
            return Err(HwError::NoPageFault);
        }
        let known = FaultFlags::ADDRESS | FaultFlags::READ | FaultFlags::WRITE | FaultFlags::EXEC;
        let asked = Asked {
            read: self.flags.contains(FaultFlags::READ),
            write: self.flags.contains(FaultFlags::WRITE),
            exec: self.flags.contains(FaultFlags::EXEC),
            privileged: false,
            last: true,
            pasid: None,
        };
        let plain = self.reason == FaultReason::MAPPING
            && self.flags.bits() & !known.bits() == 0
            && self.reserved1 == 0;
        let fault = PgFault { dev_id, addr: self.address, cookie, ..asked.fault() };
        Ok((fault, Loss::DETAIL.when(!plain)))
    }
}
