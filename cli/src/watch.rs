//! Reads a channel whose consumer's end this process was started with.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use filedescriptor::FileDescriptor;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use recordfd::event::{Received, Receiver};
use recordfd::fault::{FaultResponder, ResponseCode};
use recordfd::request::{Ack, ErsResult, Notice, Pending, Request, Responder};
use recordfd::uapi::{
    AcpiNotify, AcpiOst, DeviceRequest, EventRecord, Format as ChannelFormat, MixedEvent, PciChannelState,
    PciError, PciErrorFlags, PciErrorStep, PciErrorV2, PgFault, Sequenced, Smmuv3Event, Tegra241CmdqvEvent,
};
use recordfd::{Rejected, RespondError, TryRecvError, TrySendError};
use serde_json::{Map, Value, json};

use crate::args::{Respond, Watch};
use crate::formats::bytes_of;
use crate::lines::{Bad, Stop, print, with_source};
use crate::{record, wrong_use};

/// How long to wait for room for an answer.
const PAUSE: Duration = Duration::from_millis(1);

/// Error Disconnect Recover, whose reports have a form of their own.
const EDR: u32 = 0x0f;

pub(crate) fn run(options: &Watch) -> Result<Bad, Stop> {
    if options.respond.is_some() && options.format.reply.is_none() {
        wrong_use(&format!("{} has no answers: leave --respond out", options.format.name));
    }
    watch(options, take(options.fd)?)?;
    Ok(Bad(false))
}

/// A descriptor for the end that was inherited under this number.
fn take(number: RawFd) -> Result<OwnedFd, Stop> {
    let file: Result<File, _> = FileDescriptor::dup(&number).and_then(|end| end.as_file());
    let failed = |error: &dyn Error| Stop::Failed(format!("descriptor {number}: {}", with_source(error)));
    let end = file.map(OwnedFd::from).map_err(|error| failed(&error))?;
    // Of a socket of datagrams the library would wait for an end that never comes.
    match getsockopt(&end, sockopt::SockType) {
        Ok(SockType::Stream) => Ok(end),
        Ok(_) => Err(Stop::Failed(format!("descriptor {number} is no stream socket"))),
        Err(errno) => Err(failed(&io::Error::from(errno))),
    }
}

fn watch(options: &Watch, end: OwnedFd) -> Result<(), Stop> {
    let mut shown = Shown { options, count: 0 };
    match options.format.channel.unwrap_or(ChannelFormat(0)) {
        ChannelFormat::VIOMMU_ARM_SMMUV3_V1 => events::<Smmuv3Event>(&mut shown, end, |_| None),
        ChannelFormat::VIOMMU_TEGRA241_CMDQV_V1 => events::<Tegra241CmdqvEvent>(&mut shown, end, |_| None),
        ChannelFormat::MIXED_V1 => events::<MixedEvent>(&mut shown, end, |_| None),
        ChannelFormat::ACPI_NOTIFY_V1 => {
            let (respond, port) = (options.respond, options.requester);
            events::<AcpiNotify>(&mut shown, end, |notify| ost(notify, respond?, port))
        }
        ChannelFormat::PCI_ERROR_V1 => requests::<PciError>(&mut shown, end, ers_result),
        ChannelFormat::PCI_ERROR_V2 => {
            requests::<PciErrorV2>(&mut shown, end, |error, word| ers_result(&error.to_v1(), word))
        }
        ChannelFormat::DEVICE_REQUEST_V1 => {
            requests::<DeviceRequest>(&mut shown, end, |_, word| match word {
                Respond::Success => Ack::Done,
                Respond::Invalid => Ack::Refused,
            })
        }
        format => faults(&mut shown, end, format),
    }
}

/// What was printed.
struct Shown<'a> {
    options: &'a Watch,
    count: u64,
}

impl Shown<'_> {
    /// Whether no more records are wanted.
    fn is_enough(&self) -> bool {
        self.options.count.is_some_and(|count| self.count >= count)
    }

    fn record(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let fields = record::decode(self.options.format, bytes).map_err(Stop::Failed)?;
        self.fields(bytes, fields)
    }

    /// Prints a record that was received without its header.
    fn payload(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let format = self.options.format;
        let mut headed = vec![0; format.size - bytes.len()];
        headed.extend(bytes);
        let mut fields = record::decode(format, &headed).map_err(Stop::Failed)?;
        fields.shift_remove("header");
        self.fields(&headed, fields)
    }

    fn fields(&mut self, bytes: &[u8], fields: Map<String, Value>) -> Result<(), Stop> {
        self.count += 1;
        if self.options.json {
            print(&Value::Object(fields).to_string())
        } else {
            print(&record::pretty(self.options.format, bytes, &fields))
        }
    }

    /// Prints what is no record.
    fn notice(&self, key: &str, value: Value, words: &str) -> Result<(), Stop> {
        if self.options.json { print(&json!({ key: value }).to_string()) } else { print(words) }
    }

    fn lost(&self, count: u32) -> Result<(), Stop> {
        if count == 0 { Ok(()) } else { self.notice("lost", count.into(), &format!("{count} lost")) }
    }

    /// Prints the hang-up, or tells what else ends the watch.
    fn end(&self, error: &TryRecvError) -> Result<(), Stop> {
        match error {
            TryRecvError::Closed => self.notice("hang_up", true.into(), "hang-up"),
            error => Err(failed(error)),
        }
    }
}

fn failed(error: &dyn std::error::Error) -> Stop {
    Stop::Failed(with_source(error))
}

fn attached<T>(end: Result<T, Rejected<OwnedFd>>) -> Result<T, Stop> {
    end.map_err(|error| failed(&error))
}

/// Answers, as soon as there is room for it. That the other side is gone is told by the next receive.
fn patiently<T>(mut pending: T, respond: impl Fn(T) -> Result<(), RespondError<T>>) -> Result<(), Stop> {
    loop {
        match respond(pending) {
            Ok(()) | Err(RespondError::Closed) => return Ok(()),
            Err(RespondError::WouldBlock(again)) => pending = again,
            Err(error) => return Err(Stop::Failed(error.to_string())),
        }
        thread::sleep(PAUSE);
    }
}

fn events<R: EventRecord>(
    shown: &mut Shown<'_>,
    end: OwnedFd,
    answer: impl Fn(&R) -> Option<R::Reply>,
) -> Result<(), Stop> {
    let mut receiver = attached(if shown.options.shared {
        Receiver::<R>::from_shared(end)
    } else {
        Receiver::<R>::from_socket(end, R::FORMAT)
    })?;
    while !shown.is_enough() {
        match receiver.recv() {
            Ok(Received::Record { lost, sequence, record }) => {
                shown.lost(lost)?;
                shown.record(&bytes_of(&R::Wire::new(sequence, record)))?;
                if let Some(reply) = answer(&record) {
                    while let Err(error) = receiver.reply(reply) {
                        match error {
                            TrySendError::Full(_) => thread::sleep(PAUSE),
                            // The next receive tells.
                            TrySendError::Closed(_) => break,
                            error => return Err(failed(&error)),
                        }
                    }
                }
            }
            Ok(Received::Lost { count }) => shown.lost(count)?,
            Err(error) => return shown.end(&error),
        }
    }
    Ok(())
}

/// The report on a notification that wants one; `port` is what an Error Disconnect Recover is of.
fn ost(notify: &AcpiNotify, word: Respond, port: u16) -> Option<AcpiOst> {
    let AcpiNotify { cookie, value, .. } = *notify;
    let report = match (value, word) {
        (EDR, _) => AcpiOst::edr(cookie, port, word == Respond::Success),
        (_, Respond::Success) => AcpiOst::new(cookie, value, 0),
        (_, Respond::Invalid) => AcpiOst::new(cookie, value, 1),
    };
    (cookie != 0).then_some(report)
}

fn faults(shown: &mut Shown<'_>, end: OwnedFd, format: ChannelFormat) -> Result<(), Stop> {
    let mut responder = attached(if shown.options.shared {
        FaultResponder::from_shared(end)
    } else {
        FaultResponder::from_socket(end, format, shown.options.depth)
    })?;
    let mut pages = vec![PgFault::default(); 32];
    while !shown.is_enough() {
        let group = match responder.try_recv_group(&mut pages) {
            Ok(group) => group,
            Err(TryRecvError::BufferTooSmall { needed }) => {
                pages.resize(needed, PgFault::default());
                continue;
            }
            Err(TryRecvError::Empty) => {
                while let Some(cookie) = responder.next_cancelled() {
                    shown.notice("cancelled", cookie.into(), &format!("cookie {cookie:#x} is cancelled"))?;
                }
                responder.wait(None).map_err(|error| failed(&error))?;
                continue;
            }
            Err(error) => return shown.end(&error),
        };
        let range = group.range();
        for page in &pages[range] {
            shown.payload(&bytes_of(page))?;
        }
        match shown.options.respond {
            // Nobody answers for it then.
            None => _ = group.into_cookie(),
            Some(Respond::Success) => patiently(group, |group| group.respond(ResponseCode::Success))?,
            Some(Respond::Invalid) => patiently(group, |group| group.respond(ResponseCode::Invalid))?,
        }
    }
    Ok(())
}

fn requests<R: Request>(
    shown: &mut Shown<'_>,
    end: OwnedFd,
    verdict: impl Fn(&R, Respond) -> R::Verdict,
) -> Result<(), Stop> {
    let mut responder = attached(if shown.options.shared {
        Responder::<R>::from_shared(end)
    } else {
        Responder::<R>::from_socket(end, R::FORMAT, shown.options.depth)
    })?;
    while !shown.is_enough() {
        let pending: Pending<R> = match responder.try_recv() {
            Ok(pending) => pending,
            Err(TryRecvError::Empty) => {
                notices(shown, &responder)?;
                responder.wait(None).map_err(|error| failed(&error))?;
                continue;
            }
            Err(error) => return shown.end(&error),
        };
        let record = *pending.record();
        shown.payload(&bytes_of(&record))?;
        match shown.options.respond {
            None => _ = pending.into_cookie(),
            Some(word) => patiently(pending, |pending| pending.respond(verdict(&record, word)))?,
        }
    }
    Ok(())
}

fn notices<R: Request>(shown: &Shown<'_>, responder: &Responder<R>) -> Result<(), Stop> {
    while let Some(notice) = responder.next_notice() {
        match notice {
            Notice::Cancelled { cookie } => {
                shown.notice("cancelled", cookie.into(), &format!("cookie {cookie:#x} is cancelled"))?;
            }
            Notice::Repeated { cookie, count } => {
                let words = format!("cookie {cookie:#x} is asked for again, {count} times so far");
                shown.notice("repeated", json!({ "cookie": cookie, "count": count }), &words)?;
            }
        }
    }
    Ok(())
}

/// What leads a recovery on, or ends it.
fn ers_result(error: &PciError, word: Respond) -> ErsResult {
    let is_correctable = error.flags.contains(PciErrorFlags::CORRECTABLE);
    match (word, error.state, error.step) {
        (Respond::Invalid, ..) | (_, PciChannelState::IO_PERM_FAILURE, _) => ErsResult::Disconnect,
        (_, PciChannelState::IO_FROZEN, PciErrorStep::ERROR_DETECTED) => ErsResult::NeedReset,
        (_, _, PciErrorStep::ERROR_DETECTED) if !is_correctable => ErsResult::CanRecover,
        _ => ErsResult::Recovered,
    }
}
