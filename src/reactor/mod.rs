//! Adapters that register the ends of channels with mio and polling.
//!
//! An end is one descriptor ([`AsFd`](std::os::fd::AsFd)) that becomes readable, so any reactor can wait for it, and
//! `poll(2)` and `epoll(7)` need no adapter. The modules here cover two reactors that take no borrowed descriptor:
//!
//! * `mio` (feature `mio`): every end is a `mio::event::Source`. mio is edge-triggered.
//! * `polling` (feature `polling`): `Registration` owns an end while it is in a `Poller`. It is level-triggered
//!   unless another mode is asked for.
//!
//! # What to wait for
//!
//! Wait until an end is readable. A receiver or responder is readable while records wait, a sender or reporter while
//! replies or completions wait, and every end is readable once its peer is gone. Writability says nothing about room
//! in the queue, except on a socket.
//!
//! # Edge-triggered reactors
//!
//! An edge-triggered reactor reports an end once for each time that it is made readable. Each time:
//!
//! 1. If the program keeps a flag "this end is ready", clear the flag first.
//! 2. Then receive until the call returns [`Empty`](crate::TryRecvError::Empty) or
//!    [`Closed`](crate::TryRecvError::Closed). Only a receive that returned `Empty` asks the peer for the next event.
//!
//! **Pitfall:** a batch that comes back short is not `Empty`. In shared memory with
//! [`busy_poll`](crate::Options::busy_poll) set, a receive that empties the queue leaves its wake-up byte in the
//! socket, and the sender writes no other: without the receive that returns `Empty` there is no further event.
//!
//! **Pitfall:** a program that stops before `Empty`, to give other ends their turn, must remember to continue: no
//! event reminds it. Registering the end anew (`reregister`, `modify`) reports it again if it is readable.
//!
//! # Reporters
//!
//! A reporter also acts on time: use [`next_deadline`](crate::fault::FaultReporter::next_deadline) as the timeout of
//! the wait and call [`process`](crate::fault::FaultReporter::process) after each wait.
//!
//! **Pitfall:** completions that `process`, `detach`, `drain` and `reset` produce do not make a socket readable. Call
//! `completions` after them, until `Empty`.
//!
//! # Hang-up
//!
//! An edge-triggered reactor reports that the peer is gone, and then no longer reports the end. With a level-triggered
//! reactor the end stays ready: remove it after `Closed`, and after a `PeerViolation`, or the loop spins.

#[cfg(feature = "mio")]
pub mod mio;
#[cfg(feature = "polling")]
pub mod polling;
