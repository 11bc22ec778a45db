//! The formats of recordfd's channels, their replies, and what Linux has besides.

use std::fmt::Debug;

use recordfd::uapi::acpi_genl::AcpiGenlEvent;
use recordfd::uapi::{
    AcpiNotify, AcpiOst, DeviceAck, DeviceAckCode, DeviceRequest, DeviceRequestKind, Event, EventFlags,
    EventHeader, Format as ChannelFormat, Mixed, PageResponse, PageResponseCode, PciChannelState, PciError,
    PciErrorFlags, PciErrorResult, PciErrorStep, PciErrorV2, PciErsResult, PgFault, PgFaultFlags,
    PgFaultPerm, Record, Smmuv3Event, Tegra241CmdqvEvent, notify_value_name,
};

use super::{Format, Reading, Remark, Shape, read};
use crate::convert::{request, response};
use crate::field::Field;
use crate::record;

const fn own<R: Record>(name: &'static str, about: &'static str) -> Format {
    Format::new(name, R::SIZE, read::<R>, about)
}

impl Format {
    const fn on(self, channel: ChannelFormat) -> Self {
        Self { channel: Some(channel), ..self }
    }

    const fn remark(self, remark: Remark) -> Self {
        Self { remark: Some(remark), ..self }
    }
}

/// What the library calls a code or flags, without the type's name; nothing if it has no name.
pub(super) fn word_of(value: impl Debug) -> String {
    let text = format!("{value:?}");
    match text.split_once('(') {
        Some((_, number)) => {
            number.trim_end_matches(')').split_once(' ').map_or("", |(_, flags)| flags).to_owned()
        }
        None => text,
    }
}

const HEADER_FLAGS: Field =
    Field::word("header.flags", 0).means(|bits| word_of(EventFlags::from_bits_retain(bits as u32)));
const HEADER_SEQUENCE: Field = Field::word("header.sequence", 4);

const fn fault(at: u32) -> [Field; 9] {
    [
        Field::word("flags", at).means(|bits| word_of(PgFaultFlags::from_bits_retain(bits as u32))),
        Field::word("dev_id", at + 4),
        Field::word("pasid", at + 8),
        Field::word("grpid", at + 12),
        Field::word("perm", at + 16).means(|bits| word_of(PgFaultPerm::from_bits_retain(bits as u32))),
        Field::word("__reserved", at + 20),
        Field::host("addr", at + 24, 8),
        Field::word("length", at + 32),
        Field::word("cookie", at + 36),
    ]
}

const FAULT: [Field; 9] = fault(0);
const HEADED_FAULT: [Field; 11] = {
    let mut fields = [HEADER_FLAGS; 11];
    fields[1] = HEADER_SEQUENCE;
    let (fault, mut at) = (fault(8), 0);
    while at < fault.len() {
        fields[at + 2] = fault[at];
        at += 1;
    }
    fields
};

/// An answer to page faults: a host takes SUCCESS and INVALID only.
fn page_response(bytes: &[u8]) -> Reading {
    match PageResponse::decode(bytes) {
        Ok(PageResponse { code, .. }) if code.get() > PageResponseCode::INVALID.get() => {
            Reading::Unsendable(format!("the code {code:?} is never sent"))
        }
        _ => read::<PageResponse>(bytes),
    }
}

/// The only shape of a format.
macro_rules! sole {
    ($($field:expr),* $(,)?) => {
        &[Shape { name: "", tags: &[], fields: &[$($field),*] }]
    };
}

/// The only shape of a PCI error, which ends with these fields.
macro_rules! pci_error {
    ($($field:expr),* $(,)?) => {
        sole![
            HEADER_FLAGS,
            HEADER_SEQUENCE,
            Field::word("dev_id", 8),
            Field::word("cookie", 12),
            Field::host("step", 16, 2).means(|step| word_of(PciErrorStep::new(step as u16))),
            Field::host("state", 18, 2).means(|state| word_of(PciChannelState::new(state as u16))),
            Field::word("flags", 20).means(|bits| word_of(PciErrorFlags::from_bits_retain(bits as u32))),
            Field::word("status", 24),
            Field::word("mask", 28),
            $($field),*
        ]
    };
}

pub(super) const FORMATS: &[Format] = &[
    own::<PgFault>("iommufd.pgfault", "IO page fault, as Linux' iommufd has it")
        .shapes(&[Shape { name: "", tags: &[], fields: &FAULT }])
        .on(ChannelFormat::IOMMU_PGFAULT_V1)
        .reply("iommufd.page_response")
        .converts(request::PGFAULT),
    own::<Event<PgFault>>("iommufd.pgfault_v2", "IO page fault behind a header")
        .shapes(&[Shape { name: "", tags: &[], fields: &HEADED_FAULT }])
        .on(ChannelFormat::IOMMU_PGFAULT_V2)
        .reply("iommufd.page_response")
        .converts(request::PGFAULT_V2),
    Format::new(
        "iommufd.page_response",
        PageResponse::SIZE,
        page_response,
        "answer to a group of page faults",
    )
    .shapes(sole![
        Field::word("cookie", 0),
        Field::word("code", 4).means(|code| word_of(PageResponseCode::new(code as u32))),
    ])
    .converts(response::PAGE_RESPONSE),
    own::<EventHeader>("iommufd.vevent_header", "header of an event, alone").shapes(sole![
        Field::word("flags", 0).means(|bits| word_of(EventFlags::from_bits_retain(bits as u32))),
        Field::word("sequence", 4),
    ]),
    own::<Event<Smmuv3Event>>("viommu.arm_smmuv3", "event of a virtual SMMUv3")
        .shapes(sole![HEADER_FLAGS, HEADER_SEQUENCE, Field::words("evt", 8, 8, 4).little_endian()])
        .on(ChannelFormat::VIOMMU_ARM_SMMUV3_V1)
        .remark(|bytes| {
            let (event, bytes) = (super::find("smmuv3.event")?, bytes.get(8..)?);
            let fields = record::decode(event, bytes).ok()?;
            Some(record::pretty(event, bytes, &fields))
        })
        .converts(request::VIOMMU_SMMUV3),
    own::<Event<Tegra241CmdqvEvent>>("viommu.tegra241_cmdqv", "error of a Tegra241 virtual command queue")
        .shapes(sole![HEADER_FLAGS, HEADER_SEQUENCE, Field::words("lvcmdq_err_map", 8, 8, 2).little_endian()])
        .on(ChannelFormat::VIOMMU_TEGRA241_CMDQV_V1),
    own::<Event<AcpiNotify>>("acpi.notify", "ACPI device notification")
        .shapes(sole![
            HEADER_FLAGS,
            HEADER_SEQUENCE,
            Field::word("dev_id", 8),
            Field::word("value", 12),
            Field::word("data", 16),
            Field::word("cookie", 20),
            Field::text("bus_id", 24, 16),
            Field::text("device_class", 40, 24),
        ])
        .on(ChannelFormat::ACPI_NOTIFY_V1)
        .reply("acpi.ost")
        .remark(|bytes| {
            let event = Event::<AcpiNotify>::decode(bytes).ok()?;
            if event.is_lost() { None } else { event.payload.value_name().map(str::to_owned) }
        }),
    own::<AcpiOst>("acpi.ost", "_OST report on a notification").shapes(sole![
        Field::word("cookie", 0),
        Field::word("source_event", 4),
        Field::word("status", 8),
        Field::word("reserved", 12),
    ]),
    own::<AcpiGenlEvent>("acpi.genl_event", "ACPI event on Linux' generic netlink")
        .shapes(sole![
            Field::text("device_class", 0, 20),
            Field::text("bus_id", 20, 15),
            Field::host("pad", 35, 1),
            Field::word("type", 36),
            Field::word("data", 40),
        ])
        .remark(|bytes| {
            let event = AcpiGenlEvent::decode(bytes).ok()?;
            notify_value_name(event.device_class.as_bytes(), event.kind).map(str::to_owned)
        }),
    own::<Event<PciError>>("pci.error", "PCI error, or a step of its recovery")
        .shapes(pci_error![Field::words("header_log", 32, 4, 4)])
        .on(ChannelFormat::PCI_ERROR_V1)
        .reply("pci.error_result"),
    own::<Event<PciErrorV2>>("pci.error_v2", "PCI error with the TLP log of PCIe 6")
        .shapes(pci_error![
            Field::word("severity", 32),
            Field::host("header_len", 36, 2),
            Field::host("prefix_len", 38, 2),
            Field::words("tlp_log", 40, 4, 14),
        ])
        .on(ChannelFormat::PCI_ERROR_V2)
        .reply("pci.error_result"),
    own::<PciErrorResult>("pci.error_result", "what a driver makes of a PCI error").shapes(sole![
        Field::word("cookie", 0),
        Field::word("result", 4).means(|result| word_of(PciErsResult::new(result as u32))),
    ]),
    own::<Event<DeviceRequest>>("device.request", "request of a device to its user")
        .shapes(sole![
            HEADER_FLAGS,
            HEADER_SEQUENCE,
            Field::word("dev_id", 8),
            Field::word("cookie", 12),
            Field::word("kind", 16).means(|kind| word_of(DeviceRequestKind::new(kind as u32))),
            Field::word("count", 20),
        ])
        .on(ChannelFormat::DEVICE_REQUEST_V1)
        .reply("device.ack"),
    own::<DeviceAck>("device.ack", "answer to a device's request").shapes(sole![
        Field::word("cookie", 0),
        Field::word("code", 4).means(|code| word_of(DeviceAckCode::new(code as u32))),
    ]),
    own::<Mixed>("mixed", "event of any format, with the source it comes from")
        .shapes(sole![
            Field::word("format", 0).means(|format| ChannelFormat(format as u32).to_string()),
            Field::word("flags", 4).means(|bits| word_of(EventFlags::from_bits_retain(bits as u32))),
            Field::word("sequence", 8),
            Field::word("source", 12),
            Field::inner("payload", 16, 64),
        ])
        .on(ChannelFormat::MIXED_V1),
    own::<Tegra241CmdqvEvent>("tegra241.vevent", "error map of Tegra241 virtual command queues")
        .shapes(sole![Field::bits("lvcmdq_err_map0", 63, 0), Field::bits("lvcmdq_err_map1", 127, 64),]),
];
