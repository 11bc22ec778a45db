//! The VMM: one loop that serves the three channels of a server that is not trusted.

use std::fmt::Debug;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use recordfd::TryRecvError;
use recordfd::fault::{FaultResponder, RespondError};
use recordfd::request::{Ack, Next, Notice, Pending, Request, Responder};
use recordfd::uapi::{DeviceRequest, PciError, PciErrorFlags, PciErrorStep, PgFault};

use crate::guest::{Guest, Taken};
use crate::launch::{Ends, Server};
use crate::{Arguments, Result, readable, wait};

/// How much is received from a channel before the others have their turn.
const BATCH: usize = 16;
/// The most pages of a group that this VMM takes.
const PAGES: usize = 64;

/// Serves a server, and another one behind one that was to crash; false when one did not end as it was to.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let mut served = Served::default();
    let mut all_good = true;
    let crashing = arguments.crash_at.map(Some);
    for (device, crash_at) in (1..).zip(crashing.into_iter().chain([None])) {
        println!("vmm: starts the server of device {device}");
        let (mut server, ends) = Server::start(device, crash_at, arguments)?;
        Session::new(device, ends, &mut served).run(&mut server)?;
        let status = server.finish()?;
        println!("vmm: the server of device {device} ended with {status}");
        all_good &= if crash_at.is_some() { was_killed(status) } else { status.success() };
    }
    let Served { groups, pages, steps, requests } = served;
    println!(
        "vmm: page-fault groups {groups}, pages {pages}, PCI error steps {steps}, device requests {requests}"
    );
    Ok(all_good)
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGKILL as i32)
}

/// What was decided about, whether or not the server has lived to be told.
#[derive(Default)]
struct Served {
    groups: usize,
    pages: usize,
    steps: usize,
    requests: usize,
}

/// What is kept while one server is served.
struct Session<'a> {
    device: u32,
    guest: Guest,
    served: &'a mut Served,
    // Each channel while it is open, then why it is not.
    faults: Result<FaultResponder>,
    errors: Result<Responder<PciError>>,
    requests: Result<Responder<DeviceRequest>>,
}

impl<'a> Session<'a> {
    fn new(device: u32, ends: Ends, served: &'a mut Served) -> Self {
        let Ends { faults, errors, requests } = ends;
        let (faults, errors, requests) = (Ok(faults), Ok(errors), Ok(requests));
        Self { device, guest: Guest::new(device), served, faults, errors, requests }
    }

    /// Serves until the server has hung up on every channel.
    fn run(mut self, server: &mut Server) -> Result<()> {
        loop {
            let fds = [
                self.faults.as_ref().ok().map(readable),
                self.errors.as_ref().ok().map(readable),
                self.requests.as_ref().ok().map(readable),
            ];
            let mut fds: Vec<_> = fds.into_iter().flatten().collect();
            if fds.is_empty() {
                break;
            }
            wait(&mut fds, None)?;
            // Which one it was need not be asked: receiving says so where nothing is there.
            if let Ok(faults) = &mut self.faults {
                let turn = serve_faults(self.device, faults, &self.guest, self.served);
                end_with(&mut self.faults, turn, server)?;
            }
            if let Ok(errors) = &mut self.errors {
                let turn = serve_errors(self.device, errors, &mut self.guest, self.served);
                end_with(&mut self.errors, turn, server)?;
            }
            if let Ok(requests) = &mut self.requests {
                let turn = serve_requests(self.device, requests, &mut self.guest, self.served);
                end_with(&mut self.requests, turn, server)?;
            }
        }
        // Told only now, for a process that dies hangs up on its channels in no order.
        let device = self.device;
        let ended = [self.faults.err(), self.errors.err(), self.requests.err()];
        for (name, why) in ["page faults", "PCI errors", "device requests"].into_iter().zip(ended) {
            println!("device {device}: {name}: {}", why.map_or(String::new(), |why| why.to_string()));
        }
        for undone in self.guest.lose_device() {
            println!("device {device}: {undone}");
        }
        Ok(())
    }
}

/// Closes a channel whose turn has failed. A server that has not just hung up is to be trusted with nothing more.
fn end_with<E>(channel: &mut Result<E>, turn: Result<()>, server: &mut Server) -> Result<()> {
    let Err(why) = turn else { return Ok(()) };
    let hung_up = matches!(why.downcast_ref(), Some(TryRecvError::Closed));
    *channel = Err(why);
    if hung_up { Ok(()) } else { server.kill() }
}

fn serve_faults(device: u32, faults: &mut FaultResponder, guest: &Guest, served: &mut Served) -> Result<()> {
    let mut pages = [PgFault::default(); PAGES];
    let mut groups = [const { None }; BATCH];
    let count = match faults.recv_groups(&mut pages, &mut groups) {
        Ok(count) => count,
        Err(TryRecvError::Empty) => 0,
        Err(error) => return Err(error.into()),
    };
    for group in groups[..count].iter_mut().filter_map(Option::take) {
        let pages = &pages[group.range()];
        let code = guest.page_in(pages);
        let PgFault { pasid, grpid, perm, .. } = pages[0];
        let access: Vec<_> = perm.iter_names().map(|(name, _)| name).collect();
        let addresses: Vec<_> = pages.iter().map(|page| format!("{:#x}", page.addr)).collect();
        let (access, addresses) = (access.join("|"), addresses.join(" "));
        println!(
            "device {device}: page faults, PASID {pasid}, group {grpid}, {access} {addresses}: {code:?}"
        );
        served.groups += 1;
        served.pages += pages.len();
        handed_over(group.respond(code))?;
    }
    // No group is open for longer than this function: nothing is to be done about one that was cancelled.
    while faults.next_cancelled().is_some() {}
    Ok(())
}

fn serve_errors(
    device: u32,
    errors: &mut Responder<PciError>,
    guest: &mut Guest,
    served: &mut Served,
) -> Result<()> {
    let (received, outcome) = receive(errors);
    for pending in received {
        let error = *pending.record();
        match guest.recover(&error) {
            Ok((result, next)) => {
                println!("device {device}: {}: {result:?}", describe(&error));
                served.steps += 1;
                handed_over(pending.respond(result))?;
                if next == Next::Recovered {
                    println!("device {device}: has recovered");
                }
            }
            Err(refusal) => {
                println!("device {device}: {}: refused: {refusal}", describe(&error));
                // It is answered DISCONNECT.
                drop(pending);
            }
        }
    }
    while errors.next_notice().is_some() {}
    outcome
}

fn serve_requests(
    device: u32,
    requests: &mut Responder<DeviceRequest>,
    guest: &mut Guest,
    served: &mut Served,
) -> Result<()> {
    let (received, outcome) = receive(requests);
    for pending in received {
        let kind = pending.record().kind;
        match guest.take(pending) {
            Taken::Ejecting => println!("device {device}: {kind:?}: the guest is told and takes its time"),
            Taken::Noted(pending) => {
                println!("device {device}: {kind:?}: {:?}", Ack::Done);
                served.requests += 1;
                handed_over(pending.respond(Ack::Done))?;
            }
            Taken::Refused(why) => println!("device {device}: {kind:?}: refused: {why}"),
        }
    }
    // Behind the requests that they are about, and also when the server has hung up since.
    while let Some(notice) = requests.next_notice() {
        match notice {
            Notice::Repeated { cookie, count } => {
                let Some(release) = guest.eject(cookie) else { continue };
                println!("device {device}: asked again, count {count}: the guest lets go: {:?}", Ack::Done);
                served.requests += 1;
                handed_over(release.respond(Ack::Done))?;
            }
            Notice::Cancelled { cookie } => {
                // The answer, which is owed nevertheless, is given by dropping it.
                if guest.eject(cookie).is_some() {
                    println!("device {device}: the release is not asked for any more");
                }
            }
        }
    }
    outcome
}

/// Receives a batch at most, and says whether the channel is over behind it.
fn receive<R: Request>(responder: &mut Responder<R>) -> (Vec<Pending<R>>, Result<()>) {
    let mut received = Vec::new();
    while received.len() < BATCH {
        match responder.try_recv() {
            Ok(pending) => received.push(pending),
            Err(TryRecvError::Empty) => break,
            Err(error) => return (received, Err(error.into())),
        }
    }
    (received, Ok(()))
}

/// What has become of an answer.
fn handed_over<T: Debug>(outcome: std::result::Result<(), RespondError<T>>) -> Result<()> {
    match outcome {
        // That the server is gone is told by receiving, behind all that it has sent.
        Ok(()) | Err(RespondError::Closed) => Ok(()),
        // There is room for an answer to every request: a server without has not read those before.
        Err(error) => Err(error.to_string().into()),
    }
}

/// `PCI error, ERROR_DETECTED, IO_FROZEN`, and the registers with the first step.
fn describe(error: &PciError) -> String {
    let mut text = format!("PCI error, {:?}, {:?}", error.step, error.state);
    if error.step == PciErrorStep::ERROR_DETECTED && error.flags.contains(PciErrorFlags::AER_VALID) {
        let [first, second, third, fourth] = error.header_log;
        text += &format!(", status {:#010x}, mask {:#010x}", error.status, error.mask);
        text += &format!(", TLP header {first:08x} {second:08x} {third:08x} {fourth:08x}");
    }
    text
}
