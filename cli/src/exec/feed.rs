//! The producer's end of any channel, as far as a feed of records needs it.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use recordfd::event::{self, Sender};
use recordfd::fault::{self, Cause, FaultCompletion, FaultModel, FaultReporter, FaultRequest, Reported};
use recordfd::request::{self, Refusal, Reporter, Request};
use recordfd::uapi::{
    AcpiNotify, DeviceRequest, Event, EventRecord, Format, MixedEvent, PageResponse, PciError, PciErrorV2,
    PgFault, Record, Sequenced, Smmuv3Event, Tegra241CmdqvEvent,
};
use recordfd::{Error, Options, TryRecvError, TrySendError, UnattachedEnd};

use crate::args::{Exec, Transport};
use crate::formats::bytes_of;

/// How long a look for answers takes at most.
const TICK: Duration = Duration::from_millis(20);

/// What became of a record.
pub(super) enum Sent {
    /// It is on its way.
    Taken,
    /// Not now.
    Busy,
    /// The consumer is gone.
    Gone,
    /// It cannot be sent.
    Bad(String),
}

/// An answer, or what stands for one.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    /// Why it is this one; of what must be answered.
    pub(super) cause: Option<Cause>,
}

/// A producer of records.
pub(super) trait Feed: Send + Sync {
    /// Sends the record with these bytes.
    fn send(&self, bytes: &[u8]) -> Sent;

    /// Waits a moment for answers and gives them to `sink`.
    ///
    /// Fails when none can come any more.
    fn collect(&self, sink: &mut dyn FnMut(Answer)) -> Result<(), TryRecvError>;

    /// Whether no answer is due.
    fn is_settled(&self) -> bool;

    /// Whether the consumer is gone.
    fn is_closed(&self) -> bool;

    /// Groups that were never published, for the consumer was gone before their last page.
    fn discarded(&self) -> u64 {
        0
    }
}

/// Makes the channel; gives its producer and the consumer's end.
pub(super) fn open(options: &Exec) -> Result<(Box<dyn Feed>, UnattachedEnd), Error> {
    match options.format.channel.unwrap_or(Format(0)) {
        Format::VIOMMU_ARM_SMMUV3_V1 => events::<Smmuv3Event>(options, |_| 0),
        Format::VIOMMU_TEGRA241_CMDQV_V1 => events::<Tegra241CmdqvEvent>(options, |_| 0),
        Format::ACPI_NOTIFY_V1 => events::<AcpiNotify>(options, |notify| notify.cookie),
        Format::MIXED_V1 => events::<MixedEvent>(options, |_| 0),
        Format::PCI_ERROR_V1 => requests::<PciError>(options),
        Format::PCI_ERROR_V2 => requests::<PciErrorV2>(options),
        Format::DEVICE_REQUEST_V1 => requests::<DeviceRequest>(options),
        format => faults(options, format),
    }
}

fn timeout(options: &Exec) -> Duration {
    Duration::from_millis(options.respond_timeout.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Events<R: EventRecord> {
    sender: Sender<R>,
    /// What a record wants to be answered under; 0 for not at all.
    cookie: fn(&R) -> u32,
    /// The cookies that no answer has come for.
    open: Mutex<HashSet<u32>>,
}

fn events<R: EventRecord>(
    options: &Exec,
    cookie: fn(&R) -> u32,
) -> Result<(Box<dyn Feed>, UnattachedEnd), Error> {
    let of_channel = Options::new().depth(options.depth);
    let (sender, end) = match options.transport {
        Transport::Socket => event::socket::<R>(&of_channel)?,
        Transport::Shared => {
            let (sender, end) = event::shared::<R>(&of_channel)?;
            (sender.into_shared(), end)
        }
    };
    Ok((Box::new(Events { sender, cookie, open: Mutex::default() }), end))
}

impl<R: EventRecord> Feed for Events<R> {
    fn send(&self, bytes: &[u8]) -> Sent {
        let record = match R::Wire::decode(bytes) {
            Ok(wire) if wire.is_lost() => {
                return Sent::Bad("is a notice of loss, which the channel makes".to_owned());
            }
            Ok(wire) => wire.content(),
            Err(error) => return Sent::Bad(error.to_string()),
        };
        // First, for the answer may come at once.
        let cookie = (self.cookie)(&record);
        let is_new = cookie != 0 && lock(&self.open).insert(cookie);
        let sent = match self.sender.try_send(record) {
            Ok(()) => return Sent::Taken,
            Err(TrySendError::Full(_)) => Sent::Busy,
            Err(TrySendError::Closed(_)) => Sent::Gone,
            Err(error) => Sent::Bad(error.to_string()),
        };
        if is_new {
            lock(&self.open).remove(&cookie);
        }
        sent
    }

    fn collect(&self, sink: &mut dyn FnMut(Answer)) -> Result<(), TryRecvError> {
        let wait = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        // A signal is no reason to look any later.
        let _ = poll(&mut [PollFd::new(self.sender.as_fd(), PollFlags::POLLIN)], wait);
        let bytes = bytes_of(&self.sender.try_recv_reply()?);
        // Whatever the format, an answer begins with the cookie.
        if let Some(cookie) = bytes.first_chunk() {
            lock(&self.open).remove(&u32::from_ne_bytes(*cookie));
        }
        sink(Answer { bytes, cause: None });
        Ok(())
    }

    fn is_settled(&self) -> bool {
        lock(&self.open).is_empty()
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

struct Faults {
    reporter: FaultReporter,
    is_headed: bool,
    model: FaultModel,
}

fn faults(options: &Exec, format: Format) -> Result<(Box<dyn Feed>, UnattachedEnd), Error> {
    let of_channel = fault::Options::new()
        .format(format)
        .depth(options.depth)
        .per_device(options.depth)
        .max_group(options.depth)
        .deadline(timeout(options));
    let (reporter, end) = match options.transport {
        Transport::Socket => fault::socket(&of_channel)?,
        Transport::Shared => fault::shared(&of_channel)?,
    };
    let is_headed = format == Format::IOMMU_PGFAULT_V2;
    let model = if options.stall { FaultModel::Stall } else { FaultModel::Pri };
    Ok((Box::new(Faults { reporter, is_headed, model }), end))
}

impl Feed for Faults {
    fn send(&self, bytes: &[u8]) -> Sent {
        use fault::ReportError::{Closed, DeviceFull, Full, HalfMadeFull};
        let decoded =
            if self.is_headed { unheaded(bytes) } else { PgFault::decode(bytes).map_err(|e| e.to_string()) };
        let fault = match decoded {
            Ok(fault) => fault,
            Err(error) => return Sent::Bad(error),
        };
        match self.reporter.report(FaultRequest::from_fault(&fault, self.model)) {
            Ok(Reported::HalfMade | Reported::Group { .. } | Reported::StopMarker) => Sent::Taken,
            Err(Full(_) | DeviceFull(_) | HalfMadeFull(_)) => Sent::Busy,
            Err(Closed(_)) => Sent::Gone,
            Err(error) => Sent::Bad(error.to_string()),
        }
    }

    fn collect(&self, sink: &mut dyn FnMut(Answer)) -> Result<(), TryRecvError> {
        let mut completions = [FaultCompletion::default(); 64];
        let count = self.reporter.wait_completions(&mut completions, Some(TICK))?;
        for ended in &completions[..count] {
            let response = PageResponse { cookie: ended.cookie, code: ended.code.into() };
            sink(Answer { bytes: bytes_of(&response), cause: Some(ended.cause) });
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let counters = self.reporter.counters();
        counters.unanswered == 0 && counters.half_made == 0
    }

    fn is_closed(&self) -> bool {
        self.reporter.is_closed()
    }

    fn discarded(&self) -> u64 {
        self.reporter.counters().discarded
    }
}

struct Requests<R: Request>(Reporter<R>);

fn requests<R: Request>(options: &Exec) -> Result<(Box<dyn Feed>, UnattachedEnd), Error> {
    let of_channel = request::Options::new()
        .depth(options.depth)
        .per_device(options.depth)
        .deadline(Some(timeout(options)));
    let (reporter, end) = match options.transport {
        Transport::Socket => request::socket::<R>(&of_channel)?,
        Transport::Shared => request::shared::<R>(&of_channel)?,
    };
    Ok((Box::new(Requests(reporter)), end))
}

impl<R: Request> Feed for Requests<R> {
    fn send(&self, bytes: &[u8]) -> Sent {
        use request::ReportError::{Closed, DeviceFull, Full, Refused};
        let record = match unheaded::<R>(bytes) {
            Ok(record) => record,
            Err(error) => return Sent::Bad(error),
        };
        match self.0.report(record) {
            Ok(_) => Sent::Taken,
            Err(Full(_) | DeviceFull(_) | Refused(_, Refusal::Unanswered)) => Sent::Busy,
            Err(Refused(_, refusal)) => Sent::Bad(refusal.to_string()),
            Err(Closed(_)) => Sent::Gone,
            Err(error) => Sent::Bad(error.to_string()),
        }
    }

    fn collect(&self, sink: &mut dyn FnMut(Answer)) -> Result<(), TryRecvError> {
        let mut completions = [request::Completion::<R>::default(); 64];
        let count = self.0.wait_completions(&mut completions, Some(TICK))?;
        for ended in &completions[..count] {
            let answer = R::answer(ended.record.cookie(), ended.verdict);
            sink(Answer { bytes: bytes_of(&answer), cause: Some(ended.cause) });
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.0.counters().unanswered == 0
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// What is behind the header, which is the channel's.
fn unheaded<T: recordfd::uapi::Payload>(bytes: &[u8]) -> Result<T, String> {
    let event = Event::<T>::decode(bytes).map_err(|error| error.to_string())?;
    if event.header.flags.is_empty() {
        Ok(event.payload)
    } else {
        Err("is a notice of cancellation, which the channel makes".to_owned())
    }
}
