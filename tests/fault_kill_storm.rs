//! Either side is killed in the middle of a storm, hundreds of times: no group is left without an end, none
//! ends twice, none arrives torn. Both sides keep books that outlive them.

mod common;

use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::fault::*;
use common::storm::{AFTER, BEFORE, Book, Child, MOST, Random};
use common::way::{SHARED, SHARED_MADE_THERE, SOCKET, SOCKET_MADE_THERE, Way};
use common::*;
use recordfd::TryRecvError;
use recordfd::fault::{
    self, Cause, FaultCompletion, FaultGroup, FaultReporter, FaultRequest, FaultResponder, Options,
    ReportError, RespondError, ResponseCode,
};
use recordfd::uapi::{Format, PageResponse, PgFault, PgFaultFlags};

/// Kills of each side, by transport.
const KILLS: u32 = 256;

/// What differs from round to round; every combination comes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    way: Way,
    /// Records have a header.
    headed: bool,
    /// Both sides look by themselves before they sleep, so that they leave wake-ups parked.
    busy: bool,
    /// Who is about to sleep fences for both sides: in shared memory.
    asymmetric: bool,
    /// The survivor may be in a wait when the other one is killed.
    meanwhile: bool,
}

impl Plan {
    fn of(round: u32, [made_here, made_there]: [Way; 2]) -> Self {
        let bit = |number: u32| round >> number & 1 == 1;
        let way = if bit(0) { made_there } else { made_here };
        let asymmetric = way.is_shared() && bit(3);
        Self { way, headed: bit(1), busy: bit(2), asymmetric, meanwhile: bit(4) }
    }

    fn options(self) -> Options {
        let format = if self.headed { Format::IOMMU_PGFAULT_V2 } else { Format::IOMMU_PGFAULT_V1 };
        // A ring counts pages: full, it has more groups than a responder keeps open, which so answers some.
        let depth = if self.way.is_shared() { 256 } else { 48 };
        Options::new().format(format).depth(depth).per_device(u32::MAX).busy_poll(self.busy_poll())
    }

    fn busy_poll(self) -> Duration {
        if self.busy { Duration::from_micros(50) } else { Duration::ZERO }
    }

    fn prepare_reporter(self, reporter: FaultReporter) -> FaultReporter {
        if self.asymmetric {
            reporter.use_asymmetric_fence().unwrap();
        }
        reporter
    }

    fn prepare_responder(self, mut responder: FaultResponder) -> FaultResponder {
        responder.set_busy_poll(self.busy_poll());
        if self.asymmetric {
            responder.use_asymmetric_fence().unwrap();
        }
        responder
    }
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

/// One round: the responder is killed. Returns how many groups it left without an answer.
fn kill_responder(plan: Plan, random: &mut Random) -> usize {
    let book = Book::new();
    let options = plan.options();
    let seed = Random(random.0);
    let (near, far) = UnixStream::pair().unwrap();
    let mut child = Child::start(|| {
        let responder = plan.way.responder_there(far, &options);
        answer_at_random(plan.prepare_responder(responder), &book, seed);
    });
    let reporter = plan.prepare_reporter(plan.way.reporter_here(near, &options));
    let kill_after = random.below(400);
    if plan.meanwhile {
        child.kill_meanwhile(random, Duration::from_millis(2));
    }
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
                    assert!(child.is_killed());
                    break;
                }
                Err(error) => panic!("{plan:?}: {error:?}"),
            }
            pending.remove(0);
        }
        if !plan.meanwhile && !child.is_killed() && completed >= kill_after {
            child.kill(random);
        }
        let outcome = match random.below(4) {
            // Nobody answers what is not there; and there is an end, if only by the kill.
            0 if reporter.counters().unanswered > 16 => reporter.wait_completions(&mut out, Some(SOON)),
            _ => reporter.completions(&mut out),
        };
        match outcome {
            Ok(count) => {
                for ended in &out[..count] {
                    let (cookie, end) = &mut groups[ended.pasid.unwrap() as usize];
                    assert_eq!(*cookie, ended.cookie);
                    assert_eq!(end.replace((ended.code, ended.cause)), None, "{plan:?}: ended twice");
                }
                completed += count;
            }
            // Full, there are more groups than the responder keeps open: it will answer some.
            Err(TryRecvError::Empty) => assert!(!is_full || wait_readable(&reporter)),
            Err(TryRecvError::Closed) => break,
            Err(error) => panic!("{plan:?}: {error:?}"),
        }
    }
    assert!(child.is_killed(), "{plan:?}: closed while the responder lives");
    child.assert_killed();
    let notes = book.read();
    let mut hung_up = 0;
    for (number, (_, end)) in groups.iter().enumerate() {
        let answered = Some((code_of(number), Cause::Answered));
        let lost = Some((ResponseCode::Invalid, Cause::HungUp));
        match notes[number] {
            0 => assert_eq!(*end, lost, "{plan:?}, group {number}"),
            BEFORE => assert!(*end == answered || *end == lost, "{plan:?}, group {number}: {end:?}"),
            _ => assert_eq!(*end, answered, "{plan:?}, group {number}"),
        }
        hung_up += usize::from(*end == lost);
    }
    assert_eq!((reporter.counters().in_flight, reporter.counters().late_answers), (0, 0));
    assert!(matches!(reporter.report(page(1, 1)), Err(ReportError::Closed(_))));
    hung_up
}

/// Many rounds; the test `name` runs in a process of its own.
fn storm(name: &str, ways: [Way; 2], seed: u64, round: fn(Plan, &mut Random) -> usize) {
    in_own_process(name, || {
        let mut random = Random(seed);
        println!("seed {seed:#x}");
        let open: usize = (0..KILLS).map(|number| round(Plan::of(number, ways), &mut random)).sum();
        assert!(open > KILLS as usize, "hardly anything was open at a kill, so this shows nothing");
    });
}

#[test]
fn responder_killed_anywhere_leaves_no_group_without_an_end_and_none_with_two() {
    let name = "responder_killed_anywhere_leaves_no_group_without_an_end_and_none_with_two";
    storm(name, [SOCKET, SOCKET_MADE_THERE], 0x2545_f491_4f6c_dd1d, kill_responder);
}

#[test]
fn responder_killed_anywhere_leaves_no_shared_group_without_an_end_and_none_with_two() {
    let name = "responder_killed_anywhere_leaves_no_shared_group_without_an_end_and_none_with_two";
    storm(name, [SHARED, SHARED_MADE_THERE], 0x3c6e_f372_fe94_f82b, kill_responder);
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

/// One round: the reporter is killed. Returns how many groups were open then.
fn kill_reporter(plan: Plan, random: &mut Random) -> usize {
    let (book, ends) = (Book::new(), Book::new());
    let options = plan.options();
    let seed = Random(random.0);
    let (near, far) = UnixStream::pair().unwrap();
    let mut child = Child::start(|| {
        let reporter = plan.prepare_reporter(plan.way.reporter_there(far, &options));
        report_at_random(&reporter, &book, &ends, seed);
    });
    let mut responder = plan.prepare_responder(plan.way.responder_here(near, &options));
    let kill_after = random.below(400);
    if plan.meanwhile {
        child.kill_meanwhile(random, Duration::from_millis(2));
    }
    let mut open = Vec::new();
    let mut answered = vec![false; MOST];
    let mut received = 0;
    let mut pages = [PgFault::default(); 256];
    let told = loop {
        if !plan.meanwhile && !child.is_killed() && received >= kill_after {
            child.kill(random);
        }
        match responder.recv_group_timeout(&mut pages, SOON) {
            Ok(group) => {
                assert_eq!(number_of(&group, &pages), received, "{plan:?}: in order, without a gap");
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
                Err(RespondError::Closed) => assert!(child.is_killed()),
                Err(error) => panic!("{plan:?}: {}", error.errno()),
            }
        }
    };
    assert!(matches!(told, TryRecvError::Closed), "{plan:?}: {told:?}");
    assert!(child.is_killed(), "{plan:?}: closed while the reporter lives");
    child.assert_killed();
    // Every group that was published was received, and no other.
    let (notes, ends) = (book.read(), ends.read());
    for number in 0..MOST {
        match notes[number] {
            0 => assert!(number >= received, "{plan:?}: {number} was never published"),
            BEFORE => {}
            _ => assert!(number < received, "{plan:?}: {number} was published and is lost"),
        }
        assert!(ends[number] == 0 || answered[number], "{plan:?}: {number} ended without its answer");
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
    let name = "reporter_killed_anywhere_leaves_every_published_group_whole_and_then_closed";
    storm(name, [SOCKET, SOCKET_MADE_THERE], 0x9e37_79b9_7f4a_7c15, kill_reporter);
}

#[test]
fn reporter_killed_anywhere_leaves_every_published_shared_group_whole_and_then_closed() {
    let name = "reporter_killed_anywhere_leaves_every_published_shared_group_whole_and_then_closed";
    storm(name, [SHARED, SHARED_MADE_THERE], 0xa54f_f53a_5f1d_36f1, kill_reporter);
}
