//! What a reporter must keep of its requests, from one to the next: as little of it as there can be.

use std::collections::BTreeMap;

use recordfd::request::{Completion, Recovery, Refusal};
use recordfd::uapi::{
    DeviceRequest, DeviceRequestKind, PciChannelState, PciError, PciErrorFlags, PciErrorStep, PciErrorV2,
};

use crate::Decisions;
use crate::sample::Sample;

/// A kind of request, with what is kept of it.
pub(crate) trait Kind: Sample {
    type Kept: Kept<Self>;

    /// Any record that a device may want to report, and some that it may not.
    fn any(decisions: &mut impl Decisions, dev_id: u32) -> Self;
}

pub(crate) trait Kept<R: Kind>: Default {
    fn admit(&self, record: &R) -> Result<(), Refusal>;

    /// Whether it can be kept in a channel of `depth`.
    fn has_room(&self, _record: &R, _depth: u32) -> bool {
        true
    }

    fn published(&mut self, record: &R);
    fn completed(&mut self, ended: &Completion<R>);
    fn detached(&mut self, _dev_id: u32) {}

    /// Whether something is to be sent again by the hour.
    fn is_due(&self, _hour: u32) -> bool {
        false
    }

    /// Counts what is due by the hour.
    fn repeat(&mut self, _hour: u32, _is_open: impl Fn(u32) -> bool) {}

    /// How often the request was sent again at most.
    fn repeats(&self, _cookie: u32) -> u32 {
        0
    }
}

/// Recoveries by device, with the cookie of the last step.
#[derive(Default)]
pub(crate) struct Recoveries(BTreeMap<u32, (Recovery, u32)>);

impl Kind for PciError {
    type Kept = Recoveries;

    fn any(decisions: &mut impl Decisions, dev_id: u32) -> Self {
        let step = match decisions.below(16) {
            0 => decisions.number() as u16,
            other => 1 + other as u16 % 4,
        };
        let mut error = PciError { step: PciErrorStep::new(step), ..PciError::of(dev_id) };
        match decisions.below(8) {
            0 => error.state = PciChannelState::IO_PERM_FAILURE,
            1 => {
                error.flags = PciErrorFlags::CORRECTABLE;
                error.state = PciChannelState::IO_NORMAL;
            }
            2 => error.state = PciChannelState::new(decisions.below(5) as u16),
            _ => {}
        }
        error
    }
}

impl Kept<PciError> for Recoveries {
    fn admit(&self, record: &PciError) -> Result<(), Refusal> {
        let known = self.0.get(&record.dev_id);
        known.map(|(recovery, _)| *recovery).unwrap_or_default().tell(record)
    }

    fn has_room(&self, record: &PciError, depth: u32) -> bool {
        self.0.len() < depth as usize || self.0.contains_key(&record.dev_id)
    }

    fn published(&mut self, record: &PciError) {
        let (recovery, cookie) = self.0.entry(record.dev_id).or_default();
        recovery.tell(record).unwrap();
        *cookie = record.cookie;
    }

    fn completed(&mut self, ended: &Completion<PciError>) {
        let dev_id = ended.record.dev_id;
        match self.0.get_mut(&dev_id) {
            Some((recovery, cookie)) if *cookie == ended.record.cookie => {
                assert_eq!(recovery.answer(ended.verdict), Ok(ended.next()));
                if !recovery.is_under_way() {
                    self.0.remove(&dev_id);
                }
            }
            _ => {}
        }
    }

    fn detached(&mut self, dev_id: u32) {
        self.0.remove(&dev_id);
    }
}

impl Kind for PciErrorV2 {
    type Kept = Recoveries;

    fn any(decisions: &mut impl Decisions, dev_id: u32) -> Self {
        let PciError { step, state, flags, .. } = PciError::any(decisions, dev_id);
        PciErrorV2 { step, state, flags, ..PciErrorV2::of(dev_id) }
    }
}

/// What is kept does not depend on the version.
impl Kept<PciErrorV2> for Recoveries {
    fn admit(&self, record: &PciErrorV2) -> Result<(), Refusal> {
        self.admit(&record.to_v1())
    }

    fn has_room(&self, record: &PciErrorV2, depth: u32) -> bool {
        self.has_room(&record.to_v1(), depth)
    }

    fn published(&mut self, record: &PciErrorV2) {
        self.published(&record.to_v1());
    }

    fn completed(&mut self, ended: &Completion<PciErrorV2>) {
        let Completion { record, verdict, cause } = *ended;
        assert_eq!(Completion { record: record.to_v1(), verdict, cause }.next(), ended.next());
        self.completed(&Completion { record: record.to_v1(), verdict, cause });
    }

    fn detached(&mut self, dev_id: u32) {
        Kept::<PciError>::detached(self, dev_id);
    }
}

/// Releases whose completion was not collected: the hour in which each is due, and its count. And how often each
/// was sent again while it was open.
#[derive(Default)]
pub(crate) struct Releases {
    due: BTreeMap<u32, (u32, u32)>,
    sent: BTreeMap<u32, u32>,
}

impl Kind for DeviceRequest {
    type Kept = Releases;

    fn any(decisions: &mut impl Decisions, dev_id: u32) -> Self {
        let kind = match decisions.below(16) {
            0 => decisions.number(),
            1..3 => 2,
            _ => 1,
        };
        // The count is the channel's.
        DeviceRequest { kind: DeviceRequestKind::new(kind), count: kind, ..DeviceRequest::of(dev_id) }
    }
}

impl Kept<DeviceRequest> for Releases {
    fn admit(&self, record: &DeviceRequest) -> Result<(), Refusal> {
        match record.kind.get() {
            1 | 2 => Ok(()),
            _ => Err(Refusal::Contradiction { reason: "there is no such request" }),
        }
    }

    fn published(&mut self, record: &DeviceRequest) {
        if record.kind == DeviceRequestKind::RELEASE {
            self.due.insert(record.cookie, (1, 0));
        }
    }

    fn completed(&mut self, ended: &Completion<DeviceRequest>) {
        self.due.remove(&ended.record.cookie);
    }

    fn is_due(&self, hour: u32) -> bool {
        self.due.values().any(|(due, _)| *due <= hour)
    }

    fn repeat(&mut self, hour: u32, is_open: impl Fn(u32) -> bool) {
        for (cookie, (due, count)) in &mut self.due {
            if *due <= hour {
                (*due, *count) = (hour + 1, *count + 1);
                if is_open(*cookie) {
                    self.sent.insert(*cookie, *count);
                }
            }
        }
    }

    fn repeats(&self, cookie: u32) -> u32 {
        self.sent.get(&cookie).copied().unwrap_or(0)
    }
}
