//! A device server that the VMM does not trust: page faults, PCI errors and an unplug, over three channels.
//!
//! The VMM makes the three channels, keeps the answering ends and gives the reporting ends to the server, a
//! process of its own (this binary again, or any program), over a socket that the server has as descriptor 0. One
//! loop of the VMM serves all three; what the server says is checked before the guest hears of it, and a server
//! that dies at any moment (`--crash-at`) harms nobody but its own device: the next server is served as if nothing
//! had been.
//!
//! Device servers: [`server`] is the side to begin with. VMMs: [`vmm`], and [`guest`] for what is to be checked.

mod guest;
mod launch;
mod server;
mod vmm;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum, value_parser};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Serves page faults, PCI errors and an unplug request of a device server in another process.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  device_server                                    a server that does all there is to do
  device_server --transport shared                 the same in shared memory
  device_server --crash-at release                 the server dies while it waits for the guest to let go
  device_server --crash-at slot-reset --transport shared
  device_server --transport shared with ./my_server --verbose

After a server that was to crash another one is served, to show that the VMM is unharmed.

Exit status: 0 all was served and each server ended as it was to, 1 something was not, 2 wrong usage.")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// What carries the three channels.
    #[arg(long, value_enum, default_value = "socket")]
    transport: Transport,
    /// Kill the first server there.
    #[arg(long, value_enum, value_name = "STEP")]
    crash_at: Option<Step>,
    /// Milliseconds until a server asks again for its device's release.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = value_parser!(u32).range(1..=30_000))]
    repeat_every: u32,
}

#[derive(Subcommand)]
enum Role {
    /// Serve another program; it gets a socket as descriptor 0, and over it an end each for page faults, PCI errors
    /// and requests of device 1.
    With {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Be the server: receive three ends from a socket that is descriptor 0.
    #[command(hide = true)]
    Server {
        #[arg(long)]
        device: u32,
        #[arg(long)]
        repeat_every: u32,
        #[arg(long, value_enum)]
        crash_at: Option<Step>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Transport {
    /// A socket for each: the server may be a program in any language.
    Socket,
    /// Shared memory: no system call while both sides are busy.
    Shared,
}

/// Where a server can be killed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Before it has taken its ends.
    Start,
    /// The first page of a group is reported, the last is not.
    FirstPage,
    /// All page faults are reported.
    Faults,
    /// All page faults are answered.
    FaultAnswers,
    /// The PCI error is reported.
    ErrorDetected,
    /// The slot is reset.
    SlotReset,
    /// The device is to resume.
    Resume,
    /// The release is asked for.
    Release,
    /// The release is asked for again.
    Repeat,
    /// The device is released.
    End,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (name, outcome) = match arguments.role {
        Some(Role::Server { device, repeat_every, crash_at }) => {
            let repeat_every = Duration::from_millis(repeat_every.into());
            ("device_server: server", server::run(device, repeat_every, crash_at).map(|()| true))
        }
        Some(Role::With { .. }) if arguments.crash_at.is_some() => {
            eprintln!("device_server: only its own server can be killed at a step");
            return ExitCode::from(2);
        }
        _ => ("device_server", vmm::run(&arguments)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // One line: what was tried, and each reason behind it.
            let mut line = format!("{name}: {error}");
            let mut source = error.source();
            while let Some(reason) = source {
                line += &format!(": {reason}");
                source = reason.source();
            }
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

fn readable(fd: &impl AsFd) -> PollFd<'_> {
    PollFd::new(fd.as_fd(), PollFlags::POLLIN)
}

/// Sleeps until one of `fds` is ready or `until` has come; may return before that, as after a signal.
fn wait(fds: &mut [PollFd<'_>], until: Option<Instant>) -> Result<()> {
    let timeout = match until {
        // Rounded up, so that it is not too early when poll returns.
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    };
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(format!("poll failed: {errno}").into()),
    }
}
