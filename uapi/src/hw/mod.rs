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
//!
//! # To and from page faults
//!
//! `from_fault` and `to_fault` turn a [`PgFault`](crate::PgFault) into a record and back,
//! `from_response` and `to_response` do so with its answer, and a [`Loss`] names what was left behind.
//! The mapping between a `dev_id` and a requester id is the caller's, and so is the one between a
//! cookie and what the guest answers by: requester id and group index.
//!
//! **Pitfall:** the PASID of a request need not come back with its answer: an answer has it only where the function
//! requires it (PRG Response PASID Required), which AMD's GN, too, says of the answer and not of the request. So look a
//! group up by requester id and index; use the PASID to choose among several only if the answer has one.
//!
//! ```
//! use recordfd_uapi::hw::{pcie::PageRequest, riscv::PageRequestRecord, Loss};
//! use recordfd_uapi::{PgFault, PgFaultFlags, PgFaultPerm};
//!
//! let fault = PgFault {
//!     flags: PgFaultFlags::LAST_PAGE,
//!     perm: PgFaultPerm::READ,
//!     grpid: 3,
//!     addr: 0x7f00_1234,
//!     ..PgFault::default()
//! };
//! let (request, loss) = PageRequest::from_fault(&fault, 0x0100)?;
//! assert_eq!((request.addr, loss), (0x7f00_1000, Loss::ADDR));
//! let bytes = PageRequestRecord::Request(request).encode()?;
//! assert_eq!(PageRequestRecord::decode(&bytes), PageRequestRecord::Request(request));
//! # Ok::<(), recordfd_uapi::hw::HwError>(())
//! ```

pub mod amd;
mod answer;
mod bits;
mod convert;
mod error;
pub mod pcie;
pub mod riscv;
pub mod smmuv3;
pub mod virtio;
pub mod vtd;

pub use convert::{GuestPolicy, Loss};
pub use error::HwError;
