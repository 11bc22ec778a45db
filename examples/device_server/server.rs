//! The device server: one thread, one loop, three reporters.
//!
//! It never waits but in one place, for all three descriptors and the next deadline of any. After each wait it
//! acts on deadlines, and then takes completions until there are none: what a deadline has completed, no
//! descriptor tells of. What it does next depends on how the last thing has ended.

use std::io::stdin;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use recordfd::fault::{self, FaultCompletion, FaultReporter, FaultRequest, ReportError, ResponseCode};
use recordfd::request::{self, Ack, Cause, Completion, Next, Reporter};
use recordfd::uapi::{
    DeviceRequest, DeviceRequestKind, PciChannelState, PciError, PciErrorFlags, PciErrorStep, PgFaultPerm,
};
use recordfd::{TryRecvError, UnattachedEnd};

use crate::{Result, Step, readable, wait};

/// How long the VMM may take for page faults.
const DEADLINE: Duration = Duration::from_secs(10);
/// Completions that are taken with one call.
const BATCH: usize = 16;
/// What the device asks for: PASID, group, access, address, last page. Groups of two PASIDs come interleaved.
const PAGES: [(u32, u32, PgFaultPerm, u64, bool); 6] = [
    (5, 1, PgFaultPerm::READ, 0x10000, false),
    (9, 2, PgFaultPerm::WRITE, 0x80000, false),
    (5, 1, PgFaultPerm::READ, 0x11000, false),
    (9, 2, PgFaultPerm::WRITE, 0x81000, true),
    (5, 1, PgFaultPerm::READ, 0x12000, true),
    (9, REFUSED_GROUP, PgFaultPerm::READ, 0xdead_0000, true),
];
/// The group that asks for memory that the guest does not have.
const REFUSED_GROUP: u32 = 3;

/// Be the server of `device`: report all there is, and end when the device is released.
pub(crate) fn run(device: u32, repeat_every: Duration, crash_at: Option<Step>) -> Result<()> {
    let crash = Crash(crash_at);
    crash.at(Step::Start);
    // It remains descriptor 0: that it hangs up with the process tells the VMM of its end.
    let control = stdin();
    let mut server = Server::attach(device, repeat_every, crash, control.as_fd())?;
    server.serve()?;
    println!("server of device {device}: page faults answered, recovered, released");
    server.crash.at(Step::End);
    Ok(())
}

struct Server {
    device: u32,
    faults: FaultReporter,
    errors: Reporter<PciError>,
    requests: Reporter<DeviceRequest>,
    /// Page requests that are not reported yet.
    backlog: Vec<FaultRequest>,
    /// Groups that have not completed.
    open_groups: usize,
    is_released: bool,
    crash: Crash,
}

impl Server {
    /// Takes the three ends from the socket, in the order in which the VMM gives them.
    fn attach(device: u32, repeat_every: Duration, crash: Crash, control: BorrowedFd<'_>) -> Result<Self> {
        let options = fault::Options::new().deadline(DEADLINE);
        let faults = FaultReporter::attach(UnattachedEnd::recv_from(control)?, &options)?;
        let options = request::Options::new().repeat_every(Some(repeat_every));
        let request = |(pasid, prg_index, perm, addr, last)| {
            let (pasid, length) = (Some(pasid), 0x1000);
            FaultRequest { dev_id: device, pasid, prg_index, perm, last, addr, length, ..Default::default() }
        };
        Ok(Self {
            device,
            faults,
            errors: Reporter::attach(UnattachedEnd::recv_from(control)?, &options)?,
            requests: Reporter::attach(UnattachedEnd::recv_from(control)?, &options)?,
            backlog: PAGES.map(request).into(),
            open_groups: PAGES.iter().filter(|page| page.4).count(),
            is_released: false,
            crash,
        })
    }

    /// The loop.
    fn serve(&mut self) -> Result<()> {
        // The first page by itself, so that there is a moment with half a group.
        self.faults.report(self.backlog.remove(0))?;
        self.crash.at(Step::FirstPage);
        self.report_faults()?;
        while !self.is_released {
            let due =
                [self.faults.next_deadline(), self.errors.next_deadline(), self.requests.next_deadline()];
            let mut fds = [readable(&self.faults), readable(&self.errors), readable(&self.requests)];
            wait(&mut fds, due.into_iter().flatten().min())?;
            self.process();
            self.complete_faults()?;
            self.complete_errors()?;
            self.complete_requests()?;
        }
        Ok(())
    }

    /// Acts on what is due: an answer that has not come in time, a release that is to be asked for again.
    fn process(&mut self) {
        let now = Instant::now();
        self.faults.process(now);
        self.errors.process(now);
        self.requests.process(now);
        if self.requests.counters().repeats > 0 {
            self.crash.at(Step::Repeat);
        }
    }

    /// Reports as much of the backlog as there is room for.
    fn report_faults(&mut self) -> Result<()> {
        while !self.backlog.is_empty() {
            match self.faults.report_batch(&self.backlog) {
                Ok(count) => drop(self.backlog.drain(..count)),
                // There is room again when something has completed.
                Err(ReportError::Full(_) | ReportError::DeviceFull(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.crash.at(Step::Faults);
        Ok(())
    }

    fn complete_faults(&mut self) -> Result<()> {
        let mut completions = [FaultCompletion::default(); BATCH];
        while let Some(count) = some(self.faults.completions(&mut completions))? {
            for FaultCompletion { prg_index, code, cause, .. } in &completions[..count] {
                let is_refused = *prg_index == REFUSED_GROUP;
                let expected = if is_refused { ResponseCode::Invalid } else { ResponseCode::Success };
                if (*code, *cause) != (expected, Cause::Answered) {
                    return Err(format!("group {prg_index} has ended with {code:?}, {cause:?}").into());
                }
                // A real device is sent its response now.
                self.open_groups -= 1;
            }
            self.report_faults()?;
            if self.open_groups == 0 {
                self.crash.at(Step::FaultAnswers);
                self.tell(PciErrorStep::ERROR_DETECTED)?;
            }
        }
        Ok(())
    }

    /// Reports the PCI error, or the next step of the recovery from it.
    fn tell(&mut self, step: PciErrorStep) -> Result<()> {
        self.errors.report(PciError {
            dev_id: self.device,
            step,
            state: PciChannelState::IO_FROZEN,
            flags: PciErrorFlags::FATAL | PciErrorFlags::AER_VALID,
            status: 1 << 18, // Malformed TLP
            mask: 1 << 20,   // Unsupported Request
            header_log: [0x4a00_0001, 0x0100_0004, 0, 0],
            ..PciError::default()
        })?;
        match step {
            PciErrorStep::ERROR_DETECTED => self.crash.at(Step::ErrorDetected),
            PciErrorStep::SLOT_RESET => self.crash.at(Step::SlotReset),
            PciErrorStep::RESUME => self.crash.at(Step::Resume),
            _ => {}
        }
        Ok(())
    }

    fn complete_errors(&mut self) -> Result<()> {
        let mut completions = [Completion::default(); BATCH];
        while let Some(count) = some(self.errors.completions(&mut completions))? {
            for completion in &completions[..count] {
                match completion.next() {
                    Next::MmioEnabled => self.tell(PciErrorStep::MMIO_ENABLED)?,
                    // A real server resets its device first.
                    Next::SlotReset => self.tell(PciErrorStep::SLOT_RESET)?,
                    Next::Resume => self.tell(PciErrorStep::RESUME)?,
                    Next::Recovered => self.ask_for_release()?,
                    Next::Corrected => {}
                    Next::Disconnected => {
                        return Err(
                            format!("the device is to be disconnected: {:?}", completion.cause).into()
                        );
                    }
                }
            }
        }
        Ok(())
    }

    fn ask_for_release(&mut self) -> Result<()> {
        let kind = DeviceRequestKind::RELEASE;
        self.requests.report(DeviceRequest { dev_id: self.device, kind, ..DeviceRequest::default() })?;
        self.crash.at(Step::Release);
        Ok(())
    }

    fn complete_requests(&mut self) -> Result<()> {
        let mut completions = [Completion::default(); BATCH];
        while let Some(count) = some(self.requests.completions(&mut completions))? {
            for Completion { verdict, cause, .. } in &completions[..count] {
                match verdict {
                    Ack::Done => self.is_released = true,
                    Ack::Refused => return Err(format!("the release was refused: {cause:?}").into()),
                }
            }
        }
        Ok(())
    }
}

/// How many completions there were; `None` for none.
fn some(outcome: std::result::Result<usize, TryRecvError>) -> Result<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(TryRecvError::Empty) => Ok(None),
        // The VMM is gone, and the device with it.
        Err(error) => Err(error.into()),
    }
}

/// Where this process is to be killed.
struct Crash(Option<Step>);

impl Crash {
    fn at(&self, step: Step) {
        if self.0 == Some(step) {
            raise(Signal::SIGKILL).expect("a process may kill itself");
        }
    }
}
