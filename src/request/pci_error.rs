//! PCI errors as requests: what they are answered with, and each device's recovery.

use std::collections::HashMap;

use recordfd_uapi::{Format, PciError, PciErrorResult, PciErrorStep, PciErrorV2, PciErsResult};

use super::course::Course;
use super::recovery::{Next, Recovery, Refusal, next_after};
use super::{Completion, Options, Request};
use crate::answer::MustAnswer;

/// What a driver makes of a PCI error: the answer to a [`PciError`] or a [`PciErrorV2`].
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

impl ErsResult {
    /// The result with this number, if it is an answer.
    fn of(result: PciErsResult) -> Option<Self> {
        match result {
            PciErsResult::NONE => Some(Self::None),
            PciErsResult::CAN_RECOVER => Some(Self::CanRecover),
            PciErsResult::NEED_RESET => Some(Self::NeedReset),
            PciErsResult::DISCONNECT => Some(Self::Disconnect),
            PciErsResult::RECOVERED => Some(Self::Recovered),
            _ => None,
        }
    }
}

static_assertions::const_assert_eq!(ErsResult::None as u32, PciErsResult::NONE.get());
static_assertions::const_assert_eq!(ErsResult::CanRecover as u32, PciErsResult::CAN_RECOVER.get());
static_assertions::const_assert_eq!(ErsResult::NeedReset as u32, PciErsResult::NEED_RESET.get());
static_assertions::const_assert_eq!(ErsResult::Disconnect as u32, PciErsResult::DISCONNECT.get());
static_assertions::const_assert_eq!(ErsResult::Recovered as u32, PciErsResult::RECOVERED.get());

/// What a recovery has to know of a record, whichever version it is.
pub trait PciStep: Request + MustAnswer<Verdict = ErsResult> {
    /// The record as the first version has it.
    fn v1(&self) -> PciError;
}

macro_rules! pci_error {
    ($record:ident, $format:ident, $error:ident => $v1:expr) => {
        impl MustAnswer for $record {
            type Answer = PciErrorResult;
            type Verdict = ErsResult;
            type Tag = Self;

            const NEGATIVE: ErsResult = ErsResult::Disconnect;

            fn answer(cookie: u32, verdict: ErsResult) -> PciErrorResult {
                PciErrorResult { cookie, result: PciErsResult::new(verdict as u32) }
            }

            fn verdict(answer: &PciErrorResult) -> (u32, Option<ErsResult>) {
                (answer.cookie, ErsResult::of(answer.result))
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

        impl Request for $record {
            const FORMAT: Format = Format::$format;
            type Course = Recoveries;

            fn dev_id(&self) -> u32 {
                self.dev_id
            }
        }

        impl PciStep for $record {
            fn v1(&self) -> PciError {
                let $error = self;
                $v1
            }
        }

        impl Completion<$record> {
            /// What comes behind this step, by the answer of its device alone; see [`Recovery`].
            pub fn next(&self) -> Next {
                next_after(&self.record.v1(), self.verdict)
            }
        }
    };
}
pci_error!(PciError, PCI_ERROR_V1, error => *error);
pci_error!(PciErrorV2, PCI_ERROR_V2, error => error.to_v1());

/// The recoveries that are under way, with the cookie of the last step that was told.
#[derive(Debug)]
pub struct Recoveries {
    by_device: HashMap<u32, (Recovery, u32)>,
    most: usize,
}

impl<R: PciStep> Course<R> for Recoveries {
    fn new(depth: u32, _options: &Options) -> Self {
        let most = depth as usize;
        // Twice the most, so that the table never grows, whatever was removed from it.
        Self { by_device: HashMap::with_capacity(2 * most), most }
    }

    fn admit(&self, record: &R) -> Result<(), Refusal> {
        let known = self.by_device.get(&record.dev_id());
        let mut recovery = known.map_or(Recovery::default(), |(recovery, _)| *recovery);
        recovery.tell(&record.v1())
    }

    fn has_room(&self, record: &R) -> bool {
        self.by_device.len() < self.most || self.by_device.contains_key(&record.dev_id())
    }

    fn published(&mut self, record: &R) {
        let entry = self.by_device.entry(record.dev_id()).or_default();
        // It was admitted.
        let _ = entry.0.tell(&record.v1());
        entry.1 = record.cookie();
    }

    fn completed(&mut self, completion: &Completion<R>) {
        let dev_id = completion.record.dev_id();
        // The completion of a step that was forgotten with its device is none of the device that came since.
        let Some((recovery, cookie)) = self.by_device.get_mut(&dev_id) else { return };
        if *cookie == completion.record.cookie() {
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
