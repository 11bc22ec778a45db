//! A batch of page requests does what its requests do one by one, also when one of them is not taken.

mod common;

use std::time::{Duration, Instant};

use common::far_fault::*;
use common::fault::*;
use common::until;
use recordfd::fault::{
    Cause, FaultCompletion, FaultReporter, FaultReporterCounters, FaultRequest, Options, ReportError,
    ResponseCode,
};
use recordfd::uapi::{Format, PgFault};

use ResponseCode::{Invalid, Success};

/// Longer than any age limit here, and no real time.
const EVER: Duration = Duration::from_secs(10_000);

/// A small generator of numbers (xorshift), always the same ones.
struct Random(u64);

impl Random {
    /// A number below `bound`.
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % u64::from(bound)) as u32
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    /// From 1 to 12 requests of few devices, address spaces and indices, so that groups meet.
    fn batch(&mut self) -> Vec<FaultRequest> {
        let length = 1 + self.below(12);
        (0..length).map(|_| self.request()).collect()
    }

    fn request(&mut self) -> FaultRequest {
        let (dev_id, prg_index) = (1 + self.below(2), self.below(2));
        let addr = 0x1000 * u64::from(self.below(1 << 20));
        let page = FaultRequest { addr, ..page(dev_id, prg_index) };
        match self.below(32) {
            0..=2 => stop_marker(dev_id, 1),
            3 => stop_marker(dev_id, 2),
            4 => FaultRequest { prg_index: 512, ..page },
            5 => FaultRequest { pasid: None, ..page },
            6..=17 => page,
            _ => FaultRequest { last: false, ..page },
        }
    }
}

/// What of a page fault does not depend on which slot its group has.
fn without_cookie(page: &PgFault) -> PgFault {
    PgFault { cookie: 0, ..*page }
}

/// A channel and what its responder holds.
struct Channel {
    reporter: FaultReporter,
    responder: AnyResponder,
    held: Vec<AnyGroup>,
}

impl Channel {
    fn new(make: MakeAnyFault, options: &Options) -> Self {
        let (reporter, responder) = make(options);
        Self { reporter, responder, held: Vec::new() }
    }

    /// Receives and holds a group; its pages, or `None` when there is none.
    fn receive(&mut self) -> Option<Vec<PgFault>> {
        let mut pages = [PgFault::default(); 8];
        let group = self.responder.try_recv_group(&mut pages).ok()?;
        assert!(pages[group.range()].iter().all(|page| page.cookie == group.cookie()));
        let pages = pages[group.range()].iter().map(without_cookie).collect();
        self.held.push(group);
        Some(pages)
    }

    fn completions(&self) -> Vec<FaultCompletion> {
        let ended = collect(&self.reporter).into_iter();
        ended.map(|ended| FaultCompletion { cookie: u32::from(ended.cookie != 0), ..ended }).collect()
    }

    fn counters(&self) -> FaultReporterCounters {
        FaultReporterCounters { oldest: None, ..self.reporter.counters() }
    }
}

/// Two channels alike: one is given batches, the other the same requests one by one.
struct Twins {
    batches: Channel,
    single: Channel,
}

impl Twins {
    /// Reports `batch` in both ways; asks for the reason of a short count if `ask` says so.
    fn report(&mut self, batch: &[FaultRequest], ask: bool) {
        let (first, reporter) = (self.batches.reporter.report_batch(batch), &self.single.reporter);
        let taken = *first.as_ref().unwrap_or(&0);
        for request in &batch[..taken] {
            reporter.report(*request).expect("a request that a batch took is taken by itself");
        }
        // What nobody was told of has not happened.
        if let Some(refused) = batch.get(taken).filter(|_| ask || taken == 0) {
            let again = || self.batches.reporter.report_batch(&batch[taken..]);
            let told = first.and_then(|_| again()).expect_err("the next call tells why a count is short");
            let error = reporter.report(*refused).expect_err("a request that no batch took is not taken");
            assert_eq!(format!("{told:?}"), format!("{error:?}"));
        }
    }

    fn on_both<T: PartialEq + std::fmt::Debug>(&mut self, act: impl Fn(&mut Channel) -> T) -> T {
        let (left, right) = (act(&mut self.batches), act(&mut self.single));
        assert_eq!(left, right, "left: batches, right: one by one");
        left
    }

    /// Something else than a report, on both.
    fn act(&mut self, random: &mut Random) {
        for _ in 0..random.below(4) {
            self.on_both(Channel::receive);
        }
        while !self.batches.held.is_empty() && random.once_in(2) {
            let index = random.below(self.batches.held.len() as u32) as usize;
            let code = if random.once_in(3) { Invalid } else { Success };
            self.on_both(|channel| channel.held.remove(index).respond(code).is_ok());
        }
        let dev_id = 1 + random.below(2);
        match random.below(40) {
            0..=1 => drop(self.on_both(|channel| channel.reporter.detach(dev_id))),
            2 => drop(self.on_both(|channel| channel.reporter.process(Instant::now() + EVER))),
            _ => {}
        }
        if random.once_in(2) {
            self.on_both(|channel| channel.completions());
        }
        if random.once_in(4) {
            let came =
                |channel: &Channel| channel.reporter.wait_stop_marker(dev_id, 1, Duration::ZERO).is_ok();
            let (left, right) = (came(&self.batches), came(&self.single));
            // Requests behind one that was refused make a batch forget markers, too.
            assert!(right || !left, "a Stop Marker that was not there");
        }
    }
}

/// Random rounds with options that `options` chooses.
fn same_as_one_by_one(make: MakeAnyFault, rounds: u64, options: impl Fn(&mut Random) -> Options) {
    let mut sum = FaultReporterCounters::default();
    for seed in 1..=rounds {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let options = options(&mut random).half_made_age(EVER / 2).deadline(EVER / 2);
        let mut twins = Twins { batches: Channel::new(make, &options), single: Channel::new(make, &options) };
        let _round = Round(seed);
        for _ in 0..30 {
            let batch = random.batch();
            twins.report(&batch, random.once_in(2));
            twins.on_both(|channel| channel.counters());
            twins.act(&mut random);
        }
        let counters = end(twins, &mut random);
        sum.answered += counters.answered;
        sum.detached += counters.detached;
        sum.deadline += counters.deadline;
        sum.unfinished += counters.unfinished;
        sum.hung_up += counters.hung_up;
        sum.refused += counters.refused;
        sum.stop_markers += counters.stop_markers;
    }
    // Each way to end was met, or the rounds show nothing of it.
    let met = [sum.answered, sum.detached, sum.deadline, sum.unfinished, sum.hung_up];
    assert!(met.iter().all(|count| *count > 0) && sum.refused > 0 && sum.stop_markers > 0, "{sum:?}");
}

/// Names the round on the way out of a failed assertion.
struct Round(u64);

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}", self.0);
        }
    }
}

/// The responder goes, with its groups; then nothing is taken, and everything has completed.
fn end(twins: Twins, random: &mut Random) -> FaultReporterCounters {
    let reporters = [twins.batches, twins.single].map(|channel| {
        let Channel { reporter, responder, held } = channel;
        // So that not all of it is answered.
        for group in held {
            let _ = group.into_cookie();
        }
        drop(responder);
        // Not at once on a socket, of which a process that another test starts has a copy for a while.
        assert!(until(|| reporter.is_closed()));
        reporter
    });
    let ended = reporters.each_ref().map(|reporter| {
        let ended = collect(reporter).into_iter();
        ended.map(|ended| (ended.dev_id, ended.prg_index, ended.code, ended.cause)).collect::<Vec<_>>()
    });
    assert_eq!(ended[0], ended[1]);
    let page = FaultRequest { pasid: Some(3), ..page(3, 3) };
    let batch = [FaultRequest { last: false, ..page }, page, page];
    if random.once_in(2) {
        let taken = reporters[0].report_batch(&batch).unwrap_or(0);
        // The first page is kept if there is room for it; the last one meets the end.
        let outcome = batch.iter().map(|request| reporters[1].report(*request));
        assert_eq!(outcome.take_while(Result::is_ok).count(), taken);
    }
    let counters = reporters.map(|reporter| FaultReporterCounters { oldest: None, ..reporter.counters() });
    let refused = |counters: FaultReporterCounters| FaultReporterCounters { refused: 0, ..counters };
    assert_eq!(refused(counters[0]), refused(counters[1]));
    assert_eq!((counters[0].in_flight, counters[0].unanswered), (0, 0));
    counters[0]
}

#[test]
fn far_end() {
    common::far::far_end();
}

#[cfg(feature = "local")]
#[test]
fn batch_does_what_its_requests_do_one_by_one_between_threads() {
    same_as_one_by_one(
        |options| here(local(options)),
        1500,
        |random| {
            let depth = 2 + random.below(8);
            let options = Options::new().depth(depth).per_device(1 + random.below(depth + 2));
            options.max_group(1 + random.below(5)).half_made(1 + random.below(5))
        },
    );
}

// On a socket a batch takes less of the send buffer than its groups by themselves, so the devices' bounds
// keep both below its end.
#[test]
fn batch_does_what_its_requests_do_one_by_one_to_another_process() {
    let ways: [(MakeAnyFault, _, _); 7] = [
        (|options| here(socket(options)), Format::IOMMU_PGFAULT_V1, 150),
        (|options| here(socket(options)), Format::IOMMU_PGFAULT_V2, 150),
        (|options| here(socket_made_by_responder(options)), Format::IOMMU_PGFAULT_V1, 150),
        (|options| here(shared(options)), Format::IOMMU_PGFAULT_V1, 150),
        (|options| here(shared_made_by_responder(options)), Format::IOMMU_PGFAULT_V2, 150),
        // Each round takes two processes.
        (shared_to_far_responder, Format::IOMMU_PGFAULT_V2, 30),
        (shared_made_by_far_responder, Format::IOMMU_PGFAULT_V1, 30),
    ];
    for (make, format, rounds) in ways {
        same_as_one_by_one(make, rounds, |random| {
            let options = Options::new().format(format).depth(128).per_device(1 + random.below(12));
            options.max_group(1 + random.below(5)).half_made(1 + random.below(5))
        });
    }
}

/// Receives every group that is there, holding them; device, index and addresses of each.
fn receive_all(responder: &mut AnyResponder, held: &mut Vec<AnyGroup>) -> Vec<(u32, u32, Vec<u64>)> {
    let mut all = Vec::new();
    let mut pages = [PgFault::default(); 64];
    while let Ok(group) = responder.try_recv_group(&mut pages) {
        let pages = &pages[group.range()];
        all.push((pages[0].dev_id, pages[0].grpid, pages.iter().map(|page| page.addr).collect()));
        held.push(group);
    }
    all
}

/// What [`receive_all`] says of a [`group`].
fn whole(dev_id: u32, prg_index: u32, count: u64) -> (u32, u32, Vec<u64>) {
    (dev_id, prg_index, (0..count).collect())
}

/// Answers all of `held`, and checks that as many groups complete, each once.
fn answer_all(reporter: &FaultReporter, held: &mut Vec<AnyGroup>) {
    let mut cookies: Vec<_> = held.iter().map(AnyGroup::cookie).collect();
    held.drain(..).for_each(|group| group.respond(Success).unwrap());
    let mut completed: Vec<_> = ended(reporter)
        .into_iter()
        .map(|(cookie, code, cause)| {
            assert_eq!((code, cause), (Success, Cause::Answered));
            cookie
        })
        .collect();
    cookies.sort_unstable();
    completed.sort_unstable();
    assert_eq!(completed, cookies);
    assert_eq!(reporter.counters().in_flight, 0);
}

#[cfg(feature = "local")]
#[test]
fn group_before_a_stop_marker_is_given_back_when_the_queue_is_full() {
    let (reporter, mut responder) = here(local(&Options::new().depth(4).per_device(4)));
    for prg_index in 0..2 {
        assert_eq!(reporter.report_batch(&group(1, prg_index, 2)).unwrap(), 2);
    }
    let before = reporter.counters();
    // The Stop Marker has the group before it sent, and that one finds no room.
    let batch = [page(2, 9), stop_marker(2, 7), page(2, 8)];
    let Err(ReportError::Full(refused)) = reporter.report_batch(&batch) else { panic!("the queue is full") };
    assert_eq!(refused, batch[0]);
    let after = reporter.counters();
    assert_eq!((after.in_flight, after.stop_markers, after.refused), (before.in_flight, 0, 1));
    let mut held = Vec::new();
    assert_eq!(receive_all(&mut responder, &mut held), [whole(1, 0, 2), whole(1, 1, 2)]);
    assert_eq!(reporter.report_batch(&batch).unwrap(), 3, "all of it can be reported again");
    assert_eq!(receive_all(&mut responder, &mut held).len(), 2);
    answer_all(&reporter, &mut held);
}

#[test]
fn batch_of_large_groups_into_a_nearly_full_socket_counts_those_that_were_written() {
    let (reporter, mut responder) = here(socket(&Options::new().depth(64).per_device(10_000)));
    let large = |dev_id, prg_index| whole(dev_id, prg_index, 32);
    let mut filling = 0;
    while reporter.report_batch(&group(1, filling, 32)).unwrap() == 32 {
        filling += 1;
    }
    reporter.detach(1);
    assert_eq!(collect(&reporter).len(), filling as usize, "their answers will be late");
    // Two groups go out in one write. Room for one write comes, so the second one is refused.
    let batch: Vec<_> = (0..4).flat_map(|prg_index| group(2, prg_index, 32)).collect();
    let (mut taken, mut cut, mut received, mut held) = (0, false, Vec::new(), Vec::new());
    let mut pages = [PgFault::default(); 32];
    while taken < batch.len() {
        let groups = taken / 32;
        match reporter.report_batch(&batch[taken..]) {
            Ok(more) => {
                taken += more;
                cut |= taken < batch.len() && taken / 32 > groups;
            }
            Err(ReportError::Full(refused)) => {
                assert_eq!(refused, batch[taken]);
                drop(responder.try_recv_group(&mut pages).unwrap());
                received.push((
                    pages[0].dev_id,
                    pages[0].grpid,
                    pages.iter().map(|page| page.addr).collect(),
                ));
            }
            Err(error) => panic!("{error}"),
        }
        let counters = reporter.counters();
        assert_eq!(counters.unanswered as usize, taken / 32);
        assert_eq!(counters.half_made, u32::from(taken % 32 > 0));
    }
    assert!(cut, "no flush failed behind one that did not");
    received.extend(receive_all(&mut responder, &mut held));
    let first = (0..filling).map(|prg_index| large(1, prg_index));
    let expected: Vec<_> = first.chain((0..4).map(|prg_index| large(2, prg_index))).collect();
    assert_eq!(received, expected);
    held.drain(..).for_each(|group| group.respond(Success).unwrap());
    assert_eq!(collect(&reporter).len(), 4);
    assert_eq!(reporter.counters().in_flight, 0);
}

#[test]
fn too_large_last_page_behind_others_of_a_batch_is_told_by_the_next_call() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&Options::new().max_group(2));
        let large = group(1, 3, 3);
        assert_eq!(reporter.report_batch(&large[..1]).unwrap(), 1);
        assert!(matches!(reporter.report(large[1]), Err(ReportError::TooLarge(_))));
        let batch = [page(2, 7), large[2], page(2, 8)];
        assert_eq!(reporter.report_batch(&batch).unwrap(), 1);
        let Err(ReportError::TooLarge(refused)) = reporter.report_batch(&batch[1..]) else {
            panic!("a group was published without some of its pages")
        };
        assert_eq!((refused, reporter.counters().half_made), (large[2], 0), "told, and forgotten");
        // Its key is free again.
        assert_eq!(reporter.report_batch(&[&batch[2..], &group(1, 3, 2)].concat()).unwrap(), 3);
        let mut held = Vec::new();
        let received = receive_all(&mut responder, &mut held);
        let indices: Vec<_> =
            received.iter().map(|(dev_id, prg, pages)| (*dev_id, *prg, pages.len())).collect();
        assert_eq!(indices, [(2, 7, 1), (2, 8, 1), (1, 3, 2)]);
        answer_all(&reporter, &mut held);
    }
}

#[test]
fn group_that_grows_too_large_behind_others_of_a_batch_is_refused_with_its_last_page() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&Options::new().max_group(2));
        let large = group(1, 3, 3);
        assert_eq!(reporter.report_batch(&large).unwrap(), 1);
        assert!(matches!(reporter.report_batch(&large[1..]), Err(ReportError::TooLarge(_))));
        assert!(matches!(reporter.report_batch(&large[2..]), Err(ReportError::TooLarge(_))));
        assert!(is_empty(&mut responder));
        assert_eq!((reporter.counters().half_made, reporter.counters().in_flight), (0, 0));
    }
}

#[test]
fn pages_of_one_group_in_two_batches_are_one_group() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&Options::new());
        let (first, second) = (group(1, 3, 4), group(1, 4, 3));
        // Each batch ends one group and goes on with the other.
        let batches = [[&first[..2], &second[..1]].concat(), [&second[1..2], &first[2..]].concat()];
        assert_eq!(batches.map(|batch| reporter.report_batch(&batch).unwrap()), [3, 3]);
        assert_eq!(reporter.report_batch(&second[2..]).unwrap(), 1);
        let mut held = Vec::new();
        assert_eq!(receive_all(&mut responder, &mut held), [whole(1, 3, 4), whole(1, 4, 3)]);
        answer_all(&reporter, &mut held);
    }
}

#[test]
fn same_group_key_twice_in_a_batch_makes_two_groups() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&Options::new());
        let batch = [group(1, 3, 2), group(1, 3, 3), group(1, 3, 1), group(1, 3, 2)].concat();
        assert_eq!(reporter.report_batch(&batch).unwrap(), batch.len());
        let mut held = Vec::new();
        let received = receive_all(&mut responder, &mut held);
        assert_eq!(received, [whole(1, 3, 2), whole(1, 3, 3), whole(1, 3, 1), whole(1, 3, 2)]);
        answer_all(&reporter, &mut held);
    }
}

#[cfg(feature = "local")]
#[test]
fn same_group_key_twice_in_a_refused_batch_leaves_the_first_group_half_made() {
    let (reporter, mut responder) = here(local(&Options::new().depth(6).per_device(6).half_made(2)));
    assert_eq!(reporter.report_batch(&group(9, 0, 5)).unwrap(), 5);
    let [first, second] = [group(1, 3, 2), group(1, 3, 3)];
    assert_eq!(reporter.report_batch(&first[..1]).unwrap(), 1);
    // The rest of the first group, which leaves its place, and a second one under its key: the queue has
    // room for one page.
    let batch = [&first[1..], &second].concat();
    for _ in 0..2 {
        assert!(
            matches!(reporter.report_batch(&batch), Err(ReportError::Full(refused)) if refused == batch[0])
        );
        assert_eq!(reporter.counters().half_made, 1);
    }
    let mut held = Vec::new();
    assert_eq!(receive_all(&mut responder, &mut held), [whole(9, 0, 5)]);
    assert_eq!(reporter.report_batch(&batch).unwrap(), 4);
    assert_eq!(receive_all(&mut responder, &mut held), [whole(1, 3, 2), whole(1, 3, 3)]);
    answer_all(&reporter, &mut held);
}

#[test]
fn places_of_half_made_groups_are_used_again_within_a_batch() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&Options::new().half_made(1));
        let batch = [group(1, 0, 2), group(2, 1, 3), group(1, 0, 2)].concat();
        assert_eq!(reporter.report_batch(&batch).unwrap(), 7);
        // One more is too many while the place is taken indeed.
        let batch = [&group(1, 0, 2)[..1], &group(2, 1, 2)].concat();
        assert_eq!(reporter.report_batch(&batch).unwrap(), 1);
        assert!(matches!(reporter.report(batch[1]), Err(ReportError::HalfMadeFull(_))));
        let mut held = Vec::new();
        let received = receive_all(&mut responder, &mut held);
        assert_eq!(received, [whole(1, 0, 2), whole(2, 1, 3), whole(1, 0, 2)]);
        answer_all(&reporter, &mut held);
    }
}

#[cfg(feature = "local")]
#[test]
fn full_queue_is_told_rather_than_the_places_of_groups_that_would_leave() {
    let (reporter, mut responder) = here(local(&Options::new().depth(4).half_made(1)));
    assert_eq!(reporter.report_batch(&group(9, 0, 3)).unwrap(), 3);
    let batch = [group(1, 0, 2), group(2, 0, 2)].concat();
    assert_eq!(reporter.report_batch(&batch).unwrap(), 1, "the first page is half a group");
    assert!(
        matches!(reporter.report_batch(&batch[1..]), Err(ReportError::Full(refused)) if refused == batch[1])
    );
    let mut held = Vec::new();
    assert_eq!(receive_all(&mut responder, &mut held).len(), 1);
    assert_eq!(reporter.report_batch(&batch[1..]).unwrap(), 3);
    assert_eq!(receive_all(&mut responder, &mut held), [whole(1, 0, 2), whole(2, 0, 2)]);
    answer_all(&reporter, &mut held);
}
