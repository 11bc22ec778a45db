//! ACPI device notifications and the names of their values.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::pin_layout;
use crate::{Event, EventRecord, FixedText, Format, Payload, RecordError};

/// An ACPI device notification: AML's `Notify (device, value)`.
///
/// Source: ACPI 6.0 section 5.6.6, "Device Object Notifications"; the record's layout is ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AcpiNotify {
    /// The device, as the channel's two sides number devices; 0 when only the names tell.
    pub dev_id: u32,
    /// The notification value; 0 (Bus Check) is a value like any other. See [`notify_value_name`].
    pub value: u32,
    /// Detail that the host's driver added, such as the press count of a button.
    pub data: u32,
    /// What an `_OST` answer names; 0 when none is wanted.
    pub cookie: u32,
    /// The device's name on the ACPI bus, such as `PNP0C0A:00`.
    pub bus_id: FixedText<16>,
    /// The device's class, such as `battery`; see [`notify_value_name`].
    pub device_class: FixedText<24>,
}

pin_layout!(AcpiNotify, size 56, align 4, {
    dev_id: 0, value: 4, data: 8, cookie: 12, bus_id: 16, device_class: 32,
});

impl Payload for AcpiNotify {}

impl EventRecord for AcpiNotify {
    const FORMAT: Format = Format::ACPI_NOTIFY_V1;
    type Wire = Event<Self>;
    type Reply = AcpiOst;
}

impl AcpiNotify {
    /// The value's name for this device's class, if it has one.
    pub fn value_name(&self) -> Option<&'static str> {
        notify_value_name(self.device_class.as_bytes(), self.value)
    }
}

/// An `_OST` report on a notification; an OS may send several, to tell of progress.
///
/// Source: ACPI 6.4 section 6.3.5, "_OST (OSPM Status Indication)"; the record's layout is ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AcpiOst {
    /// The cookie of the notification.
    pub cookie: u32,
    /// What is reported on: mostly the notification value.
    pub source_event: u32,
    /// How it went: 0 is success. Error Disconnect Recover has a form of its own, see [`edr`](Self::edr).
    pub status: u32,
    reserved: u32,
}

pin_layout!(AcpiOst, size 16, align 4, { cookie: 0, source_event: 4, status: 8, reserved: 12 });

impl AcpiOst {
    /// Error Disconnect Recover: the port has recovered. The low half of the status.
    pub const EDR_SUCCESS: u32 = 0x80;
    /// Error Disconnect Recover: the port has not recovered. The low half of the status.
    pub const EDR_FAILURE: u32 = 0x81;

    /// A report on the notification with `cookie`.
    pub const fn new(cookie: u32, source_event: u32, status: u32) -> Self {
        Self { cookie, source_event, status, reserved: 0 }
    }

    /// The report on an Error Disconnect Recover (notification value 0x0f).
    ///
    /// `port` is the requester id of the port that was contained: bus in bits 15:8, device in 7:3, function in 2:0.
    /// It is the upper half of the status.
    ///
    /// Source: PCI Firmware Specification, ECN "Downstream Port Containment Related Enhancements"; Linux
    /// `drivers/pci/pcie/edr.c`, `acpi_send_edr_status()`.
    ///
    /// ```
    /// use recordfd_uapi::AcpiOst;
    /// assert_eq!(AcpiOst::edr(7, 0x3500, true), AcpiOst::new(7, 0x0f, 0x3500_0080));
    /// assert_eq!(AcpiOst::edr(7, 0x3500, false).status, 0x3500_0081);
    /// ```
    pub const fn edr(cookie: u32, port: u16, recovered: bool) -> Self {
        let status = if recovered { Self::EDR_SUCCESS } else { Self::EDR_FAILURE };
        Self::new(cookie, 0x0f, (port as u32) << 16 | status)
    }
}

impl Payload for AcpiOst {
    fn check(&self) -> Result<(), RecordError> {
        if self.reserved == 0 { Ok(()) } else { Err(RecordError::Reserved { field: "reserved" }) }
    }
}

/// Who defines a notification value.
///
/// Source: ACPI 6.0 section 5.6.6, "Device Object Notifications".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyRange {
    /// 0x00-0x7F: the same for every device.
    Common,
    /// 0x80-0xBF: defined by the device's class.
    DeviceSpecific,
    /// 0xC0 and up: defined by the hardware vendor.
    HardwareSpecific,
}

/// Who defines `value`; see [`NotifyRange`].
pub const fn notify_range(value: u32) -> NotifyRange {
    match value {
        0..=0x7f => NotifyRange::Common,
        0x80..=0xbf => NotifyRange::DeviceSpecific,
        _ => NotifyRange::HardwareSpecific,
    }
}

/// Values that every device may be notified of (ACPI 6.0 table 5-142 and its successors).
const COMMON: [&str; 16] = [
    "Bus Check",
    "Device Check",
    "Device Wake",
    "Eject Request",
    "Device Check Light",
    "Frequency Mismatch",
    "Bus Mode Mismatch",
    "Power Fault",
    "Capabilities Check",
    "Device _PLD Check",
    "",
    "System Locality Information Update",
    "",
    "System Resource Affinity Update",
    "Heterogeneous Memory Attributes Update",
    "Error Disconnect Recover",
];

/// Names from 0x80 on, by the class name Linux gives the device. Classes whose tables could not be
/// verified (memory device, ambient light, NVDIMM ...) are left out: their values pass through by number.
const BY_CLASS: [(&str, &[&str]); 11] = [
    ("", &["Status Change", "Information Change", "Device-Specific Change", "Device-Specific Change"]),
    ("battery", &["Status Change", "Information Change", "Maintenance Data Flags Check"]),
    ("ac_adapter", &["Status Change", "Information Change"]),
    (
        "thermal_zone",
        &[
            "Temperature Change",
            "Trip Points Change",
            "Device Lists Change",
            "Thermal Relationship Table Change",
        ],
    ),
    (
        "processor",
        &[
            "Performance Present Capabilities Change",
            "C-State Change",
            "Throttling Present Capabilities Change",
            "Guaranteed Change",
            "Minimum Excursion",
            "Highest Performance Change",
        ],
    ),
    ("fan", &["State Change"]),
    (
        "video",
        &[
            "Output Switch",
            "Output Probe",
            "Cycle Output",
            "Next Output",
            "Previous Output",
            "Cycle Brightness",
            "Increase Brightness",
            "Decrease Brightness",
            "Zero Brightness",
            "Display Device Off",
        ],
    ),
    ("button/power", &["S0 Power Button Pressed"]),
    ("button/sleep", &["S0 Sleep Button Pressed"]),
    ("button/lid", &["Lid Status Change"]),
    ("lid", &["Lid Status Change"]),
];

/// The name of a notification value for a device of `class`, such as `Information Change`.
///
/// `class` is the name Linux uses in its events (`battery`, `button/power`); an empty one is a
/// generic device. Values without a verified name give `None` and are meant to be passed on.
///
/// Source: ACPI 6.0 tables 5-142 and following, and what later versions added; Linux `include/acpi/actypes.h`,
/// `include/acpi/video.h`, and in `drivers/acpi` `thermal.c`, `fan_core.c` and `processor_driver.c`.
///
/// ```
/// use recordfd_uapi::notify_value_name;
/// assert_eq!(notify_value_name(b"battery", 0x81), Some("Information Change"));
/// assert_eq!(notify_value_name(b"battery", 0x00), Some("Bus Check"));
/// assert_eq!(notify_value_name(b"battery", 0xc0), None);
/// ```
pub fn notify_value_name(class: &[u8], value: u32) -> Option<&'static str> {
    let index = usize::try_from(value).ok()?;
    match (class, value) {
        (_, 0..=0x7f) => return COMMON.get(index).copied().filter(|name| !name.is_empty()),
        // Linux makes these two itself, above the range of the class.
        (b"thermal_zone", 0xf0) => return Some("Critical Temperature"),
        (b"thermal_zone", 0xf1) => return Some("Hot Temperature"),
        _ => {}
    }
    let (_, names) = BY_CLASS.iter().find(|(name, _)| name.as_bytes() == class)?;
    names.get(index - 0x80).copied()
}

/// Whether firmware waits for an `_OST` report on this notification value of a device of `class`.
///
/// True for Bus Check, Device Check, Eject Request (ACPI 6.4 section 6.3.5) and Error Disconnect Recover (Linux
/// `drivers/pci/pcie/edr.c`) of any device, and for 0x80 of a `processor` (Linux `drivers/acpi/processor_perflib.c`)
/// and an `acpi_pad` (`drivers/acpi/acpi_pad.c`). The class is named as for [`notify_value_name`].
pub const fn wants_ost(class: &[u8], value: u32) -> bool {
    match value {
        0x00 | 0x01 | 0x03 | 0x0f => true,
        0x80 => matches!(class, b"processor" | b"acpi_pad"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_names_its_own_values() {
        for (class, value, name) in [
            ("", 0x80, Some("Status Change")),
            ("", 0x84, None),
            ("battery", 0x82, Some("Maintenance Data Flags Check")),
            ("battery", 0x83, None),
            ("ac_adapter", 0x80, Some("Status Change")),
            ("thermal_zone", 0x83, Some("Thermal Relationship Table Change")),
            ("processor", 0x84, Some("Minimum Excursion")),
            ("button/power", 0x80, Some("S0 Power Button Pressed")),
            ("processor", 0x85, Some("Highest Performance Change")),
            ("thermal_zone", 0xf0, Some("Critical Temperature")),
            ("thermal_zone", 0xf1, Some("Hot Temperature")),
            ("thermal_zone", 0xf2, None),
            ("battery", 0xf0, None),
            ("fan", 0x80, Some("State Change")),
            ("fan", 0x81, None),
            ("video", 0x80, Some("Output Switch")),
            ("video", 0x89, Some("Display Device Off")),
            ("video", 0x8a, None),
            ("fan", 0x0f, Some("Error Disconnect Recover")),
            ("fan", 0x0a, None),
            ("fan", 0x10, None),
            ("fan", u32::MAX, None),
        ] {
            assert_eq!(notify_value_name(class.as_bytes(), value), name, "{class} {value:#x}");
        }
    }

    #[test]
    fn report_is_wanted_by_value_and_by_class() {
        let wanted = |class: &[u8]| [0, 1, 2, 3, 0x0f, 0x80, 0x81].map(|value| wants_ost(class, value));
        for class in [&b""[..], b"battery", b"thermal_zone"] {
            assert_eq!(wanted(class), [true, true, false, true, true, false, false], "{class:?}");
        }
        for class in [&b"processor"[..], b"acpi_pad"] {
            assert_eq!(wanted(class), [true, true, false, true, true, true, false], "{class:?}");
        }
    }

    #[test]
    fn ranges_meet_without_a_gap() {
        assert_eq!(notify_range(0x7f), NotifyRange::Common);
        assert_eq!(notify_range(0x80), NotifyRange::DeviceSpecific);
        assert_eq!(notify_range(0xbf), NotifyRange::DeviceSpecific);
        assert_eq!(notify_range(0xc0), NotifyRange::HardwareSpecific);
        assert_eq!(notify_range(u32::MAX), NotifyRange::HardwareSpecific);
    }
}
