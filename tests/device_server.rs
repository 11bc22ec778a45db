//! The example of a device server that is not trusted, as processes of its own.

mod common;

use std::io::{Read, Write, stdin};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use common::{in_child, in_own_process};
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, waitpid};
use recordfd::UnattachedEnd;
use recordfd::uapi::{
    DeviceAckCode, DeviceRequest, DeviceRequestKind, Event, Payload, PciChannelState, PciError, PciErrorStep,
    PciErsResult, Record, Sequence,
};

/// What a server does, as the VMM tells of it: a step behind which it can be killed, and the line about it.
const COURSE: [(&str, &str); 13] = [
    ("start", ""),
    ("first-page", ""),
    ("", "page faults, PASID 9, group 2, WRITE 0x80000 0x81000: Success"),
    ("", "page faults, PASID 5, group 1, READ 0x10000 0x11000 0x12000: Success"),
    ("faults", "page faults, PASID 9, group 3, READ 0xdead0000: Invalid"),
    ("fault-answers", ""),
    (
        "error-detected",
        "PCI error, ERROR_DETECTED, IO_FROZEN, status 0x00040000, mask 0x00100000, \
         TLP header 4a000001 01000004 00000000 00000000: NeedReset",
    ),
    ("slot-reset", "PCI error, SLOT_RESET, IO_FROZEN: Recovered"),
    ("", "PCI error, RESUME, IO_FROZEN: Recovered"),
    ("resume", "has recovered"),
    ("release", "RELEASE: the guest is told and takes its time"),
    ("repeat", "asked again, count 1: the guest lets go: Done"),
    ("end", "server"),
];
const TRANSPORTS: [&str; 2] = ["socket", "shared"];
/// Long enough for nobody to be asked twice where the machine is slow.
const REPEAT: [&str; 2] = ["--repeat-every", "300"];

/// The example, killed if it does not come to its end; its servers see that then.
fn device_server() -> Command {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "20"]).arg(common::example("device_server")).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    // The end of it is awaited, and that of everybody who has its output.
    device_server().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The transcript of one server, killed at `step` or never.
fn served(device: u32, step: Option<&str>) -> String {
    let mut lines = vec![format!("vmm: starts the server of device {device}")];
    for (at, line) in COURSE {
        match line {
            "" => {}
            "server" => {
                lines.push(format!("server of device {device}: page faults answered, recovered, released"));
            }
            line => lines.push(format!("device {device}: {line}")),
        }
        if step == Some(at) {
            break;
        }
    }
    for name in ["page faults", "PCI errors", "device requests"] {
        lines.push(format!("device {device}: {name}: the other side is gone"));
    }
    let undone = match step {
        Some("error-detected" | "slot-reset") => Some("the recovery from the PCI error is abandoned"),
        Some("release") => Some("the release, not answered yet, is dropped"),
        _ => None,
    };
    lines.extend(undone.map(|undone| format!("device {device}: {undone}")));
    let ended = if step.is_some() { "signal: 9 (SIGKILL)" } else { "exit status: 0" };
    lines.push(format!("vmm: the server of device {device} ended with {ended}"));
    lines.join("\n") + "\n"
}

/// The whole transcript of a run with a server killed at `step` and another one, or with one that is not killed.
fn transcript(step: Option<&str>) -> String {
    let first = step.map_or(String::new(), |step| served(1, Some(step)));
    let first_lines = first.lines().filter(|line| line.starts_with("device 1: "));
    let mut counts = [3, 6, 3, 1];
    for line in first_lines {
        if line.contains(", group ") {
            counts[0] += 1;
            counts[1] += line.matches(" 0x").count();
        }
        counts[2] += usize::from(line.contains("PCI error, "));
        counts[3] += usize::from(line.ends_with(": Done"));
    }
    let [groups, pages, steps, requests] = counts;
    let last = served(if step.is_some() { 2 } else { 1 }, None);
    format!(
        "{first}{last}vmm: page-fault groups {groups}, pages {pages}, PCI error steps {steps}, \
         device requests {requests}\n"
    )
}

#[test]
fn server_is_served_on_all_three_channels() {
    for transport in TRANSPORTS {
        let output = run(&[&["--transport", transport][..], &REPEAT].concat());
        assert_eq!(text(&output.stdout), transcript(None), "{transport}");
        assert_eq!((text(&output.stderr), output.status.code()), (String::new(), Some(0)));
    }
}

#[test]
fn server_killed_anywhere_harms_nobody_and_leaves_nobody_behind() {
    in_own_process("server_killed_anywhere_harms_nobody_and_leaves_nobody_behind", || {
        // Whom the VMM leaves behind, running or not waited for, comes to this process.
        set_child_subreaper(true).unwrap();
        for (step, transport) in COURSE.iter().flat_map(|(step, _)| TRANSPORTS.map(|way| (*step, way))) {
            if step.is_empty() {
                continue;
            }
            let output = run(&[&["--transport", transport, "--crash-at", step][..], &REPEAT].concat());
            assert_eq!(text(&output.stdout), transcript(Some(step)), "{step} {transport}");
            assert_eq!((text(&output.stderr), output.status.code()), (String::new(), Some(0)));
            assert_eq!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD), "{step} {transport}");
        }
    });
}

/// An end of a channel in the hands of a server that does not use this library.
struct Raw {
    stream: UnixStream,
    sent: u32,
}

impl Raw {
    fn take() -> Self {
        let stream = UnixStream::from(OwnedFd::from(UnattachedEnd::recv_from(stdin()).unwrap()));
        stream.set_nonblocking(false).unwrap();
        Self { stream, sent: 0 }
    }

    fn send<R: Payload>(&mut self, record: R)
    where
        Event<R>: Record,
    {
        let mut bytes = vec![0; Event::<R>::SIZE];
        Event::new(Sequence::wrapping(self.sent), record).encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
        self.sent += 1;
    }

    /// The next answer, which must be that to the record that was sent last.
    fn answer(&mut self) -> u32 {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes).unwrap();
        let [cookie, code] =
            [&bytes[..4], &bytes[4..]].map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
        assert_eq!(cookie, self.sent);
        code
    }

    fn step(&mut self, dev_id: u32, step: PciErrorStep) -> PciErsResult {
        let (cookie, state) = (self.sent + 1, PciChannelState::IO_FROZEN);
        self.send(PciError { dev_id, cookie, step, state, ..PciError::default() });
        PciErsResult::new(self.answer())
    }

    fn request(&mut self, dev_id: u32, kind: DeviceRequestKind) {
        self.send(DeviceRequest { dev_id, cookie: self.sent + 1, kind, count: 0 });
    }
}

/// A server that tries what it may not do, and breaks a format in the end.
fn be_hostile() {
    println!(); // behind the name of the test
    let [mut faults, mut errors, mut requests] = [(); 3].map(|()| Raw::take());
    let [detected, reset, resume] =
        [PciErrorStep::ERROR_DETECTED, PciErrorStep::SLOT_RESET, PciErrorStep::RESUME];
    assert_eq!(errors.step(1, resume), PciErsResult::DISCONNECT);
    assert_eq!(errors.step(1, detected), PciErsResult::NEED_RESET);
    assert_eq!(errors.step(1, resume), PciErsResult::DISCONNECT);
    assert_eq!(errors.step(1, reset), PciErsResult::DISCONNECT, "the recovery has ended");
    assert_eq!(errors.step(1, detected), PciErsResult::NEED_RESET);
    assert_eq!(errors.step(2, reset), PciErsResult::DISCONNECT);
    assert_eq!(errors.step(1, reset), PciErsResult::RECOVERED);
    let (release, reset_done) = (DeviceRequestKind::RELEASE, DeviceRequestKind::RESET_DONE);
    requests.request(1, release); // not answered before it is repeated
    for (dev_id, kind, code) in [
        (2, release, DeviceAckCode::REFUSED),
        (1, release, DeviceAckCode::REFUSED),
        (1, DeviceRequestKind::new(7), DeviceAckCode::REFUSED),
        (1, reset_done, DeviceAckCode::DONE),
    ] {
        requests.request(dev_id, kind);
        assert_eq!(DeviceAckCode::new(requests.answer()), code, "{dev_id} {kind:?}");
    }
    faults.stream.write_all(&[0xff; 48]).unwrap();
    // To be killed now; the VMM's end of it, should it be gone itself, is the other way out.
    let _ = errors.stream.read(&mut [0]);
    let _ = UnattachedEnd::recv_from(stdin());
}

#[test]
fn server_is_not_trusted() {
    if in_child() {
        return be_hostile();
    }
    let this = std::env::current_exe().unwrap();
    let arguments = ["--exact", "server_is_not_trusted", "--nocapture", "--test-threads=1"];
    let output = device_server()
        .arg("with")
        .arg(this)
        .args(arguments)
        .env("RECORDFD_TEST_CHILD", "1")
        .output()
        .unwrap();
    let printed = text(&output.stdout);
    let lines = printed.lines().filter(|line| line.starts_with("device 1: ") || line.starts_with("vmm: "));
    let lines: Vec<_> = lines.map(|line| line.trim_start_matches("device 1: ")).collect();
    let expected = [
        "vmm: starts the server of device 1",
        "PCI error, RESUME, IO_FROZEN: refused: the step RESUME does not follow what was answered last",
        "PCI error, ERROR_DETECTED, IO_FROZEN: NeedReset",
        "PCI error, RESUME, IO_FROZEN: refused: the step RESUME does not follow what was answered last",
        "PCI error, SLOT_RESET, IO_FROZEN: refused: the step SLOT_RESET does not follow what was answered last",
        "PCI error, ERROR_DETECTED, IO_FROZEN: NeedReset",
        "PCI error, SLOT_RESET, IO_FROZEN: refused: \
         the record says what cannot be: it is another server's device",
        "PCI error, SLOT_RESET, IO_FROZEN: Recovered",
        "RELEASE: the guest is told and takes its time",
        "RELEASE: refused: it is another server's device",
        "RELEASE: refused: one is enough",
        "DeviceRequestKind(0x7): refused: there is no such request",
        "RESET_DONE: Done",
        "page faults: the peer broke the format",
        "PCI errors: the other side is gone",
        "device requests: the other side is gone",
        "the recovery from the PCI error is abandoned",
        "the release, not answered yet, is dropped",
        "vmm: the server of device 1 ended with signal: 9 (SIGKILL)",
        "vmm: page-fault groups 0, pages 0, PCI error steps 3, device requests 1",
    ];
    assert_eq!(lines, expected, "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn server_that_hangs_up_and_stays_is_killed() {
    let output = run(&["with", "sh", "-c", "exec 0<&-; exec sleep 1000"]);
    let printed = text(&output.stdout);
    assert!(printed.contains("vmm: the server of device 1 ended with signal: 9 (SIGKILL)\n"), "{printed}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn usage_is_told() {
    let help = text(&run(&["--help"]).stdout);
    assert!(help.contains("device_server --crash-at release") && help.contains("2 wrong usage"), "{help}");
    for (step, _) in COURSE.iter().filter(|(step, _)| !step.is_empty()) {
        assert!(help.contains(&format!("- {step}:")), "{step}: {help}");
    }
    for wrong in
        [&["--nonsense"][..], &["--crash-at", "never"], &["--transport", "pigeon"], &["--repeat-every", "0"]]
    {
        let output = run(wrong);
        assert_eq!((text(&output.stdout), output.status.code()), (String::new(), Some(2)), "{wrong:?}");
    }
}

#[test]
fn what_is_missing_is_told_in_one_line() {
    for (arguments, complaint) in [
        (&["server", "--device", "1", "--repeat-every", "100"][..], "device_server: server: "),
        (&["with", "/nonexistent"], "device_server: the server cannot be started: "),
    ] {
        let output = run(arguments);
        let complained = text(&output.stderr);
        assert!(complained.starts_with(complaint), "{complained}");
        assert_eq!((complained.lines().count(), output.status.code()), (1, Some(1)));
    }
}
