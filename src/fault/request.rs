//! What a device asks for, what comes back, and why a request is not taken.

use std::fmt;
use std::io;

use recordfd_uapi::{PageResponse, PageResponseCode, PgFault, PgFaultFlags, PgFaultPerm};

use crate::answer::{Cause, Completion, MustAnswer, PublishError};
use crate::error::NotThisProcess;

/// The largest PASID: 20 bits (PCIe Base Specification, "PASID TLP Prefix").
pub(super) const MAX_PASID: u32 = (1 << 20) - 1;

/// How a device asks for pages, which decides what a [`FaultRequest`] may say.
///
/// Two groups of one device that differ in this are different groups, also with the same index.
///
/// Source: PCIe Base Specification, "Page Request Message"; Arm SMMUv3 (IHI 0070), "Stall model" and the event
/// records F_TRANSLATION to F_PERMISSION; Linux `drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c`,
/// `arm_smmu_handle_event()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FaultModel {
    /// PCIe Page Request Interface: the function sends a page request.
    ///
    /// It asks for READ, WRITE or both. EXEC and PRIV are part of a PASID, so they need one.
    #[default]
    Pri,
    /// SMMUv3 stall model: the SMMU has stalled a transaction, and CMD_RESUME ends that.
    ///
    /// It asks for READ or for WRITE; PRIV and EXEC need no SubstreamID. Each stall is a whole group, and none is a
    /// Stop Marker.
    Stall,
}

impl FaultModel {
    /// The largest group index.
    const fn max_index(self) -> u32 {
        match self {
            Self::Pri => (1 << 9) - 1,
            Self::Stall => u16::MAX as u32,
        }
    }
}

/// One page request of a device.
///
/// A page request of [`FaultModel::Pri`] with a PASID and `last`, but without READ and WRITE, is a Stop Marker: the
/// end of the PASID's requests, which is never answered. Its EXEC and PRIV, its address and its length say nothing.
/// Without a PASID there is none, since nothing could [wait](super::FaultReporter::wait_stop_marker) for it: such a
/// request is refused. (In a RISC-V queue a Stop Marker needs no PASID; Arm calls the same bits a page request.)
///
/// Source: PCIe Base Specification, "Page Request Message"; Linux `include/linux/iommu.h`,
/// `struct iommu_fault_page_request`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FaultRequest {
    /// The device, as an iommufd object id.
    pub dev_id: u32,
    /// The process address space, 20 bits, if the request has one; of a stall the SubstreamID.
    pub pasid: Option<u32>,
    /// The hardware's index of the page request group, 9 bits; of a stall the STAG, 16 bits. No identity: two
    /// groups that are open at the same time may carry the same one.
    pub prg_index: u32,
    /// The accesses asked for, as [`model`](Self::model) allows them.
    pub perm: PgFaultPerm,
    /// The last page of its group, which is answered as a whole. Always set in a stall.
    pub last: bool,
    /// The faulting address, in bytes.
    pub addr: u64,
    /// A hint how many bytes the device will touch from `addr`; 0 is no hint.
    pub length: u32,
    /// How the device asks: by a page request of PRI, or by a stall.
    pub model: FaultModel,
}

impl FaultRequest {
    /// The request that `fault` is a record of. The record does not say by which model it came.
    ///
    /// Its cookie, `reserved` and other flags are dropped.
    ///
    /// # Examples
    ///
    /// From an SMMU's event to the channel:
    ///
    /// ```
    /// use recordfd::fault::{self, FaultModel, FaultRequest, Options, Reported};
    /// use recordfd::uapi::hw::smmuv3::{Access, Event, EventRecord, TranslationFault};
    ///
    /// # #[cfg(feature = "local")] {
    /// # let access = Access { read: true, privileged: true, ..Access::default() };
    /// # let fault = TranslationFault { stag: Some(0x1234), access, ..TranslationFault::default() };
    /// # let event = Event::FTranslation(fault);
    /// # let bytes = EventRecord { stream_id: 0x100, substream_id: None, event }.encode()?;
    /// let (fault, _loss) = EventRecord::decode(&bytes).to_fault(1, 0)?;
    /// let request = FaultRequest::from_fault(&fault, FaultModel::Stall);
    /// assert_eq!(request.prg_index, 0x1234); // the STAG
    ///
    /// let (reporter, responder) = fault::channel(&Options::new())?;
    /// assert!(matches!(reporter.report(request)?, Reported::Group { .. }));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_fault(fault: &PgFault, model: FaultModel) -> Self {
        Self {
            dev_id: fault.dev_id,
            pasid: fault.flags.contains(PgFaultFlags::PASID_VALID).then_some(fault.pasid),
            prg_index: fault.grpid,
            perm: fault.perm,
            last: fault.flags.contains(PgFaultFlags::LAST_PAGE),
            addr: fault.addr,
            length: fault.length,
            model,
        }
    }

    /// What the request is, if it is one that its model has.
    pub(super) fn kind(&self) -> Result<Kind, ReportError> {
        if self.pasid.is_some_and(|pasid| pasid > MAX_PASID) {
            return Err(ReportError::Pasid(*self));
        }
        if self.prg_index > self.model.max_index() {
            return Err(ReportError::PrgIndex(*self));
        }
        let access = self.perm & (PgFaultPerm::READ | PgFaultPerm::WRITE);
        let others = self.perm & (PgFaultPerm::EXEC | PgFaultPerm::PRIV);
        let allowed = match self.model {
            // EXEC and PRIV are reserved in a Stop Marker.
            FaultModel::Pri if self.last && access.is_empty() => self.pasid.is_some(),
            FaultModel::Pri => !access.is_empty() && (self.pasid.is_some() || others.is_empty()),
            // RnW is one bit.
            FaultModel::Stall => access == PgFaultPerm::READ || access == PgFaultPerm::WRITE,
        };
        if !allowed || self.perm != access | others {
            return Err(ReportError::Permission(*self));
        }
        match (self.model, self.pasid) {
            (FaultModel::Stall, _) if !self.last => Err(ReportError::StallNotLast(*self)),
            // Of PRI, for a stall has an access.
            (_, Some(pasid)) if access.is_empty() => Ok(Kind::StopMarker { pasid }),
            _ => Ok(Kind::Page),
        }
    }

    pub(crate) fn tag(&self) -> Tag {
        // Nothing is cut off what `kind` takes.
        Tag { pasid: self.pasid, via: 0, prg_index: self.prg_index as u16, model: self.model }
    }

    /// How the request's group ended that was never published.
    pub(super) fn unpublished(&self, cause: Cause) -> FaultCompletion {
        self.tag().completion(self.dev_id, 0, ResponseCode::Invalid, cause)
    }

    /// The fault on the wire, in no group yet.
    pub(super) fn fault(&self) -> PgFault {
        let flags = if self.pasid.is_some() { PgFaultFlags::PASID_VALID } else { PgFaultFlags::empty() };
        PgFault {
            flags,
            dev_id: self.dev_id,
            pasid: self.pasid.unwrap_or(0),
            grpid: self.prg_index,
            perm: self.perm,
            reserved: 0,
            addr: self.addr,
            length: self.length,
            cookie: 0,
        }
    }
}

/// What a valid request is.
pub(super) enum Kind {
    Page,
    StopMarker { pasid: u32 },
}

/// What a device needs to know its group by, besides its own id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tag {
    pub(super) pasid: Option<u32>,
    /// What of a router it went through; 0 for nothing.
    pub(super) via: u32,
    pub(super) prg_index: u16,
    pub(super) model: FaultModel,
}

// There is one in each slot of a ledger.
static_assertions::const_assert!(size_of::<Tag>() <= 16);

impl Tag {
    /// How the group of `dev_id` ended that has this tag.
    pub(super) fn completion(
        self,
        dev_id: u32,
        cookie: u32,
        code: ResponseCode,
        cause: Cause,
    ) -> FaultCompletion {
        let Self { pasid, prg_index, model, .. } = self;
        FaultCompletion { dev_id, pasid, prg_index: prg_index.into(), cookie, code, cause, model }
    }
}

impl MustAnswer for PgFault {
    type Answer = PageResponse;
    type Verdict = ResponseCode;
    type Tag = Tag;

    const NEGATIVE: ResponseCode = ResponseCode::Invalid;

    fn answer(cookie: u32, verdict: ResponseCode) -> PageResponse {
        PageResponse { cookie, code: verdict.into() }
    }

    fn verdict(answer: &PageResponse) -> (u32, Option<ResponseCode>) {
        let verdict = match answer.code {
            PageResponseCode::SUCCESS => Some(ResponseCode::Success),
            PageResponseCode::INVALID => Some(ResponseCode::Invalid),
            _ => None,
        };
        (answer.cookie, verdict)
    }

    fn grouped(mut self, cookie: u32, last: bool) -> Self {
        self.cookie = cookie;
        self.flags.set(PgFaultFlags::LAST_PAGE, last);
        self
    }

    fn cookie(&self) -> u32 {
        self.cookie
    }

    fn is_last(&self) -> bool {
        self.flags.contains(PgFaultFlags::LAST_PAGE)
    }

    fn is_of_group(&self, first: &Self) -> bool {
        let key = |fault: &Self| {
            let has_pasid = fault.flags.contains(PgFaultFlags::PASID_VALID);
            (fault.dev_id, has_pasid, fault.pasid, fault.grpid)
        };
        key(self) == key(first)
    }

    fn cancelled(dev_id: u32, cookie: u32) -> Self {
        let request = FaultRequest { dev_id, ..FaultRequest::default() };
        request.fault().grouped(cookie, true)
    }
}

/// What a group of page faults is answered with. There is nothing else that iommufd takes.
///
/// Source: Linux `include/uapi/linux/iommufd.h`, `enum iommufd_page_response_code`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResponseCode {
    /// The pages are there, the device may retry.
    Success = 0,
    /// The access is refused.
    #[default]
    Invalid = 1,
}

static_assertions::const_assert_eq!(ResponseCode::Success as u32, PageResponseCode::SUCCESS.get());
static_assertions::const_assert_eq!(ResponseCode::Invalid as u32, PageResponseCode::INVALID.get());

impl From<ResponseCode> for PageResponseCode {
    fn from(code: ResponseCode) -> Self {
        Self::new(code as u32)
    }
}

/// How a group ended: what its device is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FaultCompletion {
    /// The device.
    pub dev_id: u32,
    /// The process address space, if its requests had one.
    pub pasid: Option<u32>,
    /// The hardware's index of the group; of a stall its STAG.
    pub prg_index: u32,
    /// What the group was published as; 0 if it never was.
    pub cookie: u32,
    /// The response.
    pub code: ResponseCode,
    /// Why it is this one.
    pub cause: Cause,
    /// How the device asked: a stall is ended by CMD_RESUME, a page request answered by a PRG Response.
    pub model: FaultModel,
}

impl Default for FaultCompletion {
    /// Of no group: to fill a buffer with.
    fn default() -> Self {
        Tag::default().completion(0, 0, ResponseCode::Invalid, Cause::HungUp)
    }
}

impl From<Completion<PgFault>> for FaultCompletion {
    fn from(completion: Completion<PgFault>) -> Self {
        let Completion { cookie, dev_id, tag, verdict, cause } = completion;
        tag.completion(dev_id, cookie, verdict, cause)
    }
}

/// What became of a request that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// Its group waits for the last page.
    HalfMade,
    /// Its group is complete and published.
    Group {
        /// What its completion will name.
        cookie: u32,
    },
    /// It was a Stop Marker, and is with whoever waits for it.
    StopMarker,
}

/// A request was not taken; it is given back, and everything is as it was before, but for what
/// [`TooLarge`](Self::TooLarge) says, and for a Stop Marker that was remembered: a request of its PASID
/// shows that the requests go on.
///
/// There is room again when completions were collected, and between threads also when the responder has
/// received; no wake-up tells of the latter.
///
/// A device is owed a response for the last page of a group. If that one is not taken, and not
/// reported again, the caller gives the response itself: INVALID.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReportError {
    /// The queue is full, or as many groups are on their way as the depth says (`EAGAIN`).
    Full(FaultRequest),
    /// The device has as many faults on their way as one may have (`EAGAIN`).
    DeviceFull(FaultRequest),
    /// Too many groups wait for their last page, all in all or of this device (`EAGAIN`).
    HalfMadeFull(FaultRequest),
    /// The group has more faults than one can have (`EMSGSIZE`): it is refused with its last page, too,
    /// and forgotten then.
    TooLarge(FaultRequest),
    /// A Stop Marker while a group of its PASID waits for the last page (`EINVAL`).
    StopMarkerInGroup(FaultRequest),
    /// The PASID has more than 20 bits (`EINVAL`).
    Pasid(FaultRequest),
    /// The page request group index has more than 9 bits, or the STAG of a stall more than 16 (`EINVAL`).
    PrgIndex(FaultRequest),
    /// The accesses are none, unknown, or such as the request's [`FaultModel`] does not have (`EINVAL`).
    Permission(FaultRequest),
    /// A stall without `last`: each stall is a whole group (`EINVAL`).
    StallNotLast(FaultRequest),
    /// The responder is gone, or broke the format (`EPIPE`).
    Closed(FaultRequest),
    /// This process has only inherited the reporter, by fork (`EPERM`): attach it after the fork.
    NotThisProcess(FaultRequest),
    /// The system call failed for another reason.
    Io(FaultRequest, io::Error),
}

impl ReportError {
    pub(super) fn new(request: FaultRequest, error: PublishError) -> Self {
        match error {
            PublishError::Full => Self::Full(request),
            PublishError::DeviceFull => Self::DeviceFull(request),
            PublishError::Closed => Self::Closed(request),
            PublishError::NotThisProcess => Self::NotThisProcess(request),
            PublishError::Io(source) => Self::Io(request, source),
        }
    }

    /// The request that was not taken.
    pub fn into_inner(self) -> FaultRequest {
        match self {
            Self::Full(request)
            | Self::DeviceFull(request)
            | Self::HalfMadeFull(request)
            | Self::TooLarge(request)
            | Self::StopMarkerInGroup(request)
            | Self::Pasid(request)
            | Self::PrgIndex(request)
            | Self::Permission(request)
            | Self::StallNotLast(request)
            | Self::Closed(request)
            | Self::NotThisProcess(request)
            | Self::Io(request, _) => request,
        }
    }

    /// The errno of send(2) in the same place.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Full(_) | Self::DeviceFull(_) | Self::HalfMadeFull(_) => libc::EAGAIN,
            Self::TooLarge(_) => libc::EMSGSIZE,
            Self::StopMarkerInGroup(_)
            | Self::Pasid(_)
            | Self::PrgIndex(_)
            | Self::Permission(_)
            | Self::StallNotLast(_) => libc::EINVAL,
            Self::Closed(_) => libc::EPIPE,
            Self::NotThisProcess(_) => libc::EPERM,
            Self::Io(_, source) => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "too many page faults are on their way",
            Self::DeviceFull(_) => "the device has too many page faults on their way",
            Self::HalfMadeFull(_) => "too many groups of page faults wait for their last page",
            Self::TooLarge(_) => "the group has more page faults than one can have",
            Self::StopMarkerInGroup(_) => "a Stop Marker while a group of its PASID waits for its last page",
            Self::Pasid(_) => "the PASID has more than 20 bits",
            Self::PrgIndex(_) => {
                "the page request group index has more than 9 bits, or a stall's STAG more than 16"
            }
            Self::Permission(_) => "the accesses are none, unknown, or such as the request cannot ask for",
            Self::StallNotLast(_) => "a stall that is not the last page of its group",
            Self::Closed(_) => "the responder is gone",
            Self::NotThisProcess(_) => NotThisProcess::TEXT,
            Self::Io(..) => "reporting failed",
        })
    }
}

impl std::error::Error for ReportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, source) => Some(source),
            _ => None,
        }
    }
}
