//! The contract as others have it: a responder in C that has recordfd.h alone, and faults as Linux sends them.

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::SOON;
use recordfd::fault::{self, Cause, FaultRequest, Options, ReportError, ResponseCode};
use recordfd::uapi::{Format, PgFault, PgFaultFlags, PgFaultPerm, Record};

const DEPTH: u32 = 6;
/// The C program misses it with every third group.
const DEADLINE: Duration = Duration::from_millis(5);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The C responder, compiled with these flags more.
fn compiled(name: &str, more: &[&str]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let status = Command::new("gcc")
        .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(root().join("uapi/include"))
        .args(more)
        .arg(root().join("tests/c/answer_faults.c"))
        .arg("-o")
        .arg(&program)
        .status();
    assert!(status.expect("gcc is needed to test the C interface").success());
    program
}

/// What came of groups that were reported to a C responder.
#[derive(Debug)]
struct Outcome {
    depth: usize,
    answered: usize,
    timed_out: usize,
    in_flight: usize,
    late_answers: u64,
    /// What the responder printed.
    said: String,
}

/// Reports this many groups of two pages, and ends when nothing is in flight any more. With `patience` it also ends
/// when the channel has taken no more groups for as long, although each that it took has completed.
fn report(program: &Path, groups: usize, patience: Option<Duration>) -> Outcome {
    let options = Options::new().format(Format::IOMMU_PGFAULT_V2).depth(DEPTH).per_device(2 * DEPTH);
    let (reporter, end) = fault::socket(&options.half_made_age(10 * SOON).deadline(DEADLINE)).unwrap();
    let stdin = Stdio::from(OwnedFd::from(end));
    let child = Command::new(program).stdin(stdin).stdout(Stdio::piped()).spawn().expect("it starts");
    let (mut pages, mut answered, mut timed_out) = (0, 0, 0);
    let (give_up, mut full_since) = (Instant::now() + SOON, None);
    loop {
        assert!(Instant::now() < give_up, "{pages} pages, {answered} answered, {timed_out} timed out");
        if pages < 2 * groups {
            let (addr, last) = (pages as u64 * 0x1000, pages % 2 == 1);
            let page = FaultRequest { dev_id: 1, addr, last, perm: PgFaultPerm::READ, ..Default::default() };
            match reporter.report(page) {
                Ok(_) => (pages, full_since) = (pages + 1, None),
                Err(ReportError::Full(_) | ReportError::DeviceFull(_)) => {
                    full_since = full_since.or(Some(Instant::now()))
                }
                Err(error) => panic!("{error}"),
            }
        }
        let is_idle = full_since.is_some() || pages == 2 * groups;
        let wait = Duration::from_millis(is_idle.into());
        let mut completions = [Default::default(); 16];
        let count = reporter.wait_completions(&mut completions, Some(wait)).unwrap_or(0);
        for completion in &completions[..count] {
            match completion.cause {
                Cause::Answered => answered += 1,
                Cause::Deadline => timed_out += 1,
                cause => panic!("{cause:?}"),
            }
        }
        reporter.process(Instant::now());
        // Not before the responder runs: until then everything is late.
        let is_wedged = answered > 0
            && full_since.zip(patience).is_some_and(|(since, most): (Instant, _)| since.elapsed() > most);
        let is_done = pages == 2 * groups && reporter.counters().in_flight == 0;
        if answered + timed_out == pages / 2 && (is_done || is_wedged) {
            break;
        }
    }
    let (depth, counters) = (reporter.depth() as usize, reporter.counters());
    drop(reporter);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let (in_flight, late_answers) = (counters.in_flight as usize, counters.late_answers);
    Outcome { depth, answered, timed_out, in_flight, late_answers, said }
}

#[test]
fn late_answers_keep_a_channel_going() {
    const GROUPS: usize = 200;
    let outcome = report(&compiled("answer_faults", &[]), GROUPS, None);
    assert_eq!((outcome.answered + outcome.timed_out, outcome.in_flight), (GROUPS, 0), "{outcome:?}");
    // Where the machine is slow, others are late too.
    assert!(outcome.timed_out > 5 * outcome.depth, "{outcome:?}");
    assert_eq!(outcome.late_answers as usize, outcome.timed_out, "{outcome:?}");
    assert!(outcome.said.starts_with(&format!("{GROUPS} groups, ")), "{outcome:?}");
}

/// The other half of the test above: what it would come to without the late answers.
#[test]
fn cancelled_groups_that_are_not_answered_wedge_a_channel() {
    let program = compiled("skip_cancelled", &["-DSKIP_CANCELLED"]);
    let outcome = report(&program, 200, Some(Duration::from_secs(1)));
    assert_eq!(outcome.in_flight, outcome.depth, "{outcome:?}");
    assert!(outcome.answered + outcome.timed_out < 100, "{outcome:?}");
}

/// A text as one line of words, without what marks a comment.
fn words(text: &str) -> String {
    text.lines()
        .flat_map(|line| line.trim_start().trim_start_matches(['/', '*', '!']).split_whitespace())
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn every_text_says_that_a_cancelled_group_is_still_to_be_answered() {
    for file in ["uapi/include/recordfd.h", "docs/ABI.md", "uapi/src/header.rs", "src/fault/responder.rs"] {
        let text = words(&fs::read_to_string(root().join(file)).unwrap());
        let says = |sentence: &str| text.contains(sentence);
        assert!(says("still to be answered"), "{file}");
        assert!(says("until then it takes up room in the channel"), "{file}");
        assert!(!says("do not answer it"), "{file}");
    }
}

#[test]
fn flag_that_linux_sets_with_every_pasid_is_received_as_it_is() {
    let (mut responder, end) = fault::socket_responder(&Options::new()).unwrap();
    let mut peer = UnixStream::from(OwnedFd::from(end));
    let (both, last) = (PgFaultFlags::PASID_VALID | PgFaultFlags::NEEDS_PASID, PgFaultFlags::LAST_PAGE);
    let first = PgFault { flags: both, pasid: 5, perm: PgFaultPerm::READ, cookie: 1, ..PgFault::default() };
    let pages = [first, PgFault { flags: both | last, addr: 0x1000, ..first }];
    let mut bytes = [0; 2 * PgFault::SIZE];
    for (page, bytes) in pages.iter().zip(bytes.chunks_exact_mut(PgFault::SIZE)) {
        page.encode(bytes);
    }
    peer.write_all(&bytes).unwrap();
    let mut received = [PgFault::default(); 4];
    let group = responder.recv_group(&mut received).unwrap();
    assert_eq!(received[group.range()], pages);
    group.respond(ResponseCode::Success).unwrap();
}
