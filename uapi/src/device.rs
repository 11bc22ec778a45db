//! Requests of a device to its user.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::{pin_layout, wire_code};
use crate::{EventFlags, Payload};

wire_code! {
    /// What a device asks for.
    DeviceRequestKind(u32) {
        /// Let go of the device: it is to be unplugged.
        RELEASE = 1,
        /// The device was reset; take note.
        RESET_DONE = 2,
    }
}

/// A request of a device, repeated with a growing count until it is acknowledged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DeviceRequest {
    /// The device, as the channel's two sides number devices.
    pub dev_id: u32,
    /// What the acknowledgement names.
    pub cookie: u32,
    /// What is asked for.
    pub kind: DeviceRequestKind,
    /// How often this was asked before.
    pub count: u32,
}

pin_layout!(DeviceRequest, size 16, align 4, { dev_id: 0, cookie: 4, kind: 8, count: 12 });

impl Payload for DeviceRequest {
    const FLAGS: EventFlags = EventFlags::CANCELLED;
}

wire_code! {
    /// How a request was taken.
    DeviceAckCode(u32) {
        /// It was done.
        DONE = 0,
        /// It was refused.
        REFUSED = 1,
    }
}

/// The answer to a [`DeviceRequest`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DeviceAck {
    /// The cookie of the request.
    pub cookie: u32,
    /// Done or refused.
    pub code: DeviceAckCode,
}

pin_layout!(DeviceAck, size 8, align 4, { cookie: 0, code: 4 });

impl Payload for DeviceAck {}
