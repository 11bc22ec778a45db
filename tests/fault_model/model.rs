//! What a channel of page faults promises, in a few queues and counts. It knows what the documentation
//! says and nothing of slots, generations or doorbells.

mod completing;
mod publishing;
mod receiving;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use recordfd::fault::{Cause, FaultCompletion, FaultReporterCounters, FaultRequest, ResponseCode};
use recordfd::uapi::{PgFault, PgFaultFlags, PgFaultPerm};

/// The most pages of a group here.
pub(crate) const MOST_PAGES: usize = 4;

/// The bounds of a channel.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) socket: bool,
    /// The format can say CANCELLED.
    pub(crate) headed: bool,
    pub(crate) depth: usize,
    pub(crate) per_device: usize,
    pub(crate) max_group: usize,
    pub(crate) half_made: usize,
}

/// Why a request is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    DeviceFull,
    HalfMadeFull,
    TooLarge,
    Pasid,
    PrgIndex,
    Permission,
    Closed,
}

/// Why nothing is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nothing {
    Empty,
    Closed,
    TooSmall { needed: usize },
}

/// Why an answer is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswerable {
    Stale,
    Code,
}

/// Where a group is on its way there and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Unread,
    /// Received and not answered.
    Held,
    /// Its answer is on the way.
    Answered,
    /// Nobody can answer it any more.
    Gone,
}

/// How far the responder is with the notice that a group was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    None,
    /// One of the notices of this number, some of which may have been read.
    Coming(u64),
    /// To be told of.
    Due,
    Told,
}

/// How a group ended. What ended by the same step has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ending {
    code: ResponseCode,
    cause: Cause,
    step: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    dev_id: u32,
    pasid: Option<u32>,
    prg_index: u32,
    /// What tells its pages apart.
    addrs: [u64; MOST_PAGES],
    pages: usize,
    /// When it was published, in marks.
    time: u64,
    /// 0 until it is known.
    cookie: u32,
    place: Place,
    ending: Option<Ending>,
    collected: bool,
    notice: Notice,
}

/// Pages that wait for the last one of their group.
#[derive(Clone, Debug)]
pub(crate) struct HalfMade {
    pub(crate) dev_id: u32,
    pub(crate) pasid: Option<u32>,
    pub(crate) prg_index: u32,
    addrs: [u64; MOST_PAGES],
    pages: usize,
    too_large: bool,
    /// When it began, in marks.
    time: u64,
}

#[derive(Clone, Copy, Debug)]
enum Unread {
    Group(usize),
    /// One of the notices of this number.
    Notice(u64),
}

/// A write into a socket, which takes up room until all its records are read.
#[derive(Clone, Copy, Debug)]
struct Write {
    records: usize,
    read: usize,
}

/// A number of groups that completed together and are not collected.
#[derive(Clone, Copy, Debug)]
struct Step {
    number: u64,
    left: usize,
}

/// Cookies and PASIDs are spread well enough by a multiplication, and SipHash takes most of the time.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only numbers are hashed")
    }

    fn write_u32(&mut self, number: u32) {
        let product = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

pub(crate) type NumberMap<T> = HashMap<u32, T, BuildHasherDefault<Spread>>;

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) limits: Limits,
    groups: Vec<Option<Group>>,
    free: Vec<usize>,
    by_cookie: NumberMap<usize>,
    /// By PASID, groups that completed before anyone was told their cookie.
    unnamed: NumberMap<usize>,
    /// Pages of the groups on their way, of each device.
    of_device: NumberMap<usize>,
    /// In the order in which they began.
    pub(crate) half_made: Vec<HalfMade>,
    /// Devices of half-made groups that ended in this batch.
    leaving: Vec<u32>,
    unread: VecDeque<Unread>,
    unread_pages: usize,
    /// Pages read of the first unread group.
    part: usize,
    writes: VecDeque<Write>,
    /// What they take of the send buffer.
    charged: usize,
    /// Answers not taken in yet.
    answers: VecDeque<(usize, ResponseCode)>,
    unfinished: VecDeque<HalfMade>,
    steps: VecDeque<Step>,
    last_step: u64,
    done: usize,
    /// Groups on their way.
    taken: usize,
    /// Groups that the responder holds and is to be told of.
    due: usize,
    /// By number: notices that were written, and those of them that were read.
    notices: HashMap<u64, (usize, usize)>,
    /// Notices between threads so far.
    pub(crate) noticed: u64,
    pub(crate) time: u64,
    pub(crate) reporter_gone: bool,
    pub(crate) responder_gone: bool,
    /// The reporter knows that nobody answers any more.
    ended: bool,
    pub(crate) counters: FaultReporterCounters,
    pub(crate) published: u64,
    pub(crate) completed: u64,
    pub(crate) received: u64,
}

impl Model {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            groups: Vec::new(),
            free: Vec::new(),
            by_cookie: NumberMap::default(),
            unnamed: NumberMap::default(),
            of_device: NumberMap::default(),
            half_made: Vec::new(),
            leaving: Vec::new(),
            unread: VecDeque::new(),
            unread_pages: 0,
            part: 0,
            writes: VecDeque::new(),
            charged: 0,
            answers: VecDeque::new(),
            unfinished: VecDeque::new(),
            steps: VecDeque::new(),
            last_step: 0,
            done: 0,
            taken: 0,
            due: 0,
            notices: HashMap::new(),
            noticed: 0,
            time: 0,
            reporter_gone: false,
            responder_gone: false,
            ended: false,
            counters: FaultReporterCounters::default(),
            published: 0,
            completed: 0,
            received: 0,
        }
    }

    fn group(&mut self, handle: usize) -> &mut Group {
        self.groups[handle].as_mut().expect("a group that is on its way")
    }

    /// Notes what a group is named; nothing else on its way goes by that name.
    pub(crate) fn name(&mut self, handle: usize, cookie: u32) {
        let known = std::mem::replace(&mut self.group(handle).cookie, cookie);
        if known == 0 {
            assert_ne!(cookie, 0, "a cookie is never 0");
            let before = self.by_cookie.insert(cookie, handle);
            assert_eq!(before, None, "the cookie {cookie:#x} names two groups");
        } else {
            assert_eq!(known, cookie, "a group changes its cookie");
        }
    }
}
