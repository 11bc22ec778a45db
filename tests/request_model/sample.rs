//! Both kinds of requests, as who tries them knows them.

use std::fmt::Debug;

use recordfd::request::{Ack, ErsResult, Request};
use recordfd::uapi::{
    DeviceAck, DeviceAckCode, DeviceRequest, DeviceRequestKind, PciChannelState, PciError, PciErrorFlags,
    PciErrorResult, PciErrorStep, PciErrorV2, PciErsResult,
};

/// A kind of request, with one to try and what it is answered with.
pub(crate) trait Sample: Request + PartialEq + Debug {
    /// An answer that says yes, and one that says no.
    const YES: Self::Verdict;
    const NO: Self::Verdict;
    /// The code of yes on the wire.
    const CODE: u32;

    /// A request that any device may make when it has no other.
    fn of(dev_id: u32) -> Self;
    fn under(self, cookie: u32) -> Self;
    /// The same, asked for so many times before; if that can be said.
    fn asked(self, count: u32) -> Self;
    fn asked_before(&self) -> u32;
    fn code(cookie: u32, code: u32) -> Self::Answer;
    /// What a code says, if it says anything.
    fn meaning(code: u32) -> Option<Self::Verdict>;
    /// What the notice of a cancelled one carries.
    fn notice(dev_id: u32, cookie: u32) -> Self;
}

impl Sample for PciError {
    const YES: ErsResult = ErsResult::CanRecover;
    const NO: ErsResult = ErsResult::Disconnect;
    const CODE: u32 = 2;

    fn of(dev_id: u32) -> Self {
        Self {
            dev_id,
            step: PciErrorStep::ERROR_DETECTED,
            state: PciChannelState::IO_FROZEN,
            flags: PciErrorFlags::FATAL | PciErrorFlags::AER_VALID,
            status: 1 << 18,
            mask: 0x40_0000,
            header_log: [0x4a00_0001, 0x0100_0004, u32::MAX, dev_id],
            cookie: 0,
        }
    }

    fn under(self, cookie: u32) -> Self {
        Self { cookie, ..self }
    }

    fn asked(self, _count: u32) -> Self {
        self
    }

    fn asked_before(&self) -> u32 {
        0
    }

    fn code(cookie: u32, code: u32) -> PciErrorResult {
        PciErrorResult { cookie, result: PciErsResult::new(code) }
    }

    fn meaning(code: u32) -> Option<ErsResult> {
        use ErsResult::{CanRecover, Disconnect, NeedReset, Recovered};
        [ErsResult::None, CanRecover, NeedReset, Disconnect, Recovered]
            .get(code.wrapping_sub(1) as usize)
            .copied()
    }

    fn notice(dev_id: u32, cookie: u32) -> Self {
        Self { dev_id, cookie, step: PciErrorStep::ERROR_DETECTED, ..Self::default() }
    }
}

impl Sample for PciErrorV2 {
    const YES: ErsResult = PciError::YES;
    const NO: ErsResult = PciError::NO;
    const CODE: u32 = PciError::CODE;

    fn of(dev_id: u32) -> Self {
        let first = PciError::of(dev_id);
        let (flags, tlp_log) = (first.flags | PciErrorFlags::FLIT, [!dev_id; 14]);
        Self { flags, severity: 1 << 18, header_len: 14, tlp_log, ..first.into() }
    }

    fn under(self, cookie: u32) -> Self {
        Self { cookie, ..self }
    }

    fn asked(self, _count: u32) -> Self {
        self
    }

    fn asked_before(&self) -> u32 {
        0
    }

    fn code(cookie: u32, code: u32) -> PciErrorResult {
        PciError::code(cookie, code)
    }

    fn meaning(code: u32) -> Option<ErsResult> {
        PciError::meaning(code)
    }

    fn notice(dev_id: u32, cookie: u32) -> Self {
        PciError::notice(dev_id, cookie).into()
    }
}

impl Sample for DeviceRequest {
    const YES: Ack = Ack::Done;
    const NO: Ack = Ack::Refused;
    const CODE: u32 = 0;

    fn of(dev_id: u32) -> Self {
        Self { dev_id, kind: DeviceRequestKind::RELEASE, ..Self::default() }
    }

    fn under(self, cookie: u32) -> Self {
        Self { cookie, ..self }
    }

    fn asked(self, count: u32) -> Self {
        Self { count, ..self }
    }

    fn asked_before(&self) -> u32 {
        self.count
    }

    fn code(cookie: u32, code: u32) -> DeviceAck {
        DeviceAck { cookie, code: DeviceAckCode::new(code) }
    }

    fn meaning(code: u32) -> Option<Ack> {
        [Ack::Done, Ack::Refused].get(code as usize).copied()
    }

    fn notice(dev_id: u32, cookie: u32) -> Self {
        Self { cookie, ..Self::of(dev_id) }
    }
}
