//! Channels of requests: records that are answered one by one, each exactly once, on one descriptor.
//!
//! | record | what it says | what it is answered with | without an answer |
//! |---|---|---|---|
//! | [`PciError`](crate::uapi::PciError) | a step of the recovery from a PCI error | [`ErsResult`] | DISCONNECT |
//! | [`PciErrorV2`](crate::uapi::PciErrorV2) | the same, with the TLP log of PCIe 6 | [`ErsResult`] | DISCONNECT |
//! | [`DeviceRequest`](crate::uapi::DeviceRequest) | release the device, or: it was reset | [`Ack`] | REFUSED |
//!
//! A device side reports ([`Reporter`]), a VMM side answers ([`Responder`], [`Pending`]). However that goes, the
//! reporter is told once how each request ended ([`Completion`]) and why ([`Cause`]): by its answer, or negatively
//! because its device was detached, because it was not answered in time, because the answer made no sense, or
//! because the responder is gone. What an answer means, by transport, and what descriptors and fork do, is as
//! with [page faults](crate::fault).
//!
//! Either side may make a channel and give the other end away:
//!
//! | | keeps the reporter | keeps the responder |
//! |---|---|---|
//! | threads of one process | [`channel`] gives both | |
//! | another process | [`socket`] | [`socket_responder`] |
//! | another process with this library, in shared memory | [`shared`] | [`shared_responder`] |
//!
//! # PCI errors
//!
//! Each step of a recovery is a record of its own, with the registers of Advanced Error Reporting, and what
//! comes next depends on the answer: [`Completion::next`]. The reporter refuses steps that are out of order, by
//! [`Recovery`]; so can a VMM that does not trust its peer.
//!
//! ```
//! use recordfd::request::{self, ErsResult, Next, Options, ReportError};
//! use recordfd::uapi::{PciChannelState, PciError, PciErrorFlags, PciErrorStep};
//!
//! # #[cfg(feature = "local")] {
//! let (reporter, mut responder) = request::channel::<PciError>(&Options::new())?;
//! let error = PciError {
//!     dev_id: 1,
//!     step: PciErrorStep::ERROR_DETECTED,
//!     state: PciChannelState::IO_FROZEN,
//!     flags: PciErrorFlags::FATAL | PciErrorFlags::AER_VALID,
//!     status: 1 << 18, // Malformed TLP
//!     header_log: [0x4a00_0001, 0x0100_0004, 0, 0],
//!     ..PciError::default()
//! };
//! reporter.report(error)?;
//! let early = PciError { step: PciErrorStep::SLOT_RESET, ..error };
//! assert!(matches!(reporter.report(early), Err(ReportError::Refused(..))));
//!
//! let step = responder.recv()?;
//! assert_eq!(step.record().step, PciErrorStep::ERROR_DETECTED);
//! step.respond(ErsResult::NeedReset)?;
//!
//! let mut completions = [Default::default(); 16];
//! assert_eq!(reporter.wait_completions(&mut completions, None)?, 1);
//! assert_eq!(completions[0].next(), Next::SlotReset);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Device requests
//!
//! A release (hot unplug) is asked for again, with a count that grows, until it is answered or its deadline has
//! passed: [`Options::repeat_every`]. It remains one request under one cookie; the responder is told by
//! [`Responder::next_notice`].
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use recordfd::request::{self, Ack, Notice, Options, Reporter};
//! use recordfd::uapi::{DeviceRequest, DeviceRequestKind};
//!
//! // The VMM makes the channel; `end` and `info` go to the device server, which attaches it:
//! let (mut responder, end) = request::socket_responder::<DeviceRequest>(&Options::new())?;
//! let info = end.info();
//! let options = Options::new().depth(info.depth);
//! let reporter = Reporter::<DeviceRequest>::from_socket(end.into(), info.format, &options)?;
//!
//! let kind = DeviceRequestKind::RELEASE;
//! reporter.report(DeviceRequest { dev_id: 1, kind, ..DeviceRequest::default() })?;
//! let release = responder.recv()?;
//! // The guest takes its time to eject the device, and the server asks again:
//! reporter.process(Instant::now() + Duration::from_secs(10));
//! assert!(responder.try_recv().is_err());
//! assert_eq!(responder.next_notice(), Some(Notice::Repeated { cookie: release.cookie(), count: 1 }));
//! release.respond(Ack::Done)?;
//!
//! let mut completions = [Default::default(); 16];
//! assert_eq!(reporter.wait_completions(&mut completions, None)?, 1);
//! assert_eq!(completions[0].verdict, Ack::Done);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod course;
mod device_request;
mod options;
mod pci_error;
mod recovery;
mod reporter;
mod responder;

pub use crate::answer::Cause;
pub use crate::error::RespondError;
pub use device_request::Ack;
pub use options::Options;
pub use pci_error::ErsResult;
pub use recovery::{Next, Recovery, Refusal};
pub use reporter::{ReportError, Reporter, ReporterCounters};
pub use responder::{Notice, Pending, Responder};

use recordfd_uapi::Format;

use crate::answer::MustAnswer;
use crate::answer::make::Plan;
use crate::channel::UnattachedEnd;
use crate::error::Error;

/// A record that is a request by itself; implemented for [`PciError`](crate::uapi::PciError),
/// [`PciErrorV2`](crate::uapi::PciErrorV2) and [`DeviceRequest`](crate::uapi::DeviceRequest), and for nothing else.
pub trait Request: MustAnswer<Tag = Self> + Default {
    /// The format of a channel of these records.
    const FORMAT: Format;
    /// What is kept of them, from one to the next.
    #[doc(hidden)]
    type Course: course::Course<Self>;

    /// The device.
    fn dev_id(&self) -> u32;
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion<R: Request> {
    /// The request, with the cookie it was published under.
    pub record: R,
    /// Its answer, or what stands for one.
    pub verdict: R::Verdict,
    /// Why it is this one.
    pub cause: Cause,
}

impl<R: Request> Default for Completion<R> {
    /// Of no request: to fill a buffer with.
    fn default() -> Self {
        Self { record: R::default(), verdict: R::NEGATIVE, cause: Cause::HungUp }
    }
}

fn check_format<R: Request>(found: Format) -> Result<(), Error> {
    if found == R::FORMAT { Ok(()) } else { Err(Error::Format { expected: R::FORMAT, found }) }
}

fn plan<R: Request>(options: &Options) -> Result<Plan, Error> {
    options.check()?;
    let Options { depth, busy_poll, .. } = *options;
    Ok(Plan { format: R::FORMAT, headed: true, depth, busy_poll })
}

/// Makes a channel of requests between threads of this process.
///
/// # Errors
///
/// [`Error::Option`] for a bound out of range, [`Error::Os`] when no descriptor can be had.
#[cfg(feature = "local")]
pub fn channel<R: Request>(options: &Options) -> Result<(Reporter<R>, Responder<R>), Error> {
    let (way, responder) = plan::<R>(options)?.local()?;
    Ok((Reporter::new(way, options), Responder::new(responder, options.depth, options.busy_poll)))
}

/// Makes a channel of requests to another process: this one keeps the reporter and gives the responder's end away.
///
/// # Errors
///
/// As [`channel`].
pub fn socket<R: Request>(options: &Options) -> Result<(Reporter<R>, UnattachedEnd), Error> {
    let (way, end) = plan::<R>(options)?.socket()?;
    Ok((Reporter::new(way, options), end))
}

/// Makes a channel of requests to another process: this one keeps the responder and gives the reporter's end away.
///
/// This is the way for untrusted devices: the VMM makes the channel and hands the producing end out.
///
/// # Errors
///
/// As [`channel`].
pub fn socket_responder<R: Request>(options: &Options) -> Result<(Responder<R>, UnattachedEnd), Error> {
    let ((responder, depth), end) = plan::<R>(options)?.socket_responder()?;
    Ok((Responder::new(responder, depth, options.busy_poll), end))
}

/// Makes a channel of requests in shared memory to another process: this one keeps the reporter and gives the
/// responder's end away, which that process attaches with [`Responder::from_shared`].
///
/// # Errors
///
/// As [`channel`]; [`Error::TooManyInFlight`] when a user has too many unattached ends.
pub fn shared<R: Request>(options: &Options) -> Result<(Reporter<R>, UnattachedEnd), Error> {
    let (way, end) = plan::<R>(options)?.shared()?;
    Ok((Reporter::new(way, options), end))
}

/// Makes a channel of requests in shared memory to another process: this one keeps the responder and gives the
/// reporter's end away, which that process attaches with [`Reporter::from_shared`].
///
/// # Errors
///
/// As [`shared`].
pub fn shared_responder<R: Request>(options: &Options) -> Result<(Responder<R>, UnattachedEnd), Error> {
    let ((responder, depth), end) = plan::<R>(options)?.shared_responder()?;
    Ok((Responder::new(responder, depth, options.busy_poll), end))
}
