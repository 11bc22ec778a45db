//! PCI errors as requests: what they are answered with, and each device's recovery.

use std::collections::HashMap;

use recordfd_uapi::{Format, PciError, PciErrorResult, PciErrorStep, PciErsResult};

use super::course::Course;
use super::recovery::{Next, Recovery, Refusal, next_after};
use super::{Completion, Options, Request};
use crate::answer::MustAnswer;

/// What a driver makes of a PCI error: the answer to a [`PciError`].
///
/// Source: Linux `include/linux/pci.h`, `enum pci_ers_result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErsResult {
    /// It has no opinion: the other functions of the slot decide.
    None = 1,
    /// It can recover without a slot reset.
    CanRecover = 2,
    /// It wants the slot reset.
    NeedReset = 3,
    /// The device cannot recover.
    Disconnect = 4,
    /// The device has recovered.
    Recovered = 5,
}

static_assertions::const_assert_eq!(ErsResult::None as u32, PciErsResult::NONE.get());
static_assertions::const_assert_eq!(ErsResult::CanRecover as u32, PciErsResult::CAN_RECOVER.get());
static_assertions::const_assert_eq!(ErsResult::NeedReset as u32, PciErsResult::NEED_RESET.get());
static_assertions::const_assert_eq!(ErsResult::Disconnect as u32, PciErsResult::DISCONNECT.get());
static_assertions::const_assert_eq!(ErsResult::Recovered as u32, PciErsResult::RECOVERED.get());

impl MustAnswer for PciError {
    type Answer = PciErrorResult;
    type Verdict = ErsResult;
    type Tag = Self;

    const NEGATIVE: ErsResult = ErsResult::Disconnect;

    fn answer(cookie: u32, verdict: ErsResult) -> PciErrorResult {
        PciErrorResult { cookie, result: PciErsResult::new(verdict as u32) }
    }

    fn verdict(answer: &PciErrorResult) -> (u32, Option<ErsResult>) {
        let verdict = match answer.result {
            PciErsResult::NONE => Some(ErsResult::None),
            PciErsResult::CAN_RECOVER => Some(ErsResult::CanRecover),
            PciErsResult::NEED_RESET => Some(ErsResult::NeedReset),
            PciErsResult::DISCONNECT => Some(ErsResult::Disconnect),
            PciErsResult::RECOVERED => Some(ErsResult::Recovered),
            _ => None,
        };
        (answer.cookie, verdict)
    }

    fn grouped(mut self, cookie: u32, _last: bool) -> Self {
        self.cookie = cookie;
        self
    }

    fn cookie(&self) -> u32 {
        self.cookie
    }

    fn cancelled(dev_id: u32, cookie: u32) -> Self {
        Self { dev_id, cookie, step: PciErrorStep::ERROR_DETECTED, ..Self::default() }
    }
}

impl Request for PciError {
    const FORMAT: Format = Format::PCI_ERROR_V1;
    type Course = Recoveries;

    fn dev_id(&self) -> u32 {
        self.dev_id
    }
}

impl Completion<PciError> {
    /// What comes behind this step, by the answer of its device alone; see [`Recovery`].
    pub fn next(&self) -> Next {
        next_after(&self.record, self.verdict)
    }
}

/// The recoveries that are under way, with the cookie of the last step that was told.
#[derive(Debug)]
pub struct Recoveries {
    by_device: HashMap<u32, (Recovery, u32)>,
    most: usize,
}

impl Course<PciError> for Recoveries {
    fn new(depth: u32, _options: &Options) -> Self {
        let most = depth as usize;
        // Twice the most, so that the table never grows, whatever was removed from it.
        Self { by_device: HashMap::with_capacity(2 * most), most }
    }

    fn admit(&self, record: &PciError) -> Result<(), Refusal> {
        let known = self.by_device.get(&record.dev_id);
        let mut recovery = known.map_or(Recovery::default(), |(recovery, _)| *recovery);
        recovery.tell(record)
    }

    fn has_room(&self, record: &PciError) -> bool {
        self.by_device.len() < self.most || self.by_device.contains_key(&record.dev_id)
    }

    fn published(&mut self, record: &PciError) {
        let entry = self.by_device.entry(record.dev_id).or_default();
        // It was admitted.
        let _ = entry.0.tell(record);
        entry.1 = record.cookie;
    }

    fn completed(&mut self, completion: &Completion<PciError>) {
        let dev_id = completion.record.dev_id;
        // The completion of a step that was forgotten with its device is none of the device that came since.
        let Some((recovery, cookie)) = self.by_device.get_mut(&dev_id) else { return };
        if *cookie == completion.record.cookie {
            let _ = recovery.answer(completion.verdict);
            if !recovery.is_under_way() {
                self.by_device.remove(&dev_id);
            }
        }
    }

    fn detached(&mut self, dev_id: u32) {
        self.by_device.remove(&dev_id);
    }
}
