//! How a run ends, and groups that stay open during it.

use super::*;

impl<C: Choices> Machine<C> {
    /// Publishes and receives `count` groups of a device that are not answered until [`unpark`].
    pub(crate) fn park(&mut self, dev_id: u32, count: usize) {
        let mut requests = Vec::new();
        for first in (0..count).step_by(MOST) {
            requests.clear();
            for _ in first..count.min(first + MOST) {
                let (request, pasid) = (self.request(), self.own_pasid());
                requests.push(FaultRequest { dev_id, pasid: Some(pasid), ..request });
            }
            self.check_report(&requests);
            self.receive_groups_into(MOST * MOST_PAGES, MOST);
            for Holding { cookie, token } in self.held.drain(..) {
                token.map(FaultGroup::into_cookie);
                self.parked.push(cookie);
            }
        }
    }

    /// Has the groups that were parked last answered like the others.
    pub(crate) fn unpark(&mut self, count: usize) {
        let first = self.parked.len() - count;
        self.held.extend(self.parked.drain(first..).map(|cookie| Holding { cookie, token: None }));
    }

    /// Detaches a device that no choice detaches.
    pub(crate) fn detach_device(&mut self, dev_id: u32) {
        let expected = self.model.detach(dev_id);
        assert_eq!(self.reporter().detach(dev_id), expected);
        self.note_cancelled();
    }

    /// Receives, answers and collects until nothing is on its way.
    pub(crate) fn settle(&mut self) {
        self.unpark(self.parked.len());
        for dev_id in DEVICES {
            let cancelled = self.model.open_of(dev_id);
            if !self.choices.once_in(2) || self.model.half_made.iter().any(|half| half.dev_id == dev_id) {
                self.make_room_for_notices(cancelled);
                self.detach_device(dev_id);
            }
        }
        while !self.model.is_settled() {
            self.receive_groups_into(MOST * MOST_PAGES, MOST);
            self.take_left();
            self.respond_to(MOST, false);
            let _ = self.collect(MOST);
        }
        self.receive_groups_into(MOST * MOST_PAGES, MOST);
        assert_eq!(self.collect(MOST), Err(Nothing::Empty));
        // Nothing is put in behind a call that found nothing.
        self.look();
        assert!(!readable(self.reporter()) && !readable(self.responder()));
        assert_eq!(self.model.expected_counters().in_flight, 0);
    }

    /// Ends the channel in one of three ways.
    pub(crate) fn finish(&mut self, way: u32) {
        match way {
            0 => self.settle(),
            1 => self.lose_responder(),
            _ => self.lose_reporter(),
        }
        if self.reporter.is_some() {
            assert_eq!(self.model.completed, self.model.published, "every group completes exactly once");
        }
    }

    /// The responder goes: its answers are applied, everything else completes, and then it is closed.
    fn lose_responder(&mut self) {
        // Groups answer when they are dropped, and keep the channel open until then.
        self.take_left();
        let tokens: Vec<_> = self.held.drain(..).filter_map(|holding| holding.token).collect();
        self.responder = None;
        for group in tokens {
            assert!(!self.reporter().is_closed());
            let _ = self.model_respond(group.cookie(), ResponseCode::Invalid);
            drop(group);
        }
        self.model.responder_gone = true;
        assert!(self.reporter().is_closed());
        loop {
            assert!(readable(self.reporter()));
            if self.choices.once_in(4) {
                self.report_batch();
            }
            let most = 1 + self.choices.below(MOST as u32) as usize;
            if self.collect(most) == Err(Nothing::Closed) {
                break;
            }
        }
        self.report();
        assert_eq!(self.collect(1), Err(Nothing::Closed));
        assert!(readable(self.reporter()));
    }

    /// The reporter goes: the responder receives what is left, and then it is closed.
    fn lose_reporter(&mut self) {
        self.reporter = None;
        self.model.reporter_gone = true;
        assert!(readable(self.responder()));
        loop {
            let outcome = self.responder.as_mut().unwrap().try_recv_group(&mut self.pages);
            match (outcome, self.model.try_recv(MOST * MOST_PAGES)) {
                (Ok(group), Ok(handle)) => self.take(handle, group, false),
                (Err(error), Err(nothing)) => {
                    assert_eq!(nothing_of(&error), nothing);
                    if nothing == Nothing::Closed {
                        break;
                    }
                }
                (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
            }
        }
        assert!(readable(self.responder()));
        for Holding { cookie, token } in self.held.drain(..) {
            let code = PageResponseCode::SUCCESS;
            let closed = match token {
                Some(group) => matches!(group.respond(ResponseCode::Success), Err(RespondError::Closed)),
                None => {
                    let outcome = self.responder.as_ref().unwrap().respond(PageResponse { cookie, code });
                    matches!(outcome, Err(RespondError::Closed))
                }
            };
            assert!(closed, "nobody takes the answer");
        }
    }
}
