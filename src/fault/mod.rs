//! Channels of IO page faults: groups go one way, their answers the other, on one descriptor, and every
//! group that was published completes exactly once.
//!
//! A device side reports page requests ([`FaultReporter`]); the last page of a group publishes it. A VMM
//! side takes whole groups and answers each ([`FaultResponder`], [`FaultGroup`]). However that goes, the
//! reporter is told once how each group ended ([`FaultCompletion`], [`Cause`]): by its answer, or with
//! INVALID because its device was detached, because it was not answered in time, because the answer
//! made no sense, or because the responder is gone.
//!
//! Either side may make a channel and give the other end away:
//!
//! | | keeps the reporter | keeps the responder |
//! |---|---|---|
//! | threads of one process | [`channel`] gives both | |
//! | another process | [`socket`] | [`socket_responder`] |
//! | another process with this library, in shared memory | [`shared`] | [`shared_responder`] |
//!
//! # What an answer means
//!
//! | | between threads | to another process |
//! |---|---|---|
//! | `respond` returned `Ok` | the answer is applied | the answer is handed over |
//! | cookie stale or answered before | [`RespondError::StaleCookie`] | counted by the reporter as a late answer; one's own second answer is [`RespondError::StaleCookie`] |
//! | code neither SUCCESS nor INVALID | [`RespondError::Code`], the group stays open | the same; from another program: the group completes INVALID, [`Cause::BadAnswer`] |
//! | batch with a bad entry | short count, then the error | the same; from another program: the bad entry counts, the later ones are processed |
//! | group completed while it is unread | it is never received | it is received, and its answer will be late |
//!
//! A group that was completed while the responder has it, or will, keeps its place in the channel until
//! its late answer has come, so that the answer cannot be taken for that of another group.
//!
//! # Room that does not come back
//!
//! A responder that is killed hangs up, which completes everything. It does not hang up while another process, such
//! as a supervisor, holds a copy of its descriptor:
//!
//! - Open groups then complete by their [deadline](Options::deadline), so set one.
//! - Their room does not come back, since nobody can know that their late answers never come.
//!   [`late_answers_pending`](FaultReporterCounters::late_answers_pending) counts such groups: a supervisor watches
//!   whether the count falls again. The rest of the depth stays in use.
//! - Replacing the channel gives the room back.
//!
//! # Waiting
//!
//! Each end is one descriptor ([`AsFd`](std::os::fd::AsFd)), level-triggered: readable while groups, or
//! completions, wait, also for one who takes one for each wake-up. Time is noticed in the owner's calls
//! alone, so a reporter with a deadline bounds its poll by [`FaultReporter::next_deadline`]. What a call
//! to [`process`](FaultReporter::process), [`detach`](FaultReporter::detach) or
//! [`drain`](FaultReporter::drain) completes, a socket's descriptor does not tell of: collect it behind
//! the call.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::os::fd::AsFd;
//! use std::time::{Duration, Instant};
//!
//! use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
//! use recordfd::TryRecvError;
//! use recordfd::fault::{self, Cause, FaultCompletion, FaultRequest, Options};
//! use recordfd::uapi::PgFaultPerm;
//!
//! let (reporter, _end) = fault::socket(&Options::new().deadline(Duration::from_millis(5)))?;
//! let perm = PgFaultPerm::READ;
//! reporter.report(FaultRequest { dev_id: 1, perm, last: true, ..FaultRequest::default() })?;
//!
//! let mut completions = [FaultCompletion::default(); 64];
//! 'served: loop {
//!     let left = reporter.next_deadline().map(|due| due.saturating_duration_since(Instant::now()));
//!     // A millisecond more, for poll takes whole ones.
//!     let timeout = left.map_or(Ok(PollTimeout::NONE), |left| (left + Duration::from_millis(1)).try_into())?;
//!     poll(&mut [PollFd::new(reporter.as_fd(), PollFlags::POLLIN)], timeout)?;
//!     reporter.process(Instant::now());
//!     loop {
//!         match reporter.completions(&mut completions) {
//!             Ok(count) => {
//!                 for ended in &completions[..count] {
//!                     println!("group {} of device {}: {:?}", ended.prg_index, ended.dev_id, ended.code);
//!                     assert_eq!(ended.cause, Cause::Deadline);
//!                 }
//! #               break 'served;
//!             }
//!             Err(TryRecvError::Empty) => break,
//!             Err(TryRecvError::Closed) => break 'served,
//!             Err(error) => return Err(error.into()),
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Routing
//!
//! A device model with many devices and address spaces attaches a handle to each of them at a [`FaultRouter`]: a
//! reporter of this module, a function, or an executor. It takes each group whole to the one that is attached when its last page comes.
//!
//! # Fork
//!
//! As for [event channels](crate::event#fork): attach ends and make routers after the fork. A child that only inherited
//! an end, an open group, a router or work gets `NotThisProcess` from each call that can fail, and nothing from the others;
//! dropping it there answers nothing. A socket hangs up when the last copy of its descriptor is closed.

mod collect;
mod options;
mod reporter;
mod request;
mod responder;
mod router;
mod state;
mod stop;

pub use crate::answer::Cause;
pub use crate::error::RespondError;
pub use options::Options;
pub use reporter::{FaultReporter, FaultReporterCounters};
pub use request::{FaultCompletion, FaultModel, FaultRequest, ReportError, Reported, ResponseCode};
pub use responder::{FaultGroup, FaultResponder};
pub use router::{
    AttachError, Executor, FaultHandle, FaultRouter, FaultSource, FaultWork, HandleCounters, Routed,
    RouterCounters, SwitchError,
};

use crate::channel::UnattachedEnd;
use crate::error::Error;

/// Makes a channel of page faults between threads of this process.
///
/// # Errors
///
/// [`Error::Option`] for a bound out of range, [`Error::Format`] for a format that is none of page
/// faults, [`Error::Os`] when no descriptor can be had.
///
/// # Examples
///
/// ```
/// use recordfd::fault::{self, FaultRequest, Options, ResponseCode};
/// use recordfd::uapi::{PgFault, PgFaultPerm};
///
/// let (reporter, mut responder) = fault::channel(&Options::new())?;
/// reporter.report(FaultRequest {
///     dev_id: 1,
///     pasid: Some(5),
///     prg_index: 3,
///     perm: PgFaultPerm::WRITE,
///     last: true,
///     addr: 0x1000,
///     ..FaultRequest::default()
/// })?;
///
/// let mut pages = [PgFault::default(); 32];
/// let group = responder.recv_group(&mut pages)?;
/// assert_eq!(pages[..group.len()][0].addr, 0x1000);
/// group.respond(ResponseCode::Success)?;
///
/// let mut completions = [Default::default(); 16];
/// assert_eq!(reporter.completions(&mut completions)?, 1);
/// assert_eq!((completions[0].prg_index, completions[0].code), (3, ResponseCode::Success));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "local")]
pub fn channel(options: &Options) -> Result<(FaultReporter, FaultResponder), Error> {
    let (way, responder) = options.plan()?.local()?;
    let responder = FaultResponder::new(responder, options.depth, options.busy_poll);
    Ok((FaultReporter::new(way, options), responder))
}

/// Makes a channel of page faults to another process: this one keeps the reporter and gives the
/// responder's end away.
///
/// # Errors
///
/// As [`channel`].
pub fn socket(options: &Options) -> Result<(FaultReporter, UnattachedEnd), Error> {
    let (way, end) = options.plan()?.socket()?;
    Ok((FaultReporter::new(way, options), end))
}

/// Makes a channel of page faults to another process: this one keeps the responder and gives the
/// reporter's end away.
///
/// This is the way for untrusted devices: the VMM makes the channel and hands the producing end out.
///
/// # Errors
///
/// As [`channel`].
pub fn socket_responder(options: &Options) -> Result<(FaultResponder, UnattachedEnd), Error> {
    let ((responder, depth), end) = options.plan()?.socket_responder()?;
    Ok((FaultResponder::new(responder, depth, options.busy_poll), end))
}

/// Makes a channel of page faults in shared memory to another process: this one keeps the reporter and gives
/// the responder's end away.
///
/// Reporting, receiving, answering and collecting take no system call while both sides are busy. The end is a
/// socket like any other channel's, until someone attaches it with [`FaultResponder::from_shared`].
///
/// # Errors
///
/// As [`channel`]; [`Error::TooManyInFlight`] when a user has too many unattached ends.
///
/// # Examples
///
/// ```
/// use recordfd::fault::{self, FaultRequest, FaultResponder, Options, ResponseCode};
/// use recordfd::uapi::{PgFault, PgFaultPerm};
///
/// let (reporter, end) = fault::shared(&Options::new())?;
/// // `end` goes to the other process, which attaches it:
/// let mut responder = FaultResponder::from_shared(end.into())?;
///
/// let perm = PgFaultPerm::READ;
/// reporter.report(FaultRequest { dev_id: 1, perm, last: true, addr: 0x1000, ..Default::default() })?;
/// responder.recv_group(&mut [PgFault::default(); 32])?.respond(ResponseCode::Success)?;
/// let mut completions = [Default::default(); 16];
/// assert_eq!(reporter.wait_completions(&mut completions, None)?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn shared(options: &Options) -> Result<(FaultReporter, UnattachedEnd), Error> {
    let (way, end) = options.plan()?.shared()?;
    Ok((FaultReporter::new(way, options), end))
}

/// Makes a channel of page faults in shared memory to another process: this one keeps the responder and gives
/// the reporter's end away.
///
/// # Errors
///
/// As [`shared`].
pub fn shared_responder(options: &Options) -> Result<(FaultResponder, UnattachedEnd), Error> {
    let ((responder, depth), end) = options.plan()?.shared_responder()?;
    Ok((FaultResponder::new(responder, depth, options.busy_poll), end))
}
