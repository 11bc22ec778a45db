//! The records of IOMMU hardware: every vector, every field, and whatever random bytes say.

#[path = "hw/amd.rs"]
mod amd;
#[path = "hw/check.rs"]
mod check;
#[path = "hw/convert.rs"]
mod convert;
#[path = "hw/pcie.rs"]
mod pcie;
#[path = "hw/random.rs"]
mod random;
#[path = "hw/riscv.rs"]
mod riscv;
#[path = "hw/smmuv3.rs"]
mod smmuv3;
#[path = "common/vectors.rs"]
mod vectors;
#[path = "hw/virtio.rs"]
mod virtio;
#[path = "hw/vtd.rs"]
mod vtd;
