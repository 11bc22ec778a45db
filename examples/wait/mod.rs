//! What the examples of reactors share: three ends to wait for, what is done when one is ready, and the other side.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use recordfd::TryRecvError;
use recordfd::event::{self, Received, Receiver};
use recordfd::fault::{
    self, Cause, FaultCompletion, FaultReporter, FaultRequest, FaultResponder, ResponseCode,
};
use recordfd::request::{self, Ack, Responder};
use recordfd::uapi::{AcpiNotify, DeviceRequest, DeviceRequestKind, FixedText, PgFault, PgFaultPerm};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Serves three channels of different formats on one thread: ACPI notifications, device requests, and page faults
/// that the thread itself reports. The other side is a second thread, and leaves every fourth fault unanswered.
#[derive(Parser)]
#[command(after_help = "Exit status: 0 everything was served, 1 something went wrong, 2 wrong usage.")]
pub(crate) struct Arguments {
    /// Notifications, requests and faults, of each as many.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=128))]
    records: u32,
    /// How long a page fault may wait for its answer, in milliseconds.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    deadline: u64,
}

/// The ends that the reactor's thread has.
pub(crate) struct Ends {
    pub(crate) notifications: Receiver<AcpiNotify>,
    pub(crate) faults: FaultReporter,
    pub(crate) requests: Responder<DeviceRequest>,
}

/// Makes the three channels and starts the other side.
pub(crate) fn start(arguments: &Arguments) -> Result<(Ends, JoinHandle<Result<()>>)> {
    let depth = arguments.records;
    let (notifications, end) = event::socket_receiver::<AcpiNotify>(&recordfd::Options::new().depth(depth))?;
    let notifier = event::Sender::attach(end)?;
    let deadline = Duration::from_millis(arguments.deadline);
    let options = fault::Options::new().depth(depth).per_device(depth).deadline(deadline);
    let (faults, end) = fault::shared(&options)?;
    let pager = FaultResponder::attach(end)?;
    let options = request::Options::new().depth(depth);
    let (requests, end) = request::socket_responder::<DeviceRequest>(&options)?;
    let requester = request::Reporter::attach(end, &options)?;
    let other_side = thread::spawn(move || other_side(depth, notifier, pager, requester));
    Ok((Ends { notifications, faults, requests }, other_side))
}

/// Sends what is asked for, answers three of four faults, and stays until the reporter of faults is gone.
fn other_side(
    count: u32,
    notifier: event::Sender<AcpiNotify>,
    mut pager: FaultResponder,
    requester: request::Reporter<DeviceRequest>,
) -> Result<()> {
    let (bus_id, device_class) = (FixedText::new("ACPI0003:00")?, FixedText::new("ac_adapter")?);
    for number in 0..count {
        let notify = AcpiNotify { dev_id: 1, value: 0x80, data: number, cookie: 0, bus_id, device_class };
        notifier.try_send(notify)?;
        let kind = DeviceRequestKind::RELEASE;
        requester.report(DeviceRequest { dev_id: number, kind, ..Default::default() })?;
    }
    drop(notifier);
    let mut pages = [PgFault::default(); 4];
    for number in 0..count {
        let group = pager.recv_group(&mut pages)?;
        if number % 4 == 3 {
            group.into_cookie(); // nobody answers it now: its deadline does
        } else {
            group.respond(ResponseCode::Success)?;
        }
    }
    let mut completions = vec![Default::default(); count as usize];
    let mut answered = 0;
    while answered < completions.len() {
        answered += requester.wait_completions(&mut completions, None)?;
    }
    drop(requester);
    match pager.recv_group(&mut pages) {
        Err(TryRecvError::Closed) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err("a fault too many".into()),
    }
}

/// What the reactor's thread has done.
#[derive(Debug, Default)]
pub(crate) struct Served {
    notifications: u32,
    answered: u32,
    timed_out: u32,
    requests: u32,
}

impl Served {
    /// Receives until nothing is left; reports a page fault for each notification. False: the other side is gone.
    pub(crate) fn notifications(
        &mut self,
        receiver: &mut Receiver<AcpiNotify>,
        faults: &FaultReporter,
    ) -> Result<bool> {
        loop {
            match receiver.try_recv() {
                Ok(Received::Record { record, .. }) => {
                    self.notifications += 1;
                    let addr = u64::from(record.data) << 12;
                    let perm = PgFaultPerm::READ;
                    faults.report(FaultRequest {
                        dev_id: 1,
                        perm,
                        addr,
                        last: true,
                        ..Default::default()
                    })?;
                }
                Ok(Received::Lost { count }) => return Err(format!("{count} notifications lost").into()),
                Err(error) => return is_open(error),
            }
        }
    }

    /// Answers until nothing is left. False: the other side is gone.
    pub(crate) fn requests(&mut self, responder: &mut Responder<DeviceRequest>) -> Result<bool> {
        loop {
            match responder.try_recv() {
                Ok(request) => {
                    request.respond(Ack::Done)?;
                    self.requests += 1;
                }
                Err(error) => {
                    // Requests that were repeated meanwhile: their answers are given already.
                    while responder.next_notice().is_some() {}
                    return is_open(error);
                }
            }
        }
    }

    /// Acts on the time and collects completions until nothing is left. False: the other side is gone.
    pub(crate) fn faults(&mut self, reporter: &FaultReporter) -> Result<bool> {
        reporter.process(Instant::now());
        let mut completions = [FaultCompletion::default(); 16];
        loop {
            match reporter.completions(&mut completions) {
                Ok(count) => {
                    for completion in &completions[..count] {
                        match completion.cause {
                            Cause::Answered => self.answered += 1,
                            Cause::Deadline => self.timed_out += 1,
                            cause => return Err(format!("a fault ended by {cause:?}").into()),
                        }
                    }
                }
                Err(error) => return is_open(error),
            }
        }
    }

    /// Whether every fault that a notification led to has ended.
    pub(crate) fn faults_have_ended(&self) -> bool {
        self.answered + self.timed_out == self.notifications
    }

    pub(crate) fn print(&self) {
        let Self { notifications, answered, timed_out, requests } = self;
        println!("{notifications} notifications received, {requests} device requests answered");
        println!("{answered} page faults answered, {timed_out} ended by their deadline");
    }
}

/// How long a wait may last: until the next deadline of a fault, if there is one.
pub(crate) fn timeout(reporter: &FaultReporter) -> Option<Duration> {
    reporter.next_deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

/// Why a receive found nothing: true for `Empty`, false for `Closed`.
fn is_open(error: TryRecvError) -> Result<bool> {
    match error {
        TryRecvError::Empty => Ok(true),
        TryRecvError::Closed => Ok(false),
        error => Err(error.into()),
    }
}
