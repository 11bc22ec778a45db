//! The records that IOMMU hardware itself writes and reads: page requests, their answers, fault
//! records, one module for each vendor.
//!
//! A page request is PCI Express' whoever carries it, so there is one [`pcie::PageRequest`], one
//! [`pcie::StopMarker`] and one [`pcie::PrgResponse`]; the modules say where each vendor puts them.
//!
//! | | page request | answer | fault record |
//! |---|---|---|---|
//! | [`pcie`] | [`PageRequestMessage`](pcie::PageRequestMessage) | [`PrgResponse`](pcie::PrgResponse) | |
//! | [`vtd`] | [`PageRequestDescriptor`](vtd::PageRequestDescriptor) | [`InvalidationDescriptor`](vtd::InvalidationDescriptor) | [`FaultRecord`](vtd::FaultRecord) |
//! | [`smmuv3`] | [`PriQueueEntry`](smmuv3::PriQueueEntry), or a stalled [`EventRecord`](smmuv3::EventRecord) | [`Command`](smmuv3::Command) | [`EventRecord`](smmuv3::EventRecord) |
//! | [`amd`] | [`PprLogEntry`](amd::PprLogEntry) | [`Command`](amd::Command) | [`EventLogEntry`](amd::EventLogEntry) |
//! | [`riscv`] | [`PageRequestRecord`](riscv::PageRequestRecord) | [`Command`](riscv::Command) | [`FaultRecord`](riscv::FaultRecord) |
//! | [`virtio`] | | | [`Fault`](virtio::Fault) |
//!
//! # Decoding and encoding
//!
//! Records are little-endian byte arrays of their exact size.
//!
//! - Decoding is total. A record of a kind that is not known here is kept as words in a variant
//!   `Unknown`, and encoding gives the same bytes back.
//! - Of a known kind, reserved bits are ignored, and so is what the record itself declares invalid: a
//!   PASID without its valid bit, and a page request's execute and privileged without a PASID. They are
//!   written as 0.
//!   Fields that keep reserved bits all the same say so.
//! - What is decoded can be encoded, and decoding that gives the same value. The one exception: a
//!   response code that is never sent ([`HwError::Code`]).
//! - Encoding never truncates: what has no place in the record is an [`HwError`].
//! - "Not confirmed" in the documentation marks what no primary source was found for: it is kept as it
//!   came, and is 0 in what is made anew.

pub mod amd;
mod bits;
mod error;
pub mod pcie;
pub mod riscv;
pub mod smmuv3;
pub mod virtio;
pub mod vtd;

pub use error::HwError;
