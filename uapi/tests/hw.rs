//! The records of IOMMU hardware: every vector, every field, and whatever random bytes say.

#[path = "hw/check.rs"]
mod check;
#[path = "hw/pcie.rs"]
mod pcie;
#[path = "common/vectors.rs"]
mod vectors;
#[path = "hw/vtd.rs"]
mod vtd;
