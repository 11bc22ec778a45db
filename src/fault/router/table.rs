//! Which handle takes the faults of which source.

use std::collections::HashMap;
use std::sync::Arc;

use super::handle::Handle;
use super::{AttachError, FaultHandle};
use crate::sync::AtomicU32;

/// Whose faults a handle is attached to: a device's without a PASID, or those of one PASID.
///
/// A PCIe function is known by its Requester ID where its requests carry no PASID; PASIDs have 20 bits (PCIe Base
/// Specification, "PASID TLP Prefix").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultSource {
    /// Requests without a PASID.
    Rid {
        /// The device.
        dev_id: u32,
    },
    /// Requests with this PASID.
    Pasid {
        /// The device.
        dev_id: u32,
        /// The process address space, 20 bits.
        pasid: u32,
    },
}

impl FaultSource {
    /// Requests of `dev_id` without a PASID.
    pub const fn rid(dev_id: u32) -> Self {
        Self::Rid { dev_id }
    }

    /// Requests of `dev_id` with `pasid`.
    pub const fn pasid(dev_id: u32, pasid: u32) -> Self {
        Self::Pasid { dev_id, pasid }
    }

    /// The device.
    pub const fn dev_id(&self) -> u32 {
        match self {
            Self::Rid { dev_id } | Self::Pasid { dev_id, .. } => *dev_id,
        }
    }

    fn key(self) -> Key {
        match self {
            Self::Rid { dev_id } => key_of(dev_id, None),
            Self::Pasid { dev_id, pasid } => key_of(dev_id, Some(pasid)),
        }
    }
}

/// Device and PASID in one word, which hashes faster.
type Key = u64;

fn key_of(dev_id: u32, pasid: Option<u32>) -> Key {
    let pasid = pasid.map_or(0, |pasid| u64::from(pasid) << 1 | 1);
    u64::from(dev_id) << 32 | pasid
}

/// A handle where it is attached.
#[derive(Debug)]
pub(super) struct Attachment {
    /// What its groups are known by; never 0.
    pub(super) id: u32,
    pub(super) handle: FaultHandle,
    /// Groups handed to it whose completion was not told yet.
    pub(super) in_flight: AtomicU32,
}

#[derive(Debug)]
pub(super) struct Table {
    by_source: HashMap<Key, Arc<Attachment>>,
    /// By id, less 1; attached, being attached, or detached and not told of everything.
    by_id: Vec<Option<Arc<Attachment>>>,
    /// Ids that are free, less 1.
    free: Vec<u32>,
    /// Each handle that is attached, and how often.
    handles: Vec<(Arc<Handle>, u32)>,
    /// Sources that are being switched.
    switching: Vec<FaultSource>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            by_source: HashMap::new(),
            by_id: Vec::new(),
            free: Vec::new(),
            handles: Vec::new(),
            switching: Vec::new(),
        }
    }

    /// What takes the faults of a PASID, or those without one.
    pub(super) fn find(&self, dev_id: u32, pasid: Option<u32>) -> Option<&Arc<Attachment>> {
        let owner = || {
            let of_rid = self.by_source.get(&key_of(dev_id, None));
            of_rid.filter(|attachment| attachment.handle.owns_pasid_table)
        };
        match self.by_source.get(&key_of(dev_id, pasid)) {
            None if pasid.is_some() => owner(),
            attached => attached,
        }
    }

    /// Sets everything aside that [`store`](Self::store) needs.
    pub(super) fn reserve(
        &mut self,
        source: FaultSource,
        handle: &FaultHandle,
        replaces: bool,
    ) -> Result<Arc<Attachment>, AttachError> {
        if self.switching.contains(&source) {
            return Err(AttachError::Busy);
        }
        match (self.by_source.contains_key(&source.key()), replaces) {
            (true, false) => return Err(AttachError::AlreadyAttached),
            (false, true) => return Err(AttachError::NotAttached),
            _ => {}
        }
        self.switching.push(source);
        self.by_source.reserve(self.switching.len());
        let index = self.free.pop().unwrap_or_else(|| {
            self.by_id.push(None);
            self.by_id.len() as u32 - 1
        });
        let in_flight = AtomicU32::new(0);
        let attachment = Arc::new(Attachment { id: index + 1, handle: handle.clone(), in_flight });
        self.by_id[index as usize] = Some(attachment.clone());
        match self.handles.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &handle.inner)) {
            Some((_, count)) => *count += 1,
            None => self.handles.push((handle.inner.clone(), 1)),
        }
        Ok(attachment)
    }

    /// Attaches what was reserved; returns what was attached there. It cannot fail.
    pub(super) fn store(
        &mut self,
        source: FaultSource,
        attachment: Arc<Attachment>,
    ) -> Option<Arc<Attachment>> {
        self.switching.retain(|switching| *switching != source);
        self.by_source.insert(source.key(), attachment)
    }

    /// Gives back what was reserved.
    pub(super) fn give_up(&mut self, source: FaultSource, attachment: &Attachment) {
        self.switching.retain(|switching| *switching != source);
        self.free(attachment);
    }

    /// Takes an attachment off its source.
    pub(super) fn remove(&mut self, source: FaultSource) -> Result<Arc<Attachment>, AttachError> {
        if self.switching.contains(&source) {
            return Err(AttachError::Busy);
        }
        self.by_source.remove(&source.key()).ok_or(AttachError::NotAttached)
    }

    /// Takes every attachment of a device off its source; none of them while one of its sources is being switched.
    pub(super) fn remove_device(&mut self, dev_id: u32) -> Result<Vec<Arc<Attachment>>, AttachError> {
        if self.switching.iter().any(|source| source.dev_id() == dev_id) {
            return Err(AttachError::Busy);
        }
        let of_device = |key: &Key| (*key >> 32) as u32 == dev_id;
        let keys: Vec<_> = self.by_source.keys().copied().filter(of_device).collect();
        Ok(keys.iter().filter_map(|key| self.by_source.remove(key)).collect())
    }

    /// Forgets an attachment that everything of was told.
    pub(super) fn free(&mut self, attachment: &Attachment) {
        self.by_id[attachment.id as usize - 1] = None;
        self.free.push(attachment.id - 1);
        let inner = &attachment.handle.inner;
        if let Some(index) = self.handles.iter().position(|(known, _)| Arc::ptr_eq(known, inner)) {
            self.handles[index].1 -= 1;
            if self.handles[index].1 == 0 {
                self.handles.swap_remove(index);
            }
        }
    }

    /// The attachment that a group was handed to; `None` for a group that went through no router.
    pub(super) fn by_id(&self, id: u32) -> Option<&Arc<Attachment>> {
        self.by_id.get((id as usize).checked_sub(1)?)?.as_ref()
    }

    pub(super) fn handle_count(&self) -> usize {
        self.handles.len()
    }

    /// The handle at `index` of those that are attached.
    pub(super) fn handle(&self, index: usize) -> Option<Arc<Handle>> {
        self.handles.get(index).map(|(handle, _)| handle.clone())
    }
}
