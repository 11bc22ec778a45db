//! Programs in any language as consumers of a channel that the tool feeds.

mod common;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, TOOL, hex_of, recordfd, run};
use recordfd::uapi::{
    AcpiNotify, DeviceRequest, DeviceRequestKind, Event, FixedText, Le64, PciChannelState, PciError,
    PciErrorStep, PgFault, PgFaultFlags, PgFaultPerm, Sequence, Smmuv3Event,
};
use serde_json::{Value, json};

/// Runs `exec` with a consumer in Python; `fd` is its descriptor.
fn python(words: &str, script: &str, records: &[String]) -> Ran {
    let script = format!("import os, struct, sys, time\nfd = int(os.environ['RECORDFD_FD'])\n{script}");
    let mut command = Command::new(TOOL);
    command.arg("exec").args(words.split_whitespace()).args(["--", "python3", "-c", &script]);
    run(&mut command, records.join("\n").as_bytes())
}

fn fault(grpid: u32, addr: u64, last: bool) -> String {
    let flags = if last { PgFaultFlags::LAST_PAGE } else { PgFaultFlags::empty() };
    hex_of(&PgFault {
        flags,
        dev_id: 1,
        grpid,
        perm: PgFaultPerm::READ,
        addr,
        cookie: 99,
        ..PgFault::default()
    })
}

fn notify(value: u32, cookie: u32) -> String {
    let (bus_id, device_class) = (FixedText::new("PCI0").unwrap(), FixedText::EMPTY);
    let notify = AcpiNotify { dev_id: 1, value, data: 0, cookie, bus_id, device_class };
    hex_of(&Event::new(Sequence::wrapping(77), notify))
}

fn error(step: PciErrorStep) -> String {
    let state = PciChannelState::IO_FROZEN;
    hex_of(&Event::new(Sequence::ZERO, PciError { dev_id: 1, step, state, ..PciError::default() }))
}

fn release(dev_id: u32) -> String {
    let kind = DeviceRequestKind::RELEASE;
    hex_of(&Event::new(Sequence::ZERO, DeviceRequest { dev_id, kind, ..DeviceRequest::default() }))
}

/// A file with these lines.
fn file(name: &str, lines: &[String]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    File::create(&path).unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    path
}

/// The answers without their cookies, which are the channel's.
fn answers(ran: &Ran) -> Vec<Value> {
    let without = |mut answer: Value| {
        assert_ne!(answer.as_object_mut().unwrap().remove("cookie"), Some(0.into()), "{answer}");
        answer
    };
    ran.json().into_iter().map(without).collect()
}

/// Answers each page of the last of its group, until the end.
const PAGER: &str = "
while True:
    pages = os.read(fd, 400)
    if not pages: break
    assert len(pages) % 40 == 0
    for page in struct.iter_unpack('=IIIIIIQII', pages):
        if page[0] & 2: os.write(fd, struct.pack('=II', page[8], 0 if page[6] < 0x8000 else 1))
";

#[test]
fn page_faults_are_answered_by_a_program() {
    let records = [fault(1, 0x1000, false), fault(1, 0x2000, true), fault(2, 0x8000, true)];
    let ran = python("--format iommufd.pgfault --respond-timeout 20000", PAGER, &records);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    let answer = |code| json!({"code": code, "cause": "Answered"});
    assert_eq!(answers(&ran), [answer(0), answer(1)]);
}

#[test]
fn stalls_of_an_smmu_are_fed_as_such() {
    // The record does not say that it is a stall; no page request of PRI has such an index, or PRIV without a PASID.
    let privileged = PgFault {
        flags: PgFaultFlags::LAST_PAGE,
        dev_id: 1,
        perm: PgFaultPerm::READ | PgFaultPerm::PRIV,
        ..PgFault::default()
    };
    let records = [fault(0x1234, 0x1000, true), hex_of(&privileged)];
    let ran = python("--format iommufd.pgfault --stall --respond-timeout 20000", PAGER, &records);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert_eq!(answers(&ran).len(), 2);
    // A group of PRI with such an index is refused page by page, and none of its pages is taken for a stall.
    let records = [fault(600, 0x1000, false), fault(600, 0x2000, true), fault(1, 0x1000, true)];
    let ran = python("--format iommufd.pgfault --respond-timeout 20000", PAGER, &records);
    assert_eq!(
        (answers(&ran).len(), ran.stderr.matches("more than 9 bits").count()),
        (1, 2),
        "{}",
        ran.stderr
    );
}

#[test]
fn records_come_from_a_file_and_the_status_is_the_programs() {
    let path = file("faults", &[fault(1, 0x1000, true)]);
    let words = format!("--format iommufd.pgfault --from {} --respond-timeout 20000", path.display());
    // Its stdin is the tool's.
    let script = format!("{PAGER}\nsys.exit(7 if sys.stdin.read() == 'mine' else 8)");
    let ran = python(&words, &script, &["mine".to_owned()]);
    assert_eq!((ran.status, answers(&ran).len(), ran.stderr.as_str()), (7, 1, ""));
    let ran = python("--format iommufd.pgfault --respond-timeout 20000", &script, &[fault(1, 0, true)]);
    assert_eq!(ran.status, 8, "nothing on stdin when the records come from there");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn program_that_does_not_answer_makes_a_status_of_its_own() {
    // Reads, and answers nothing.
    let reads = "while os.read(fd, 400): pass";
    let ran = python("--format iommufd.pgfault --respond-timeout 300", reads, &[fault(1, 0x1000, true)]);
    assert_eq!((ran.status, answers(&ran)), (3, vec![json!({"code": 1, "cause": "Deadline"})]));
    // Reads one of two and ends.
    let records = [fault(1, 0x1000, true), fault(2, 0x1000, true)];
    let ran =
        python("--format iommufd.pgfault --respond-timeout 20000", "os.read(fd, 40); sys.exit(5)", &records);
    assert_eq!((ran.status, answers(&ran)), (3, vec![json!({"code": 1, "cause": "HungUp"}); 2]));
    assert!(ran.stderr.contains("not answered: 2 at least; the status of CMD is 5"), "{}", ran.stderr);
    // Answers with a code that there is not.
    let bad = "os.write(fd, os.read(fd, 40)[36:40] + struct.pack('=I', 5)); os.read(fd, 1)";
    let ran = python("--format iommufd.pgfault --respond-timeout 20000", bad, &[fault(1, 0x1000, true)]);
    assert_eq!((ran.status, answers(&ran)), (3, vec![json!({"code": 1, "cause": "BadAnswer"})]));
    // A group without its last page.
    let ran = python("--format iommufd.pgfault --respond-timeout 20000", PAGER, &[fault(1, 0x1000, false)]);
    assert_eq!((ran.status, ran.json()), (3, vec![json!({"cookie": 0, "code": 1, "cause": "Unfinished"})]));
}

#[test]
fn group_whose_last_page_never_comes_is_not_answered_whoever_goes_first() {
    let ran = python("--format iommufd.pgfault --respond-timeout 20000", "", &[fault(1, 0x1000, false)]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
}

#[test]
fn answers_that_cannot_be_written_are_told_of() {
    let path = file("full", &[fault(1, 0x1000, true)]);
    let mut command = Command::new(TOOL);
    command.args(["exec", "--format", "iommufd.pgfault", "--from"]).arg(&path);
    command.args([
        "--",
        "sh",
        "-c",
        "\"$0\" watch --format iommufd.pgfault --respond success >/dev/null",
        TOOL,
    ]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), told.contains("No space left on device")), (Some(1), true), "{told}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn program_that_ends_at_once_leaves_everything_unanswered() {
    let records: Vec<_> = (0..1000).map(|group| fault(group % 512, 0x1000, true)).collect();
    let began = Instant::now();
    let ran = python("--format iommufd.pgfault --respond-timeout 60000 --depth 16", "", &records);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(began.elapsed() < Duration::from_secs(30));
    // A feed that never ends does not keep the tool from ending.
    let mut command = Command::new(TOOL);
    command.args(["exec", "--format", "iommufd.pgfault", "--", "sh", "-c", "exit 9"]).stdin(Stdio::piped());
    let mut tool = command.spawn().unwrap();
    let open = tool.stdin.take();
    assert_eq!(tool.wait().unwrap().code(), Some(9));
    assert!(began.elapsed() < Duration::from_secs(30));
    drop(open);
}

#[test]
fn longer_feed_than_the_channel_is_deep_is_answered_in_order() {
    let records: Vec<_> =
        (0..2000).map(|group| fault(group % 512, u64::from(group % 16) << 12, true)).collect();
    let ran = python("--format iommufd.pgfault --respond-timeout 60000 --depth 8", PAGER, &records);
    let codes: Vec<_> =
        (0..2000).map(|group| json!({"code": u32::from(group % 16 >= 8), "cause": "Answered"})).collect();
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert!(answers(&ran) == codes);
}

#[test]
fn program_that_reads_but_never_answers_ends_the_feed() {
    let records: Vec<_> = (0..50).map(|group| fault(group, 0x1000, true)).collect();
    let ran = python(
        "--format iommufd.pgfault --respond-timeout 200 --depth 4",
        "while os.read(fd, 400): pass",
        &records,
    );
    assert_eq!(ran.status, 3);
    assert!(ran.stderr.contains("fed up to line "), "{}", ran.stderr);
}

#[test]
fn notifications_are_reported_on_by_a_program() {
    let script = "
while True:
    record = os.read(fd, 64)
    if not record: break
    flags, sequence, dev_id, value, data, cookie = struct.unpack('=IIIIII', record[:24])
    assert record[24:28] == b'PCI0' and sequence < 3, record
    if cookie: os.write(fd, struct.pack('=IIII', cookie, value, 0x84, 0) + struct.pack('=IIII', cookie, value, 0, 0))
";
    let records = [notify(3, 9), notify(0x80, 0), notify(1, 10)];
    let ran = python("--format acpi.notify --respond-timeout 20000", script, &records);
    let report = |cookie, value, status| json!({"cookie": cookie, "source_event": value, "status": status, "reserved": 0});
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    let expected = [report(9, 3, 0x84), report(9, 3, 0), report(10, 1, 0x84), report(10, 1, 0)];
    // The second report on the last one may come too late.
    let found = ran.json();
    assert!(found == expected || found == expected[..3], "{found:?}");
    // A report that does not come is waited for, and no longer than that.
    let began = Instant::now();
    let ran = python("--format acpi.notify --respond-timeout 300", "while os.read(fd, 64): pass", &records);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""));
    assert!(began.elapsed() > Duration::from_millis(300));
}

#[test]
fn events_without_answers_are_read_to_the_end() {
    let event = |word| hex_of(&Event::new(Sequence::ZERO, Smmuv3Event { evt: [Le64::new(word); 4] }));
    let records: Vec<_> = (0..1000).map(event).collect();
    let script = "
data = b''
while True:
    part = os.read(fd, 4000)
    if not part: break
    data += part
for number, (flags, sequence, w0, *rest) in enumerate(struct.iter_unpack('<IIQQQQ', data)):
    assert (flags, sequence, w0) == (0, number, number), (flags, sequence, w0)
sys.exit(number // 100)
";
    let ran = python("--format viommu.arm_smmuv3 --depth 16", script, &records);
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (9, "", ""));
}

#[test]
fn steps_of_a_recovery_wait_for_each_other() {
    let script = "
for result in (3, 5, 5):
    time.sleep(0.05)
    record = os.read(fd, 48)
    os.write(fd, record[12:16] + struct.pack('=I', result))
os.read(fd, 1)
";
    let steps = [PciErrorStep::ERROR_DETECTED, PciErrorStep::SLOT_RESET, PciErrorStep::RESUME];
    let ran = python("--format pci.error --respond-timeout 20000", script, &steps.map(error));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert_eq!(answers(&ran), [3, 5, 5].map(|result| json!({"result": result, "cause": "Answered"})));
    // A step that cannot follow is a bad line.
    let script = "os.write(fd, os.read(fd, 48)[12:16] + struct.pack('=I', 4)); os.read(fd, 1)";
    let ran = python("--format pci.error --respond-timeout 20000", script, &[steps[0], steps[2]].map(error));
    assert_eq!((ran.status, answers(&ran).len()), (1, 1));
    assert_eq!(ran.stderr, "recordfd: line 2: the step RESUME does not follow what was answered last\n");
}

#[test]
fn releases_are_acknowledged_by_a_program() {
    let script = "
for code in (0, 1): os.write(fd, os.read(fd, 24)[12:16] + struct.pack('=I', code))
os.read(fd, 1)
";
    let ran = python("--format device.request --respond-timeout 20000", script, &[release(1), release(2)]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert_eq!(answers(&ran), [0, 1].map(|code| json!({"code": code, "cause": "Answered"})));
}

#[test]
fn bad_lines_are_told_of_and_the_rest_is_fed() {
    let no_access = hex_of(&PgFault { flags: PgFaultFlags::LAST_PAGE, ..PgFault::default() });
    let records = ["zz".to_owned(), "00".to_owned(), no_access, fault(1, 0x1000, true)];
    let ran = python("--format iommufd.pgfault --respond-timeout 20000", PAGER, &records);
    assert_eq!((ran.status, answers(&ran).len()), (1, 1));
    let told: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(told.len(), 3, "{told:?}");
    for (line, told) in told.into_iter().enumerate() {
        assert!(told.starts_with(&format!("recordfd: line {}: ", line + 1)), "{told}");
    }
    let lost = hex_of(&Event::<Smmuv3Event>::lost(Sequence::ZERO));
    let ran = python("--format viommu.arm_smmuv3", "sys.exit(4)", &[lost]);
    assert_eq!(ran.status, 4, "the program's status goes before that of a bad line");
    assert!(ran.stderr.contains("line 1: is a notice of loss"), "{}", ran.stderr);
}

#[test]
fn answer_that_is_none_is_told_of() {
    let torn = "os.read(fd, 64); os.write(fd, bytes(16)[:15])";
    let ran = python("--format acpi.notify --respond-timeout 20000", torn, &[notify(3, 9)]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stderr.contains("the stream ends 15 bytes into a record of 16"), "{ran:?}");
}

#[test]
fn program_is_told_what_it_gets_and_inherits_nothing_else() {
    let script = "
assert os.environ['RECORDFD_FORMAT'] == 'mixed' and os.environ['RECORDFD_DEPTH'] == '32'
sockets = [name for name in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + name)
           and os.readlink('/proc/self/fd/' + name).startswith('socket:')]
assert sockets == [str(fd)], sockets
";
    let ran = python("--format mixed --depth 32", script, &[]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
}

#[test]
fn program_that_cannot_be_started_or_is_killed_has_the_shells_status() {
    assert_eq!(recordfd("exec --format mixed -- /nonexistent/program", "").status, 127);
    assert_eq!(recordfd("exec --format mixed -- /etc/passwd", "").status, 126);
    let ran = python("--format mixed", "os.kill(os.getpid(), 9)", &[]);
    assert_eq!(ran.status, 137);
}

#[test]
fn answers_that_nobody_reads_change_nothing() {
    let path = file("broken", &(0..200).map(|group| fault(group, 0x1000, true)).collect::<Vec<_>>());
    let script = format!(
        "set -o pipefail; {TOOL} exec --format iommufd.pgfault --respond-timeout 20000 --from {} -- \
         {TOOL} watch --respond success --format iommufd.pgfault > >(head -1 >&2); wait; echo $?",
        path.display()
    );
    let ran = run(Command::new("bash").args(["-c", &script]), b"");
    assert_eq!(ran.status, 0, "{ran:?}");
    std::fs::remove_file(path).unwrap();
}
