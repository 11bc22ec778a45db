//! Bridges ACPI notifications of a host to a VMM process, over one file descriptor.
//!
//! The host process makes an ACPI_NOTIFY channel, starts the VMM (this binary again) and gives it the
//! other end as descriptor 0. The VMM polls that one descriptor, prints each notification and answers
//! with an `_OST` report where firmware waits for one; the host prints the answers and a summary.
//!
//! Without arguments it plays netlink messages recorded from a Linux kernel, through the same parser
//! that a live bridge uses. No privilege and no hardware is needed.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use recordfd::event::{self, Received, Receiver, Sender};
use recordfd::uapi::acpi_genl::AcpiGenlMessage;
use recordfd::uapi::{self, AcpiNotify, AcpiOst, FixedText, Format, NotifyRange};
use recordfd::{Options, TryRecvError, TrySendError};

/// What the kernel of a virtual machine broadcast while its power, battery, thermal and processor
/// devices were notified.
const RECORDED: &str = include_str!("../tests/data/golden.txt");
/// How long the host waits for the VMM to read and answer what is left.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line taken from stdin, in bytes.
const LONGEST_LINE: usize = 4096;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Bridges ACPI notifications from a host process to a VMM process over one file descriptor.
#[derive(Parser)]
#[command(after_help = "\
Lines on stdin: CLASS BUS_ID VALUE DATA, numbers decimal or 0x...; '#' begins a comment:
  echo 'battery PNP0C0A:00 0x80 1' | acpi_bridge --source stdin

Exit status: 0 everything was delivered and answered, 1 something was not, 2 wrong usage.")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Where notifications come from.
    #[arg(long, value_enum, default_value = "recorded")]
    source: Source,
    /// How many notifications may wait unread.
    #[arg(long, default_value_t = 256)]
    depth: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Source {
    /// Messages recorded from a kernel.
    Recorded,
    /// Lines typed or piped in.
    Stdin,
}

#[derive(Subcommand)]
enum Role {
    /// Be the VMM: receive notifications from descriptor 0.
    Vmm,
    /// Be the host, with another program as the VMM; it gets the channel as descriptor 0.
    Host {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.role {
        Some(Role::Vmm) => vmm(),
        Some(Role::Host { command }) => host(&arguments, Command::new(&command[0]).args(&command[1..])),
        None => std::env::current_exe()
            .map_err(Into::into)
            .and_then(|this| host(&arguments, Command::new(this).arg("vmm"))),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // One line: what was tried, and each reason behind it.
            let mut line = format!("acpi_bridge: {error}");
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

/// The VMM: one descriptor to poll, to read and to answer on.
fn vmm() -> Result<bool> {
    let end = recordfd::fd::take_stdin()?;
    let mut receiver = Receiver::<AcpiNotify>::from_socket(end, Format::ACPI_NOTIFY_V1)?;
    let mut out = io::stdout();
    let mut items = [Received::default(); 64];
    loop {
        wait(&receiver, PollFlags::POLLIN, PollTimeout::NONE)?;
        let count = match receiver.recv_batch(&mut items) {
            Ok(count) => count,
            Err(TryRecvError::Empty) => continue,
            Err(TryRecvError::Closed) => break,
            Err(error) => return Err(error.into()),
        };
        for item in &items[..count] {
            if item.lost() > 0 {
                writeln!(out, "lost {} notifications", item.lost())?;
            }
            if let Some(notify) = item.record() {
                writeln!(out, "{}", describe(notify))?;
                // A real VMM would notify its guest now, and answer when the guest evaluates _OST.
                if notify.cookie != 0 {
                    answer(&mut receiver, handled(notify))?;
                }
            }
        }
    }
    let counters = receiver.counters();
    let (received, answered, lost) = (counters.received, counters.replies, counters.dropped);
    writeln!(out, "vmm: received {received}, answered {answered}, lost {lost}")?;
    Ok(lost == 0)
}

/// The report that a notification was handled.
fn handled(notify: &AcpiNotify) -> AcpiOst {
    match notify.value {
        // Error Disconnect Recover. The record does not name the port, which a real VMM knows.
        0x0f => AcpiOst::edr(notify.cookie, 0, true),
        value => AcpiOst::new(notify.cookie, value, 0),
    }
}

fn answer(receiver: &mut Receiver<AcpiNotify>, ost: AcpiOst) -> Result<()> {
    loop {
        match receiver.reply(ost) {
            Err(TrySendError::Full(_)) => wait(&*receiver, PollFlags::POLLOUT, PollTimeout::NONE)?,
            // The host has gone and waits for no answer any more; what it sent is still read.
            Err(TrySendError::Closed(_)) | Ok(()) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    }
}

/// `battery PNP0C0A:00 0x81 Information Change`
fn describe(notify: &AcpiNotify) -> String {
    let name = notify.value_name().unwrap_or(match uapi::notify_range(notify.value) {
        NotifyRange::Common => "Reserved",
        NotifyRange::DeviceSpecific => "Device Specific",
        NotifyRange::HardwareSpecific => "Hardware Specific",
    });
    format!("{} {} {:#04x} {name}", notify.device_class, notify.bus_id, notify.value)
}

/// The host: starts the VMM, bridges every notification of the source, and waits for the answers.
fn host(arguments: &Arguments, command: &mut Command) -> Result<bool> {
    let (sender, end) = event::socket::<AcpiNotify>(&Options::new().depth(arguments.depth))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let mut vmm = command
        .stdin(Stdio::from(OwnedFd::from(end)))
        .spawn()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    // The command keeps a copy of the end for further children, which would hide a hang-up.
    command.stdin(Stdio::null());
    let mut bridge = Bridge { sender, asked: HashMap::new(), next_cookie: 1, sent: 0, answered: 0 };
    let fed = match arguments.source {
        Source::Recorded => bridge.play_recorded().map(|()| true),
        Source::Stdin => bridge.bridge_stdin(),
    };
    let finished = fed.and_then(|all_good| bridge.finish(&mut vmm).map(|complete| all_good && complete));
    if finished.is_err() {
        // It may be stuck; without the host it has nothing left to do.
        let _ = vmm.kill();
        let _ = vmm.wait();
    }
    finished
}

struct Bridge {
    sender: Sender<AcpiNotify>,
    /// Notifications that wait for an answer, by cookie.
    asked: HashMap<u32, AcpiNotify>,
    next_cookie: u32,
    sent: u64,
    answered: u64,
}

impl Bridge {
    fn play_recorded(&mut self) -> Result<()> {
        for line in RECORDED.lines() {
            let mut fields = line.split('|');
            let (Some("HEX"), Some(name), Some("68"), Some(hex)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let (message, _) = AcpiGenlMessage::parse(&bytes_of(hex)?)?;
            self.notify(message.event.to_notify(0, 0))?;
            if name == "sleepbtn" {
                // The same once more: two identical notifications in a row.
                self.notify(message.event.to_notify(0, 0))?;
            }
        }
        Ok(())
    }

    /// Bridges lines until the end of stdin, each as it comes; false when one was bad.
    fn bridge_stdin(&mut self) -> Result<bool> {
        let stdin = io::stdin();
        let mut text = Vec::new();
        let mut number = 0;
        let mut all_good = true;
        loop {
            let mut fds = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.sender.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut fds, PollTimeout::NONE)?;
            let [typed, answered] = fds.map(|fd| fd.any().unwrap_or(false));
            if answered {
                self.take_answers()?;
            }
            if !typed {
                continue;
            }
            let mut chunk = [0; 4096];
            let length = nix::unistd::read(stdin.as_fd(), &mut chunk)?;
            text.extend_from_slice(&chunk[..length]);
            if length == 0 && !text.is_empty() {
                text.push(b'\n');
            }
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                number += 1;
                match parse_line(&String::from_utf8_lossy(&line)) {
                    Ok(Some(notify)) => self.notify(notify)?,
                    Ok(None) => {}
                    Err(reason) => {
                        eprintln!("acpi_bridge: line {number}: {reason}");
                        all_good = false;
                    }
                }
            }
            if length == 0 {
                return Ok(all_good);
            }
            if text.len() > LONGEST_LINE {
                return Err(format!("line {} is longer than {LONGEST_LINE} bytes", number + 1).into());
            }
        }
    }

    /// Sends one notification; waits for room while the VMM is behind, and loses nothing.
    fn notify(&mut self, mut notify: AcpiNotify) -> Result<()> {
        if uapi::wants_ost(notify.device_class.as_bytes(), notify.value) {
            notify.cookie = self.next_cookie;
            self.next_cookie = self.next_cookie.wrapping_add(1).max(1);
            self.asked.insert(notify.cookie, notify);
        }
        loop {
            match self.sender.try_send(notify) {
                Ok(()) => {
                    self.sent += 1;
                    return self.take_answers();
                }
                Err(TrySendError::Full(_)) => {
                    let events = PollFlags::POLLIN | PollFlags::POLLOUT;
                    wait(&self.sender, events, PollTimeout::NONE)?;
                    self.take_answers()?;
                }
                Err(TrySendError::Closed(_)) => return Err(self.gone()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Prints the answers that have come.
    fn take_answers(&mut self) -> Result<()> {
        loop {
            match self.sender.try_recv_reply() {
                Ok(ost) => match self.asked.remove(&ost.cookie) {
                    Some(notify) => {
                        self.answered += 1;
                        let (what, status) = (describe(&notify), ost.status);
                        writeln!(io::stdout(), "host: _OST for {what}: status {status:#x}")?;
                    }
                    None => eprintln!("acpi_bridge: _OST for the unknown cookie {}", ost.cookie),
                },
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Closed) => return Err(self.gone()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until everything was read and answered, then hangs up and says how it went.
    fn finish(mut self, vmm: &mut Child) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while !self.asked.is_empty() && Instant::now() < deadline {
            wait(&self.sender, PollFlags::POLLIN, 100u8.into())?;
            self.take_answers()?;
        }
        self.sender
            .wait_drained(Some(PATIENCE))
            .map_err(|error| format!("{error}; {} notifications were sent", self.sent))?;
        let lost = self.sender.counters().dropped;
        drop(self.sender);
        let status = vmm.wait()?;
        // Reading is the acknowledgement: with the queue drained all that was sent was received.
        let (sent, answered, unanswered) = (self.sent, self.answered, self.asked.len());
        writeln!(io::stdout(), "host: sent {sent}, received {sent}, answered {answered}, lost {lost}")?;
        if unanswered > 0 {
            eprintln!("acpi_bridge: {unanswered} notifications were not answered");
        }
        if !status.success() {
            eprintln!("acpi_bridge: the VMM ended with {status}");
        }
        Ok(lost == 0 && unanswered == 0 && status.success())
    }

    fn gone(&self) -> Box<dyn std::error::Error> {
        format!("the VMM went away after {} notifications were sent", self.sent).into()
    }
}

/// `CLASS BUS_ID VALUE DATA`; nothing for a blank line or a comment.
fn parse_line(line: &str) -> std::result::Result<Option<AcpiNotify>, String> {
    let line = line.split('#').next().unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let [class, bus_id, value, data] = words[..] else {
        return match words.len() {
            0 => Ok(None),
            found => Err(format!("expected CLASS BUS_ID VALUE DATA, found {found} words")),
        };
    };
    Ok(Some(AcpiNotify {
        dev_id: 0,
        value: number_of(value)?,
        data: number_of(data)?,
        cookie: 0,
        bus_id: FixedText::new(bus_id).map_err(|error| format!("bus id {bus_id:?}: {error}"))?,
        device_class: FixedText::new(class).map_err(|error| format!("class {class:?}: {error}"))?,
    }))
}

fn number_of(word: &str) -> std::result::Result<u32, String> {
    let number = match word.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => word.parse(),
    };
    number.map_err(|_| format!("{word:?} is not a number of 32 bits"))
}

fn bytes_of(hex: &str) -> Result<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    let bytes = digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    bytes.collect()
}

fn wait(fd: impl AsFd, events: PollFlags, timeout: PollTimeout) -> Result<()> {
    match poll(&mut [PollFd::new(fd.as_fd(), events)], timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(format!("poll failed: {errno}").into()),
    }
}
