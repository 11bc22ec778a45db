//! The reporter's calls.

use super::*;

impl<C: Choices> Machine<C> {
    pub(super) fn request(&mut self) -> FaultRequest {
        self.addresses += 1;
        let device = self.choices.below(8) as usize;
        FaultRequest {
            // The first device asks for most.
            dev_id: DEVICES.get(device).copied().unwrap_or(DEVICES[0]),
            perm: PgFaultPerm::READ,
            last: true,
            addr: self.addresses,
            ..FaultRequest::default()
        }
    }

    pub(super) fn own_pasid(&mut self) -> u32 {
        self.pasids = (self.pasids + 1) % OWN_PASID;
        OWN_PASID + self.pasids
    }

    pub(super) fn report_batch(&mut self) {
        // Behind a refusal a few are enough to be refused again.
        let most = if self.is_refused || self.choices.once_in(4) { 3 } else { MOST as u32 };
        let count = 1 + self.choices.below(most);
        let singles_only = self.choices.once_in(3);
        let mut requests = std::mem::take(&mut self.requests);
        requests.clear();
        let mut may_end = true;
        for _ in 0..count {
            let mut request = self.request();
            request.pasid = Some(self.own_pasid());
            request.prg_index = self.choices.below(512);
            let kind = if singles_only { u32::MAX } else { self.choices.below(32) };
            match kind {
                // A group begins.
                0..3 => request.last = false,
                // One goes on, or ends. Only one that began in a batch has a PASID of its own, by which it is
                // known, and it ends once.
                3..8 if may_end && !self.model.half_made.is_empty() => {
                    let index = self.choices.below(self.model.half_made.len() as u32) as usize;
                    let half = &self.model.half_made[index];
                    if half.pasid.is_some_and(|pasid| pasid >= OWN_PASID) {
                        (request.dev_id, request.pasid) = (half.dev_id, half.pasid);
                        request.prg_index = half.prg_index;
                        request.last = kind >= 6;
                        may_end = !request.last;
                    }
                }
                8 if self.choices.once_in(64) => self.spoil(&mut request),
                _ => {}
            }
            requests.push(request);
        }
        self.check_report(&requests);
        self.requests = requests;
    }

    pub(super) fn check_report(&mut self, requests: &[FaultRequest]) {
        let (taken, refusal) = self.model.report_batch(requests);
        self.is_refused = refusal.is_some();
        self.note(refusal);
        match self.reporter().report_batch(requests) {
            Ok(count) => {
                assert_eq!(count, taken, "{refusal:?}");
                assert!(count == requests.len() || refusal.is_some());
            }
            Err(error) => {
                assert_eq!((taken, Some(refusal_of(&error))), (0, refusal));
                assert_eq!(error.into_inner(), requests[0]);
            }
        }
        self.groups_rung |= taken > 0;
    }

    /// Makes it a request that PCIe does not allow.
    pub(super) fn spoil(&mut self, request: &mut FaultRequest) {
        match self.choices.below(3) {
            0 => request.pasid = Some(1 << 20),
            1 => request.prg_index = 512,
            _ => request.perm = PgFaultPerm::from_bits_retain(0x10),
        }
    }

    pub(super) fn report(&mut self) {
        let mut request = self.request();
        // Few names, so that groups that are open at the same time often have the same one.
        request.pasid = [None, Some(1), Some(2)][self.choices.below(3) as usize];
        request.prg_index = self.choices.below(2);
        request.last = self.choices.below(3) > 0;
        if self.choices.once_in(64) {
            self.spoil(&mut request);
        }
        let expected = self.model.report(&request);
        self.note(expected.err());
        match (self.reporter().report(request), expected) {
            (Ok(Reported::HalfMade), Ok(None)) => {}
            (Ok(Reported::Group { cookie }), Ok(Some(handle))) => {
                self.model.name(handle, cookie);
                self.groups_rung = true;
            }
            (Err(error), Err(refusal)) => {
                assert_eq!(refusal_of(&error), refusal);
                assert_eq!(error.into_inner(), request);
            }
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}: {request:?}"),
        }
    }

    fn note(&mut self, refusal: Option<Refusal>) {
        if let Some(refusal) = refusal {
            self.refusals[refusal as usize] += 1;
        }
    }

    pub(super) fn complete(&mut self) {
        let most = match self.choices.below(4) {
            0 => self.choices.below(MOST as u32 + 1) as usize,
            _ => MOST,
        };
        let _ = self.collect(most);
    }

    /// Collects at most `most` completions; why there is none.
    pub(super) fn collect(&mut self, most: usize) -> Result<(), Nothing> {
        let expected = self.model.completions(most);
        let waits = self.choices.once_in(8);
        let mut completions = std::mem::take(&mut self.completions);
        let out = &mut completions[..most];
        let reporter = self.reporter();
        let outcome = if waits {
            reporter.wait_completions(out, Some(Duration::ZERO))
        } else {
            reporter.completions(out)
        };
        assert_eq!(outcome.map_err(|error| nothing_of(&error)), expected);
        for completion in &completions[..expected.unwrap_or(0)] {
            self.model.check_completion(completion);
        }
        self.completions = completions;
        if most > 0 && self.model.waiting() == 0 && !self.model.has_answers() {
            self.completions_rung = false;
        }
        expected.map(|_| ())
    }

    pub(super) fn detach(&mut self) {
        let dev_id = DEVICES[self.choices.below(4) as usize];
        let cancelled = self.model.open_of(dev_id);
        self.make_room_for_notices(cancelled);
        let expected = self.model.detach(dev_id);
        assert_eq!(self.reporter().detach(dev_id), expected);
        self.note_cancelled();
    }

    pub(super) fn process(&mut self) {
        let mark = match self.marks.len() as u32 {
            0 => return self.mark(),
            marks => self.marks[self.choices.below(marks) as usize],
        };
        match self.choices.below(4) {
            0 => return self.mark(),
            // Nothing is due yet.
            1 => {
                let expected = self.model.process(None, None);
                assert_eq!(self.reporter().process(Instant::now()), expected);
            }
            2 => {
                let expected = self.model.process(Some(mark.time), None);
                assert_eq!(self.reporter().process(mark.at + HALF_MADE_AGE), expected);
            }
            _ => {
                let published = self.has_deadline.then_some(mark.time);
                let cancelled = published.map_or(0, |time| self.model.open_since(time));
                self.make_room_for_notices(cancelled);
                let expected = self.model.process(Some(u64::MAX), published);
                assert_eq!(self.reporter().process(mark.at + DEADLINE), expected);
            }
        }
        self.note_cancelled();
    }

    /// Remembers this moment: it is later than every report before it and earlier than any behind it.
    pub(super) fn mark(&mut self) {
        let at = later();
        let mark = Mark { at, time: self.model.time };
        self.model.time += 1;
        if self.marks.len() < 4 {
            self.marks.push(mark);
        } else {
            let index = self.choices.below(4) as usize;
            self.marks[index] = mark;
        }
        later();
    }

    /// Which of several notices a socket has room for is not known; so all of them find room.
    pub(super) fn make_room_for_notices(&mut self, count: usize) {
        while self.plan.headed && self.model.limits.socket && self.model.room_for_writes() < count {
            self.receive_groups_into(MOST * MOST_PAGES, MOST);
        }
    }

    pub(super) fn note_cancelled(&mut self) {
        if self.model.waiting() > 0 {
            self.completions_rung = true;
            self.groups_rung |= self.plan.headed;
        }
        self.is_noticed |= self.model.noticed != self.noticed;
        self.noticed = self.model.noticed;
    }
}

fn refusal_of(error: &ReportError) -> Refusal {
    match error {
        ReportError::Full(_) => Refusal::Full,
        ReportError::DeviceFull(_) => Refusal::DeviceFull,
        ReportError::HalfMadeFull(_) => Refusal::HalfMadeFull,
        ReportError::TooLarge(_) => Refusal::TooLarge,
        ReportError::Pasid(_) => Refusal::Pasid,
        ReportError::PrgIndex(_) => Refusal::PrgIndex,
        ReportError::Permission(_) => Refusal::Permission,
        ReportError::Closed(_) => Refusal::Closed,
        other => panic!("{other:?}"),
    }
}
