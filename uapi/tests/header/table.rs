//! The one table of what Rust and C both have.

use std::mem::offset_of;

use recordfd_uapi::acpi_genl::{self, AcpiGenlEvent};
use recordfd_uapi::hw::pcie::ResponseCode;
use recordfd_uapi::hw::smmuv3::PriResp;
use recordfd_uapi::{
    AcpiNotify, AcpiOst, ChannelInfo, DeviceAck, DeviceAckCode, DeviceRequest, DeviceRequestKind, Event,
    EventFlags, EventHeader, Format, Mixed, Offer, OfferFlags, PageResponse, PageResponseCode,
    PciChannelState, PciError, PciErrorFlags, PciErrorResult, PciErrorStep, PciErrorV2, PciErsResult,
    PgFault, PgFaultFlags, PgFaultPerm, Sequence, Smmuv3Event, Tegra241CmdqvEvent, Transport, WRITE_MAX,
};
use zerocopy::FromZeros;

pub(crate) struct Field {
    pub(crate) c: &'static str,
    pub(crate) offset: usize,
    pub(crate) size: usize,
}

pub(crate) struct Struct {
    pub(crate) c: &'static str,
    pub(crate) rust: &'static str,
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(crate) fields: Vec<Field>,
}

macro_rules! field {
    ($rust:ty, $c:ident) => {
        field!($rust, $c = $c)
    };
    ($rust:ty, $c:ident = $field:ident) => {
        Field {
            c: stringify!($c),
            offset: offset_of!($rust, $field),
            size: size_of_val(&<$rust>::new_zeroed().$field),
        }
    };
}

/// `c_name: RustType { field, c_field = rust_field; private at offset, size }`
macro_rules! structs {
    ($($c:ident: $rust:ty {
        $($field:ident $(= $other:ident)?),* $(; $private:ident at $offset:literal, $size:literal)?
    })*) => {
        vec![$(Struct {
            c: stringify!($c),
            rust: stringify!($rust),
            size: size_of::<$rust>(),
            align: align_of::<$rust>(),
            fields: vec![
                $(field!($rust, $field $(= $other)?),)*
                $(Field { c: stringify!($private), offset: $offset, size: $size },)?
            ],
        }),*]
    };
}

pub(crate) fn structs() -> Vec<Struct> {
    structs! {
        recordfd_event_header: EventHeader { flags, sequence }
        recordfd_pgfault: PgFault {
            flags, dev_id, pasid, grpid, perm, reserved, addr, length, cookie
        }
        recordfd_pgfault_v2: Event<PgFault> { header, fault = payload }
        recordfd_page_response: PageResponse { cookie, code }
        recordfd_viommu_arm_smmuv3: Event<Smmuv3Event> { header, evt = payload }
        recordfd_viommu_tegra241_cmdqv: Event<Tegra241CmdqvEvent> { header, lvcmdq_err_map = payload }
        recordfd_acpi_notify: AcpiNotify { dev_id, value, data, cookie, bus_id, device_class }
        recordfd_acpi_notify_event: Event<AcpiNotify> { header, notify = payload }
        recordfd_acpi_ost: AcpiOst { cookie, source_event, status; reserved at 12, 4 }
        recordfd_pci_error: PciError { dev_id, cookie, step, state, flags, status, mask, header_log }
        recordfd_pci_error_event: Event<PciError> { header, error = payload }
        recordfd_pci_error_v2: PciErrorV2 {
            dev_id, cookie, step, state, flags, status, mask, severity, header_len, prefix_len, tlp_log
        }
        recordfd_pci_error_v2_event: Event<PciErrorV2> { header, error = payload }
        recordfd_pci_error_result: PciErrorResult { cookie, result }
        recordfd_device_request: DeviceRequest { dev_id, cookie, kind, count }
        recordfd_device_request_event: Event<DeviceRequest> { header, request = payload }
        recordfd_device_ack: DeviceAck { cookie, code }
        recordfd_mixed: Mixed { format, flags, sequence, source, payload }
        recordfd_offer: Offer {
            size, abi_min, abi_max, format, flags, depth, record_size, reply_depth, reply_size,
            records_offset, replies_offset, map_size; reserved at 56, 8
        }
        recordfd_channel_info: ChannelInfo { format, transport, depth; reserved at 12, 4 }
        recordfd_acpi_genl_event: AcpiGenlEvent { device_class, bus_id, pad, kind, data }
    }
}

pub(crate) struct Constant {
    pub(crate) c: &'static str,
    pub(crate) rust: &'static str,
    pub(crate) value: String,
}

macro_rules! constants {
    ($($c:ident = $rust:expr;)*) => {
        vec![$(Constant { c: stringify!($c), rust: stringify!($rust), value: $rust.to_string() }),*]
    };
}

pub(crate) fn constants() -> Vec<Constant> {
    constants! {
        RECORDFD_FORMAT_IOMMU_PGFAULT_V1 = Format::IOMMU_PGFAULT_V1.0;
        RECORDFD_FORMAT_IOMMU_PGFAULT_V2 = Format::IOMMU_PGFAULT_V2.0;
        RECORDFD_FORMAT_VIOMMU_ARM_SMMUV3_V1 = Format::VIOMMU_ARM_SMMUV3_V1.0;
        RECORDFD_FORMAT_VIOMMU_TEGRA241_CMDQV_V1 = Format::VIOMMU_TEGRA241_CMDQV_V1.0;
        RECORDFD_FORMAT_ACPI_NOTIFY_V1 = Format::ACPI_NOTIFY_V1.0;
        RECORDFD_FORMAT_PCI_ERROR_V1 = Format::PCI_ERROR_V1.0;
        RECORDFD_FORMAT_PCI_ERROR_V2 = Format::PCI_ERROR_V2.0;
        RECORDFD_FORMAT_DEVICE_REQUEST_V1 = Format::DEVICE_REQUEST_V1.0;
        RECORDFD_FORMAT_MIXED_V1 = Format::MIXED_V1.0;
        RECORDFD_WRITE_MAX = WRITE_MAX;
        RECORDFD_SEQUENCE_MAX = Sequence::MAX.get();
        RECORDFD_LOSS_MAX = Sequence::LOSS_MAX;
        RECORDFD_EVENT_FLAG_LOST_EVENTS = EventFlags::LOST_EVENTS.bits();
        RECORDFD_EVENT_FLAG_CANCELLED = EventFlags::CANCELLED.bits();
        RECORDFD_PGFAULT_FLAG_PASID_VALID = PgFaultFlags::PASID_VALID.bits();
        RECORDFD_PGFAULT_FLAG_LAST_PAGE = PgFaultFlags::LAST_PAGE.bits();
        RECORDFD_PGFAULT_FLAG_NEEDS_PASID = PgFaultFlags::NEEDS_PASID.bits();
        RECORDFD_PGFAULT_PERM_READ = PgFaultPerm::READ.bits();
        RECORDFD_PGFAULT_PERM_WRITE = PgFaultPerm::WRITE.bits();
        RECORDFD_PGFAULT_PERM_EXEC = PgFaultPerm::EXEC.bits();
        RECORDFD_PGFAULT_PERM_PRIV = PgFaultPerm::PRIV.bits();
        RECORDFD_PAGE_RESPONSE_SUCCESS = PageResponseCode::SUCCESS.get();
        RECORDFD_PAGE_RESPONSE_INVALID = PageResponseCode::INVALID.get();
        RECORDFD_PRI_SUCCESS = ResponseCode::SUCCESS.get();
        RECORDFD_PRI_INVALID_REQUEST = ResponseCode::INVALID_REQUEST.get();
        RECORDFD_PRI_RESPONSE_FAILURE = ResponseCode::RESPONSE_FAILURE.get();
        RECORDFD_SMMUV3_PRI_RESPONSE_FAILURE = PriResp::RESPONSE_FAILURE.get();
        RECORDFD_SMMUV3_PRI_INVALID_REQUEST = PriResp::INVALID_REQUEST.get();
        RECORDFD_SMMUV3_PRI_SUCCESS = PriResp::SUCCESS.get();
        RECORDFD_ACPI_OST_EDR_SUCCESS = AcpiOst::EDR_SUCCESS;
        RECORDFD_ACPI_OST_EDR_FAILURE = AcpiOst::EDR_FAILURE;
        RECORDFD_PCI_STEP_ERROR_DETECTED = PciErrorStep::ERROR_DETECTED.get();
        RECORDFD_PCI_STEP_MMIO_ENABLED = PciErrorStep::MMIO_ENABLED.get();
        RECORDFD_PCI_STEP_SLOT_RESET = PciErrorStep::SLOT_RESET.get();
        RECORDFD_PCI_STEP_RESUME = PciErrorStep::RESUME.get();
        RECORDFD_PCI_STATE_IO_NORMAL = PciChannelState::IO_NORMAL.get();
        RECORDFD_PCI_STATE_IO_FROZEN = PciChannelState::IO_FROZEN.get();
        RECORDFD_PCI_STATE_IO_PERM_FAILURE = PciChannelState::IO_PERM_FAILURE.get();
        RECORDFD_PCI_ERROR_FLAG_FATAL = PciErrorFlags::FATAL.bits();
        RECORDFD_PCI_ERROR_FLAG_CORRECTABLE = PciErrorFlags::CORRECTABLE.bits();
        RECORDFD_PCI_ERROR_FLAG_AER_VALID = PciErrorFlags::AER_VALID.bits();
        RECORDFD_PCI_ERROR_FLAG_FLIT = PciErrorFlags::FLIT.bits();
        RECORDFD_PCI_TLP_LOG_MAX = PciErrorV2::new_zeroed().tlp_log.len();
        RECORDFD_PCI_RESULT_NONE = PciErsResult::NONE.get();
        RECORDFD_PCI_RESULT_CAN_RECOVER = PciErsResult::CAN_RECOVER.get();
        RECORDFD_PCI_RESULT_NEED_RESET = PciErsResult::NEED_RESET.get();
        RECORDFD_PCI_RESULT_DISCONNECT = PciErsResult::DISCONNECT.get();
        RECORDFD_PCI_RESULT_RECOVERED = PciErsResult::RECOVERED.get();
        RECORDFD_DEVICE_REQUEST_RELEASE = DeviceRequestKind::RELEASE.get();
        RECORDFD_DEVICE_REQUEST_RESET_DONE = DeviceRequestKind::RESET_DONE.get();
        RECORDFD_DEVICE_ACK_DONE = DeviceAckCode::DONE.get();
        RECORDFD_DEVICE_ACK_REFUSED = DeviceAckCode::REFUSED.get();
        RECORDFD_OFFER_MIN_SIZE = Offer::MIN_SIZE;
        RECORDFD_OFFER_FLAG_PRODUCER = OfferFlags::PRODUCER.bits();
        RECORDFD_TRANSPORT_LOCAL = Transport::LOCAL.get();
        RECORDFD_TRANSPORT_SOCKET = Transport::SOCKET.get();
        RECORDFD_TRANSPORT_SHARED = Transport::SHARED.get();
        RECORDFD_TRANSPORT_KERNEL = Transport::KERNEL.get();
        RECORDFD_ACPI_GENL_FAMILY_NAME = acpi_genl::FAMILY_NAME;
        RECORDFD_ACPI_GENL_GROUP_NAME = acpi_genl::GROUP_NAME;
        RECORDFD_ACPI_GENL_FAMILY_VERSION = acpi_genl::FAMILY_VERSION;
        RECORDFD_ACPI_GENL_CMD_EVENT = acpi_genl::CMD_EVENT;
        RECORDFD_ACPI_GENL_ATTR_EVENT = acpi_genl::ATTR_EVENT;
    }
}

/// What only the header has: its helpers, and the macros it is made with.
pub(crate) const C_ONLY_STRUCTS: [(&str, &[&str]); 2] = [
    ("recordfd_iter", &["next", "rest", "record_size", "flags"]),
    ("recordfd_group", &["pages", "room", "count", "cookie", "complete"]),
];
pub(crate) const C_ONLY_DEFINES: [&str; 11] = [
    "RECORDFD_H",
    "RECORDFD_STATIC_ASSERT",
    "RECORDFD_ASSERT_SIZE",
    "RECORDFD_ASSERT_OFFSET",
    "RECORDFD_FORMAT",
    "RECORDFD_FORMAT_ID",
    "RECORDFD_FORMAT_VERSION",
    "RECORDFD_ITER_LINUX",
    "RECORDFD_SMMUV3_RESUME_RAZ_WI",
    "RECORDFD_SMMUV3_RESUME_RETRY",
    "RECORDFD_SMMUV3_RESUME_ABORT",
];
pub(crate) const FUNCTIONS: [&str; 16] = [
    "recordfd_format_record_size",
    "recordfd_format_reply_size",
    "recordfd_text_len",
    "recordfd_lost_through",
    "recordfd_lost_before",
    "recordfd_iter_init",
    "recordfd_iter_next",
    "recordfd_group_init",
    "recordfd_group_add",
    "recordfd_group_response",
    "recordfd_response_to_pri",
    "recordfd_pri_to_response",
    "recordfd_response_to_smmuv3",
    "recordfd_smmuv3_to_response",
    "recordfd_response_to_resume",
    "recordfd_resume_to_response",
];
