//! A responder to page faults: it gets whole groups of pages that were there, and no more than it can have open.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use recordfd::Error;
use recordfd::fault::{FaultGroup, FaultResponder, Options, RespondError, ResponseCode, shared_responder};
use recordfd::uapi::{
    Event, EventFlags, EventHeader, Format, PageResponse, PageResponseCode, PgFault, PgFaultFlags, Record,
};

use super::hostile::Hostile;
use super::model::Nothing;
use super::{BUSY, LOOKS, SHORT, timed};
use crate::choices::Choices;
use crate::ring_peer::{RingPeer, Word};

pub(crate) fn make(format: Format, depth: u32, _: u32) -> (FaultResponder, RingPeer) {
    let (responder, end) = shared_responder(&Options::new().depth(depth).format(format)).unwrap();
    (responder, RingPeer::attach(end))
}

pub(crate) fn attach(end: OwnedFd) -> Result<FaultResponder, Error> {
    Ok(FaultResponder::from_shared(end)?)
}

pub(crate) struct Machine<C> {
    responder: FaultResponder,
    pub(crate) hostile: Hostile<C>,
    groups: Vec<FaultGroup>,
    /// Of groups that are to be answered by their cookie.
    cookies: Vec<u32>,
    /// Every page that was in a slot when a call was made.
    pages: HashSet<Vec<u8>>,
    /// What every receive says from now on.
    ended: Option<Nothing>,
    /// Of the next record, and the group that the peer is at.
    number: u32,
    group: u32,
}

impl<C: Choices> Machine<C> {
    pub(crate) fn new(responder: FaultResponder, hostile: Hostile<C>) -> Self {
        let (groups, cookies, pages) = (Vec::new(), Vec::new(), HashSet::new());
        Self { responder, hostile, groups, cookies, pages, ended: None, number: 0, group: 1 }
    }

    pub(crate) fn step(&mut self) {
        match self.hostile.choices.below(16) {
            0..6 => {
                let headed = self.is_headed();
                let (number, group) = (&mut self.number, &mut self.group);
                self.hostile.act(|choices| wire(choices, headed, number, group));
            }
            6..11 => self.receive(),
            11 => self.respond(),
            12 => self.respond_batch(),
            13 => drop(self.groups.pop()),
            14 => self.cookies.extend(self.groups.pop().map(FaultGroup::into_cookie)),
            _ => self.look(),
        }
    }

    fn is_headed(&self) -> bool {
        self.hostile.peer.offer.format == Format::IOMMU_PGFAULT_V2
    }

    fn note_pages(&mut self) {
        let ring = &self.hostile.peer.produced;
        let header = ring.slot(0).len() - PgFault::SIZE;
        self.pages.extend((0..ring.depth).map(|number| ring.slot(number)[header..].to_vec()));
    }

    fn receive(&mut self) {
        self.note_pages();
        // Not those that were dropped: they may be answered first, and come again.
        let groups = self.groups.iter().map(FaultGroup::cookie);
        let open: HashSet<_> = groups.chain(self.cookies.iter().copied()).collect();
        let depth = self.hostile.peer.produced.depth as usize;
        let room = self.hostile.choices.below(24) as usize;
        let mut pages = vec![PgFault::default(); room];
        let responder = &mut self.responder;
        let mut groups = Vec::new();
        let received = match self.hostile.choices.below(8) {
            0..4 => timed("try_recv_group", || responder.try_recv_group(&mut pages))
                .map(|group| groups.push(group)),
            4 => {
                let received = timed("recv_group", || responder.recv_group_timeout(&mut pages, SHORT));
                received.map(|group| groups.push(group))
            }
            _ => {
                let mut places: Vec<_> = (0..1 + self.hostile.choices.below(8)).map(|_| None).collect();
                let received = timed("recv_groups", || responder.recv_groups(&mut pages, &mut places));
                groups.extend(places.into_iter().flatten());
                received.map(|count| assert_eq!(count, groups.len()))
            }
        };
        let mut seen = HashSet::new();
        for group in &groups {
            let (cookie, of) = (group.cookie(), &pages[group.range()]);
            assert!(cookie != 0 && !open.contains(&cookie) && seen.insert(cookie), "{cookie:#x} comes again");
            assert!((1..=depth.min(409)).contains(&of.len()), "{} pages through {depth} slots", of.len());
            for (index, page) in of.iter().enumerate() {
                let is_last = page.flags.contains(PgFaultFlags::LAST_PAGE);
                assert_eq!((page.cookie, is_last), (cookie, index + 1 == of.len()));
                let mut bytes = vec![0; PgFault::SIZE];
                page.encode(&mut bytes);
                assert!(self.pages.contains(&bytes), "{page:?} was nowhere");
            }
        }
        let open = self.responder.open_cookies();
        assert!(open.len() <= depth && groups.iter().all(|group| open.contains(&group.cookie())));
        match received.map_err(Nothing::from) {
            Ok(()) => assert!(!groups.is_empty() && self.ended.is_none()),
            Err(Nothing::Empty) => assert!(self.ended.is_none(), "{:?} before", self.ended),
            Err(Nothing::TooSmall) => {}
            Err(end) => {
                assert!(self.ended.is_none_or(|before| before == end), "{end:?}, before {:?}", self.ended);
                self.ended = Some(end);
            }
        }
        self.groups.append(&mut groups);
    }

    /// Fails unless the answer is where the ring ends, and no longer owed.
    fn assert_answered(&self, cookie: u32, code: PageResponseCode) {
        let ring = &self.hostile.peer.consumed;
        let last = ring.slot(ring.get(Word::Tail).wrapping_sub(1));
        assert_eq!(PageResponse::decode(&last).unwrap(), PageResponse { cookie, code });
        assert!(!self.responder.open_cookies().contains(&cookie));
    }

    fn respond(&mut self) {
        let Some(group) = self.groups.pop() else { return };
        let cookie = group.cookie();
        match timed("respond", || group.respond(ResponseCode::Success)) {
            Ok(()) => self.assert_answered(cookie, PageResponseCode::SUCCESS),
            Err(RespondError::WouldBlock(group)) => self.groups.push(group),
            Err(RespondError::Closed) => assert!(!self.responder.open_cookies().contains(&cookie)),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn respond_batch(&mut self) {
        let code = PageResponseCode::new(self.hostile.choices.below(3));
        let count = self.cookies.len().min(1 + self.hostile.choices.below(4) as usize);
        let batch: Vec<_> =
            self.cookies[..count].iter().map(|cookie| PageResponse { cookie: *cookie, code }).collect();
        match timed("respond_batch", || self.responder.respond_batch(&batch)) {
            Ok(count) => {
                self.cookies.drain(..count);
                if let Some(last) = batch[..count].last() {
                    self.assert_answered(last.cookie, code);
                }
            }
            Err(RespondError::Code) => assert!(code.get() > 1 && count > 0),
            // By their cookies they stay open for who asks again.
            Err(RespondError::WouldBlock(()) | RespondError::Closed) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    fn look(&mut self) {
        if self.hostile.choices.once_in(4) {
            self.responder.set_busy_poll(BUSY * self.hostile.choices.below(2));
        }
        let open = self.responder.open_cookies();
        assert!(open.len() <= self.hostile.peer.produced.depth as usize);
        assert!(self.groups.iter().all(|group| open.contains(&group.cookie())));
        assert!(self.cookies.iter().all(|cookie| open.contains(cookie)));
        while let Some(cookie) = self.responder.next_cancelled() {
            assert!(open.contains(&cookie));
        }
    }

    pub(crate) fn finish(mut self) {
        self.look();
        self.hostile.peer.hang_up();
        // No more than the ring holds, however it is read; then the end, for ever.
        let mut pages = [PgFault::default(); 409];
        let mut looks = 0;
        let last = loop {
            self.groups.clear();
            match timed("try_recv_group", || self.responder.try_recv_group(&mut pages)).map_err(Nothing::from)
            {
                Ok(group) => drop(group),
                Err(Nothing::Empty) => {}
                Err(last) => break last,
            }
            looks += 1;
            assert!(looks <= self.hostile.peer.produced.depth + LOOKS, "it does not end");
        };
        let again = self.responder.try_recv_group(&mut pages).map_err(Nothing::from);
        assert!(matches!(again, Err(nothing) if nothing == last), "{again:?} instead of {last:?}");
        drop(self.responder);
        assert_eq!(self.hostile.peer.consumed.get(Word::Gone), 1);
    }
}

/// A page that is mostly the next one of its group.
fn wire(choices: &mut impl Choices, headed: bool, number: &mut u32, group: &mut u32) -> Vec<u8> {
    let mut payload = PgFault { cookie: *group, dev_id: 1, ..PgFault::default() };
    payload.addr = u64::from(*number);
    let mut header = EventHeader { flags: EventFlags::empty(), sequence: *number };
    let is_last = !choices.once_in(4);
    payload.flags.set(PgFaultFlags::LAST_PAGE, is_last);
    match choices.below(48) {
        0 => payload.cookie = choices.below(20),
        1 => payload.dev_id = choices.below(3),
        2 => payload.cookie = 0,
        3 => header.sequence = choices.below(u32::MAX),
        4 => header.flags = EventFlags::from_bits_retain(choices.below(8)),
        _ => {}
    }
    *number = (*number + 1) & (i32::MAX as u32);
    *group += u32::from(is_last);
    let mut bytes = vec![0; if headed { Event::<PgFault>::SIZE } else { PgFault::SIZE }];
    if headed {
        Event { header, payload }.encode(&mut bytes);
    } else {
        payload.encode(&mut bytes);
    }
    bytes
}
