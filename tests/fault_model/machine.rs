//! Drives both ends of a channel through calls that the choices decide, and holds each outcome against
//! the model.

mod finishing;
mod reporting;
mod responding;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use recordfd::TryRecvError;
use recordfd::fault::{
    FaultCompletion, FaultGroup, FaultReporter, FaultRequest, FaultResponder, Options, ReportError, Reported,
    RespondError, ResponseCode,
};
use recordfd::uapi::{Format, PageResponse, PageResponseCode, PgFault, PgFaultPerm};

use super::choices::Choices;
use super::model::{Limits, MOST_PAGES, Model, Nothing, NumberMap, Refusal, Unanswerable};

/// Longer than any run of the machine.
const DEADLINE: Duration = Duration::from_secs(7200);
const HALF_MADE_AGE: Duration = Duration::from_secs(3600);
/// The most requests, groups, answers or completions of one call.
const MOST: usize = 64;
/// The most steps with the same odds.
const PHASE: u32 = 48;
const DEVICES: [u32; 4] = [7, 0, u32::MAX, 8];
/// A device that only [`Machine::park`] uses.
pub(crate) const PARKED: u32 = 100;
/// PASIDs from here on belong to one group each.
const OWN_PASID: u32 = 1 << 19;

/// What to call next.
#[derive(Clone, Copy, Debug)]
enum Op {
    ReportBatch,
    Report,
    ReceiveGroups,
    Receive,
    RespondBatch,
    Respond,
    Drop,
    Complete,
    NextCancelled,
    Look,
    // Those from here on look at everything that is open.
    Detach,
    Process,
    OpenCookies,
}

/// How often each is called: while both sides keep up, while the responder falls behind, while the
/// reporter does not collect, and while both clear up.
const OFTEN: [(Op, [u32; 4]); 13] = [
    (Op::ReportBatch, [30, 45, 40, 8]),
    (Op::Report, [6, 10, 8, 2]),
    (Op::ReceiveGroups, [30, 6, 30, 40]),
    (Op::Receive, [5, 2, 5, 5]),
    (Op::RespondBatch, [28, 4, 30, 40]),
    (Op::Respond, [6, 2, 5, 6]),
    (Op::Drop, [3, 1, 3, 3]),
    (Op::Complete, [30, 10, 4, 45]),
    (Op::NextCancelled, [2, 1, 2, 3]),
    (Op::Look, [10, 5, 5, 10]),
    (Op::Detach, [1, 1, 1, 1]),
    (Op::Process, [1, 1, 1, 1]),
    (Op::OpenCookies, [1, 1, 1, 1]),
];

/// A moment between two reports.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    time: u64,
}

/// A group that was received and not answered.
#[derive(Debug)]
struct Holding {
    cookie: u32,
    token: Option<FaultGroup>,
}

/// What a machine is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Makes the channel, both ends in this process.
    pub(crate) make: fn(&Options) -> (FaultReporter, FaultResponder),
    pub(crate) on_socket: bool,
    pub(crate) headed: bool,
    pub(crate) depth: u32,
    /// So deep that nothing may look at all slots for each few groups.
    pub(crate) is_deep: bool,
}

pub(crate) struct Machine<C> {
    pub(crate) choices: C,
    plan: Plan,
    pub(crate) model: Model,
    reporter: Option<FaultReporter>,
    responder: Option<FaultResponder>,
    has_deadline: bool,
    marks: Vec<Mark>,
    held: Vec<Holding>,
    /// Room for those that one batch answers.
    picked: Vec<Holding>,
    parked: Vec<u32>,
    /// Cookies answered lately.
    stale: Vec<u32>,
    /// A group stays in `groups[0]`, where a receive has put it.
    left: bool,
    /// The last batch of requests was not taken whole.
    is_refused: bool,
    phase: usize,
    phase_ends: u64,
    steps: u64,
    /// Addresses and PASIDs given out.
    addresses: u64,
    pasids: u32,
    /// The descriptors may be readable: something was put in since they were last read empty.
    groups_rung: bool,
    completions_rung: bool,
    /// The responder was told of a cancelled group since it received last.
    is_noticed: bool,
    /// Notices so far.
    noticed: u64,
    requests: Vec<FaultRequest>,
    responses: Vec<PageResponse>,
    handles: Vec<usize>,
    pages: Vec<PgFault>,
    groups: Vec<Option<FaultGroup>>,
    completions: Vec<FaultCompletion>,
    /// How often each reason was met.
    pub(crate) refusals: [u64; 8],
    /// How often each cookie was received, if that is to be known.
    pub(crate) cookies: Option<NumberMap<u32>>,
}

impl<C: Choices> Machine<C> {
    pub(crate) fn new(mut choices: C, plan: Plan) -> Self {
        let format = if plan.headed { Format::IOMMU_PGFAULT_V2 } else { Format::IOMMU_PGFAULT_V1 };
        let per_device = match choices.below(3) {
            _ if plan.is_deep => Some(plan.depth),
            0 => None,
            1 => Some(plan.depth),
            _ => Some(plan.depth.div_ceil(8) + choices.below(plan.depth)),
        };
        let half_made = 1 + choices.below(12);
        let max_group = 2 + choices.below(MOST_PAGES as u32 - 1);
        let has_deadline = !plan.is_deep && choices.once_in(2);
        let mut options = Options::new().format(format).depth(plan.depth).max_group(max_group);
        options = options.half_made(half_made).half_made_age(HALF_MADE_AGE);
        if let Some(most) = per_device {
            options = options.per_device(most);
        }
        if has_deadline {
            options = options.deadline(DEADLINE);
        }
        let (reporter, responder) = (plan.make)(&options);
        let depth = reporter.depth();
        let limits = Limits {
            socket: plan.on_socket,
            headed: plan.headed,
            depth: depth as usize,
            per_device: per_device.unwrap_or(depth.div_ceil(2)) as usize,
            max_group: max_group.min(depth) as usize,
            half_made: half_made as usize,
        };
        assert_eq!(reporter.max_group() as usize, limits.max_group);
        Self {
            choices,
            plan,
            model: Model::new(limits),
            reporter: Some(reporter),
            responder: Some(responder),
            has_deadline,
            marks: Vec::new(),
            held: Vec::new(),
            picked: Vec::new(),
            parked: Vec::new(),
            stale: vec![0],
            left: false,
            is_refused: false,
            phase: 0,
            phase_ends: 0,
            steps: 0,
            addresses: 0,
            pasids: 0,
            groups_rung: false,
            completions_rung: false,
            is_noticed: false,
            noticed: 0,
            requests: Vec::new(),
            responses: Vec::new(),
            handles: Vec::new(),
            pages: vec![PgFault::default(); MOST * MOST_PAGES],
            groups: (0..MOST).map(|_| None).collect(),
            completions: vec![FaultCompletion::default(); MOST],
            refusals: [0; 8],
            cookies: None,
        }
    }

    fn reporter(&self) -> &FaultReporter {
        self.reporter.as_ref().expect("the reporter is there")
    }

    fn responder(&self) -> &FaultResponder {
        self.responder.as_ref().expect("the responder is there")
    }

    pub(crate) fn step(&mut self) {
        self.steps += 1;
        if self.steps > self.phase_ends {
            self.phase = self.choices.below(4) as usize;
            self.phase_ends = self.steps + 1 + u64::from(self.choices.below(PHASE));
        }
        let ops = if self.plan.is_deep { &OFTEN[..10] } else { &OFTEN[..] };
        let total: u32 = ops.iter().map(|(_, often)| often[self.phase]).sum();
        let mut place = self.choices.below(total);
        let found = ops.iter().find(|(_, often)| {
            let is_here = place < often[self.phase];
            place = place.saturating_sub(often[self.phase]);
            is_here
        });
        match found.expect("the place is below the total").0 {
            Op::ReportBatch => self.report_batch(),
            Op::Report => self.report(),
            Op::ReceiveGroups => self.receive_groups(),
            Op::Receive => self.receive(),
            Op::RespondBatch => self.respond_batch(),
            Op::Respond => self.respond(),
            Op::Drop => self.drop_one(),
            Op::Complete => self.complete(),
            Op::NextCancelled => self.next_cancelled(),
            Op::Look => self.look(),
            Op::Detach => self.detach(),
            Op::Process => self.process(),
            Op::OpenCookies => self.open_cookies(),
        }
    }

    /// Looks at descriptors and counters.
    pub(crate) fn look(&mut self) {
        let groups_readable = readable(self.responder());
        let completions_readable = readable(self.reporter());
        if self.model.limits.socket {
            assert_eq!(groups_readable, self.model.is_unread());
            assert_eq!(completions_readable, self.model.has_answers());
        } else {
            assert!(groups_readable || !self.model.is_unread(), "groups wait unseen");
            assert!(groups_readable || !self.is_noticed, "a notice waits unseen");
            assert!(!groups_readable || self.groups_rung, "readable without a group");
            assert!(completions_readable || !self.model.has_done(), "completions wait unseen");
            assert!(!completions_readable || self.completions_rung, "readable without a completion");
        }
        let mut counters = self.reporter().counters();
        let oldest = counters.oldest.take();
        let expected = self.model.expected_counters();
        assert_eq!(counters, expected);
        assert_eq!(oldest.is_some(), counters.unanswered > 0);
        let is_due = expected.half_made > 0 || (self.has_deadline && expected.unanswered > 0);
        assert_eq!(self.reporter().next_deadline().is_some(), is_due);
        assert!(!self.reporter().is_closed());
    }
}

/// A moment later than any before.
fn later() -> Instant {
    let before = Instant::now();
    loop {
        let now = Instant::now();
        if now > before {
            return now;
        }
    }
}

pub(crate) fn readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
}

pub(crate) fn nothing_of(error: &TryRecvError) -> Nothing {
    match error {
        TryRecvError::Empty => Nothing::Empty,
        TryRecvError::Closed => Nothing::Closed,
        TryRecvError::BufferTooSmall { needed } => Nothing::TooSmall { needed: *needed },
        other => panic!("{other:?}"),
    }
}
