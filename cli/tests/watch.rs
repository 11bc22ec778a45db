//! `recordfd watch` as the program that `recordfd exec` starts, on both transports.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Ran, TOOL, hex_of, run};
use recordfd::TryRecvError;
use recordfd::event;
use recordfd::uapi::{
    AcpiNotify, DeviceRequest, DeviceRequestKind, Event, FixedText, Le64, Mixed, MixedEvent, Payload,
    PciChannelState, PciError, PciErrorFlags, PciErrorStep, PciErrorV2, PgFault, PgFaultFlags, PgFaultPerm,
    Sequence, Sequenced, Smmuv3Event, Tegra241CmdqvEvent,
};
use serde_json::{Value, json};

const TRANSPORTS: [(&str, &str); 2] = [("socket", ""), ("shared", "--shared")];

/// Runs `exec` with `watch` as the program; both print to the same output.
fn watched(format: &str, transport: (&str, &str), watch: &str, records: &[String]) -> Ran {
    watched_for(20_000, format, transport, watch, records)
}

/// As [`watched`], with answers that may take so many milliseconds.
fn watched_for(timeout: u32, format: &str, transport: (&str, &str), watch: &str, records: &[String]) -> Ran {
    let (transport, shared) = transport;
    let words = format!(
        "exec --format {format} --transport {transport} --respond-timeout {timeout} -- \
         {TOOL} watch --format {format} {shared} {watch}"
    );
    run(Command::new(TOOL).args(words.split_whitespace()), records.join("\n").as_bytes())
}

/// What the consumer printed, and the answers that came.
fn sides(ran: &Ran) -> (Vec<Value>, Vec<Value>) {
    let is_answer = |line: &Value| line.get("cause").is_some() || line.get("source_event").is_some();
    let (mut answers, records): (Vec<_>, Vec<_>) = ran.json().into_iter().partition(is_answer);
    for answer in &mut answers {
        answer.as_object_mut().unwrap().shift_remove("cookie");
    }
    (records, answers)
}

fn fault(grpid: u32, last: bool) -> String {
    let flags = if last { PgFaultFlags::LAST_PAGE } else { PgFaultFlags::empty() };
    hex_of(&PgFault { flags, dev_id: 1, grpid, perm: PgFaultPerm::READ, addr: 0x1000, ..PgFault::default() })
}

fn headed(fault: &str) -> String {
    "00".repeat(8) + fault
}

fn notify(value: u32, cookie: u32) -> String {
    let (bus_id, device_class) = (FixedText::new("PCI0").unwrap(), FixedText::EMPTY);
    hex_of(&Event::new(
        Sequence::ZERO,
        AcpiNotify { dev_id: 1, value, data: 0, cookie, bus_id, device_class },
    ))
}

fn error(step: PciErrorStep, state: PciChannelState) -> PciError {
    PciError { dev_id: 1, step, state, ..PciError::default() }
}

fn of_channel<T: Payload>(error: T) -> String {
    hex_of(&Event::new(Sequence::ZERO, error))
}

#[test]
fn page_faults_are_answered() {
    for transport in TRANSPORTS {
        for (word, code) in [("success", 0), ("invalid", 1)] {
            let records = [fault(1, false), fault(1, true), fault(2, true)];
            let ran = watched("iommufd.pgfault", transport, &format!("--json --respond {word}"), &records);
            assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{transport:?}");
            let (seen, answers) = sides(&ran);
            assert_eq!(answers, vec![json!({"code": code, "cause": "Answered"}); 2], "{transport:?}");
            let pages: Vec<_> = seen.iter().filter_map(|page| page["grpid"].as_u64()).collect();
            assert_eq!((pages, seen.last()), (vec![1, 1, 2], Some(&json!({"hang_up": true}))));
            assert!(seen[0].get("header").is_none() && seen[0]["cookie"] != 0);
        }
        let ran =
            watched("iommufd.pgfault_v2", transport, "--json --respond success", &[headed(&fault(1, true))]);
        let (seen, answers) = sides(&ran);
        assert_eq!((ran.status, answers), (0, vec![json!({"code": 0, "cause": "Answered"})]));
        assert_eq!((seen[0]["grpid"].clone(), seen.len()), (1.into(), 2));
    }
}

#[test]
fn large_group_and_long_feed_are_seen_whole() {
    for transport in TRANSPORTS {
        let group = (0..200).map(|page| fault(5, page == 199));
        let records: Vec<_> = group.chain((0..1000).map(|group| fault(group % 512, true))).collect();
        let ran = watched("iommufd.pgfault", transport, "--json --respond success", &records);
        let (seen, answers) = sides(&ran);
        assert_eq!((ran.status, seen.len(), answers.len()), (0, 1201, 1001), "{}", ran.stderr);
    }
}

#[test]
fn nothing_is_answered_unless_asked_for() {
    for transport in TRANSPORTS {
        for (format, record, negative) in [
            ("iommufd.pgfault", fault(1, true), json!({"code": 1, "cause": "HungUp"})),
            (
                "pci.error",
                of_channel(error(PciErrorStep::ERROR_DETECTED, PciChannelState::IO_NORMAL)),
                json!({"result": 4, "cause": "HungUp"}),
            ),
        ] {
            let ran = watched(format, transport, "--json --count 1", &[record]);
            let (seen, answers) = sides(&ran);
            assert_eq!((ran.status, seen.len(), answers), (3, 1, vec![negative]), "{transport:?}");
        }
        // One that stays is told that it is too late.
        let ran = watched_for(1000, "iommufd.pgfault_v2", transport, "--json", &[headed(&fault(1, true))]);
        let (seen, answers) = sides(&ran);
        assert_eq!((ran.status, answers), (3, vec![json!({"code": 1, "cause": "Deadline"})]), "{ran:?}");
        assert_eq!(seen[1], json!({"cancelled": seen[0]["cookie"]}));
    }
}

#[test]
fn recovery_is_led_on_to_its_end() {
    use PciErrorStep as Step;
    let (frozen, normal) = (PciChannelState::IO_FROZEN, PciChannelState::IO_NORMAL);
    let gone = PciChannelState::IO_PERM_FAILURE;
    let correctable = PciError { flags: PciErrorFlags::CORRECTABLE, ..error(Step::ERROR_DETECTED, normal) };
    let reset = vec![
        error(Step::ERROR_DETECTED, frozen),
        error(Step::SLOT_RESET, normal),
        error(Step::RESUME, normal),
    ];
    let mmio = vec![
        error(Step::ERROR_DETECTED, normal),
        error(Step::MMIO_ENABLED, normal),
        error(Step::RESUME, normal),
    ];
    for transport in TRANSPORTS {
        for (word, steps, results) in [
            ("success", reset.clone(), vec![3, 5, 5]),
            ("success", mmio.clone(), vec![2, 5, 5]),
            ("success", vec![correctable], vec![5]),
            ("success", vec![error(Step::ERROR_DETECTED, gone)], vec![4]),
            ("invalid", reset[..1].to_vec(), vec![4]),
        ] {
            let first: Vec<_> = steps.iter().copied().map(of_channel).collect();
            let second: Vec<_> = steps.into_iter().map(|step| of_channel(PciErrorV2::from(step))).collect();
            for (format, records) in [("pci.error", first), ("pci.error_v2", second)] {
                let ran = watched(format, transport, &format!("--json --respond {word}"), &records);
                let (seen, answers) = sides(&ran);
                let expected: Vec<_> =
                    results.iter().map(|result| json!({"result": result, "cause": "Answered"})).collect();
                assert_eq!((ran.status, answers, ran.stderr.as_str()), (0, expected, ""), "{transport:?}");
                assert_eq!(seen.len(), results.len() + 1);
                assert_eq!((seen[0]["step"].clone(), seen[0].get("header")), (1.into(), None));
            }
        }
    }
}

#[test]
fn device_requests_are_acknowledged() {
    for transport in TRANSPORTS {
        for (word, code) in [("success", 0), ("invalid", 1)] {
            let kind = DeviceRequestKind::RELEASE;
            let release = DeviceRequest { dev_id: 1, kind, ..DeviceRequest::default() };
            let record = hex_of(&Event::new(Sequence::ZERO, release));
            let ran = watched("device.request", transport, &format!("--respond {word}"), &[record]);
            assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
            assert!(
                ran.stdout.contains(&format!("\"code\":{code},\"cause\":\"Answered\"")),
                "{}",
                ran.stdout
            );
            assert!(ran.stdout.contains(" kind=1 (RELEASE) "), "{}", ran.stdout);
        }
    }
}

#[test]
fn notifications_are_reported_on() {
    for transport in TRANSPORTS {
        for (word, statuses) in [
            ("success", [0, 0x80]),
            ("invalid", [1, 0x81]),
            ("success --requester 0x3500", [0, 0x3500_0080]),
            ("invalid --requester 0x3500", [1, 0x3500_0081]),
        ] {
            let records = [notify(3, 9), notify(0x80, 0), notify(0x0f, 10)];
            let ran = watched("acpi.notify", transport, &format!("--json --respond {word}"), &records);
            let (seen, answers) = sides(&ran);
            let report = |value, status| json!({"source_event": value, "status": status, "reserved": 0});
            assert_eq!(answers, [report(3, statuses[0]), report(0x0f, statuses[1])], "{transport:?}");
            assert_eq!((ran.status, seen.len(), ran.stderr.as_str()), (0, 4, ""));
            assert_eq!(seen[2]["header"], json!({"flags": 0, "sequence": 2}));
        }
    }
}

#[test]
fn events_are_shown_for_people() {
    let smmu = Event::new(
        Sequence::ZERO,
        Smmuv3Event { evt: [Le64::new(0x04), Le64::new(0), Le64::new(0), Le64::new(0)] },
    );
    let cmdqv = Event::new(Sequence::ZERO, Tegra241CmdqvEvent { lvcmdq_err_map: [1, 0].map(Le64::new) });
    let mixed = hex_of(&Mixed::new(Sequence::ZERO, MixedEvent::new(3, &cmdqv)));
    for transport in TRANSPORTS {
        for (format, record, part) in [
            ("viommu.arm_smmuv3", hex_of(&smmu), "smmuv3.event C_BAD_STE"),
            ("viommu.tegra241_cmdqv", hex_of(&cmdqv), "lvcmdq_err_map=[1 0]"),
            ("mixed", mixed.clone(), "source=3 payload={"),
            ("acpi.notify", notify(3, 0), "device_class=\"\": Eject Request"),
        ] {
            let ran = watched(format, transport, "", &[record.clone(), record]);
            assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{format}");
            let lines = ran.lines();
            assert!(lines.len() == 3 && lines[1].contains(part) && lines[2] == "hang-up", "{lines:?}");
        }
    }
}

#[test]
fn wrong_end_is_refused() {
    // A socket's end for one of shared memory, and another format's.
    let ran = watched("acpi.notify", ("socket", "--shared"), "", &[]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.starts_with("recordfd: the "), "{}", ran.stderr);
    let words =
        format!("exec --format acpi.notify --transport shared -- {TOOL} watch --format mixed --shared");
    let ran = run(Command::new(TOOL).args(words.split_whitespace()), b"");
    assert_eq!(
        (ran.status, ran.stderr.as_str()),
        (1, "recordfd: the channel carries ACPI_NOTIFY v1, not MIXED v1\n")
    );
    // Nothing, and no socket.
    for (number, error) in
        [("987", "descriptor 987: "), ("0", "descriptor 0: Socket operation on non-socket")]
    {
        let mut command = Command::new(TOOL);
        let ran = run(command.args(["watch", "--format", "mixed", "--fd", number]), b"");
        assert_eq!(ran.status, 1);
        assert!(ran.stderr.starts_with(&format!("recordfd: {error}")), "{}", ran.stderr);
    }
}

#[test]
fn socket_of_datagrams_is_refused_at_once() {
    let (end, _other) = UnixDatagram::pair().unwrap();
    let mut command = Command::new(TOOL);
    command.args(["watch", "--format", "mixed", "--fd", "0"]).stdin(OwnedFd::from(end));
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), told.as_str()),
        (Some(1), "recordfd: descriptor 0 is no stream socket\n")
    );
}

/// Starts a watch of the receiver's end of a channel of this process, which is its standard input.
fn watch_here(end: recordfd::UnattachedEnd, format: &str, words: &str) -> Child {
    let mut command = Command::new(TOOL);
    command.args(["watch", "--fd", "0", "--format", format]).args(words.split_whitespace());
    command.stdin(OwnedFd::from(end)).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn losses_are_shown_in_their_place() {
    let event = |word| Smmuv3Event { evt: [word, 0, 0, 0].map(Le64::new) };
    let (mut tx, end) = event::shared::<Smmuv3Event>(&recordfd::Options::new().depth(2)).unwrap();
    for word in 0..5 {
        tx.post(event(word)).unwrap();
    }
    let mut child = watch_here(end, "viommu.arm_smmuv3", "--shared --json");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = move || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!((next()["evt"][0].clone(), next()["evt"][0].clone()), (0.into(), 1.into()));
    assert_eq!(next(), json!({"lost": 3}));
    tx.post(event(7)).unwrap();
    assert_eq!(next(), json!({"header": {"flags": 0, "sequence": 5}, "evt": [7, 0, 0, 0]}));
    drop(tx);
    assert_eq!(next(), json!({"hang_up": true}));
    assert!(child.wait().unwrap().success());
}

#[test]
fn answers_wait_for_room() {
    let options = recordfd::Options::new().depth(64).reply_depth(2);
    let (tx, end) = event::socket::<AcpiNotify>(&options).unwrap();
    let mut child = watch_here(end, "acpi.notify", "--json --respond success");
    let (bus_id, device_class) = (FixedText::EMPTY, FixedText::EMPTY);
    for cookie in 1..=50 {
        tx.try_send(AcpiNotify { dev_id: 1, value: 3, data: 0, cookie, bus_id, device_class }).unwrap();
    }
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Until it has no room for another answer.
    lines.next().unwrap().unwrap();
    thread::sleep(Duration::from_millis(100));
    let mut reports = Vec::new();
    while reports.len() < 50 {
        match tx.try_recv_reply() {
            Ok(report) => reports.push(report.cookie),
            Err(TryRecvError::Empty) => thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(reports, (1..=50).collect::<Vec<_>>());
    drop(tx);
    assert_eq!(lines.count(), 50, "49 notifications and the hang-up");
    assert!(child.wait().unwrap().success());
}

#[test]
fn hostile_sender_is_told_of() {
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = Command::new(TOOL);
    command.args(["watch", "--fd", "0", "--format", "acpi.notify"]);
    let child =
        command.stdin(OwnedFd::from(far)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    near.write_all(&[0xff; 64]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("recordfd: the peer broke the format: "), "{told}");
}

#[test]
fn watch_ends_after_as_many_records_as_asked_for() {
    let records: Vec<_> = (0..10).map(|_| notify(3, 0)).collect();
    let ran = watched("acpi.notify", TRANSPORTS[0], "--count 4", &records);
    assert_eq!((ran.status, ran.lines().len()), (0, 4));
}
