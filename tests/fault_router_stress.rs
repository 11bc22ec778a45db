//! Handles are switched in the middle of a storm of faults: each fault ends exactly once, by a handle that was attached
//! while it was reported, and before the call that took that handle away has returned.
//!
//! RECORDFD_STRESS_SECONDS says for how long; `ci/router.sh` has a minute of it.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::fault::*;
use common::storm::Random;
use common::until;
use recordfd::fault::{
    AttachError, Cause, FaultCompletion, FaultHandle, FaultRequest, FaultResponder, FaultRouter, FaultSource,
    FaultWork, Options, ReportError, ResponseCode, Routed,
};
use recordfd::uapi::{PgFault, PgFaultPerm};

/// Devices 0 and 1 are switched by one thread each, device 2 by both.
const DEVICES: usize = 3;
const PASIDS: [Option<u32>; 3] = [None, Some(0), Some(1)];
const SOURCES: usize = DEVICES * PASIDS.len();
const REPORTERS: usize = 2;
/// Indices of page request groups, by which a completion is known: each thread that reports has its own.
const INDICES: usize = 512;
/// Faults of one thread in one round.
const MOST: usize = 1 << 16;
const ROUND: Duration = Duration::from_millis(300);

fn space(source: usize) -> (u32, Option<u32>) {
    ((source / PASIDS.len()) as u32, PASIDS[source % PASIDS.len()])
}

fn source(number: usize) -> FaultSource {
    let (dev_id, pasid) = space(number);
    pasid.map_or(FaultSource::rid(dev_id), |pasid| FaultSource::pasid(dev_id, pasid))
}

/// What became of a fault. Times are those of one counter.
#[derive(Default)]
struct Fate {
    source: AtomicU32,
    /// When the report that was taken began, and had returned.
    reported: [AtomicU64; 2],
    told: AtomicU64,
    cause: AtomicU32,
    /// The handle that had it, plus one.
    handle: AtomicU32,
}

/// What all threads note.
struct Log {
    clock: AtomicU64,
    /// The fault that has an index of a source, plus one; 0 if none has.
    pending: Vec<AtomicU32>,
    fates: Vec<Fate>,
    /// Which round the fates are of: late answers come in later ones.
    round: AtomicU64,
    /// Groups that came without their first pages, which went with their device.
    cut: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Log {
    fn new() -> Self {
        Self {
            clock: AtomicU64::new(1),
            pending: (0..SOURCES * INDICES).map(|_| AtomicU32::new(0)).collect(),
            fates: (0..REPORTERS * MOST).map(|_| Fate::default()).collect(),
            round: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            wrong: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }

    fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < 10 {
            wrong.push(what);
        }
    }

    fn told(&self, ended: FaultCompletion) {
        let pasid = PASIDS.iter().position(|pasid| *pasid == ended.pasid).unwrap();
        let source = ended.dev_id as usize * PASIDS.len() + pasid;
        match self.pending[source * INDICES + ended.prg_index as usize].swap(0, SeqCst) {
            0 => self.wrong(format!("told twice, or of nothing: {ended:?}")),
            number => {
                let fate = &self.fates[number as usize - 1];
                fate.cause.store(ended.cause as u32, SeqCst);
                fate.told.store(self.now(), SeqCst);
            }
        }
    }

    /// The handle number `handle` has a group.
    fn handled(&self, handle: u32, pages: &[PgFault]) {
        let (number, round) = (pages[0].addr as u32, pages[0].addr >> 32);
        let missing = (pages[0].length as usize).checked_sub(pages.len());
        if missing.is_none() || pages.iter().any(|page| page.addr != pages[0].addr) {
            self.wrong(format!("not the group that was reported: {pages:?}"));
        }
        self.cut.fetch_add(u64::from(missing > Some(0)), SeqCst);
        if round != self.round.load(SeqCst) {
            return;
        }
        if self.fates[number as usize].handle.swap(handle + 1, SeqCst) != 0 {
            self.wrong(format!("handed over twice: {pages:?}"));
        }
    }
}

/// No longer than from `since` to `until` a handle was attached, or none was. The call that saw to it had returned
/// when it was `done`, and the one that ended it by `retired`.
struct Span {
    handle: Option<u32>,
    since: u64,
    done: u64,
    until: u64,
    retired: u64,
}

impl Span {
    fn new(handle: Option<u32>, since: u64, done: u64) -> Self {
        Self { handle, since, done, until: u64::MAX, retired: u64::MAX }
    }
}

/// What one thread has switched.
struct Switched {
    /// For each source in the order of time; that of a handle overlaps with those before and behind it.
    spans: [Vec<Span>; SOURCES],
    count: u64,
}

/// Says until when each handle can have been attached, and by when it was retired.
///
/// A call that began behind its own, of whichever thread, found it or a later one: when the first such call had
/// returned, it was attached no more. But it need not have been that call which took it away: one that began before that
/// may still be busy retiring it.
fn end_spans(switched: &mut [Switched]) {
    for number in 0..SOURCES {
        let of_all = switched.iter().flat_map(|switched| &switched.spans[number]);
        let mut calls: Vec<_> = of_all.map(|span| (span.since, span.done)).collect();
        calls.sort_unstable();
        let began_by = |time: u64| calls.partition_point(|(since, _)| *since <= time);
        let mut first_done: Vec<_> = calls.iter().map(|(_, done)| *done).collect();
        let mut last_done = first_done.clone();
        for index in 1..calls.len() {
            last_done[index] = last_done[index].max(last_done[index - 1]);
            let back = calls.len() - 1 - index;
            first_done[back] = first_done[back].min(first_done[back + 1]);
        }
        for span in switched.iter_mut().flat_map(|switched| &mut switched.spans[number]) {
            if let Some(until) = first_done.get(began_by(span.done)) {
                (span.until, span.retired) = (*until, last_done[began_by(*until) - 1]);
            }
        }
    }
}

/// Switches the sources of one device, which no other thread does, and notes what was switched.
struct Switcher<'a> {
    world: &'a World,
    device: usize,
    switched: Switched,
}

impl Switcher<'_> {
    fn has_handle(&self, number: usize) -> bool {
        self.switched.spans[number].last().is_some_and(|span| span.handle.is_some())
    }

    /// A call that began at `since` has put `handle` in the place of what there was.
    fn note(&mut self, number: usize, handle: Option<u32>, since: u64) {
        let done = self.world.log.now();
        self.switched.spans[number].push(Span::new(handle, since, done));
        self.switched.count += 1;
    }

    /// Attaches, replaces or detaches.
    fn step(&mut self, random: &mut Random) {
        let World { router, handles, log, .. } = self.world;
        let (pasid, handle) = (random.below(PASIDS.len()), random.below(handles.len()));
        let number = self.device * PASIDS.len() + pasid;
        let since = log.now();
        match (self.has_handle(number), random.below(64)) {
            (_, 0) => {
                let first = self.device * PASIDS.len();
                let of_device = first..first + PASIDS.len();
                let attached: Vec<_> = of_device.filter(|number| self.has_handle(*number)).collect();
                assert_eq!(router.detach_device(self.device as u32), Ok(attached.len()));
                attached.into_iter().for_each(|number| self.note(number, None, since));
            }
            (true, 1..4) => {
                router.detach(source(number)).unwrap();
                self.note(number, None, since);
            }
            (is_attached, _) => {
                let switch = if is_attached { FaultRouter::replace } else { FaultRouter::attach };
                switch(router, source(number), &handles[handle]).unwrap();
                self.note(number, Some(handle as u32), since);
            }
        }
    }

    /// Tries to switch a source that the other thread switches, too.
    fn contend(&mut self, random: &mut Random) {
        let World { router, handles, log, .. } = self.world;
        let number = (DEVICES - 1) * PASIDS.len() + random.below(PASIDS.len());
        let handle = random.below(handles.len());
        let since = log.now();
        let (now, outcome) = match random.below(16) {
            0..4 => (Some(handle as u32), router.attach(source(number), &handles[handle])),
            4..15 => (Some(handle as u32), router.replace(source(number), &handles[handle])),
            _ => (None, router.detach(source(number))),
        };
        match outcome {
            Ok(()) => self.note(number, now, since),
            Err(AttachError::AlreadyAttached | AttachError::NotAttached | AttachError::Busy) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

struct World {
    router: FaultRouter,
    handles: Vec<FaultHandle>,
    log: Arc<Log>,
}

impl World {
    /// A router, its handles, and the threads that answer, which end with it.
    fn new() -> (Self, Vec<thread::JoinHandle<()>>) {
        let log = Arc::new(Log::new());
        let respond = {
            let log = log.clone();
            move |ended| log.told(ended)
        };
        let router = FaultRouter::new(&Options::new().half_made(256), respond).unwrap();
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        let options = Options::new().depth(32).per_device(32);
        for make in EVERY_MAKE {
            let (reporter, responder) = make(&options);
            let (log, number) = (log.clone(), handles.len() as u32);
            handles.push(router.queue(reporter).unwrap());
            threads.push(thread::spawn(move || answer(responder, number, &log)));
        }
        let number = handles.len() as u32;
        let function = {
            let log = log.clone();
            move |pages: &[PgFault]| {
                log.handled(number, pages);
                ResponseCode::Success
            }
        };
        handles.push(router.inline(&options, function).unwrap());
        let (tx, works) = mpsc::sync_channel::<FaultWork>(32);
        handles.push(router.executor(&options, move |work| tx.try_send(work).unwrap()).unwrap());
        threads.push({
            let log = log.clone();
            thread::spawn(move || {
                for (index, work) in works.into_iter().enumerate() {
                    log.handled(number + 1, work.pages());
                    match index % 16 {
                        0 => drop(work),
                        // In time, or not.
                        _ => drop(work.respond(ResponseCode::Success)),
                    }
                }
            })
        });
        (Self { router, handles, log }, threads)
    }

    /// Reports faults at random until `stop`; returns how many.
    fn report(&self, thread: usize, stop: &AtomicBool, random: &mut Random) -> usize {
        let round = self.log.round.load(SeqCst) << 32;
        for index in 0..MOST {
            if stop.load(SeqCst) {
                return index;
            }
            let number = (thread * MOST + index) as u32;
            let place = random.below(SOURCES);
            let own = thread * INDICES / REPORTERS;
            let prg_index = own + index % (INDICES / REPORTERS);
            let pending = &self.log.pending[place * INDICES + prg_index];
            // Its index is another fault's still.
            until(|| pending.load(SeqCst) == 0 || self.is_wrong());
            let fate = &self.log.fates[number as usize];
            fate.source.store(place as u32, SeqCst);
            pending.store(number + 1, SeqCst);
            let (dev_id, pasid) = space(place);
            let count = if random.below(4) == 0 { 3 } else { 1 };
            let (addr, perm, length) = (round | u64::from(number), PgFaultPerm::READ, count);
            let prg_index = prg_index as u32;
            let page = FaultRequest { dev_id, pasid, prg_index, perm, addr, length, ..Default::default() };
            self.report_group(&page, fate);
        }
        MOST
    }

    fn report_group(&self, page: &FaultRequest, fate: &Fate) {
        // A device that is detached loses what it has half made.
        for _ in 1..page.length {
            while self.router.report(*page).is_err() {
                thread::yield_now();
            }
        }
        loop {
            fate.reported[0].store(self.log.now(), SeqCst);
            match self.router.report(FaultRequest { last: true, ..*page }) {
                Ok(Routed::Delivered | Routed::NoHandle) => break,
                Err(ReportError::Full(_) | ReportError::DeviceFull(_)) => thread::yield_now(),
                other => return self.log.wrong(format!("{other:?}")),
            }
        }
        fate.reported[1].store(self.log.now(), SeqCst);
    }

    fn is_wrong(&self) -> bool {
        !self.log.wrong.lock().unwrap().is_empty()
    }

    /// A storm and switches in the middle of it; adds how often each cause was told.
    fn round(&self, seed: u64, causes: &mut BTreeMap<String, u64>) -> (usize, u64) {
        let [storm_over, switches_over, told] = [(); 3].map(|()| AtomicBool::new(false));
        let (counts, switched) = thread::scope(|scope| {
            let random = |thread: usize| Random(seed * 1000 + thread as u64 + 1);
            let storm = &storm_over;
            let reporters: Vec<_> = (0..REPORTERS)
                .map(|thread| scope.spawn(move || self.report(thread, storm, &mut random(thread))))
                .collect();
            let switches = &switches_over;
            let switchers: Vec<_> = (0..DEVICES - 1)
                .map(|device| scope.spawn(move || self.switch(device, switches, &mut random(100 + device))))
                .collect();
            let processing = scope.spawn(|| {
                while !told.load(SeqCst) {
                    self.router.process(Instant::now());
                    thread::sleep(Duration::from_micros(100));
                }
            });
            thread::sleep(ROUND);
            storm_over.store(true, SeqCst);
            let counts: Vec<_> = reporters.into_iter().map(|thread| thread.join().unwrap()).collect();
            switches_over.store(true, SeqCst);
            let mut switched: Vec<_> = switchers.into_iter().map(|thread| thread.join().unwrap()).collect();
            end_spans(&mut switched);
            // What is left is answered, or completed by its detach.
            if seed % 2 == 0 {
                self.detach_all();
            }
            let all = || self.log.pending.iter().all(|pending| pending.load(SeqCst) == 0);
            if !until(|| all() || self.is_wrong()) {
                self.log.wrong("not all were told".into());
            }
            told.store(true, SeqCst);
            processing.join().unwrap();
            (counts, switched)
        });
        self.detach_all();
        assert_eq!(*self.log.wrong.lock().unwrap(), [""; 0]);
        for (thread, count) in counts.iter().enumerate() {
            for fate in &self.log.fates[thread * MOST..][..*count] {
                *causes.entry(self.check(fate, &switched)).or_default() += 1;
            }
        }
        self.log.round.fetch_add(1, SeqCst);
        for fate in &self.log.fates {
            fate.told.store(0, SeqCst);
            fate.handle.store(0, SeqCst);
        }
        (counts.iter().sum(), switched.iter().map(|switched| switched.count).sum())
    }

    fn detach_all(&self) {
        for device in 0..DEVICES {
            self.router.detach_device(device as u32).unwrap();
        }
    }

    /// Switches the sources of `device`, and now and then those that others switch, too.
    fn switch(&self, device: usize, stop: &AtomicBool, random: &mut Random) -> Switched {
        let none = || vec![Span::new(None, 0, 0)];
        let switched = Switched { spans: [(); SOURCES].map(|()| none()), count: 0 };
        let mut own = Switcher { world: self, device, switched };
        while !stop.load(SeqCst) {
            // Something is to be under way when it is switched.
            (0..random.below(4_000)).for_each(|_| std::hint::spin_loop());
            if random.below(4) > 0 { own.step(random) } else { own.contend(random) }
        }
        own.switched
    }

    /// Why a fault ended, which must be a reason that there was.
    fn check(&self, fate: &Fate, switched: &[Switched]) -> String {
        let load = |value: &AtomicU64| value.load(SeqCst);
        let (began, returned) = (load(&fate.reported[0]), load(&fate.reported[1]));
        let (told, number) = (load(&fate.told), fate.source.load(SeqCst) as usize);
        let cause = [Cause::Answered, Cause::Detached, Cause::NoHandle, Cause::Dropped];
        let cause = cause.into_iter().find(|cause| *cause as u32 == fate.cause.load(SeqCst)).unwrap();
        let handle = fate.handle.load(SeqCst).checked_sub(1);
        assert_ne!(told, 0, "not told");
        // What an executor drops, it has had; what is answered, somebody has had.
        assert!(matches!(cause, Cause::Detached | Cause::NoHandle) || handle.is_some(), "{cause:?}");
        assert!(cause != Cause::NoHandle || handle.is_none());
        let meanwhile = switched.iter().flat_map(|Switched { spans, .. }| {
            let spans = &spans[number];
            // Of one thread, what began later could be there longer.
            let first = spans.partition_point(|span| span.until <= began);
            spans[first..].iter().take_while(|span| span.since < returned)
        });
        let is_right = meanwhile.into_iter().any(|span| match (cause, span.handle) {
            (Cause::NoHandle, had) => had.is_none(),
            (_, None) => false,
            // Nothing is told behind the call that took the handle away.
            (_, had) => (handle.is_none() || handle == had) && told < span.retired,
        });
        assert!(is_right, "{cause:?} of handle {handle:?} at {began}..{returned}, told at {told}");
        format!("{cause:?}")
    }
}

/// Answers what comes from a queue until the router is gone.
fn answer(mut responder: FaultResponder, handle: u32, log: &Log) {
    let mut pages = [PgFault::default(); 8];
    while let Ok(group) = responder.recv_group(&mut pages) {
        log.handled(handle, &pages[group.range()]);
        // In time, or not.
        let _ = group.respond(ResponseCode::Success);
    }
}

#[test]
fn every_fault_ends_once_and_by_a_handle_that_was_attached() {
    let seconds = std::env::var("RECORDFD_STRESS_SECONDS").map_or(3.0, |seconds| seconds.parse().unwrap());
    let (world, threads) = World::new();
    let (began, mut causes) = (Instant::now(), BTreeMap::new());
    let (mut rounds, mut faults, mut switches) = (0, 0, 0);
    while began.elapsed().as_secs_f64() < seconds {
        rounds += 1;
        let (reported, switched) = world.round(rounds, &mut causes);
        (faults, switches) = (faults + reported, switches + switched);
    }
    println!("{faults} faults and {switches} switches in {rounds} rounds: {causes:?}");
    assert!(world.log.cut.load(SeqCst) <= world.router.counters().discarded, "pages were lost");
    assert!(faults > 1000 && switches > 1000 && causes.len() == 4, "hardly anything has happened");
    drop(world);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
