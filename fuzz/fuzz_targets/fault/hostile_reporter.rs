//! A responder whose peer writes anything: it takes what the format allows, record by record, and
//! nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use recordfd::fault::{FaultGroup, FaultResponder, RespondError, ResponseCode, socket_responder};
use recordfd::uapi::{
    Event, EventFlags, EventHeader, PageResponse, PageResponseCode, PgFault, PgFaultFlags, Record, WRITE_MAX,
};
use recordfd::{TryRecvError, Violation};

use crate::choices::Choices;
use crate::{Bytes, Peer, options};

/// Reads without a group that a receive makes at most.
const MOST_READS: usize = WRITE_MAX / PgFault::SIZE + 1;
const MOST_PAGES: usize = 500;
const MOST_GROUPS: usize = 8;

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nothing {
    Empty,
    Closed,
    TooSmall(usize),
    Broken(Violation),
}

impl From<TryRecvError> for Nothing {
    fn from(error: TryRecvError) -> Self {
        match error {
            TryRecvError::Empty => Self::Empty,
            TryRecvError::Closed => Self::Closed,
            TryRecvError::BufferTooSmall { needed } => Self::TooSmall(needed),
            TryRecvError::PeerViolation(violation) => Self::Broken(violation),
            error => panic!("{error:?}"),
        }
    }
}

/// What a responder must make of the bytes that its peer has written.
struct Reference {
    headed: bool,
    depth: usize,
    /// Bytes read, the beginning of a record included, and those of whole records.
    read: usize,
    taken: usize,
    next_sequence: u32,
    part: Vec<PgFault>,
    /// Groups that are open, and whether they were cancelled.
    open: BTreeMap<u32, bool>,
    /// Cancelled groups that the user was not told of.
    untold: VecDeque<u32>,
    broken: Option<Violation>,
}

impl Reference {
    fn size(&self) -> usize {
        if self.headed { Event::<PgFault>::SIZE } else { PgFault::SIZE }
    }

    fn receive(&mut self, peer: &Peer, room: usize, most: usize) -> Result<Vec<Vec<PgFault>>, Nothing> {
        for _ in 0..MOST_READS {
            let groups = self.read(peer, room, most)?;
            if !groups.is_empty() || most == 0 {
                return Ok(groups);
            }
        }
        Err(Nothing::Empty)
    }

    /// One read of at most `most` records.
    fn read(&mut self, peer: &Peer, room: usize, most: usize) -> Result<Vec<Vec<PgFault>>, Nothing> {
        let mut groups = Vec::new();
        let room = room.saturating_sub(self.part.len());
        if room == 0 && most > 0 {
            return Err(Nothing::TooSmall(self.part.len() + 1));
        }
        if let Some(violation) = self.broken {
            return Err(Nothing::Broken(violation));
        }
        if most == 0 {
            return Ok(groups);
        }
        let size = self.size();
        let wanted = most.min(room).min(WRITE_MAX / size) * size;
        self.read = peer.written.len().min(self.taken + wanted);
        if self.read - self.taken < size {
            return Err(match self.read - self.taken {
                _ if !peer.is_gone() => Nothing::Empty,
                0 if self.part.is_empty() => Nothing::Closed,
                0 => Nothing::Broken(Violation::GroupNotEnded),
                found => self.breaks(Violation::TornRecord { found, size }),
            });
        }
        let mut is_any = false;
        while self.read - self.taken >= size {
            let bytes = &peer.written[self.taken..self.taken + size];
            if let Err(violation) = self.record(bytes, &mut groups) {
                let broken = self.breaks(violation);
                return if is_any { Ok(groups) } else { Err(broken) };
            }
            self.taken += size;
            is_any = true;
        }
        Ok(groups)
    }

    fn breaks(&mut self, violation: Violation) -> Nothing {
        self.broken = Some(violation);
        Nothing::Broken(violation)
    }

    fn record(&mut self, bytes: &[u8], groups: &mut Vec<Vec<PgFault>>) -> Result<(), Violation> {
        let (page, is_cancelled) = if self.headed {
            let event = Event::<PgFault>::decode(bytes)?;
            let sequence = event.header.sequence;
            if self.next_sequence != sequence {
                return Err(Violation::SequenceGap);
            }
            self.next_sequence = (sequence + 1) & (i32::MAX as u32);
            (event.payload, event.header.flags.contains(EventFlags::CANCELLED))
        } else {
            (PgFault::decode(bytes)?, false)
        };
        let cookie = page.cookie;
        let is_last = page.flags.contains(PgFaultFlags::LAST_PAGE);
        let is_full = self.open.len() == self.depth;
        match self.part.first() {
            Some(first) if is_cancelled || first.cookie != cookie => return Err(Violation::GroupNotEnded),
            Some(first) if !is_same_group(first, &page) => return Err(Violation::GroupMixed),
            Some(_) if self.part.len() + 1 == WRITE_MAX / self.size() && !is_last => {
                return Err(Violation::GroupTooLarge);
            }
            Some(_) => {}
            None if cookie == 0 => return Err(Violation::ZeroCookie),
            None if is_cancelled => {
                if let Some(is_cancelled) = self.open.get_mut(&cookie)
                    && !std::mem::replace(is_cancelled, true)
                {
                    self.untold.push_back(cookie);
                }
                return Ok(());
            }
            None if self.open.contains_key(&cookie) => return Err(Violation::CookieOpen { cookie }),
            None if is_full => return Err(Violation::TooManyOpen),
            None => {}
        }
        self.part.push(page);
        if is_last {
            self.open.insert(cookie, false);
            groups.push(std::mem::take(&mut self.part));
        }
        Ok(())
    }

    fn close(&mut self, cookie: u32) {
        self.open.remove(&cookie);
        self.untold.retain(|untold| *untold != cookie);
    }
}

fn is_same_group(first: &PgFault, page: &PgFault) -> bool {
    let has_pasid = |page: &PgFault| page.flags.contains(PgFaultFlags::PASID_VALID);
    (first.dev_id, first.pasid, first.grpid, has_pasid(first))
        == (page.dev_id, page.pasid, page.grpid, has_pasid(page))
}

struct Responder<'a> {
    choices: Bytes<'a>,
    responder: FaultResponder,
    peer: Peer,
    reference: Reference,
    /// Groups to answer, and those that are known by their cookie alone.
    groups: Vec<FaultGroup>,
    cookies: Vec<u32>,
    /// Dropped groups whose answer may not have found room yet. They are open until then.
    owed: Vec<u32>,
    /// Every answer given so far, as the peer must find them.
    answers: Vec<u8>,
    /// Of the next record that the peer puts together.
    sequence: u32,
    pages: Vec<PgFault>,
}

pub(crate) fn run(mut choices: Bytes<'_>) {
    let headed = choices.once_in(2);
    let options = options(headed, 1 + choices.below(8));
    let (responder, end) = socket_responder(&options).unwrap();
    let info = end.info();
    let reference = Reference {
        headed,
        depth: info.depth as usize,
        read: 0,
        taken: 0,
        next_sequence: 0,
        part: Vec::new(),
        open: BTreeMap::new(),
        untold: VecDeque::new(),
        broken: None,
    };
    let mut run = Responder {
        choices,
        responder,
        peer: Peer::new(UnixStream::from(OwnedFd::from(end))),
        reference,
        groups: Vec::new(),
        cookies: Vec::new(),
        owed: Vec::new(),
        answers: Vec::new(),
        sequence: 0,
        pages: vec![PgFault::default(); MOST_PAGES],
    };
    while !run.choices.is_used_up() {
        run.step();
    }
    run.finish();
}

impl Responder<'_> {
    fn step(&mut self) {
        match self.choices.below(16) {
            0..3 => self.make_record(),
            3 => {
                let count = self.choices.below(60);
                let bytes = (0..count).map(|_| self.choices.below(256) as u8);
                let bytes: Vec<u8> = bytes.collect();
                self.peer.pending.extend(bytes);
            }
            4 => {
                // A long group.
                for _ in 0..self.choices.below(450) {
                    self.add_record(7, false, EventFlags::empty(), 0);
                }
            }
            5..7 => {
                let most = self.choices.below(u16::MAX.into()) as usize;
                self.peer.write(most);
            }
            7..9 => self.receive(),
            9 => self.try_receive(),
            10 => self.respond(),
            11 => self.respond_batch(),
            12 => self.drop_group(),
            13 => self.look(),
            14 => self.peer.read(),
            _ if self.choices.once_in(8) => self.peer.hang_up(),
            _ => {}
        }
    }

    /// The peer puts a record together that is mostly right.
    fn make_record(&mut self) {
        let cookie = match self.choices.below(16) {
            0 => self.choices.number(),
            other => other % 12,
        };
        let kind = self.choices.below(32);
        let is_last = kind < 24;
        let flags = match kind {
            0..4 => EventFlags::CANCELLED,
            4 => EventFlags::from_bits_retain(self.choices.number()),
            _ => EventFlags::empty(),
        };
        if kind == 31 {
            self.sequence = self.choices.number();
        }
        let other = if kind == 30 { self.choices.below(16) } else { 0 };
        self.add_record(cookie, is_last, flags, other);
    }

    fn add_record(&mut self, cookie: u32, is_last: bool, flags: EventFlags, other: u32) {
        let mut payload = PgFault { cookie, dev_id: 1, addr: self.sequence.into(), ..PgFault::default() };
        payload.flags.set(PgFaultFlags::LAST_PAGE, is_last);
        payload.flags.set(PgFaultFlags::PASID_VALID, other & 1 != 0);
        (payload.pasid, payload.grpid, payload.dev_id) = (other >> 1 & 1, other >> 2 & 1, 1 + (other >> 3));
        let mut bytes = [0; Event::<PgFault>::SIZE];
        let bytes = &mut bytes[..self.reference.size()];
        if self.reference.headed {
            let header = EventHeader { flags, sequence: self.sequence };
            Event { header, payload }.encode(bytes);
        } else {
            payload.encode(bytes);
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.peer.pending.extend_from_slice(bytes);
    }

    fn room(&mut self) -> usize {
        match self.choices.below(3) {
            0 => self.choices.below(6) as usize,
            _ => MOST_PAGES,
        }
    }

    fn receive(&mut self) {
        let (room, most) = (self.room(), self.choices.below(MOST_GROUPS as u32 + 1) as usize);
        let mut groups: [Option<FaultGroup>; MOST_GROUPS] = Default::default();
        let outcome = self.responder.recv_groups(&mut self.pages[..room], &mut groups[..most]);
        let groups: Vec<_> = groups.into_iter().flatten().collect();
        let outcome = outcome.map(|count| assert_eq!(count, groups.len())).map_err(Nothing::from);
        self.check(room, most, outcome.map(|()| groups));
    }

    fn try_receive(&mut self) {
        let room = self.room();
        let outcome = self.responder.try_recv_group(&mut self.pages[..room]);
        self.check(room, 1, outcome.map(|group| vec![group]).map_err(Nothing::from));
    }

    /// Compares what a receive brought with what the reference makes of the same bytes.
    fn check(&mut self, room: usize, most: usize, outcome: Result<Vec<FaultGroup>, Nothing>) {
        self.note_owed(outcome.as_deref().unwrap_or(&[]));
        let expected = self.reference.receive(&self.peer, room, most);
        let (groups, expected) = match (outcome, expected) {
            (Ok(groups), Ok(expected)) => (groups, expected),
            (Err(error), Err(expected)) => return assert_eq!(error, expected),
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        };
        assert_eq!(groups.len(), expected.len());
        let mut filled = 0;
        for (group, expected) in groups.into_iter().zip(expected) {
            assert_eq!((group.cookie(), group.len()), (expected[0].cookie, expected.len()));
            assert_eq!(group.range(), filled..filled + expected.len());
            filled += expected.len();
            assert_eq!(self.pages[group.range()], expected);
            if self.choices.once_in(2) {
                self.groups.push(group);
            } else {
                self.cookies.push(group.into_cookie());
            }
        }
    }

    /// Learns whether a call has found room for the answers of dropped groups: they are open until then.
    /// Those that were received again in this call must have been answered before.
    fn note_owed(&mut self, received: &[FaultGroup]) {
        let open = self.responder.open_cookies();
        let is_new = |cookie: &u32| received.iter().any(|group| group.cookie() == *cookie);
        if self.owed.iter().all(|cookie| !open.contains(cookie) || is_new(cookie)) {
            for cookie in self.owed.drain(..) {
                self.reference.close(cookie);
            }
        }
    }

    fn note_answer(&mut self, cookie: u32, code: PageResponseCode) {
        let mut bytes = [0; PageResponse::SIZE];
        PageResponse { cookie, code }.encode(&mut bytes);
        self.answers.extend_from_slice(&bytes);
    }

    fn respond(&mut self) {
        let Some(group) = self.groups.pop() else { return };
        let code = if self.choices.once_in(2) { ResponseCode::Success } else { ResponseCode::Invalid };
        let cookie = group.cookie();
        assert_eq!(group.is_cancelled(), self.reference.open[&cookie]);
        match group.respond(code) {
            Ok(()) => {
                self.note_answer(cookie, code.into());
                self.reference.close(cookie);
            }
            Err(RespondError::WouldBlock(group)) => self.groups.push(group),
            Err(RespondError::Closed) => {
                assert!(self.peer.is_gone());
                self.reference.close(cookie);
            }
            Err(error) => panic!("{error:?}"),
        }
        self.note_owed(&[]);
    }

    fn respond_batch(&mut self) {
        let mut batch: Vec<_> = Vec::new();
        for _ in 0..self.choices.below(10) {
            let known = self.cookies.len() as u32;
            let cookie = match self.choices.below(8) {
                0 => self.choices.below(20),
                _ if known == 0 => continue,
                _ => self.cookies[self.choices.below(known) as usize],
            };
            let code = self.choices.below(16).saturating_sub(13);
            batch.push(PageResponse { cookie, code: PageResponseCode::new(code) });
        }
        // Not the groups that are answered otherwise.
        batch.retain(|response| !self.groups.iter().any(|group| group.cookie() == response.cookie));
        batch.retain(|response| !self.owed.contains(&response.cookie));
        let mut seen = Vec::new();
        let bad = batch.iter().position(|response| {
            let is_stale =
                !self.reference.open.contains_key(&response.cookie) || seen.contains(&response.cookie);
            seen.push(response.cookie);
            is_stale || response.code.get() > 1
        });
        let good = bad.unwrap_or(batch.len());
        let count = match self.responder.respond_batch(&batch) {
            Ok(count) => {
                assert!(count <= good && (count > 0 || batch.is_empty()));
                count
            }
            Err(RespondError::WouldBlock(())) => 0,
            Err(RespondError::Closed) => {
                assert!(self.peer.is_gone() && good > 0);
                0
            }
            Err(RespondError::Code) => {
                assert!(good == 0 && batch[0].code.get() > 1);
                0
            }
            Err(RespondError::StaleCookie) => {
                assert!(good == 0 && batch[0].code.get() <= 1);
                0
            }
            Err(error) => panic!("{error:?}"),
        };
        for response in &batch[..count] {
            self.note_answer(response.cookie, response.code);
            self.reference.close(response.cookie);
            self.cookies.retain(|cookie| *cookie != response.cookie);
        }
        self.note_owed(&[]);
    }

    fn drop_group(&mut self) {
        let Some(group) = self.groups.pop() else { return };
        self.owed.push(group.cookie());
        self.note_answer(group.cookie(), PageResponseCode::INVALID);
        drop(group);
        self.note_owed(&[]);
    }

    fn look(&mut self) {
        assert_eq!(self.responder.next_cancelled(), self.reference.untold.pop_front());
        let mut open = self.responder.open_cookies();
        open.sort_unstable();
        assert!(open.iter().eq(self.reference.open.keys()));
        assert!(open.len() <= self.reference.depth);
    }

    fn finish(&mut self) {
        self.look();
        // A peer that reads gets every answer that was given, once and in order.
        for _ in 0..self.groups.len() {
            self.drop_group();
        }
        while !self.peer.is_gone() {
            self.peer.read();
            assert!(self.answers.starts_with(&self.peer.read));
            if self.owed.is_empty() {
                assert_eq!(self.peer.read, self.answers);
                break;
            }
            // Any answer sends first what is owed.
            let nobody = PageResponse { cookie: 0, code: PageResponseCode::SUCCESS };
            assert!(self.responder.respond(nobody).is_err());
            self.note_owed(&[]);
        }
        self.peer.hang_up();
        // Everything that was written is received or refused, and then nothing comes any more.
        let mut looks = 0;
        let last = loop {
            match self.responder.try_recv_group(&mut self.pages).map_err(Nothing::from) {
                Ok(group) => drop(group),
                Err(Nothing::Empty) => {}
                Err(last) => break last,
            }
            looks += 1;
            assert!(looks <= 2 + self.peer.written.len() / PgFault::SIZE, "it does not end");
        };
        assert!(matches!(last, Nothing::Closed | Nothing::Broken(_)), "{last:?}");
        for _ in 0..2 {
            let again = self.responder.try_recv_group(&mut self.pages).map_err(Nothing::from);
            assert!(matches!(again, Err(nothing) if nothing == last), "{again:?} instead of {last:?}");
        }
    }
}
