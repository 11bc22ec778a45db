//! Channels of IO page faults: groups go one way, their answers the other, on one descriptor, and every
//! group that was published completes exactly once.

mod collect;
mod options;
mod reporter;
mod request;
mod responder;
mod state;
mod stop;

pub use crate::answer::Cause;
pub use options::Options;
pub use reporter::{FaultReporter, FaultReporterCounters};
pub use request::{FaultCompletion, FaultRequest, ReportError, Reported, ResponseCode};
pub use responder::{FaultGroup, FaultResponder, RespondError};

use std::os::fd::OwnedFd;
use std::sync::Arc;

use recordfd_uapi::{ChannelInfo, Event, PageResponse, PgFault, Transport};

use crate::answer::ends::Responder;
#[cfg(feature = "local")]
use crate::answer::local::Exchange;
use crate::channel::UnattachedEnd;
use crate::error::Error;
use crate::transport::socket as carrier;
use options::headed;

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
///     length: 0,
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
    options.check()?;
    let (reporter, reader) = Exchange::pair(options.depth, headed(options.format)?)?;
    let responder = FaultResponder::new(Responder::Local(reader), options.busy_poll);
    Ok((FaultReporter::local(reporter, options), responder))
}

/// Makes a channel of page faults to another process: this one keeps the reporter and gives the
/// responder's end away.
///
/// # Errors
///
/// As [`channel`].
pub fn socket(options: &Options) -> Result<(FaultReporter, UnattachedEnd), Error> {
    let (near, far, depth) = sockets(options)?;
    let reporter = FaultReporter::remote(Arc::new(near), depth, headed(options.format)?, options);
    Ok((reporter, end(far, options, depth)))
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
    let (far, near, depth) = sockets(options)?;
    let responder = Responder::remote(Arc::new(near), depth, headed(options.format)?, &[]);
    Ok((FaultResponder::new(responder, options.busy_poll), end(far, options, depth)))
}

/// The reporter's socket, the responder's, and how many groups there is room for.
fn sockets(options: &Options) -> Result<(OwnedFd, OwnedFd, u32), Error> {
    options.check()?;
    let (reporter, responder) = carrier::pair()?;
    let faults = if headed(options.format)? {
        carrier::set_depth::<Event<PgFault>>(&reporter, options.depth)?
    } else {
        carrier::set_depth::<PgFault>(&reporter, options.depth)?
    };
    // An answer to every group has room, so that answering never waits for the reporter.
    let answers = carrier::set_depth::<PageResponse>(&responder, faults)?;
    Ok((reporter, responder, answers))
}

fn end(socket: OwnedFd, options: &Options, depth: u32) -> UnattachedEnd {
    UnattachedEnd::new(socket, ChannelInfo::new(options.format, Transport::SOCKET, depth))
}
