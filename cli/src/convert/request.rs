//! Page requests, stalls and reports of faults.

use recordfd::uapi::hw::pcie::{PageRequest, PageRequestMessage, Pasid};
use recordfd::uapi::hw::{Loss, amd, riscv, smmuv3, virtio, vtd};
use recordfd::uapi::{Event, PgFault, PgFaultFlags, PgFaultPerm, Record, Sequence, Smmuv3Event};

use super::{Converts, Given, fixed, narrow, said};
use crate::formats::bytes_of;

type ToFault = fn(&[u8], &Given) -> Result<(PgFault, Loss), String>;
type FromFault = fn(&PgFault, &Given) -> Result<(Vec<u8>, Loss), String>;

/// How a record becomes a page fault, and is made of one.
#[derive(Clone, Copy)]
pub(crate) struct Ways {
    pub(super) to_fault: ToFault,
    pub(super) from_fault: FromFault,
}

const fn ways(to_fault: ToFault, from_fault: FromFault) -> Converts {
    Converts::Request(Ways { to_fault, from_fault })
}

/// The fault that a page request of a queue is.
fn fault(request: PageRequest, given: &Given) -> Result<(PgFault, Loss), String> {
    Ok((request.to_fault(given.device_of(request.rid)?, given.cookie.unwrap_or(0)), Loss::empty()))
}

fn no_request() -> String {
    "is no page request that is known here".to_owned()
}

fn stop_marker() -> String {
    "is a Stop Marker and no page fault: it is never answered".to_owned()
}

/// The fault of a channel; its cookie is another one if the user gives it.
fn of_channel(fault: PgFault, given: &Given) -> (PgFault, Loss) {
    (PgFault { cookie: given.cookie.unwrap_or(fault.cookie), ..fault }, Loss::empty())
}

pub(crate) const PGFAULT: Converts = ways(
    |bytes, given| Ok(of_channel(PgFault::decode(bytes).map_err(|error| error.to_string())?, given)),
    |fault, _| Ok((bytes_of(fault), Loss::empty())),
);

pub(crate) const PGFAULT_V2: Converts = ways(
    |bytes, given| {
        let event = Event::<PgFault>::decode(bytes).map_err(|error| error.to_string())?;
        if event.header.flags.is_empty() {
            Ok(of_channel(event.payload, given))
        } else {
            Err("is a notice that a group was cancelled, and no page fault".to_owned())
        }
    },
    |fault, _| Ok((bytes_of(&Event::new(Sequence::ZERO, *fault)), Loss::empty())),
);

pub(crate) const PCIE: Converts = ways(
    |bytes, given| {
        let rid = given.requester.ok_or("the payload does not say who asks: give --requester RID")?;
        let pasid = given.pasid.map(|value| Pasid { value, ..Pasid::default() });
        match PageRequestMessage::decode(fixed(bytes)?, narrow(rid)?, pasid) {
            PageRequestMessage::Request(request) => fault(request, given),
            PageRequestMessage::StopMarker(_) => Err(stop_marker()),
        }
    },
    |fault, given| {
        let rid = narrow(given.rid_of(fault.dev_id)?)?;
        let (request, mut loss) = PageRequest::from_fault(fault, rid.into()).map_err(said)?;
        // They travel beside the payload.
        if fault.flags.contains(PgFaultFlags::PASID_VALID) {
            loss |= Loss::PASID;
            loss.set(Loss::EXEC, fault.perm.contains(PgFaultPerm::EXEC));
            loss.set(Loss::PRIV, fault.perm.contains(PgFaultPerm::PRIV));
        }
        Ok((PageRequestMessage::Request(request).encode().map_err(said)?.to_vec(), loss))
    },
);

pub(crate) const VTD: Converts = ways(
    |bytes, given| match vtd::PageRequestDescriptor::decode(fixed(bytes)?) {
        vtd::PageRequestDescriptor::Request(request) => fault(request, given),
        vtd::PageRequestDescriptor::StopMarker(_) => Err(stop_marker()),
        vtd::PageRequestDescriptor::Unknown(_) => Err(no_request()),
    },
    |fault, given| {
        let rid = narrow(given.rid_of(fault.dev_id)?)?;
        let (descriptor, loss) =
            vtd::PageRequestDescriptor::from_fault(fault, rid, given.policy).map_err(said)?;
        Ok((descriptor.encode().map_err(said)?.to_vec(), loss))
    },
);

pub(crate) const AMD: Converts = ways(
    |bytes, given| match amd::PprLogEntry::decode(fixed(bytes)?) {
        amd::PprLogEntry::Request(amd::PageServiceRequest { request, reserved_set, other }) => {
            let (fault, mut loss) = fault(request, given)?;
            loss.set(Loss::DETAIL, reserved_set || other != 0);
            Ok((fault, loss))
        }
        amd::PprLogEntry::StopMarker(_) => Err(stop_marker()),
        amd::PprLogEntry::Unknown(_) => Err(no_request()),
    },
    |fault, given| {
        let device = narrow(given.rid_of(fault.dev_id)?)?;
        let (entry, loss) = amd::PprLogEntry::from_fault(fault, device, given.policy).map_err(said)?;
        Ok((entry.encode().map_err(said)?.to_vec(), loss))
    },
);

pub(crate) const SMMUV3_PRIQ: Converts = ways(
    |bytes, given| match smmuv3::PriQueueEntry::decode(fixed(bytes)?) {
        smmuv3::PriQueueEntry::Request(request) => fault(request, given),
        smmuv3::PriQueueEntry::StopMarker(_) => Err(stop_marker()),
    },
    |fault, given| {
        let (request, loss) = PageRequest::from_fault(fault, given.rid_of(fault.dev_id)?).map_err(said)?;
        Ok((smmuv3::PriQueueEntry::Request(request).encode().map_err(said)?.to_vec(), loss))
    },
);

pub(crate) const RISCV: Converts = ways(
    |bytes, given| match riscv::PageRequestRecord::decode(fixed(bytes)?) {
        riscv::PageRequestRecord::Request(request) => fault(request, given),
        riscv::PageRequestRecord::StopMarker(_) => Err(stop_marker()),
    },
    |fault, given| {
        let (request, loss) = PageRequest::from_fault(fault, given.rid_of(fault.dev_id)?).map_err(said)?;
        Ok((riscv::PageRequestRecord::Request(request).encode().map_err(said)?.to_vec(), loss))
    },
);

/// The fault that a stalled event is.
fn stall(record: smmuv3::EventRecord, given: &Given) -> Result<(PgFault, Loss), String> {
    let device = given.device_of(record.stream_id)?;
    record.to_fault(device, given.cookie.unwrap_or(0)).map_err(said)
}

fn stalled(fault: &PgFault, given: &Given) -> Result<(smmuv3::EventRecord, Loss), String> {
    smmuv3::EventRecord::from_fault(fault, given.rid_of(fault.dev_id)?).map_err(said)
}

pub(crate) const SMMUV3_EVENT: Converts = ways(
    |bytes, given| stall(smmuv3::EventRecord::decode(fixed(bytes)?), given),
    |fault, given| {
        let (record, loss) = stalled(fault, given)?;
        Ok((record.encode().map_err(said)?.to_vec(), loss))
    },
);

pub(crate) const VIOMMU_SMMUV3: Converts = ways(
    |bytes, given| {
        let event = Event::<Smmuv3Event>::decode(bytes).map_err(|error| error.to_string())?;
        if event.is_lost() {
            return Err("is a notice of loss, and no event".to_owned());
        }
        stall(event.payload.into(), given)
    },
    |fault, given| {
        let (record, loss) = stalled(fault, given)?;
        let event = Smmuv3Event::try_from(record).map_err(said)?;
        Ok((bytes_of(&Event::new(Sequence::ZERO, event)), loss))
    },
);

pub(crate) const VIRTIO: Converts = ways(
    |bytes, given| {
        let report = virtio::Fault::decode(fixed(bytes)?);
        report.to_fault(given.device_of(report.endpoint)?, given.cookie.unwrap_or(0)).map_err(said)
    },
    |fault, given| {
        let (report, loss) = virtio::Fault::from_fault(fault, given.rid_of(fault.dev_id)?);
        Ok((report.encode().to_vec(), loss))
    },
);
