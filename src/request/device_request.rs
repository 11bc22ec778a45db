//! Requests of a device to its user: what they are answered with, and how a release is asked for again.

use std::time::{Duration, Instant};

use recordfd_uapi::{DeviceAck, DeviceAckCode, DeviceRequest, DeviceRequestKind, Format};

use super::course::Course;
use super::recovery::Refusal;
use super::{Completion, Options, Request};
use crate::answer::MustAnswer;
use crate::answer::ledger::{slot_bits, slot_of};
use crate::answer::list::{Linked, Links, List};

/// How a device's request was taken: the answer to a [`DeviceRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ack {
    /// It was done: the device is released, or its reset was noted.
    Done = 0,
    /// It was refused.
    Refused = 1,
}

static_assertions::const_assert_eq!(Ack::Done as u32, DeviceAckCode::DONE.get());
static_assertions::const_assert_eq!(Ack::Refused as u32, DeviceAckCode::REFUSED.get());

impl MustAnswer for DeviceRequest {
    type Answer = DeviceAck;
    type Verdict = Ack;
    type Tag = Self;

    const NEGATIVE: Ack = Ack::Refused;

    fn answer(cookie: u32, verdict: Ack) -> DeviceAck {
        DeviceAck { cookie, code: DeviceAckCode::new(verdict as u32) }
    }

    fn verdict(answer: &DeviceAck) -> (u32, Option<Ack>) {
        let verdict = match answer.code {
            DeviceAckCode::DONE => Some(Ack::Done),
            DeviceAckCode::REFUSED => Some(Ack::Refused),
            _ => None,
        };
        (answer.cookie, verdict)
    }

    fn grouped(mut self, cookie: u32, _last: bool) -> Self {
        (self.cookie, self.count) = (cookie, 0);
        self
    }

    fn cookie(&self) -> u32 {
        self.cookie
    }

    fn repeats(&self) -> u32 {
        self.count
    }

    fn cancelled(dev_id: u32, cookie: u32) -> Self {
        Self { dev_id, cookie, kind: DeviceRequestKind::RELEASE, count: 0 }
    }
}

impl Request for DeviceRequest {
    const FORMAT: Format = Format::DEVICE_REQUEST_V1;
    type Course = Releases;

    fn dev_id(&self) -> u32 {
        self.dev_id
    }
}

/// A release that is asked for again until it is answered.
#[derive(Debug)]
struct Release {
    links: Links,
    record: DeviceRequest,
    /// When it is to be asked for again.
    due: Instant,
}

impl Linked for Release {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// The releases that are open, each in the place of its slot.
#[derive(Debug)]
pub struct Releases {
    places: Box<[Release]>,
    /// In the order in which they are due.
    open: List,
    slot_bits: u32,
    every: Option<Duration>,
}

impl Releases {
    /// The place of an open release.
    fn find(&self, cookie: u32) -> Option<u32> {
        let place = slot_of(cookie, self.slot_bits);
        // One that is not open has no cookie.
        let release = self.places.get(place as usize)?;
        (cookie != 0 && release.record.cookie == cookie).then_some(place)
    }

    /// Puts a release in its place among the others: mostly behind all, unless one of them was asked for again by a
    /// time that is still to come.
    fn queue(&mut self, place: u32) {
        self.open.push_sorted(&mut self.places, place, |release| release.due);
    }

    fn forget(&mut self, cookie: u32) {
        if let Some(place) = self.find(cookie) {
            self.open.remove(&mut self.places, place);
            self.places[place as usize].record.cookie = 0;
        }
    }
}

impl Course<DeviceRequest> for Releases {
    fn new(depth: u32, options: &Options) -> Self {
        let release =
            |_| Release { links: Links::LONE, record: DeviceRequest::default(), due: Instant::now() };
        Self {
            places: (0..depth).map(release).collect(),
            open: List::new(),
            slot_bits: slot_bits(depth),
            every: options.repeat_every,
        }
    }

    fn admit(&self, record: &DeviceRequest) -> Result<(), Refusal> {
        match record.kind {
            DeviceRequestKind::RELEASE | DeviceRequestKind::RESET_DONE => Ok(()),
            _ => Err(Refusal::Contradiction { reason: "there is no such request" }),
        }
    }

    fn published(&mut self, record: &DeviceRequest) {
        let due = self.every.and_then(|every| Instant::now().checked_add(every));
        let Some(due) = due.filter(|_| record.kind == DeviceRequestKind::RELEASE) else { return };
        // A release of this slot was collected, or its place is free already.
        let place = slot_of(record.cookie, self.slot_bits);
        let release = &mut self.places[place as usize];
        (release.record, release.due) = (*record, due);
        self.queue(place);
    }

    fn completed(&mut self, completion: &Completion<DeviceRequest>) {
        self.forget(completion.record.cookie);
    }

    fn next_due(&self) -> Option<Instant> {
        self.open.first().map(|place| self.places[place as usize].due)
    }

    fn take_due(&mut self, now: Instant) -> Option<DeviceRequest> {
        let place = self.open.first().filter(|place| self.places[*place as usize].due <= now)?;
        self.open.remove(&mut self.places, place);
        let release = &mut self.places[place as usize];
        // Counted also if there is no room for it: it is how often it would have been asked.
        release.record.count = release.record.count.saturating_add(1);
        let record = release.record;
        match self.every.and_then(|every| now.checked_add(every)) {
            Some(due) => {
                release.due = due;
                self.queue(place);
            }
            None => release.record.cookie = 0,
        }
        Some(record)
    }
}
