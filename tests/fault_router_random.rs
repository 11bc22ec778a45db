//! Long random lives of a router, the same in every run, agree with a simple picture of who must be told what.

mod common;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use common::fault::*;
use common::router::*;
use common::storm::Random;
use recordfd::fault::{
    AttachError, Cause, FaultCompletion, FaultGroup, FaultHandle, FaultRequest, FaultResponder, FaultRouter,
    FaultSource, FaultWork, Options, ReportError, ResponseCode, Routed, SwitchError,
};
use recordfd::uapi::PgFault;

use ResponseCode::{Invalid, Success};

const HOUR: Duration = Duration::from_secs(3600);
const MAX_GROUP: u32 = 4;

/// Device and PASID.
type Space = (u32, Option<u32>);

fn source((dev_id, pasid): Space) -> FaultSource {
    pasid.map_or(FaultSource::rid(dev_id), |pasid| FaultSource::pasid(dev_id, pasid))
}

/// What a handle is, and who answers there.
enum Kind {
    Queue { responder: Box<FaultResponder>, held: Vec<(FaultGroup, u64)> },
    Work { kept: Kept, held: Vec<(FaultWork, u64)> },
    Inline,
}

struct Way {
    handle: FaultHandle,
    kind: Kind,
    depth: u32,
    has_deadline: bool,
    /// Groups that nobody may answer in time any more, and that keep their places.
    late: u32,
}

/// A group that was handed over and not told of. Its `prg_index` is no other's meanwhile.
#[derive(Debug)]
struct Group {
    number: u64,
    space: Space,
    pages: Vec<u64>,
    way: usize,
    /// Which attachment it went through.
    attachment: u64,
    answered: Option<(ResponseCode, Cause)>,
}

struct Life {
    router: FaultRouter,
    told: Receiver<FaultCompletion>,
    random: Random,
    ways: Vec<Way>,
    /// What is attached, whether as the owner of the PASID table, and as which attachment.
    table: BTreeMap<Space, (usize, bool, u64)>,
    half_made: BTreeMap<u32, (Space, Vec<u64>)>,
    open: BTreeMap<u32, Group>,
    next: u64,
    handed_over: u64,
    ended: BTreeMap<String, u64>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let options = Options::new().half_made(6).half_made_age(HOUR).max_group(MAX_GROUP);
        let (router, told) = router_with(&options);
        let mut life = Self {
            router,
            told,
            random: Random(seed),
            ways: Vec::new(),
            table: BTreeMap::new(),
            half_made: BTreeMap::new(),
            open: BTreeMap::new(),
            next: 0,
            handed_over: 0,
            ended: BTreeMap::new(),
        };
        let ways = [false, false, true].map(|has_deadline| life.queue(has_deadline));
        life.ways.extend(ways);
        let ways = [false, true].map(|has_deadline| life.work(has_deadline));
        life.ways.extend(ways);
        let handle = life.router.inline(&Options::new().depth(1), |_| Success).unwrap();
        life.ways.push(Way { handle, kind: Kind::Inline, depth: 1, has_deadline: false, late: 0 });
        life
    }

    fn options(&mut self, has_deadline: bool) -> (Options, u32) {
        let depth = 4 + self.random.below(8) as u32;
        let options = Options::new().depth(depth).per_device(1 << 10).max_group(MAX_GROUP);
        (if has_deadline { options.deadline(HOUR) } else { options }, depth)
    }

    fn queue(&mut self, has_deadline: bool) -> Way {
        let (options, depth) = self.options(has_deadline);
        let (reporter, responder) = EVERY_MAKE[self.random.below(EVERY_MAKE.len())](&options);
        let handle = self.router.queue(reporter).unwrap();
        Way {
            handle,
            kind: Kind::Queue { responder: responder.into(), held: Vec::new() },
            depth,
            has_deadline,
            late: 0,
        }
    }

    fn work(&mut self, has_deadline: bool) -> Way {
        let (options, depth) = self.options(has_deadline);
        let kept = Kept::default();
        let handle = kept.handle(&self.router, &options);
        Way { handle, kind: Kind::Work { kept, held: Vec::new() }, depth, has_deadline, late: 0 }
    }

    fn space(&mut self) -> Space {
        let pasid = [None, Some(0), Some(1)][self.random.below(3)];
        (self.random.below(3) as u32, pasid)
    }

    fn route(&self, space: Space) -> Option<(usize, u64)> {
        let owner = || self.table.get(&(space.0, None)).filter(|(_, owns, _)| *owns);
        let found = self.table.get(&space).or_else(|| space.1.and_then(|_| owner()));
        found.map(|(way, _, attachment)| (*way, *attachment))
    }

    fn step(&mut self) {
        match self.random.below(32) {
            0..12 => self.report(),
            12..16 => self.receive(),
            16..22 => self.answer(),
            22..24 => self.collect(),
            24..28 => self.switch(),
            28 => self.detach(),
            29 => self.process(),
            30 => match self.random.below(4) {
                0 => self.detach_device(),
                1 => self.expire(),
                _ => {}
            },
            _ if self.random.below(8) == 0 => self.close(),
            _ => {}
        }
    }

    fn report(&mut self) {
        let begun = self.half_made.len();
        let (prg_index, space) = if begun > 0 && self.random.below(2) == 0 {
            let (prg_index, (space, _)) = self.half_made.iter().nth(self.random.below(begun)).unwrap();
            (*prg_index, *space)
        } else {
            let is_taken = |index: &u32| self.half_made.contains_key(index) || self.open.contains_key(index);
            ((0..512).find(|index| !is_taken(index)).unwrap(), self.space())
        };
        self.next += 1;
        let last = self.random.below(3) > 0;
        let request = FaultRequest { prg_index, addr: self.next, last, ..last_page(space.0, space.1) };
        let routed = self.router.report(request);
        let half_made = self.half_made.get(&prg_index);
        let count = half_made.map_or(0, |(_, pages)| pages.len());
        match routed {
            Ok(Routed::HalfMade) => {
                assert!(!last);
                self.half_made.entry(prg_index).or_insert((space, Vec::new())).1.push(request.addr);
            }
            Ok(routed) => {
                assert!(last && count < MAX_GROUP as usize);
                self.handed_over(request, routed);
            }
            Err(ReportError::TooLarge(back)) => {
                assert!(back == request && !last && count == MAX_GROUP as usize - 1, "{count}");
                // It is refused with its last page, too.
                let error = self.router.report(FaultRequest { last: true, ..request }).unwrap_err();
                assert!(matches!(error, ReportError::TooLarge(_)));
                self.half_made.remove(&prg_index);
            }
            Err(ReportError::HalfMadeFull(back)) => {
                let of_device = self.half_made.values().filter(|(other, _)| other.0 == space.0).count();
                assert!(back == request && !last && count == 0 && (begun == 6 || of_device == 3));
            }
            Err(ReportError::Full(back)) => {
                let (way, _) = self.route(space).unwrap();
                let held = self.open.values().filter(|group| group.way == way).count() as u32;
                let way = &self.ways[way];
                let has_place = held + way.late < way.depth;
                assert!(back == request && last);
                // A queue counts the pages, too.
                assert!(!has_place || matches!(way.kind, Kind::Queue { .. }));
            }
            Err(error) => panic!("{error}"),
        }
        self.told(|_| None, |_| false);
    }

    fn handed_over(&mut self, request: FaultRequest, routed: Routed) {
        let FaultRequest { prg_index, dev_id, pasid, addr, .. } = request;
        let before = self.half_made.remove(&prg_index);
        let (space, mut pages) = before.unwrap_or(((dev_id, pasid), Vec::new()));
        pages.push(addr);
        self.handed_over += 1;
        let (answered, way, attachment) = match (self.route(space), routed) {
            (None, Routed::NoHandle) => (Some((Invalid, Cause::NoHandle)), usize::MAX, 0),
            (Some((way, attachment)), Routed::HungUp) => {
                assert!(self.ways[way].handle.is_closed());
                (Some((Invalid, Cause::HungUp)), way, attachment)
            }
            (Some((way, attachment)), Routed::Delivered) => {
                let answered = match &mut self.ways[way].kind {
                    Kind::Inline => Some((Success, Cause::Answered)),
                    Kind::Work { kept, held } => {
                        let work = kept.take();
                        assert_eq!(work.pages().iter().map(|page| page.addr).collect::<Vec<_>>(), pages);
                        held.push((work, self.next));
                        None
                    }
                    Kind::Queue { .. } => None,
                };
                (answered, way, attachment)
            }
            other => panic!("{other:?}"),
        };
        let group = Group { number: self.next, space, pages, way, attachment, answered };
        self.open.insert(prg_index, group);
        if answered.is_some() {
            self.told(|_| None, |_| false);
            assert!(!self.open.contains_key(&prg_index), "it is told at once");
        }
    }

    /// Takes what was told, and checks it: groups end as they were answered, or for the cause that `without` says.
    fn told(&mut self, without: impl Fn(&Group) -> Option<Cause>, unfinished: impl Fn(Space) -> bool) {
        for ended in self.told.try_iter() {
            let FaultCompletion { dev_id, pasid, prg_index, code, cause, .. } = ended;
            *self.ended.entry(format!("{cause:?}")).or_default() += 1;
            if cause == Cause::Unfinished {
                let (space, _) = self.half_made.remove(&prg_index).unwrap();
                assert!(space == (dev_id, pasid) && unfinished(space) && code == Invalid);
                continue;
            }
            let group = self.open.remove(&prg_index).unwrap_or_else(|| panic!("told twice: {ended:?}"));
            let due = group.answered.or_else(|| without(&group).map(|cause| (Invalid, cause)));
            assert_eq!(((dev_id, pasid), Some((code, cause))), (group.space, due), "{group:?}");
            if group.answered.is_none() {
                self.ways[group.way].late += 1;
            }
        }
    }

    fn receive(&mut self) {
        let way = self.random.below(3);
        let Kind::Queue { responder, held } = &mut self.ways[way].kind else { unreachable!("a queue") };
        let mut pages = [PgFault::default(); 8];
        let Ok(group) = responder.try_recv_group(&mut pages) else { return };
        let addrs: Vec<_> = pages[..group.len()].iter().map(|page| page.addr).collect();
        // A group that is not open any more was completed while it was on its way.
        if let Some(open) = self.open.values().find(|open| open.pages.last() == addrs.last()) {
            assert_eq!((open.way, &open.pages), (way, &addrs));
        }
        held.push((group, *addrs.last().unwrap()));
    }

    fn answer(&mut self) {
        let way = self.random.below(5);
        let count = match &self.ways[way].kind {
            Kind::Queue { held, .. } => held.len(),
            Kind::Work { held, .. } => held.len(),
            Kind::Inline => 0,
        };
        if count == 0 {
            return;
        }
        let (index, code) = (self.random.below(count), [Success, Invalid][self.random.below(2)]);
        let drops = self.random.below(8) == 0;
        let is_work = way >= 3;
        let given = match (drops, is_work) {
            (true, true) => (Invalid, Cause::Dropped),
            (true, false) => (Invalid, Cause::Answered),
            _ => (code, Cause::Answered),
        };
        let number = match &self.ways[way].kind {
            Kind::Queue { held, .. } => held[index].1,
            Kind::Work { held, .. } => held[index].1,
            Kind::Inline => unreachable!("it holds none"),
        };
        let group = self.open.values_mut().find(|group| group.number == number);
        let in_time = group.is_some();
        group.into_iter().for_each(|group| group.answered = Some(given));
        match &mut self.ways[way].kind {
            Kind::Queue { held, .. } => {
                let (group, _) = held.swap_remove(index);
                // Whether it is late, only a responder between threads knows.
                if drops {
                    drop(group);
                } else {
                    assert!(group.respond(code).is_ok() || !in_time);
                }
            }
            Kind::Work { held, .. } => {
                let (work, _) = held.swap_remove(index);
                if drops {
                    drop(work);
                } else {
                    assert_eq!(work.respond(code).is_ok(), in_time);
                }
                self.ways[way].late -= u32::from(!in_time);
            }
            Kind::Inline => {}
        }
        self.told(|_| None, |_| false);
        if is_work {
            assert!(self.open.values().all(|group| group.number != number), "it is told at once");
        }
    }

    fn collect(&mut self) {
        let way = self.random.below(self.ways.len());
        self.router.collect(&self.ways[way].handle);
        self.told(|_| None, |_| false);
        self.assert_all_told(|group| group.way == way && group.answered.is_some());
    }

    fn process(&mut self) {
        self.router.process(Instant::now());
        self.told(|_| None, |_| false);
        let attached: Vec<_> = self.table.values().map(|(way, ..)| *way).collect();
        self.assert_all_told(|group| attached.contains(&group.way) && group.answered.is_some());
    }

    fn expire(&mut self) {
        self.router.process(Instant::now() + 2 * HOUR);
        let has_deadline: Vec<_> = self.ways.iter().map(|way| way.has_deadline).collect();
        self.told(|group| has_deadline[group.way].then_some(Cause::Deadline), |_| true);
        assert!(self.half_made.is_empty());
        self.assert_all_told(|group| has_deadline[group.way]);
    }

    fn assert_all_told(&self, is_meant: impl Fn(&Group) -> bool) {
        let left = self.open.values().find(|group| is_meant(group));
        assert!(left.is_none(), "not told: {left:?}");
    }

    fn switch(&mut self) {
        let (space, way) = (self.space(), self.random.below(self.ways.len()));
        let (replaces, owns) = (self.random.below(2) == 0, self.random.below(3) == 0);
        let fails = self.random.below(4) == 0;
        let old = self.table.get(&space).map(|(_, _, attachment)| *attachment);
        let handle = &self.ways[way].handle;
        let handle = if owns { handle.owning_pasid_table() } else { handle.clone() };
        let set = || if fails { Err(()) } else { Ok(()) };
        let switched = match replaces {
            true => self.router.replace_with(source(space), &handle, set),
            false => self.router.attach_with(source(space), &handle, set),
        };
        match switched {
            Err(SwitchError::Attach(AttachError::AlreadyAttached)) => assert!(!replaces && old.is_some()),
            Err(SwitchError::Attach(AttachError::NotAttached)) => assert!(replaces && old.is_none()),
            Err(SwitchError::Switch(())) => assert!(fails && replaces == old.is_some()),
            Ok(()) => {
                assert!(!fails && replaces == old.is_some());
                self.next += 1;
                self.table.insert(space, (way, owns, self.next));
                return self.retired(old);
            }
            Err(error) => panic!("{error}"),
        }
        self.told(|_| None, |_| false);
    }

    /// Of an attachment that is gone everything was told before the call returned, and of others no more than that.
    fn retired(&mut self, old: Option<u64>) {
        let is_its = |group: &Group| Some(group.attachment) == old;
        self.told(|group| is_its(group).then_some(Cause::Detached), |_| false);
        self.assert_all_told(is_its);
    }

    fn detach(&mut self) {
        let space = self.space();
        let old = self.table.remove(&space).map(|(_, _, attachment)| attachment);
        assert_eq!(self.router.detach(source(space)).is_ok(), old.is_some());
        self.retired(old);
    }

    fn detach_device(&mut self) {
        let dev_id = self.random.below(3) as u32;
        let of_device: Vec<_> = self.table.keys().filter(|space| space.0 == dev_id).copied().collect();
        assert_eq!(self.router.detach_device(dev_id), Ok(of_device.len()));
        let old: Vec<_> = of_device.iter().filter_map(|space| self.table.remove(space)).collect();
        let is_its = |group: &Group| old.iter().any(|(_, _, attachment)| *attachment == group.attachment);
        self.told(|group| is_its(group).then_some(Cause::Detached), |_| false);
        self.assert_all_told(is_its);
        self.half_made.retain(|_, (space, _)| space.0 != dev_id);
        assert_eq!(self.router.counters().half_made as usize, self.half_made.len());
    }

    /// The responder of a queue goes, with what it holds; another queue takes the place.
    fn close(&mut self) {
        let way = self.random.below(3);
        let new = self.queue(self.ways[way].has_deadline);
        let old = std::mem::replace(&mut self.ways[way], new);
        let attached = self.table.iter().find(|(_, (of, ..))| *of == way).map(|(space, _)| *space);
        let Kind::Queue { responder, held } = old.kind else { unreachable!("a queue") };
        let numbers: Vec<_> = held.iter().map(|(_, number)| *number).collect();
        for group in self.open.values_mut().filter(|group| numbers.contains(&group.number)) {
            group.answered.get_or_insert((Invalid, Cause::Answered));
        }
        drop((held, responder));
        assert!(common::until(|| old.handle.is_closed()));
        if let Some(space) = attached {
            let request = FaultRequest { prg_index: 511, ..last_page(space.0, space.1) };
            match self.router.report(request) {
                Ok(routed) => {
                    assert_eq!(routed, Routed::HungUp);
                    self.handed_over += 1;
                    let ended = self.told.try_iter().last().unwrap();
                    assert_eq!((ended.prg_index, ended.cause), (511, Cause::HungUp));
                    *self.ended.entry("HungUp".into()).or_default() += 1;
                }
                // Until it has been looked at.
                Err(ReportError::Full(_)) => assert!(old.handle.counters().in_flight > 0),
                Err(error) => panic!("{error}"),
            }
        }
        self.router.collect(&old.handle);
        self.told(|group| (group.way == way).then_some(Cause::HungUp), |_| false);
        self.assert_all_told(|group| group.way == way);
        self.ways[way].late = 0;
        let handle = &self.ways[way].handle;
        for (space, (_, owns, _)) in self.table.iter().filter(|(_, (of, ..))| *of == way) {
            let handle = if *owns { handle.owning_pasid_table() } else { handle.clone() };
            self.router.replace(source(*space), &handle).unwrap();
        }
        assert_eq!(old.handle.counters().in_flight, 0);
        self.told(|_| None, |_| false);
    }

    fn finish(mut self) -> BTreeMap<String, u64> {
        (0..3).for_each(|way| self.router.collect(&self.ways[way].handle));
        self.told(|_| None, |_| false);
        let mut detached = 0;
        for dev_id in 0..3 {
            detached += self.router.detach_device(dev_id).unwrap();
        }
        assert_eq!(detached, self.table.len());
        self.told(|_| Some(Cause::Detached), |_| false);
        assert!(self.open.is_empty(), "{:?}", self.open);
        let unfinished = self.ended.get("Unfinished").copied().unwrap_or(0);
        assert_eq!(self.ended.values().sum::<u64>(), self.handed_over + unfinished);
        assert_eq!(self.router.counters().unfinished, unfinished);
        for way in &mut self.ways {
            if let Kind::Work { held, .. } = &mut way.kind {
                held.clear();
                assert_eq!(way.handle.counters().in_flight, 0);
            }
        }
        assert!(self.told.try_iter().next().is_none());
        self.ended
    }
}

#[test]
fn lives_agree_with_the_picture() {
    const STEPS: u32 = 4000;
    // RECORDFD_SEED=number runs one of them again.
    let seed = std::env::var("RECORDFD_SEED").ok().map(|seed| seed.parse().unwrap());
    let mut ended = BTreeMap::<String, u64>::new();
    for seed in seed.map_or(1..=60, |seed| seed..=seed) {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            let mut life = Life::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
            (0..STEPS).for_each(|_| life.step());
            life.finish()
        }));
        match lived {
            Ok(of_life) => {
                of_life.into_iter().for_each(|(cause, count)| *ended.entry(cause).or_default() += count)
            }
            Err(panic) => {
                eprintln!("RECORDFD_SEED={seed}");
                resume_unwind(panic)
            }
        }
    }
    println!("{ended:?}");
    let causes = ["Answered", "Deadline", "Detached", "Dropped", "HungUp", "NoHandle", "Unfinished"];
    assert!(ended.keys().eq(causes), "{ended:?}");
}
