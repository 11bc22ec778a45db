//! Either side is killed in the middle of a storm, hundreds of times: no group is left without an end, none
//! ends twice, none arrives torn. Both sides keep books that outlive them.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::fault::*;
use common::*;
use fork::{Fork, fork};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use recordfd::fault::{
    self, Cause, FaultCompletion, FaultGroup, FaultReporter, FaultRequest, FaultResponder, Options,
    ReportError, RespondError, ResponseCode,
};
use recordfd::uapi::{Format, PageResponse, PgFault, PgFaultFlags};
use recordfd::{TryRecvError, UnattachedEnd};

/// Kills of each side.
const KILLS: u32 = 200;
/// More groups than a round comes to.
const MOST: usize = 1 << 16;

/// A xorshift generator: the same decisions in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

/// What a process that is killed has done, as far as it had noted it: a byte for each group.
struct Book(File);

const BEFORE: u8 = 1;
const AFTER: u8 = 2;

impl Book {
    fn new() -> Self {
        Self(memfd_create(c"book", MFdFlags::MFD_CLOEXEC).unwrap().into())
    }

    fn note(&self, number: usize, what: u8) {
        self.0.write_all_at(&[what], number as u64).unwrap();
    }

    fn read(&self) -> Vec<u8> {
        let mut notes = vec![0; MOST];
        let mut length = 0;
        while let count @ 1.. = self.0.read_at(&mut notes[length..], length as u64).unwrap() {
            length += count;
        }
        notes
    }
}

/// A child process, which does not outlive its test.
struct Child(Pid);

impl Child {
    /// Runs `work` in a child process until it is killed.
    fn start(work: impl FnOnce()) -> Self {
        match fork().unwrap() {
            Fork::Child => {
                let _ = catch_unwind(AssertUnwindSafe(work));
                // It should be killed before.
                std::process::exit(1)
            }
            Fork::Parent(child) => Self(Pid::from_raw(child)),
        }
    }

    /// Kills it at a point that no call knows of.
    fn kill(&self, random: &mut Random) {
        (0..random.below(3000)).for_each(|_| std::hint::spin_loop());
        kill(self.0, Signal::SIGKILL).unwrap();
    }

    /// Fails unless it lived until it was killed.
    fn assert_killed(self) {
        assert_eq!(waitpid(self.0, None).unwrap(), WaitStatus::Signaled(self.0, Signal::SIGKILL, false));
        std::mem::forget(self);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

fn options(round: u32) -> Options {
    let format = [Format::IOMMU_PGFAULT_V1, Format::IOMMU_PGFAULT_V2][round as usize % 2];
    Options::new().format(format).depth(48).per_device(u32::MAX)
}

fn attach_reporter(end: UnattachedEnd, options: &Options) -> FaultReporter {
    let info = end.info();
    FaultReporter::from_socket(end.into(), info.format, &options.clone().depth(info.depth)).unwrap()
}

fn attach_responder(end: UnattachedEnd) -> FaultResponder {
    let info = end.info();
    FaultResponder::from_socket(end.into(), info.format, info.depth).unwrap()
}

/// Group number `number`, whose PASID says which one it is.
fn numbered(number: usize) -> Vec<FaultRequest> {
    let mut pages = group(1 + number as u32 % 3, number as u32 % 512, 1 + number as u32 * 5 % 9);
    pages.iter_mut().for_each(|page| page.pasid = Some(number as u32));
    pages
}

fn code_of(number: usize) -> ResponseCode {
    if number % 3 == 0 { ResponseCode::Invalid } else { ResponseCode::Success }
}

/// The number of a group, which must be whole.
fn number_of(group: &FaultGroup, pages: &[PgFault]) -> usize {
    let pages = &pages[group.range()];
    let number = pages[0].pasid as usize;
    let expected = numbered(number);
    assert_eq!(pages.len(), expected.len());
    for (page, expected) in pages.iter().zip(&expected) {
        let last = page.flags.contains(PgFaultFlags::LAST_PAGE);
        assert_eq!((page.cookie, page.addr, last), (group.cookie(), expected.addr, expected.last));
        assert_eq!((page.pasid, page.dev_id), (number as u32, expected.dev_id));
    }
    number
}

/// Keeps up to 16 groups open and answers them in any order, noting each before and after.
fn answer_at_random(mut responder: FaultResponder, book: &Book, mut random: Random) {
    let mut pages = [PgFault::default(); 256];
    let mut open = Vec::new();
    loop {
        if random.below(2) == 0 {
            let group = responder.recv_group(&mut pages).unwrap();
            open.push((number_of(&group, &pages), group));
        } else {
            let mut groups = [const { None }; 8];
            if responder.recv_groups(&mut pages, &mut groups).is_ok() {
                open.extend(groups.into_iter().flatten().map(|group| (number_of(&group, &pages), group)));
            }
        }
        let most = random.below(16);
        if random.below(3) > 0 {
            while open.len() > most {
                let (number, group) = open.swap_remove(random.below(open.len()));
                book.note(number, BEFORE);
                match code_of(number) {
                    ResponseCode::Invalid => drop(group),
                    code => group.respond(code).unwrap(),
                }
                book.note(number, AFTER);
            }
        } else if open.len() > most {
            let (numbers, batch): (Vec<_>, Vec<_>) = open
                .drain(most..)
                .map(|(number, group)| {
                    book.note(number, BEFORE);
                    (number, PageResponse { cookie: group.into_cookie(), code: code_of(number).into() })
                })
                .unzip();
            assert_eq!(responder.respond_batch(&batch).unwrap(), batch.len());
            numbers.into_iter().for_each(|number| book.note(number, AFTER));
        }
    }
}

/// One round: the responder is killed.
fn kill_responder(round: u32, random: &mut Random) -> usize {
    let book = Book::new();
    let options = options(round);
    let seed = Random(random.0);
    let (reporter, child) = if round % 4 < 2 {
        let (reporter, end) = fault::socket(&options).unwrap();
        (reporter, Child::start(|| answer_at_random(attach_responder(end), &book, seed)))
    } else {
        // The one that is killed has made the channel.
        let (near, far) = UnixStream::pair().unwrap();
        let child = Child::start(|| {
            let (responder, end) = fault::socket_responder(&options).unwrap();
            end.send_over(far).unwrap();
            answer_at_random(responder, &book, seed);
        });
        (attach_reporter(UnattachedEnd::recv_from(near).unwrap(), &options), child)
    };
    let kill_after = random.below(400);
    let mut is_killed = false;
    // The cookie of each group, and what it came to.
    let mut groups: Vec<(u32, Option<(ResponseCode, Cause)>)> = Vec::new();
    let mut completed = 0;
    let mut pending = Vec::new();
    let mut out = [FaultCompletion::default(); 16];
    loop {
        let mut is_full = false;
        for _ in 0..random.below(24) {
            if pending.is_empty() {
                pending = numbered(groups.len());
            }
            let last = pending.len() == 1;
            match reporter.report(pending[0]) {
                Ok(fault::Reported::Group { cookie }) => {
                    assert!(last);
                    groups.push((cookie, None));
                }
                Ok(_) => assert!(!last),
                Err(ReportError::Full(_)) => {
                    is_full = true;
                    break;
                }
                Err(ReportError::Closed(_)) => {
                    assert!(is_killed);
                    break;
                }
                Err(error) => panic!("round {round}: {error:?}"),
            }
            pending.remove(0);
        }
        if !is_killed && completed >= kill_after {
            child.kill(random);
            is_killed = true;
        }
        match reporter.completions(&mut out) {
            Ok(count) => {
                for ended in &out[..count] {
                    let (cookie, end) = &mut groups[ended.pasid.unwrap() as usize];
                    assert_eq!(*cookie, ended.cookie);
                    assert_eq!(end.replace((ended.code, ended.cause)), None, "round {round}: ended twice");
                }
                completed += count;
            }
            // Full, there are more groups than the responder keeps open: it will answer some.
            Err(TryRecvError::Empty) => assert!(!is_full || wait_readable(&reporter)),
            Err(TryRecvError::Closed) => break,
            Err(error) => panic!("round {round}: {error:?}"),
        }
    }
    assert!(is_killed, "round {round}: closed while the responder lives");
    child.assert_killed();
    let notes = book.read();
    let mut hung_up = 0;
    for (number, (_, end)) in groups.iter().enumerate() {
        let answered = Some((code_of(number), Cause::Answered));
        let lost = Some((ResponseCode::Invalid, Cause::HungUp));
        match notes[number] {
            0 => assert_eq!(*end, lost, "round {round}, group {number}"),
            BEFORE => assert!(*end == answered || *end == lost, "round {round}, group {number}: {end:?}"),
            _ => assert_eq!(*end, answered, "round {round}, group {number}"),
        }
        hung_up += usize::from(*end == lost);
    }
    assert_eq!((reporter.counters().in_flight, reporter.counters().late_answers), (0, 0));
    assert!(matches!(reporter.report(page(1, 1)), Err(ReportError::Closed(_))));
    hung_up
}

#[test]
fn responder_killed_anywhere_leaves_no_group_without_an_end_and_none_with_two() {
    in_own_process("responder_killed_anywhere_leaves_no_group_without_an_end_and_none_with_two", || {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let hung_up: usize = (0..KILLS).map(|round| kill_responder(round, &mut random)).sum();
        assert!(hung_up > KILLS as usize, "hardly anything was open at a kill, so this shows nothing");
    });
}

/// Reports without end, noting each group before and after it is published, and in `ends` its end.
fn report_at_random(reporter: &FaultReporter, book: &Book, ends: &Book, mut random: Random) {
    let mut number = 0;
    let mut ended = vec![false; MOST];
    let mut out = [FaultCompletion::default(); 16];
    loop {
        let mut pages = numbered(number);
        // Several in one call, where they are of one page.
        let first = number;
        while pages.len() == 1 + number - first && random.below(4) > 0 {
            number += 1;
            pages.extend(numbered(number));
        }
        (first..=number).for_each(|number| book.note(number, BEFORE));
        number += 1;
        while !pages.is_empty() {
            match reporter.report_batch(&pages) {
                Ok(count) => {
                    for page in pages.drain(..count).filter(|page| page.last) {
                        book.note(page.pasid.unwrap() as usize, AFTER);
                    }
                }
                Err(ReportError::Full(_)) => assert!(wait_readable(reporter)),
                Err(error) => panic!("{error:?}"),
            }
            if pages.is_empty() && random.below(3) > 0 {
                continue;
            }
            match reporter.completions(&mut out) {
                Ok(count) => {
                    for end in &out[..count] {
                        let number = end.pasid.unwrap() as usize;
                        assert_eq!((end.code, end.cause), (code_of(number), Cause::Answered));
                        assert!(!std::mem::replace(&mut ended[number], true), "ended twice");
                        ends.note(number, AFTER);
                    }
                }
                Err(TryRecvError::Empty) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// One round: the reporter is killed.
fn kill_reporter(round: u32, random: &mut Random) -> usize {
    let (book, ends) = (Book::new(), Book::new());
    let options = options(round);
    let seed = Random(random.0);
    let (mut responder, child) = if round % 4 < 2 {
        let (responder, end) = fault::socket_responder(&options).unwrap();
        (responder, Child::start(|| report_at_random(&attach_reporter(end, &options), &book, &ends, seed)))
    } else {
        // The one that is killed has made the channel.
        let (near, far) = UnixStream::pair().unwrap();
        let child = Child::start(|| {
            let (reporter, end) = fault::socket(&options).unwrap();
            end.send_over(far).unwrap();
            report_at_random(&reporter, &book, &ends, seed);
        });
        (attach_responder(UnattachedEnd::recv_from(near).unwrap()), child)
    };
    let kill_after = random.below(400);
    let mut is_killed = false;
    let mut open = Vec::new();
    let mut answered = vec![false; MOST];
    let mut received = 0;
    let mut pages = [PgFault::default(); 256];
    let told = loop {
        if !is_killed && received >= kill_after {
            child.kill(random);
            is_killed = true;
        }
        match responder.recv_group_timeout(&mut pages, SOON) {
            Ok(group) => {
                assert_eq!(number_of(&group, &pages), received, "round {round}: in order, without a gap");
                open.push((received, group));
                received += 1;
            }
            Err(error) => break error,
        }
        let most = random.below(16);
        while open.len() > most {
            let (number, group) = open.swap_remove(random.below(open.len()));
            answered[number] = true;
            match group.respond(code_of(number)) {
                Ok(()) => {}
                Err(RespondError::Closed) => assert!(is_killed),
                Err(error) => panic!("round {round}: {}", error.errno()),
            }
        }
    };
    assert!(matches!(told, TryRecvError::Closed), "round {round}: {told:?}");
    assert!(is_killed, "round {round}: closed while the reporter lives");
    child.assert_killed();
    // Every group that was published was received, and no other.
    let (notes, ends) = (book.read(), ends.read());
    for number in 0..MOST {
        match notes[number] {
            0 => assert!(number >= received, "round {round}: {number} was never published"),
            BEFORE => {}
            _ => assert!(number < received, "round {round}: {number} was published and is lost"),
        }
        assert!(ends[number] == 0 || answered[number], "round {round}: {number} ended without its answer");
    }
    let left = open.len();
    assert_eq!(responder.open_cookies().len(), left);
    for (number, group) in open {
        match number % 3 {
            0 => drop(group),
            1 => assert!(matches!(group.respond(ResponseCode::Success), Err(RespondError::Closed))),
            _ => {
                let answer = PageResponse { cookie: group.into_cookie(), code: SUCCESS };
                assert!(matches!(responder.respond(answer), Err(RespondError::Closed)));
            }
        }
    }
    left
}

#[test]
fn reporter_killed_anywhere_leaves_every_published_group_whole_and_then_closed() {
    in_own_process("reporter_killed_anywhere_leaves_every_published_group_whole_and_then_closed", || {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let left: usize = (0..KILLS).map(|round| kill_reporter(round, &mut random)).sum();
        assert!(left > KILLS as usize, "hardly anything was open at a kill, so this shows nothing");
    });
}
