//! Typed device events over one file descriptor: polled, read and answered, with nothing beside it.
//!
//! ```text
//! device side                                                                VMM side
//! event::Sender     ┐                                                 ┌ event::Receiver
//! FaultReporter     ├─> queue ──> transport ──> doorbell ──> ONE fd ──┼ FaultResponder    -> guest
//!  └ FaultRouter    │             (local |      (wakes only           └ request::Responder
//! request::Reporter ┘              socket |      a sleeper)              │
//!       ▲                          shared)                               │
//!       └──────────── completions ◄──── replies on the same fd ◄─────────┘
//! ```
//!
//! `eventfd` carries a counter, so who has something to say keeps a structure next to it and a protocol
//! between the two. A recordfd channel carries the records themselves, in order, bounded, with losses
//! counted in place, and takes the replies back on the same descriptor.
//!
//! * [`event`]: event channels, between threads ([`event::channel`]) or processes: over a socket
//!   ([`event::socket`]), which a program in any language can read, or in shared memory ([`event::shared`]), which takes
//!   no system call while both sides are busy.
//! * [`fault`]: channels of IO page faults, each group of which is answered exactly once, and a router that takes
//!   the faults of many devices and address spaces each to its own ([`fault::FaultRouter`]).
//! * [`request`]: channels of PCI errors, with the steps of their recovery, and of device requests, each answered
//!   exactly once.
//! * [`uapi`]: the records, and everything else about the bytes on the descriptor. C programs use
//!   `recordfd.h` of that crate.
//! * [`fd`]: passing descriptors over a socket, or to a child as its standard input.
//!
//! The types are `Send`, nothing needs a runtime, no end runs a thread, and nothing is global but the word that says which
//! process this is. Every blocking call has a form with a timeout.
//!
//! # Features
//!
//! * `local` (default): channels between threads of one process, [`event::channel`], [`request::channel`] and
//!   [`fault::channel`]. Pulls crossbeam-queue.
//! * `mio`: every end is a `mio::event::Source` (`reactor::mio`). Pulls mio.
//! * `polling`: every end can be in a `polling::Poller` without unsafe code (`reactor::polling`). Pulls polling.
//!
//! # Trust
//!
//! The process at the other end of a socket, or of shared memory, may be hostile. Whatever it writes, withholds or closes, this
//! side gets typed errors or counted losses: no panic, no unbounded memory or loop, no SIGPIPE.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
#[cfg(feature = "local")]
mod bell;
pub mod channel;
mod doorbell;
#[cfg(feature = "local")]
mod drain;
pub mod error;
pub mod event;
pub mod fault;
pub mod fd;
#[cfg(any(feature = "mio", feature = "polling"))]
pub mod reactor;
pub mod request;
mod ring;
mod sync;
mod sys;
mod transport;
mod wait;

pub use channel::{Options, Overflow, UnattachedEnd};
pub use error::{DrainError, Error, Rejected, RespondError, TryRecvError, TrySendError, Violation};
pub use recordfd_uapi as uapi;
