//! The examples do what they say, as processes of their own.

mod common;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use common::example;
use recordfd::Options;
use recordfd::event;
use recordfd::uapi::acpi_genl::AcpiGenlMessage;
use recordfd::uapi::{AcpiNotify, Format};

/// The notifications that the recorded kernel messages hold, in their order.
const RECORDED: [&str; 14] = [
    "button/power LNXPWRBN:00 0x80 S0 Power Button Pressed",
    "button/power LNXPWRBN:00 0x80 S0 Power Button Pressed",
    "ac_adapter ACPI0003:00 0x80 Status Change",
    "battery PNP0C0A:00 0x80 Status Change",
    "battery PNP0C0A:00 0x81 Information Change",
    "button/sleep PNP0C0E:00 0x80 S0 Sleep Button Pressed",
    "button/sleep PNP0C0E:00 0x80 S0 Sleep Button Pressed",
    "button/power PNP0C0C:00 0x80 S0 Power Button Pressed",
    "thermal_zone LNXTHERM:00 0x81 Trip Points Change",
    "thermal_zone LNXTHERM:00 0x82 Device Lists Change",
    "processor LNXCPU:00 0x81 C-State Change",
    "processor LNXCPU:00 0x82 Throttling Present Capabilities Change",
    "fan PNP0C0B:00 0x80 State Change",
    "ac_adapter ACPI0003:00 0x00 Bus Check",
];

fn bridge(arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(example("acpi_bridge"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A bridge that has failed already reads nothing.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Lines of the VMM, without those of the host.
fn events(output: &Output) -> Vec<String> {
    let printed = text(&output.stdout);
    let lines = printed.lines().filter(|line| !line.starts_with("host:") && !line.starts_with("vmm:"));
    lines.map(str::to_owned).collect()
}

#[test]
fn bridge_plays_every_recorded_notification_in_order() {
    let output = bridge(&[], "");
    assert_eq!(events(&output), RECORDED);
    let printed = text(&output.stdout);
    assert!(printed.contains("host: _OST for ac_adapter ACPI0003:00 0x00 Bus Check: status 0x0\n"));
    assert!(printed.contains("vmm: received 14, answered 1, lost 0\n"));
    assert!(printed.ends_with("host: sent 14, received 14, answered 1, lost 0\n"));
    assert_eq!((text(&output.stderr), output.status.code()), (String::new(), Some(0)));
}

#[test]
fn bridge_with_little_room_waits_and_loses_nothing() {
    let line = "battery PNP0C0A:00 0x81 1\nac_adapter ACPI0003:00 0x00 0\n";
    let output = bridge(&["--source", "stdin", "--depth", "2"], &line.repeat(500));
    assert_eq!(events(&output).len(), 1000);
    assert!(text(&output.stdout).ends_with("host: sent 1000, received 1000, answered 500, lost 0\n"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn bridge_takes_lines_and_names_the_bad_one() {
    let typed = "battery PNP0C0A:00 0x80 1\n\n# a comment\nbattery 0x80\nfan F 0xC1 0 # vendor";
    let output = bridge(&["--source", "stdin"], typed);
    assert_eq!(events(&output), ["battery PNP0C0A:00 0x80 Status Change", "fan F 0xc1 Hardware Specific"]);
    let complaint = "acpi_bridge: line 4: expected CLASS BUS_ID VALUE DATA, found 2 words\n";
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), (complaint, Some(1)));
}

#[test]
fn bridge_errors_are_one_line() {
    for (arguments, complaint, code) in [
        (&["vmm"][..], "acpi_bridge: the descriptor is not a connected Unix stream socket", 1),
        (&["host", "true"], "acpi_bridge: the VMM went away", 1),
        (&["host", "/nonexistent"], "acpi_bridge: /nonexistent cannot be started", 1),
        (&["--depth", "0"], "acpi_bridge: option depth cannot be 0", 1),
    ] {
        let output = bridge(arguments, "");
        let complained = text(&output.stderr);
        assert!(complained.starts_with(complaint), "{arguments:?}: {complained}");
        assert_eq!((complained.lines().count(), output.status.code()), (1, Some(code)));
    }
    assert_eq!(bridge(&["--nonsense"], "").status.code(), Some(2));
}

#[cfg(feature = "local")]
#[test]
fn replaced_eventfd_shows_what_it_loses() {
    let output = Command::new(example("replace_eventfd")).output().unwrap();
    let printed = text(&output.stdout);
    assert!(printed.contains("eventfd   0x101, which nobody has sent"), "{printed}");
    assert!(printed.ends_with("the eventfd delivered 1, recordfd 9 and lost 0\n"), "{printed}");
    assert!(output.status.success());
}

/// The C reader, compiled with the header.
static C_READER: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("read_records");
    let compiled = Command::new("gcc")
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(root.join("uapi/include"))
        .arg(root.join("examples/c/read_records.c"))
        .arg("-o")
        .arg(&program)
        .status()
        .expect("gcc is needed to test the C interface");
    assert!(compiled.success());
    program
});

/// The notifications that the bridge plays, as it makes them.
fn recorded() -> Vec<AcpiNotify> {
    let mut notifications = Vec::new();
    for line in include_str!("data/golden.txt").lines() {
        let fields: Vec<&str> = line.split('|').collect();
        if let ["HEX", name, "68", hex] = fields[..] {
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let notify = AcpiGenlMessage::parse(&bytes).unwrap().0.event.to_notify(0, 0);
            notifications.extend(vec![notify; if name == "sleepbtn" { 2 } else { 1 }]);
        }
    }
    notifications
}

#[test]
fn c_program_reads_the_same_bytes() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let raw = directory.join("read_records.bin");
    let (tx, end) = event::socket::<AcpiNotify>(&Options::new()).unwrap();
    let mut child = Command::new(&*C_READER)
        .args(["0", "--raw"])
        .stdin(OwnedFd::from(end))
        .stdout(std::fs::File::create(&raw).unwrap())
        .spawn()
        .unwrap();
    assert_eq!(tx.send_batch(&recorded()).unwrap(), 14);
    drop(tx);
    assert!(child.wait().unwrap().success());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/acpi_notify.bin");
    let same = Command::new("cmp").arg(&raw).arg(golden).status().unwrap();
    assert!(same.success(), "the C program read other bytes than the golden file has");
}

#[test]
fn c_program_tells_losses_in_their_place() {
    let (tx, end) = event::socket::<AcpiNotify>(&Options::new().depth(4)).unwrap();
    for data in 0..7 {
        tx.post(common::notify(0x81, data)).unwrap();
    }
    drop(tx);
    let output = Command::new(&*C_READER).arg("0").stdin(OwnedFd::from(end)).output().unwrap();
    let expected = "battery PNP0C0A:00 0x81 data 0 seq 0\n\
                    battery PNP0C0A:00 0x81 data 1 seq 1\n\
                    battery PNP0C0A:00 0x81 data 2 seq 2\n\
                    battery PNP0C0A:00 0x81 data 3 seq 3\n\
                    lost 3\n";
    assert_eq!(text(&output.stdout), expected);
    assert!(output.status.success());
}

#[test]
fn c_program_stops_at_a_number_that_goes_backwards() {
    let (tx, end) = event::socket::<AcpiNotify>(&Options::new()).unwrap();
    tx.send_batch(&[common::notify(0x81, 0); 2]).unwrap();
    // A sender that is started anew.
    let socket = tx.as_fd().try_clone_to_owned().unwrap();
    let anew = common::Tx::from_socket(socket, Format::ACPI_NOTIFY_V1, 64).unwrap();
    anew.try_send(common::notify(0x81, 2)).unwrap();
    drop((tx, anew));
    let output = Command::new(&*C_READER).arg("0").stdin(OwnedFd::from(end)).output().unwrap();
    let expected = "battery PNP0C0A:00 0x81 data 0 seq 0\nbattery PNP0C0A:00 0x81 data 0 seq 1\n";
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), (expected, Some(1)));
    assert_eq!(text(&output.stderr), "read_records: bad sequence number 0\n");
}

#[test]
fn threads_answer_each_fault_of_each_address_space_once() {
    let output =
        Command::new(example("fault_threads")).args(["--threads", "3", "--faults", "1001"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = "PASID 0: 251 faults answered\nPASID 1: 250 faults answered\nPASID 2: 250 faults answered\n\
                    PASID 3: 250 faults answered\n1001 faults, each answered once, 0 INVALID\n";
    assert_eq!((text.as_str(), output.status.code()), (expected, Some(0)));
}

/// The example of one reactor: it serves everything, and the deadline ends what nobody answers.
#[cfg(any(feature = "mio", feature = "polling"))]
fn waits_with(name: &str) {
    for (records, answered, timed_out) in [("8", 6, 2), ("128", 96, 32), ("2", 2, 0)] {
        let output =
            Command::new(example(name)).args(["--deadline", "1000", "--records", records]).output().unwrap();
        let expected = format!(
            "{records} notifications received, {records} device requests answered\n\
             {answered} page faults answered, {timed_out} ended by their deadline\n"
        );
        let complaint = text(&output.stderr);
        assert_eq!((text(&output.stdout), output.status.code()), (expected, Some(0)), "{complaint}");
    }
    let help = text(&Command::new(example(name)).arg("--help").output().unwrap().stdout);
    assert!(help.contains("--deadline") && help.contains("Exit status"), "{help}");
}

#[cfg(feature = "mio")]
#[test]
fn mio_waits_for_three_channels_and_a_deadline() {
    waits_with("wait_with_mio");
}

#[cfg(feature = "polling")]
#[test]
fn polling_waits_for_three_channels_and_a_deadline() {
    waits_with("wait_with_polling");
}
