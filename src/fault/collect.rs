//! Groups that wait for their last page.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use recordfd_uapi::PgFault;

use super::request::{FaultCompletion, FaultRequest, ResponseCode, Tag};
use crate::answer::devices::DeviceCounts;
use crate::answer::list::{Linked, Links, List};
use crate::answer::{Cause, MustAnswer};

/// Which group a page belongs to. The hardware's index tells apart the half-made groups of one address
/// space of one device, and nothing more; a stall has the index of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    dev_id: u32,
    tag: Tag,
}

#[derive(Debug)]
struct HalfMade {
    links: Links,
    key: Key,
    /// When its first page came.
    since: Instant,
    count: usize,
    /// A page beyond the most has come.
    too_large: bool,
    /// It waits for its last page, and goes by its key.
    live: bool,
}

impl Linked for HalfMade {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// What came of a group before its last page.
#[derive(Debug)]
pub(super) struct Before<'a> {
    pub(super) place: u32,
    pub(super) pages: &'a [PgFault],
    /// More came than a group can have.
    pub(super) too_large: bool,
}

/// Why a page was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many groups wait.
    Full,
    /// The group would have too many pages.
    TooLarge,
}

#[derive(Debug)]
pub(super) struct Collector {
    groups: Box<[HalfMade]>,
    /// The pages of each group, `max_group` places apart.
    pages: Box<[PgFault]>,
    max_group: usize,
    free: List,
    /// In the order in which they began; with those that leave.
    live: List,
    /// Groups that a last page has completed, and the number of that request. They have no key any more.
    leaving: Vec<(u32, usize)>,
    by_key: HashMap<Key, u32>,
    /// The group that took a page last: mostly the next one's, too.
    latest: u32,
    devices: DeviceCounts,
    age: Duration,
    /// Completions of groups that waited too long; with the live ones never more than there are places.
    unfinished: VecDeque<FaultCompletion>,
}

impl Collector {
    /// A collector of `most` groups with up to `max_group` pages, each of which may wait for `age`.
    pub(super) fn new(most: u32, max_group: u32, age: Duration) -> Self {
        let key = Key { dev_id: 0, tag: Tag::default() };
        let none = || HalfMade {
            links: Links::LONE,
            key,
            since: Instant::now(),
            count: 0,
            too_large: false,
            live: false,
        };
        let mut groups: Box<[_]> = (0..most).map(|_| none()).collect();
        let mut free = List::new();
        (0..most).for_each(|index| free.push(&mut groups, index));
        // The last page is never kept here.
        let places = most as usize * (max_group as usize - 1);
        Self {
            groups,
            pages: vec![PgFault::cancelled(0, 0); places].into_boxed_slice(),
            max_group: max_group as usize,
            free,
            live: List::new(),
            leaving: Vec::with_capacity(most as usize),
            // Twice the most, so that the table never grows, whatever was removed from it.
            by_key: HashMap::with_capacity(2 * most as usize),
            latest: 0,
            devices: DeviceCounts::new(most, most.div_ceil(2)),
            age,
            unfinished: VecDeque::with_capacity(most as usize),
        }
    }

    /// Takes a page that is not its group's last one.
    pub(super) fn add(&mut self, request: &FaultRequest, now: Instant) -> Result<(), Refused> {
        let key = key_of(request);
        let place = self.place_of(&key);
        if place.map_or(0, |place| self.groups[place as usize].count) == self.max_group - 1 {
            return Err(Refused::TooLarge);
        }
        let place = place.map_or_else(|| self.begin(key, now), Ok)?;
        let group = &mut self.groups[place as usize];
        self.pages[place as usize * (self.max_group - 1) + group.count] = request.fault();
        group.count += 1;
        self.latest = place;
        Ok(())
    }

    /// Notes that the request's group has more pages than one can have.
    pub(super) fn set_too_large(&mut self, request: &FaultRequest, now: Instant) {
        let key = key_of(request);
        if let Ok(place) = self.place_of(&key).map_or_else(|| self.begin(key, now), Ok) {
            self.groups[place as usize].too_large = true;
        }
    }

    /// Undoes the latest [`add`](Self::add) to the request's group.
    pub(super) fn take_back(&mut self, request: &FaultRequest) {
        if let Some(place) = self.place_of(&key_of(request)) {
            self.groups[place as usize].count -= 1;
            if self.groups[place as usize].count == 0 {
                self.remove(place);
            }
        }
    }

    /// What came of a group before its last page, if anything did.
    pub(super) fn pages_before(&self, last: &FaultRequest) -> Option<Before<'_>> {
        if self.by_key.is_empty() {
            return None;
        }
        let place = self.place_of(&key_of(last))?;
        let group = &self.groups[place as usize];
        let first = place as usize * (self.max_group - 1);
        Some(Before { place, pages: &self.pages[first..first + group.count], too_large: group.too_large })
    }

    /// Forgets the group at `place`.
    pub(super) fn remove(&mut self, place: u32) {
        self.unlink(place);
        self.give_back(place);
    }

    /// Lets the group at `place` go, for the request number `request` has completed it: a new group may
    /// come under its key. Until [`forget_leaving`](Self::forget_leaving) it can [`stay`](Self::stay).
    pub(super) fn leave(&mut self, place: u32, request: usize) {
        self.unlink(place);
        self.leaving.push((place, request));
    }

    /// Whether groups are leaving.
    pub(super) fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Undoes the latest [`leave`](Self::leave) if it was by the request number `request`.
    pub(super) fn stay(&mut self, request: usize) {
        if let Some((place, _)) = self.leaving.last().copied().filter(|(_, by)| *by == request) {
            self.leaving.pop();
            let group = &mut self.groups[place as usize];
            group.live = true;
            self.by_key.insert(group.key, place);
        }
    }

    /// Forgets the groups that have left.
    pub(super) fn forget_leaving(&mut self) {
        while let Some((place, _)) = self.leaving.pop() {
            self.give_back(place);
        }
    }

    /// Takes the group's key off it.
    fn unlink(&mut self, place: u32) {
        let group = &mut self.groups[place as usize];
        group.live = false;
        self.by_key.remove(&group.key);
    }

    /// Gives the place of a group without a key back.
    fn give_back(&mut self, place: u32) {
        self.devices.remove(self.groups[place as usize].key.dev_id, 1);
        self.live.remove(&mut self.groups, place);
        self.free.push(&mut self.groups, place);
    }

    /// Forgets the groups of some devices; returns how many.
    pub(super) fn discard(&mut self, is_meant: impl Fn(u32) -> bool) -> u64 {
        let (mut discarded, mut at) = (0, self.live.first());
        while let Some(place) = at {
            at = self.live.next(&mut self.groups, place);
            if is_meant(self.groups[place as usize].key.dev_id) {
                self.remove(place);
                discarded += 1;
            }
        }
        discarded
    }

    /// Whether a group of this address space waits.
    pub(super) fn has_pasid(&mut self, dev_id: u32, pasid: u32) -> bool {
        let mut at = self.live.first();
        while let Some(place) = at {
            let key = self.groups[place as usize].key;
            if key.dev_id == dev_id && key.tag.pasid == Some(pasid) {
                return true;
            }
            at = self.live.next(&mut self.groups, place);
        }
        false
    }

    /// Completes the groups that have waited too long; returns how many.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            let Some(place) = self.live.pop(&mut self.groups) else { break };
            self.unlink(place);
            self.free.push(&mut self.groups, place);
            let Key { dev_id, tag } = self.groups[place as usize].key;
            self.unfinished.push_back(tag.completion(dev_id, 0, ResponseCode::Invalid, Cause::Unfinished));
            expired += 1;
        }
        expired
    }

    /// When the group that waits longest has waited too long.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.groups[self.live.first()? as usize].since.checked_add(self.age)
    }

    /// Takes the next completion of a group that waited too long.
    pub(super) fn take(&mut self) -> Option<FaultCompletion> {
        let completion = self.unfinished.pop_front()?;
        // It was held against its device until here, or one could fill the room of all with these.
        self.devices.remove(completion.dev_id, 1);
        Some(completion)
    }

    /// Completions to take.
    pub(super) fn waiting(&self) -> usize {
        self.unfinished.len()
    }

    /// Groups that wait for their last page.
    pub(super) fn len(&self) -> u32 {
        self.live.len()
    }

    fn begin(&mut self, key: Key, now: Instant) -> Result<u32, Refused> {
        let taken = self.live.len() as usize + self.unfinished.len();
        if taken == self.groups.len() || !self.devices.add(key.dev_id, 1) {
            return Err(Refused::Full);
        }
        let index = self.free.pop(&mut self.groups).expect("fewer live groups than places");
        let group = &mut self.groups[index as usize];
        (group.key, group.since, group.count) = (key, now, 0);
        (group.too_large, group.live) = (false, true);
        self.live.push(&mut self.groups, index);
        self.by_key.insert(key, index);
        Ok(index)
    }

    fn place_of(&self, key: &Key) -> Option<u32> {
        let latest = &self.groups[self.latest as usize];
        if latest.live && latest.key == *key {
            return Some(self.latest);
        }
        self.by_key.get(key).copied()
    }
}

fn key_of(request: &FaultRequest) -> Key {
    Key { dev_id: request.dev_id, tag: request.tag() }
}
