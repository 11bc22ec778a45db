//! The example of a device server that is not trusted, as processes of its own.

mod common;

use std::process::{Command, Output, Stdio};

use common::in_own_process;
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, waitpid};

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
const REPEAT: [&str; 2] = ["--repeat-every", "500"];

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(common::example("device_server"));
    // Its end is awaited, and that of everybody who has its output.
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
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
fn server_without_a_vmm_says_so() {
    let output = run(&["server", "--device", "1", "--repeat-every", "100"]);
    let complained = text(&output.stderr);
    assert!(complained.starts_with("device_server: server: "), "{complained}");
    assert_eq!((complained.lines().count(), output.status.code()), (1, Some(1)));
}
