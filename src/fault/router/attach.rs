//! Attaching, replacing and detaching handles.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};

use super::table::{Attachment, FaultSource};
use super::tell::{Held, is_responding};
use super::{FaultHandle, FaultRouter, Shared};
use crate::error::NotThisProcess;
use crate::fault::request::MAX_PASID;
use crate::sync::{Ordering, lock, write};
use crate::sys::Owned;

/// A handle was not attached, replaced or detached, and everything is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A handle is attached there (`EEXIST`).
    #[error("a handle is attached there already")]
    AlreadyAttached,
    /// No handle is attached there (`ENOENT`).
    #[error("no handle is attached there")]
    NotAttached,
    /// Another call is switching this source (`EBUSY`).
    #[error("another call is switching this source")]
    Busy,
    /// The handle is another router's (`EINVAL`).
    #[error("the handle is another router's")]
    Foreign,
    /// The PASID has more than 20 bits (`EINVAL`).
    #[error("the PASID has more than 20 bits")]
    Pasid,
    /// The call comes from within `respond`, and would wait for itself (`EDEADLK`).
    #[error("the call comes from within the function that it waits for")]
    WithinRespond,
    /// This process has only inherited the router, by fork (`EPERM`): make it after the fork.
    #[error("{}", NotThisProcess)]
    NotThisProcess,
}

impl From<NotThisProcess> for AttachError {
    fn from(_: NotThisProcess) -> Self {
        Self::NotThisProcess
    }
}

impl AttachError {
    /// The errno of an ioctl in the same place.
    pub fn errno(&self) -> i32 {
        match self {
            Self::AlreadyAttached => libc::EEXIST,
            Self::NotAttached => libc::ENOENT,
            Self::Busy => libc::EBUSY,
            Self::Foreign | Self::Pasid => libc::EINVAL,
            Self::WithinRespond => libc::EDEADLK,
            Self::NotThisProcess => libc::EPERM,
        }
    }
}

/// A handle was not switched, and everything is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError<E> {
    /// It could not be set up.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The caller's own part of it failed.
    #[error("switching failed")]
    Switch(#[source] E),
}

impl FaultRouter {
    /// Attaches `handle` to a source that has none.
    ///
    /// # Errors
    ///
    /// [`AttachError`], and everything is as it was.
    pub fn attach(&self, source: FaultSource, handle: &FaultHandle) -> Result<(), AttachError> {
        attach_error(self.switch(source, handle, false, || Ok(())))
    }

    /// As [`attach`](Self::attach), with the caller's own part of it in between: to program an IOMMU, for one.
    ///
    /// Everything that can fail here is done before `set` is called, and what follows it cannot fail. The source's
    /// faults find no handle until then. No lock is held meanwhile, but this source is kept
    /// [`Busy`](AttachError::Busy).
    ///
    /// # Errors
    ///
    /// [`SwitchError`], and everything is as it was.
    pub fn attach_with<E>(
        &self,
        source: FaultSource,
        handle: &FaultHandle,
        set: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), SwitchError<E>> {
        self.switch(source, handle, false, set)
    }

    /// Puts `handle` in the place of the one that is attached. Groups in flight on the old one are completed INVALID, and
    /// told, before it returns; each group goes wholly to one of the two.
    ///
    /// # Errors
    ///
    /// [`AttachError`], and everything is as it was.
    pub fn replace(&self, source: FaultSource, handle: &FaultHandle) -> Result<(), AttachError> {
        attach_error(self.switch(source, handle, true, || Ok(())))
    }

    /// As [`replace`](Self::replace), with the caller's own part of it in between, as in
    /// [`attach_with`](Self::attach_with). Faults go to the old handle until then.
    ///
    /// # Errors
    ///
    /// [`SwitchError`], and everything is as it was.
    ///
    /// # Examples
    ///
    /// ```
    /// # use recordfd::fault::{FaultRouter, FaultSource, Options, ResponseCode, SwitchError};
    /// # let router = FaultRouter::new(&Options::new(), |_| {})?;
    /// # let old = router.inline(&Options::new(), |_| ResponseCode::Invalid)?;
    /// # let new = router.inline(&Options::new(), |_| ResponseCode::Success)?;
    /// let source = FaultSource::rid(1);
    /// router.attach(source, &old)?;
    /// let set_page_table = || Err("the IOMMU has no context left");
    /// let failed = router.replace_with(source, &new, set_page_table).unwrap_err();
    /// assert_eq!(failed, SwitchError::Switch("the IOMMU has no context left")); // `old` is still attached
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace_with<E>(
        &self,
        source: FaultSource,
        handle: &FaultHandle,
        set: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), SwitchError<E>> {
        self.switch(source, handle, true, set)
    }

    fn switch<E>(
        &self,
        source: FaultSource,
        handle: &FaultHandle,
        replaces: bool,
        set: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), SwitchError<E>> {
        let shared = self.0.get().map_err(AttachError::from)?;
        if !self.owns(handle) {
            return Err(AttachError::Foreign.into());
        }
        check(source)?;
        if replaces {
            refuse_within_respond()?;
        }
        let attachment = write(&shared.table).reserve(source, handle, replaces)?;
        let mut reservation = Reservation { router: &self.0, source, attachment: Some(attachment) };
        set().map_err(SwitchError::Switch)?;
        // The caller's part may have forked.
        self.0.get().map_err(AttachError::from)?;
        let Some(attachment) = reservation.attachment.take() else { return Ok(()) };
        let old = write(&shared.table).store(source, attachment);
        let mut held = Held::default();
        old.into_iter().for_each(|old| shared.retire(&old, &mut held));
        held.go_on();
        Ok(())
    }

    /// Detaches the handle of a source. Groups in flight on it are completed INVALID, and told, before it returns;
    /// what comes later finds no handle.
    ///
    /// It waits for calls of `respond` that other threads are in for such groups: hold no lock that `respond`
    /// takes. It does not wait for functions and executors; their answers are late.
    ///
    /// # Errors
    ///
    /// [`AttachError`], and everything is as it was.
    pub fn detach(&self, source: FaultSource) -> Result<(), AttachError> {
        refuse_within_respond()?;
        check(source)?;
        let mut held = Held::default();
        let shared = self.0.get()?;
        let old = write(&shared.table).remove(source)?;
        shared.retire(&old, &mut held);
        held.go_on();
        Ok(())
    }

    /// Detaches every handle of a device, as [`detach`](Self::detach), and forgets its half-made groups and Stop
    /// Markers. Returns how many handles it had. A group whose last page had not come in time by then may still be told
    /// of, by a [`process`](Self::process) in another thread.
    ///
    /// All of them are taken off at one moment: a report finds each handle or none.
    ///
    /// # Errors
    ///
    /// [`AttachError::Busy`] when another call is switching one of its sources, also one that has no handle yet,
    /// [`AttachError::WithinRespond`]; everything is as it was.
    pub fn detach_device(&self, dev_id: u32) -> Result<usize, AttachError> {
        refuse_within_respond()?;
        let mut held = Held::default();
        let shared = self.0.get()?;
        let attached = write(&shared.table).remove_device(dev_id)?;
        attached.iter().for_each(|old| shared.retire(old, &mut held));
        let mut intake = shared.intake();
        intake.counters.discarded += intake.collector.discard(|of| of == dev_id);
        intake.markers.discard(dev_id);
        drop(intake);
        held.go_on();
        Ok(attached.len())
    }
}

/// Whether there can be such a source.
fn check(source: FaultSource) -> Result<(), AttachError> {
    match source {
        FaultSource::Pasid { pasid, .. } if pasid > MAX_PASID => Err(AttachError::Pasid),
        _ => Ok(()),
    }
}

fn refuse_within_respond() -> Result<(), AttachError> {
    if is_responding() { Err(AttachError::WithinRespond) } else { Ok(()) }
}

fn attach_error(switched: Result<(), SwitchError<Infallible>>) -> Result<(), AttachError> {
    switched.map_err(|error| match error {
        SwitchError::Attach(error) => error,
        SwitchError::Switch(never) => match never {},
    })
}

/// What is set aside for a switch; given back when it comes to nothing, also by a panic.
struct Reservation<'a> {
    router: &'a Owned<Shared>,
    source: FaultSource,
    attachment: Option<Arc<Attachment>>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let (Some(attachment), Ok(router)) = (&self.attachment, self.router.get()) {
            write(&router.table).give_up(self.source, attachment);
        }
    }
}

impl Shared {
    /// Completes and tells everything of an attachment that is off the table, and forgets it.
    fn retire(&self, old: &Attachment, held: &mut Held) {
        let handle = &old.handle.inner;
        handle.cancel(old.id);
        self.deliver(handle, held);
        self.wait_settled(old);
        write(&self.table).free(old);
    }

    /// Waits until everything that was in flight on an attachment was told, for some may be with other threads.
    fn wait_settled(&self, attachment: &Attachment) {
        let mut waiting = lock(&self.settled.0);
        *waiting += 1;
        // Acquire pairs with the subtraction behind `respond`.
        while attachment.in_flight.load(Ordering::Acquire) > 0 {
            waiting = self.settled.1.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        *waiting -= 1;
    }
}
