//! The steps of a PCI error's recovery, in the order in which they may come.

use recordfd_uapi::{PciChannelState, PciError, PciErrorFlags, PciErrorStep};

use super::ErsResult;

/// How far one device's recovery from a PCI error is.
///
/// | told | may follow CAN_RECOVER | NEED_RESET | RECOVERED |
/// |---|---|---|---|
/// | ERROR_DETECTED | MMIO_ENABLED, SLOT_RESET | SLOT_RESET | MMIO_ENABLED, SLOT_RESET, RESUME |
/// | MMIO_ENABLED | | SLOT_RESET | SLOT_RESET, RESUME |
/// | SLOT_RESET | | | RESUME |
///
/// NONE is no vote. By itself it leads to MMIO_ENABLED after ERROR_DETECTED, and counts as RECOVERED later; what
/// may follow is what may follow RECOVERED.
///
/// More than one step may follow because the functions of a slot recover together, and the one that wants most
/// decides. What no step follows is the end: the device has recovered if RESUME was answered RECOVERED, and is
/// to be disconnected otherwise. DISCONNECT ends a recovery at any step. ERROR_DETECTED may follow every answer,
/// for there may be another error, or the device is gone: with the state IO_PERM_FAILURE it is the last step,
/// whatever the answer. A correctable error leaves everything as it was, unless it is answered DISCONNECT: links that
/// train again report such in the middle of a recovery.
///
/// The reporter keeps one of these for each device. A VMM whose peer is not trusted keeps one for each device of
/// its own, and asks it before it passes a step on to its guest: then a device that breaks the order harms itself
/// only, and not the others on the channel.
///
/// Source: Linux `Documentation/PCI/pci-error-recovery.rst`; `drivers/pci/pcie/err.c`, `pcie_do_recovery()` and
/// `merge_result()`.
///
/// ```
/// use recordfd::request::{ErsResult, Next, Recovery, Refusal};
/// use recordfd::uapi::{PciChannelState, PciError, PciErrorStep};
///
/// let mut recovery = Recovery::default();
/// let state = PciChannelState::IO_FROZEN;
/// let error = PciError { dev_id: 1, step: PciErrorStep::ERROR_DETECTED, state, ..PciError::default() };
/// recovery.tell(&error)?;
/// assert_eq!(recovery.answer(ErsResult::NeedReset)?, Next::SlotReset);
/// let resume = PciError { step: PciErrorStep::RESUME, ..error };
/// assert_eq!(recovery.tell(&resume), Err(Refusal::OutOfOrder { step: PciErrorStep::RESUME }));
/// # Ok::<(), Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The step that was answered last, if another one is to follow.
    answered: Option<(Step, ErsResult)>,
    /// The step that was told and not answered.
    told: Option<Step>,
}

/// The steps, as far as what follows depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    ErrorDetected,
    /// The device is gone: nothing follows.
    PermFailure,
    /// Nothing is to be recovered.
    Correctable,
    MmioEnabled,
    SlotReset,
    Resume,
}

/// What comes behind a step's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// MMIO is to be enabled, and [`PciErrorStep::MMIO_ENABLED`] told.
    MmioEnabled,
    /// The slot is to be reset, and [`PciErrorStep::SLOT_RESET`] told.
    SlotReset,
    /// [`PciErrorStep::RESUME`] is to be told.
    Resume,
    /// Nothing: the error was corrected. A recovery that is under way goes on where it was.
    Corrected,
    /// Nothing: the device has recovered.
    Recovered,
    /// Nothing: the device is to be disconnected.
    Disconnected,
}

/// Why a record is not to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The step does not follow what was answered last (`EINVAL`).
    #[error("the step {step:?} does not follow what was answered last")]
    OutOfOrder {
        /// The step.
        step: PciErrorStep,
    },
    /// The step before it is not answered yet, or its completion was not collected (`EBUSY`).
    #[error("the step before it is not answered")]
    Unanswered,
    /// An answer, while no step waits for one (`EINVAL`).
    #[error("no step waits for an answer")]
    NothingTold,
    /// The record says what cannot be (`EINVAL`).
    #[error("the record says what cannot be: {reason}")]
    Contradiction {
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Refusal {
    /// The errno of send(2) in the same place.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Unanswered => libc::EBUSY,
            Self::OutOfOrder { .. } | Self::NothingTold | Self::Contradiction { .. } => libc::EINVAL,
        }
    }
}

impl Recovery {
    /// Takes note that `error`, the first or the next step, is told. Of a
    /// [`PciErrorV2`](recordfd_uapi::PciErrorV2) give what [`to_v1`](recordfd_uapi::PciErrorV2::to_v1) returns.
    ///
    /// # Errors
    ///
    /// [`Refusal`], and everything is as it was.
    pub fn tell(&mut self, error: &PciError) -> Result<(), Refusal> {
        let step = step_of(error)?;
        match self.answered {
            _ if self.told.is_some() => return Err(Refusal::Unanswered),
            _ if matches!(step, Step::ErrorDetected | Step::PermFailure | Step::Correctable) => {}
            Some((last, result)) if follows(last, result, step) => {}
            _ => return Err(Refusal::OutOfOrder { step: error.step }),
        }
        self.told = Some(step);
        Ok(())
    }

    /// Takes note of the answer to the step that was told; returns the first step that may follow.
    ///
    /// # Errors
    ///
    /// [`Refusal::NothingTold`].
    pub fn answer(&mut self, result: ErsResult) -> Result<Next, Refusal> {
        let step = self.told.take().ok_or(Refusal::NothingTold)?;
        let next = next(step, result);
        match next {
            Next::Corrected => {}
            Next::Recovered | Next::Disconnected => self.answered = None,
            Next::MmioEnabled | Next::SlotReset | Next::Resume => self.answered = Some((step, result)),
        }
        Ok(next)
    }

    /// Forgets the recovery: the device was detached, or a step was completed without its answer.
    pub fn abandon(&mut self) {
        *self = Self::default();
    }

    /// Whether a recovery is under way.
    pub fn is_under_way(&self) -> bool {
        *self != Self::default()
    }
}

/// The step that `error` is, if it is one.
fn step_of(error: &PciError) -> Result<Step, Refusal> {
    let contradiction = |reason| Err(Refusal::Contradiction { reason });
    let known = [PciChannelState::IO_NORMAL, PciChannelState::IO_FROZEN, PciChannelState::IO_PERM_FAILURE];
    if !known.contains(&error.state) {
        return contradiction("there is no such state of the channel to the device");
    }
    let is_gone = error.state == PciChannelState::IO_PERM_FAILURE;
    if error.flags.contains(PciErrorFlags::CORRECTABLE) {
        return match (error.step, error.state) {
            _ if error.flags.contains(PciErrorFlags::FATAL) => {
                contradiction("a correctable error is not fatal")
            }
            (PciErrorStep::ERROR_DETECTED, PciChannelState::IO_NORMAL) => Ok(Step::Correctable),
            (PciErrorStep::ERROR_DETECTED, _) => contradiction("a correctable error blocks nothing"),
            _ => contradiction("nothing is to be recovered after a correctable error"),
        };
    }
    match error.step {
        PciErrorStep::ERROR_DETECTED if is_gone => Ok(Step::PermFailure),
        PciErrorStep::ERROR_DETECTED => Ok(Step::ErrorDetected),
        _ if is_gone => contradiction("a device that is gone does not recover"),
        PciErrorStep::MMIO_ENABLED => Ok(Step::MmioEnabled),
        PciErrorStep::SLOT_RESET => Ok(Step::SlotReset),
        PciErrorStep::RESUME => Ok(Step::Resume),
        _ => contradiction("there is no such step"),
    }
}

/// Whether `step` may follow `last`, which was answered with `result`.
fn follows(last: Step, result: ErsResult, step: Step) -> bool {
    use ErsResult::{CanRecover, NeedReset, None, Recovered};
    match (last, result) {
        (Step::ErrorDetected, CanRecover) => matches!(step, Step::MmioEnabled | Step::SlotReset),
        (Step::ErrorDetected, None | Recovered) => {
            matches!(step, Step::MmioEnabled | Step::SlotReset | Step::Resume)
        }
        (Step::ErrorDetected | Step::MmioEnabled, NeedReset) => step == Step::SlotReset,
        (Step::MmioEnabled, None | Recovered) => matches!(step, Step::SlotReset | Step::Resume),
        (Step::SlotReset, None | Recovered) => step == Step::Resume,
        _ => false,
    }
}

/// What comes behind `step` by the answer of its device alone.
fn next(step: Step, result: ErsResult) -> Next {
    use ErsResult::{CanRecover, Disconnect, NeedReset, None, Recovered};
    match (step, result) {
        (_, Disconnect) | (Step::PermFailure, _) => Next::Disconnected,
        (Step::Correctable, _) => Next::Corrected,
        (Step::Resume, None | Recovered) => Next::Recovered,
        (Step::ErrorDetected, None | CanRecover) => Next::MmioEnabled,
        (Step::ErrorDetected | Step::MmioEnabled, NeedReset) => Next::SlotReset,
        (Step::ErrorDetected, Recovered) | (Step::MmioEnabled | Step::SlotReset, None | Recovered) => {
            Next::Resume
        }
        (Step::MmioEnabled | Step::SlotReset | Step::Resume, CanRecover | NeedReset) => Next::Disconnected,
    }
}

/// What comes behind the answer `result` to `error`.
pub(super) fn next_after(error: &PciError, result: ErsResult) -> Next {
    step_of(error).map_or(Next::Disconnected, |step| next(step, result))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULTS: [ErsResult; 5] = [
        ErsResult::CanRecover,
        ErsResult::NeedReset,
        ErsResult::Disconnect,
        ErsResult::Recovered,
        ErsResult::None,
    ];
    const STEPS: [PciErrorStep; 4] = [
        PciErrorStep::ERROR_DETECTED,
        PciErrorStep::MMIO_ENABLED,
        PciErrorStep::SLOT_RESET,
        PciErrorStep::RESUME,
    ];

    fn error(step: PciErrorStep) -> PciError {
        PciError { step, state: PciChannelState::IO_FROZEN, ..PciError::default() }
    }

    /// The steps that are taken now.
    fn allowed(recovery: Recovery) -> Vec<u16> {
        let taken = |step: &PciErrorStep| { recovery }.tell(&error(*step)).is_ok();
        STEPS.into_iter().filter(taken).map(PciErrorStep::get).collect()
    }

    /// A recovery in which the steps were told and answered so.
    fn after(course: &[(PciErrorStep, ErsResult)]) -> (Recovery, Option<Next>) {
        let (mut recovery, mut next) = (Recovery::default(), None);
        for (step, result) in course {
            recovery.tell(&error(*step)).unwrap();
            next = Some(recovery.answer(*result).unwrap());
        }
        (recovery, next)
    }

    #[test]
    fn every_answer_to_every_step_leads_where_the_table_says() {
        use ErsResult::{CanRecover, NeedReset, Recovered};
        let [detected, enabled, reset, resume] = STEPS;
        let ways: [&[_]; 4] = [
            &[],
            &[(detected, CanRecover)],
            &[(detected, NeedReset)],
            &[(detected, NeedReset), (reset, Recovered)],
        ];
        let expected = [
            (
                detected,
                [(2, &[1, 2, 3][..]), (3, &[1, 3]), (0, &[1]), (4, &[1, 2, 3, 4]), (2, &[1, 2, 3, 4])],
            ),
            (enabled, [(0, &[1]), (3, &[1, 3]), (0, &[1]), (4, &[1, 3, 4]), (4, &[1, 3, 4])]),
            (reset, [(0, &[1]), (0, &[1]), (0, &[1]), (4, &[1, 4]), (4, &[1, 4])]),
            (resume, [(0, &[1]), (0, &[1]), (0, &[1]), (9, &[1]), (9, &[1])]),
        ];
        for (way, (step, outcomes)) in ways.into_iter().zip(expected) {
            for (result, (next, steps)) in RESULTS.into_iter().zip(outcomes) {
                let course: Vec<_> = way.iter().copied().chain([(step, result)]).collect();
                let (recovery, found) = after(&course);
                let expected = match next {
                    2 => Next::MmioEnabled,
                    3 => Next::SlotReset,
                    4 => Next::Resume,
                    9 => Next::Recovered,
                    _ => Next::Disconnected,
                };
                assert_eq!(found, Some(expected), "{course:?}");
                assert_eq!(allowed(recovery), steps, "{course:?}");
                assert_eq!(recovery.is_under_way(), matches!(next, 2..=4), "{course:?}");
            }
        }
    }

    #[test]
    fn next_step_is_always_one_that_may_follow() {
        for step in [Step::ErrorDetected, Step::MmioEnabled, Step::SlotReset, Step::Resume] {
            for result in RESULTS {
                let following = match next(step, result) {
                    Next::MmioEnabled => Step::MmioEnabled,
                    Next::SlotReset => Step::SlotReset,
                    Next::Resume => Step::Resume,
                    Next::Corrected | Next::Recovered | Next::Disconnected => continue,
                };
                assert!(follows(step, result, following), "{step:?} {result:?}");
            }
        }
    }

    #[test]
    fn nothing_is_told_before_the_last_step_was_answered() {
        let (mut recovery, _) = after(&[(PciErrorStep::ERROR_DETECTED, ErsResult::CanRecover)]);
        recovery.tell(&error(PciErrorStep::MMIO_ENABLED)).unwrap();
        for step in STEPS {
            assert_eq!(recovery.tell(&error(step)), Err(Refusal::Unanswered));
        }
        recovery.abandon();
        assert_eq!(recovery.answer(ErsResult::Recovered), Err(Refusal::NothingTold));
        assert_eq!(allowed(recovery), [1]);
    }

    #[test]
    fn device_that_is_gone_is_told_at_any_time_and_nothing_behind_it() {
        let gone = PciError { state: PciChannelState::IO_PERM_FAILURE, ..error(STEPS[0]) };
        for result in RESULTS {
            let (mut recovery, _) = after(&[(PciErrorStep::ERROR_DETECTED, ErsResult::NeedReset)]);
            recovery.tell(&gone).unwrap();
            assert_eq!(recovery.answer(result), Ok(Next::Disconnected));
            assert!(!recovery.is_under_way());
        }
    }

    #[test]
    fn correctable_error_in_the_middle_of_a_recovery_leaves_it_as_it_was() {
        let state = PciChannelState::IO_NORMAL;
        let correctable = PciError { flags: PciErrorFlags::CORRECTABLE, state, ..error(STEPS[0]) };
        let (mut recovery, _) = after(&[(PciErrorStep::ERROR_DETECTED, ErsResult::NeedReset)]);
        recovery.tell(&correctable).unwrap();
        assert_eq!(recovery.tell(&error(PciErrorStep::SLOT_RESET)), Err(Refusal::Unanswered));
        assert_eq!(recovery.answer(ErsResult::Recovered), Ok(Next::Corrected));
        assert_eq!(allowed(recovery), [1, 3]);
        recovery.tell(&correctable).unwrap();
        assert_eq!(recovery.answer(ErsResult::Disconnect), Ok(Next::Disconnected));
        assert!(!recovery.is_under_way());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let normal = PciError { state: PciChannelState::IO_NORMAL, ..error(STEPS[0]) };
        let correctable = PciError { flags: PciErrorFlags::CORRECTABLE, ..normal };
        let mut recovery = Recovery::default();
        recovery.tell(&correctable).unwrap();
        assert_eq!(recovery.answer(ErsResult::NeedReset), Ok(Next::Corrected), "nothing was broken");
        let both = PciErrorFlags::CORRECTABLE | PciErrorFlags::FATAL;
        for wrong in [
            PciError { flags: both, ..normal },
            PciError { state: PciChannelState::IO_FROZEN, ..correctable },
            PciError { step: PciErrorStep::RESUME, ..correctable },
            PciError { step: PciErrorStep::new(0), ..normal },
            PciError { step: PciErrorStep::new(5), ..normal },
            PciError { state: PciChannelState::new(0), ..normal },
            PciError { state: PciChannelState::new(4), ..normal },
            PciError { step: PciErrorStep::RESUME, state: PciChannelState::IO_PERM_FAILURE, ..normal },
        ] {
            assert!(matches!(recovery.tell(&wrong), Err(Refusal::Contradiction { .. })), "{wrong:?}");
            assert!(!recovery.is_under_way());
        }
    }
}
