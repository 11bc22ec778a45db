//! The guest, as it were: what it answers, and what of a server's word it is not told.

use recordfd::fault::ResponseCode;
use recordfd::request::{ErsResult, Next, Pending, Recovery, Refusal};
use recordfd::uapi::{DeviceRequest, DeviceRequestKind, PciError, PciErrorStep, PgFault, PgFaultFlags};

/// The guest's memory, in bytes; every address below is valid in each of its address spaces.
const MEMORY: u64 = 1 << 20;

/// The guest with the one device of a server.
#[derive(Default)]
pub(crate) struct Guest {
    device: u32,
    recovery: Recovery,
    /// The release that the guest has been told of, while it still uses the device.
    ejecting: Option<Pending<DeviceRequest>>,
}

/// What becomes of a device request.
pub(crate) enum Taken {
    /// The guest is told, and takes its time.
    Ejecting,
    /// It is done already.
    Noted(Pending<DeviceRequest>),
    /// The server may not ask this.
    Refused(&'static str),
}

impl Guest {
    pub(crate) fn new(device: u32) -> Self {
        Self { device, ..Self::default() }
    }

    /// Answers a group of page faults, which are all of one device and PASID.
    pub(crate) fn page_in(&self, group: &[PgFault]) -> ResponseCode {
        let is_there = |fault: &PgFault| {
            fault.dev_id == self.device
                && fault.flags.contains(PgFaultFlags::PASID_VALID)
                && fault.addr < MEMORY
        };
        // The answer is one for the whole group.
        if group.iter().all(is_there) { ResponseCode::Success } else { ResponseCode::Invalid }
    }

    /// Answers a step of a recovery, if it is one that may come now, and tells where that leads.
    pub(crate) fn recover(&mut self, error: &PciError) -> Result<(ErsResult, Next), Refusal> {
        if error.dev_id != self.device {
            return Err(Refusal::Contradiction { reason: "it is another server's device" });
        }
        // A step that is refused is answered DISCONNECT, and its device's recovery ends with that.
        self.recovery.tell(error).inspect_err(|_| self.recovery.abandon())?;
        let result = match error.step {
            PciErrorStep::ERROR_DETECTED => ErsResult::NeedReset,
            _ => ErsResult::Recovered,
        };
        Ok((result, self.recovery.answer(result)?))
    }

    /// Takes a request of the device.
    pub(crate) fn take(&mut self, request: Pending<DeviceRequest>) -> Taken {
        let DeviceRequest { dev_id, kind, .. } = *request.record();
        // A request that is not kept is refused when it is dropped.
        match kind {
            _ if dev_id != self.device => Taken::Refused("it is another server's device"),
            DeviceRequestKind::RESET_DONE => Taken::Noted(request),
            DeviceRequestKind::RELEASE if self.ejecting.is_some() => Taken::Refused("one is enough"),
            DeviceRequestKind::RELEASE => {
                self.ejecting = Some(request);
                Taken::Ejecting
            }
            _ => Taken::Refused("there is no such request"),
        }
    }

    /// The guest has let go of the device, or never will: what is kept of the release with this cookie.
    ///
    /// This one lets go when it is asked for the second time.
    pub(crate) fn eject(&mut self, cookie: u32) -> Option<Pending<DeviceRequest>> {
        self.ejecting.take_if(|release| release.cookie() == cookie)
    }

    /// The server is gone: what was left undone.
    pub(crate) fn lose_device(self) -> Vec<&'static str> {
        let recovery = self.recovery.is_under_way().then_some("the recovery from the PCI error is abandoned");
        let release = self.ejecting.map(|_dropped| "the release, not answered yet, is dropped");
        recovery.into_iter().chain(release).collect()
    }
}
