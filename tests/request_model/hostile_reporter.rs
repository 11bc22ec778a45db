//! A responder whose peer writes anything: it takes what the format allows, record by record, and nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use recordfd::request::{Notice, Options, Pending, RespondError, Responder, socket_responder};
use recordfd::uapi::{Event, EventFlags, EventHeader, Record};
use recordfd::{TryRecvError, Violation};

use crate::Decisions;
use crate::peer::Peer;
use crate::sample::Sample;

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nothing {
    Empty,
    Closed,
    Broken(Violation),
}

impl From<TryRecvError> for Nothing {
    fn from(error: TryRecvError) -> Self {
        match error {
            TryRecvError::Empty => Self::Empty,
            TryRecvError::Closed => Self::Closed,
            TryRecvError::PeerViolation(violation) => Self::Broken(violation),
            error => panic!("{error:?}"),
        }
    }
}

/// What is known of an open request.
#[derive(Clone, Copy, Default)]
struct Open {
    is_cancelled: bool,
    repeats: u32,
    is_untold: bool,
}

/// What a responder must make of the bytes that its peer has written.
struct Reference {
    depth: usize,
    /// Reads that a receive makes at most.
    most_reads: usize,
    /// Bytes of whole records that were read.
    taken: usize,
    next_sequence: u32,
    open: BTreeMap<u32, Open>,
    /// In the order in which they are told.
    untold: VecDeque<u32>,
    broken: Option<Violation>,
}

impl Reference {
    fn receive<R: Sample>(&mut self, peer: &Peer) -> Result<R, Nothing> {
        for _ in 0..self.most_reads {
            if let Some(record) = self.read(peer)? {
                return Ok(record);
            }
        }
        Err(Nothing::Empty)
    }

    /// Reads one record; the request that it is, if it is one.
    fn read<R: Sample>(&mut self, peer: &Peer) -> Result<Option<R>, Nothing> {
        if let Some(violation) = self.broken {
            return Err(Nothing::Broken(violation));
        }
        let size = Event::<R>::SIZE;
        let outcome = match &peer.written[self.taken..] {
            bytes if bytes.len() >= size => {
                self.taken += size;
                self.record(&bytes[..size])
            }
            _ if !peer.is_gone() => return Err(Nothing::Empty),
            [] => return Err(Nothing::Closed),
            rest => Err(Violation::TornRecord { found: rest.len(), size }),
        };
        outcome.map_err(|violation| {
            self.broken = Some(violation);
            Nothing::Broken(violation)
        })
    }

    fn record<R: Sample>(&mut self, bytes: &[u8]) -> Result<Option<R>, Violation> {
        let Event { header, payload } = Event::<R>::decode(bytes)?;
        if self.next_sequence != header.sequence {
            return Err(Violation::SequenceGap);
        }
        self.next_sequence = (header.sequence + 1) & (i32::MAX as u32);
        let (cookie, count) = (payload.cookie(), payload.asked_before());
        let is_notice = header.flags.contains(EventFlags::CANCELLED);
        if cookie == 0 {
            return Err(Violation::ZeroCookie);
        }
        let is_full = self.open.len() == self.depth;
        match self.open.get_mut(&cookie) {
            Some(open) if is_notice || count > 0 => {
                if !open.is_cancelled && (is_notice || count > open.repeats) {
                    open.is_cancelled = is_notice;
                    open.repeats = open.repeats.max(count);
                    if !std::mem::replace(&mut open.is_untold, true) {
                        self.untold.push_back(cookie);
                    }
                }
                Ok(None)
            }
            // What it is about was answered, or never was.
            None if is_notice || count > 0 => Ok(None),
            Some(_) => Err(Violation::CookieOpen { cookie }),
            None if is_full => Err(Violation::TooManyOpen),
            None => {
                self.open.insert(cookie, Open::default());
                Ok(Some(payload))
            }
        }
    }

    fn next_notice(&mut self) -> Option<Notice> {
        let cookie = self.untold.pop_front()?;
        let open = self.open.get_mut(&cookie).unwrap();
        open.is_untold = false;
        Some(match open.is_cancelled {
            true => Notice::Cancelled { cookie },
            false => Notice::Repeated { cookie, count: open.repeats },
        })
    }

    fn close(&mut self, cookie: u32) {
        self.open.remove(&cookie);
        self.untold.retain(|untold| *untold != cookie);
    }
}

struct Run<R: Sample, D> {
    decisions: D,
    responder: Responder<R>,
    peer: Peer,
    reference: Reference,
    /// Requests to answer, and those that are known by their cookie alone.
    pending: Vec<Pending<R>>,
    cookies: Vec<u32>,
    /// Dropped ones whose answer may not have found room yet. They are open until then.
    owed: Vec<u32>,
    /// Every answer given so far, as the peer must find them.
    answers: Vec<u8>,
    /// Of the next record that the peer puts together.
    sequence: u32,
    received: u64,
}

pub(crate) fn run<R: Sample>(mut decisions: impl Decisions) {
    let (responder, end) = socket_responder::<R>(&Options::new().depth(1 + decisions.below(8))).unwrap();
    let info = end.info();
    let depth = info.depth as usize;
    let reference = Reference {
        depth,
        most_reads: depth + 2,
        taken: 0,
        next_sequence: 0,
        open: BTreeMap::new(),
        untold: VecDeque::new(),
        broken: None,
    };
    let mut run = Run {
        decisions,
        responder,
        peer: Peer::new(UnixStream::from(OwnedFd::from(end))),
        reference,
        pending: Vec::new(),
        cookies: Vec::new(),
        owed: Vec::new(),
        answers: Vec::new(),
        sequence: 0,
        received: 0,
    };
    while !run.decisions.is_used_up() {
        run.step();
    }
    run.finish();
}

impl<R: Sample, D: Decisions> Run<R, D> {
    fn step(&mut self) {
        match self.decisions.below(16) {
            0..5 => self.make_record(),
            5 if self.decisions.once_in(4) => {
                let count = self.decisions.below(50);
                let bytes: Vec<_> = (0..count).map(|_| self.decisions.below(256) as u8).collect();
                self.peer.pending.extend(bytes);
            }
            5..8 => {
                let most = 1 + self.decisions.below(4096) as usize;
                self.peer.write(most);
            }
            8..11 => self.receive(),
            11 => self.respond(),
            12 => self.respond_by_cookie(),
            13 => self.drop_one(),
            14 => self.look(),
            _ if self.decisions.once_in(8) => self.peer.hang_up(),
            _ => self.peer.read(),
        }
    }

    /// The peer puts a record together that is mostly right.
    fn make_record(&mut self) {
        let cookie = match self.decisions.below(24) {
            0 => self.decisions.number(),
            other => other % 12,
        };
        let kind = self.decisions.below(32);
        let mut record = R::of(kind).under(cookie);
        let flags = match kind {
            0..4 => EventFlags::CANCELLED,
            4 => EventFlags::from_bits_retain(self.decisions.number()),
            5 => {
                self.sequence = self.decisions.number();
                EventFlags::empty()
            }
            6..16 => {
                record = record.asked(self.decisions.below(6));
                EventFlags::empty()
            }
            16 => {
                record = record.asked(self.decisions.number());
                EventFlags::CANCELLED
            }
            _ => EventFlags::empty(),
        };
        let mut bytes = vec![0; Event::<R>::SIZE];
        Event { header: EventHeader { flags, sequence: self.sequence }, payload: record }.encode(&mut bytes);
        self.sequence = self.sequence.wrapping_add(1);
        self.peer.pending.extend(bytes);
    }

    /// Compares what a receive brings with what the reference makes of the same bytes.
    fn receive(&mut self) {
        let outcome = self.responder.try_recv().map_err(Nothing::from);
        self.note_owed(outcome.as_ref().map_or(0, Pending::cookie));
        let expected = self.reference.receive::<R>(&self.peer);
        let (one, expected) = match (outcome, expected) {
            (Ok(one), Ok(expected)) => (one, expected),
            (Err(error), Err(expected)) => return assert_eq!(error, expected),
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        };
        assert_eq!((*one.record(), one.cookie()), (expected, expected.cookie()));
        self.received += 1;
        if self.decisions.once_in(2) {
            self.pending.push(one);
        } else {
            self.cookies.push(one.into_cookie());
        }
    }

    /// Learns which answers of dropped requests have found room: those are open until then. One that was received
    /// again just now must have been answered before.
    fn note_owed(&mut self, received: u32) {
        let open = self.responder.open_cookies();
        for cookie in std::mem::take(&mut self.owed) {
            if open.contains(&cookie) && cookie != received {
                self.owed.push(cookie);
            } else {
                self.reference.close(cookie);
            }
        }
    }

    fn note_answer(&mut self, cookie: u32, code: u32) {
        let mut bytes = vec![0; R::Answer::SIZE];
        R::code(cookie, code).encode(&mut bytes);
        self.answers.extend(bytes);
    }

    fn respond(&mut self) {
        let Some(one) = self.pending.pop() else { return };
        let cookie = one.cookie();
        assert_eq!(one.is_cancelled(), self.reference.open[&cookie].is_cancelled);
        match one.respond(R::YES) {
            Ok(()) => {
                self.note_answer(cookie, R::CODE);
                self.reference.close(cookie);
            }
            Err(RespondError::WouldBlock(one)) => self.pending.push(one),
            Err(RespondError::Closed) => {
                assert!(self.peer.is_gone());
                self.reference.close(cookie);
            }
            Err(error) => panic!("{error:?}"),
        }
        self.note_owed(0);
    }

    fn respond_by_cookie(&mut self) {
        let cookie = match self.cookies.len() {
            0 => self.decisions.number(),
            count => self.cookies[self.decisions.below(count as u32) as usize],
        };
        let code = self.decisions.below(7);
        // Not one that is answered otherwise.
        if self.owed.contains(&cookie) || self.pending.iter().any(|one| one.cookie() == cookie) {
            return;
        }
        let is_open = self.reference.open.contains_key(&cookie);
        match self.responder.respond(R::code(cookie, code)) {
            Ok(()) => {
                assert!(is_open && R::meaning(code).is_some());
                self.note_answer(cookie, code);
                self.reference.close(cookie);
                self.cookies.retain(|of| *of != cookie);
            }
            Err(RespondError::WouldBlock(())) => {}
            Err(RespondError::Closed) => assert!(self.peer.is_gone() && is_open),
            Err(RespondError::Code) => assert!(R::meaning(code).is_none()),
            Err(RespondError::StaleCookie) => assert!(!is_open),
            Err(error) => panic!("{error:?}"),
        }
        self.note_owed(0);
    }

    fn drop_one(&mut self) {
        let Some(one) = self.pending.pop() else { return };
        let cookie = one.cookie();
        self.owed.push(cookie);
        let code = (0..8).find(|code| R::meaning(*code) == Some(R::NO)).unwrap();
        self.note_answer(cookie, code);
        drop(one);
        self.note_owed(0);
    }

    fn look(&mut self) {
        assert_eq!(self.responder.next_notice(), self.reference.next_notice());
        let mut open = self.responder.open_cookies();
        open.sort_unstable();
        assert!(open.iter().eq(self.reference.open.keys()));
        assert!(open.len() <= self.reference.depth);
        assert_eq!(self.responder.received(), self.received);
    }

    fn finish(&mut self) {
        self.look();
        // A peer that reads gets every answer that was given, once and in order.
        while !self.pending.is_empty() {
            self.drop_one();
        }
        while !self.peer.is_gone() {
            self.peer.read();
            assert!(self.answers.starts_with(&self.peer.read));
            if self.owed.is_empty() {
                assert_eq!(self.peer.read, self.answers);
                break;
            }
            // Any answer sends first what is owed.
            assert!(self.responder.respond(R::code(0, R::CODE)).is_err());
            self.note_owed(0);
        }
        self.peer.hang_up();
        // Everything that was written is received or refused, and then nothing comes any more.
        let mut looks = 0;
        let last = loop {
            match self.responder.try_recv().map_err(Nothing::from) {
                Ok(_) | Err(Nothing::Empty) => looks += 1,
                Err(last) => break last,
            }
            assert!(looks <= 2 + self.peer.written.len() / Event::<R>::SIZE, "it does not end");
        };
        for _ in 0..2 {
            let again = self.responder.try_recv().map_err(Nothing::from);
            assert!(matches!(again, Err(nothing) if nothing == last), "{again:?} instead of {last:?}");
        }
    }
}
