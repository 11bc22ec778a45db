//! Every end of a channel as a `mio::event::Source`.
//!
//! Register an end with [`Registry::register`] and [`Interest::READABLE`]. The registration borrows the end for the
//! call only and duplicates no descriptor.
//!
//! mio is edge-triggered: see [the rules](super#edge-triggered-reactors) for receiving after an event.
//!
//! **Pitfall:** deregister an end before you drop it. A descriptor leaves mio by itself only when it closes, and the
//! other side of a channel between threads, a clone of the end, or an unanswered group keeps it open.
//!
//! In a child of fork that only inherited an end, each of the three calls fails with `EPERM`: the kernel's part of a `Poll`
//! is one for parent and child.
//!
//! `examples/wait_with_mio.rs` serves three channels of different formats on one thread.
//!
//! # Examples
//!
//! ```
//! use mio::{Events, Interest, Poll, Token};
//! use recordfd::TryRecvError;
//! use recordfd::event;
//! use recordfd::uapi::{Le64, Smmuv3Event};
//!
//! let (tx, end) = event::socket::<Smmuv3Event>(&recordfd::Options::new())?;
//! let mut rx = event::Receiver::<Smmuv3Event>::attach(end)?;
//! let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(8));
//! poll.registry().register(&mut rx, Token(0), Interest::READABLE)?;
//!
//! tx.try_send(Smmuv3Event { evt: [Le64::new(4); 4] })?;
//! poll.poll(&mut events, None)?;
//! assert!(events.iter().any(|event| event.token() == Token(0)));
//! let mut received = 0;
//! loop {
//!     match rx.try_recv() {
//!         Ok(_) => received += 1,
//!         Err(TryRecvError::Empty) => break, // now the next record makes an event again
//!         Err(error) => return Err(error.into()),
//!     }
//! }
//! assert_eq!(received, 1);
//! poll.registry().deregister(&mut rx)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use ::mio::event::Source;
use ::mio::unix::SourceFd;
use ::mio::{Interest, Registry, Token};
use recordfd_uapi::EventRecord;

use crate::event::{Receiver, Sender, SoleSender};
use crate::fault::{FaultReporter, FaultResponder};
use crate::request::{Reporter, Request, Responder};

macro_rules! source {
    ($end:ty $(, $record:ident: $bound:ident)?) => {
        impl$(<$record: $bound>)? Source for $end {
            fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
                self.check_process()?;
                SourceFd(&self.as_fd().as_raw_fd()).register(registry, token, interests)
            }

            fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
                self.check_process()?;
                SourceFd(&self.as_fd().as_raw_fd()).reregister(registry, token, interests)
            }

            fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
                self.check_process()?;
                SourceFd(&self.as_fd().as_raw_fd()).deregister(registry)
            }
        }
    };
}

source!(Sender<R>, R: EventRecord);
source!(SoleSender<R>, R: EventRecord);
source!(Receiver<R>, R: EventRecord);
source!(FaultReporter);
source!(FaultResponder);
source!(Reporter<R>, R: Request);
source!(Responder<R>, R: Request);
