//! virtio-iommu.

use recordfd_uapi::hw::virtio::Fault;

use crate::check;
use crate::vectors::fields;

#[test]
fn fault_vectors() {
    check::vectors("virtio_iommu.fault", 2, &[], |bytes| {
        let fault = Fault::decode(bytes);
        let [low, middle, high] = fault.reserved.map(u32::from);
        let found = fields([
            ("reason", fault.reason.get().into()),
            ("reserved", (low | middle << 8 | high << 16).into()),
            ("flags", fault.flags.bits().into()),
            ("endpoint", fault.endpoint.into()),
            ("reserved1", fault.reserved1.into()),
            ("address", fault.address.into()),
        ]);
        (found, Ok(fault.encode()))
    });
}
