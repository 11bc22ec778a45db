//! Every end of a channel in a `polling::Poller`, without unsafe code.
//!
//! `Poller::add` is unsafe because a descriptor must be deleted from the poller before it closes. A [`Registration`]
//! sees to that: it owns the end, and removes it from the poller when it is dropped or gives the end back.
//!
//! A registration is level-triggered ([`PollMode::Level`]): the poller reports the end at each wait while something is
//! there to receive. [`Registration::with_mode`] takes any other mode that polling has. For [`PollMode::Edge`] see
//! [the rules](super#edge-triggered-reactors); after an event of [`PollMode::Oneshot`] call
//! [`modify`](Registration::modify).
//!
//! **Pitfall:** an end whose peer is gone stays ready. In level mode drop its registration after
//! [`Closed`](crate::TryRecvError::Closed).
//!
//! `examples/wait_with_polling.rs` serves three channels of different formats on one thread.
//!
//! # Examples
//!
//! ```
//! use std::sync::Arc;
//!
//! use polling::{Event, Events, Poller};
//! use recordfd::event;
//! use recordfd::reactor::polling::Registration;
//! use recordfd::uapi::{Le64, Smmuv3Event};
//!
//! let (tx, end) = event::socket::<Smmuv3Event>(&recordfd::Options::new())?;
//! let rx = event::Receiver::<Smmuv3Event>::attach(end)?;
//! let (poller, mut events) = (Arc::new(Poller::new()?), Events::new());
//! let mut rx = Registration::new(&poller, rx, Event::readable(7))?;
//!
//! tx.try_send(Smmuv3Event { evt: [Le64::new(4); 4] })?;
//! poller.wait(&mut events, None)?;
//! assert!(events.iter().any(|event| event.key == 7));
//! assert_eq!(rx.try_recv()?.lost(), 0); // the registration dereferences to the receiver
//! let _rx = rx.into_inner(); // it is no longer in the poller
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::Arc;

use ::polling::{Event, PollMode, Poller};

use crate::error::{Error, Rejected};
use crate::sys::Polled;

/// An end that is in a [`Poller`]; it dereferences to the end.
///
/// It keeps the poller, and a duplicate of the end's descriptor (`fcntl(2)` with `F_DUPFD_CLOEXEC`), which is what is
/// registered. So the registration stays valid whatever happens to the end through `&mut`. In a child of fork that
/// inherited a registration, dropping it leaves the parent's poller as it is.
///
/// **Pitfall:** an end that is swapped out through `&mut` takes no registration along, and its peer sees no hang-up
/// before this registration is dropped. Use [`into_inner`](Self::into_inner).
#[derive(Debug)]
pub struct Registration<E> {
    // First, so that it leaves the poller before the end closes.
    polled: Polled,
    end: E,
}

impl<E: AsFd> Registration<E> {
    /// Adds `end` to the poller in level mode. `interest` has the key of its events; use [`Event::readable`].
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the end: [`Error::Os`] when no descriptor can be had, or the poller takes no more. The key
    /// `usize::MAX` is polling's own.
    pub fn new(poller: &Arc<Poller>, end: E, interest: Event) -> Result<Self, Rejected<E>> {
        Self::with_mode(poller, end, interest, PollMode::Level)
    }

    /// Adds `end` to the poller in a mode of the caller's choice, which [`modify`](Self::modify) keeps.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_mode(
        poller: &Arc<Poller>,
        end: E,
        interest: Event,
        mode: PollMode,
    ) -> Result<Self, Rejected<E>> {
        let (end, polled) = Rejected::unless(end, |end| {
            let duplicate = end.as_fd().try_clone_to_owned().map_err(|source| Error::os("fcntl", source))?;
            Polled::new(poller.clone(), duplicate, interest, mode)
        })?;
        Ok(Self { polled, end })
    }
}

impl<E> Registration<E> {
    /// Changes key and interest. If the end is ready, the next wait reports it, in every mode.
    ///
    /// [`Event::none`] keeps it registered and reports nothing but a hang-up.
    ///
    /// # Errors
    ///
    /// [`Error::Os`], what epoll_ctl(2) says, and [`Error::NotThisProcess`]. The registration is then as it was.
    pub fn modify(&self, interest: Event) -> Result<(), Error> {
        self.polled.modify(interest)
    }

    /// Removes the end from the poller and gives it back.
    pub fn into_inner(self) -> E {
        self.end
    }
}

impl<E> Deref for Registration<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.end
    }
}

impl<E> DerefMut for Registration<E> {
    fn deref_mut(&mut self) -> &mut E {
        &mut self.end
    }
}
