//! How the VMM starts a server, gives it its ends, and sees it to its end.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use recordfd::fault::{self, FaultResponder};
use recordfd::request::{self, Responder};
use recordfd::uapi::{DeviceRequest, Format, PciError};
use recordfd::{Error, UnattachedEnd};

use crate::{Arguments, Result, Role, Step, Transport, readable, wait};

/// How long a server that has hung up may take to come to its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server as the VMM has it; killed if it is dropped before it has come to its end.
pub(crate) struct Server {
    process: Process,
    /// Hangs up when the process is gone.
    control: OwnedFd,
}

/// The VMM's ends.
pub(crate) struct Ends {
    pub(crate) faults: FaultResponder,
    pub(crate) errors: Responder<PciError>,
    pub(crate) requests: Responder<DeviceRequest>,
}

impl Server {
    /// Makes three channels, and starts the server of `device` with the other ends of them.
    pub(crate) fn start(device: u32, crash_at: Option<Step>, arguments: &Arguments) -> Result<(Self, Ends)> {
        // With v2 the VMM is told of groups that the server has given up.
        let fault_options = fault::Options::new().format(Format::IOMMU_PGFAULT_V2).depth(64);
        let options = request::Options::new().depth(16);
        let ((faults, fault_end), (errors, error_end), (requests, request_end)) = match arguments.transport {
            Transport::Socket => (
                fault::socket_responder(&fault_options)?,
                request::socket_responder(&options)?,
                request::socket_responder(&options)?,
            ),
            Transport::Shared => (
                fault::shared_responder(&fault_options)?,
                request::shared_responder(&options)?,
                request::shared_responder(&options)?,
            ),
        };
        let (control, its_control) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let mut command = command(device, crash_at, arguments)?;
        let child = command
            .stdin(Stdio::from(its_control))
            .spawn()
            .map_err(|error| format!("the server cannot be started: {error}"))?;
        // The command keeps a copy of the server's socket, which would hide its hang-up.
        drop(command);
        let server = Self { process: Process(child), control };
        // In the order in which the server takes them.
        for end in [fault_end, error_end, request_end] {
            server.give(end)?;
        }
        Ok((server, Ends { faults, errors, requests }))
    }

    fn give(&self, end: UnattachedEnd) -> Result<()> {
        match end.send_over(&self.control).map_err(Error::from) {
            // Gone already: the end is closed here, as its channel will tell.
            Ok(()) | Err(Error::Closed) => Ok(()),
            Err(error) => Err(format!("the server cannot be given its ends: {error}").into()),
        }
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.0.kill().map_err(|error| format!("the server cannot be killed: {error}").into())
    }

    /// Waits until a server that has hung up has come to its end; one that stays is killed.
    pub(crate) fn finish(mut self) -> Result<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        let mut fds = [readable(&self.control)];
        while Instant::now() < until && fds[0].revents().is_none_or(|events| events.is_empty()) {
            wait(&mut fds, Some(until))?;
        }
        // Does nothing to one that is ending by itself.
        self.kill()?;
        Ok(self.process.0.wait()?)
    }
}

/// What starts the server: this binary again, or the program that was asked for.
fn command(device: u32, crash_at: Option<Step>, arguments: &Arguments) -> Result<Command> {
    if let Some(Role::With { command: words }) = &arguments.role {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        return Ok(command);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["server", "--device", &device.to_string()]);
    command.args(["--repeat-every", &arguments.repeat_every.to_string()]);
    if let Some(step) = crash_at.and_then(|step| step.to_possible_value()) {
        command.args(["--crash-at", step.get_name()]);
    }
    Ok(command)
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
