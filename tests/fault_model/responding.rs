//! The responder's calls.

use super::*;

impl<C: Choices> Machine<C> {
    pub(super) fn receive_groups(&mut self) {
        let (room, most) = match self.choices.below(4) {
            0 => (self.choices.below(16) as usize, self.choices.below(8) as usize),
            _ => (MOST * MOST_PAGES, MOST),
        };
        self.receive_groups_into(room, most);
    }

    pub(super) fn receive_groups_into(&mut self, room: usize, most: usize) {
        let taken = usize::from(most > 0 && self.left);
        let mut handles = std::mem::take(&mut self.handles);
        handles.clear();
        let expected = self.model.recv_groups(room, most - taken, &mut handles);
        let responder = self.responder.as_mut().unwrap();
        match responder.recv_groups(&mut self.pages[..room], &mut self.groups[..most]) {
            Ok(count) => assert_eq!((Ok(()), handles.len()), (expected, count)),
            Err(error) => assert_eq!(Err(nothing_of(&error)), expected),
        }
        let mut filled = 0;
        for (index, handle) in handles.iter().enumerate() {
            let group = self.groups[taken + index].take().expect("a group in each of the first free places");
            assert_eq!(group.range().start, filled);
            filled = group.range().end;
            self.take(*handle, group, taken + index == 0);
        }
        if taken > 0 && self.choices.once_in(2) {
            self.take_left();
        }
        self.note_received();
        self.handles = handles;
    }

    /// Takes the group that a receive has left in its place.
    pub(super) fn take_left(&mut self) {
        let token = self.groups[0].take();
        self.held.extend(token.map(|token| Holding { cookie: token.cookie(), token: Some(token) }));
        self.left = false;
    }

    pub(super) fn receive(&mut self) {
        let room = match self.choices.below(3) {
            0 => self.choices.below(MOST_PAGES as u32 + 1) as usize,
            _ => MOST,
        };
        let has_group = self.model.next_pages().is_some();
        let expected = self.model.try_recv(room);
        let pages = &mut self.pages[..room];
        let outcome = match self.choices.below(4) {
            0 if has_group => self.responder.as_mut().unwrap().recv_group(pages),
            1 => self.responder.as_mut().unwrap().recv_group_timeout(pages, Duration::ZERO),
            _ => self.responder.as_mut().unwrap().try_recv_group(pages),
        };
        match (outcome, expected) {
            (Ok(group), Ok(handle)) => {
                assert_eq!(group.range().start, 0);
                self.take(handle, group, false);
            }
            (Err(error), Err(nothing)) => assert_eq!(nothing_of(&error), nothing),
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        }
        self.note_received();
    }

    /// Keeps a group that was received: as it is, by its cookie alone, or, if it `may_stay`, where the
    /// receive put it.
    pub(super) fn take(&mut self, handle: usize, group: FaultGroup, may_stay: bool) {
        let cookie = group.cookie();
        assert_eq!(group.len(), group.range().len());
        self.model.check_pages(handle, cookie, &self.pages[group.range()]);
        if let Some(cookies) = &mut self.cookies {
            *cookies.entry(cookie).or_insert(0) += 1;
        }
        match self.choices.below(16) {
            0 if may_stay && !self.plan.is_deep => {
                self.groups[0] = Some(group);
                self.left = true;
            }
            1..4 => self.held.push(Holding { cookie, token: Some(group) }),
            _ => {
                assert_eq!(group.into_cookie(), cookie);
                self.held.push(Holding { cookie, token: None });
            }
        }
    }

    pub(super) fn note_received(&mut self) {
        self.groups_rung &= self.model.is_unread();
        self.is_noticed = false;
        assert_eq!(self.responder().received(), self.model.received);
    }

    /// Takes any group that is held.
    pub(super) fn pick(&mut self) -> Option<Holding> {
        let count = self.held.len() as u32;
        (count > 0).then(|| self.held.swap_remove(self.choices.below(count) as usize))
    }

    pub(super) fn code(&mut self) -> ResponseCode {
        if self.choices.once_in(2) { ResponseCode::Success } else { ResponseCode::Invalid }
    }

    pub(super) fn model_respond(&mut self, cookie: u32, code: ResponseCode) -> Result<(), Unanswerable> {
        self.completions_rung = true;
        self.note_stale(cookie);
        self.model.respond(cookie, Some(code))
    }

    fn note_stale(&mut self, cookie: u32) {
        let place = self.choices.below(64) as usize;
        match self.stale.get_mut(place) {
            Some(stale) => *stale = cookie,
            None => self.stale.push(cookie),
        }
    }

    pub(super) fn respond_batch(&mut self) {
        let most = if self.choices.once_in(4) { 4 } else { MOST as u32 };
        let count = self.choices.below(most + 1);
        let is_bad = self.choices.once_in(8);
        self.respond_to(count as usize, is_bad);
    }

    /// Answers so many groups in one batch, one of the answers bad.
    pub(super) fn respond_to(&mut self, count: usize, is_bad: bool) {
        let mut responses = std::mem::take(&mut self.responses);
        let mut picked = std::mem::take(&mut self.picked);
        responses.clear();
        while responses.len() < count
            && let Some(holding) = self.pick()
        {
            responses.push(PageResponse { cookie: holding.cookie, code: self.code().into() });
            picked.push(holding);
        }
        if is_bad && let Some(bad) = self.bad_response(&responses) {
            let place = self.choices.below(responses.len() as u32 + 1) as usize;
            responses.insert(place, bad);
        }
        let answers = responses.iter().map(|response| (response.cookie, code_of(response.code)));
        let (expected, error) = self.model.respond_batch(answers);
        self.check_batch(&responses, expected, error);
        self.completions_rung |= self.model.has_answers();
        if let Some(response) = responses[..expected].first() {
            self.note_stale(response.cookie);
        }
        for holding in picked.drain(..) {
            // Behind an answer that is bad, all stay. The tokens of the others answer nothing more.
            if error.is_some() && self.model.held(holding.cookie).is_some() {
                self.held.push(holding);
            }
        }
        (self.responses, self.picked) = (responses, picked);
    }

    pub(super) fn check_batch(
        &mut self,
        responses: &[PageResponse],
        expected: usize,
        error: Option<Unanswerable>,
    ) {
        let outcome = match responses {
            [response] if self.choices.once_in(2) => self.responder().respond(*response).map(|()| 1),
            responses => self.responder().respond_batch(responses),
        };
        match outcome {
            Ok(count) => {
                assert_eq!(count, expected, "{error:?}");
                assert!(count == responses.len() || error.is_some());
            }
            Err(found) => assert_eq!((expected, error), (0, Some(unanswerable_of(&found)))),
        }
    }

    /// An answer that is not taken: to a group that is not held, or one that says nothing; or one to a
    /// group that this batch answers, too.
    fn bad_response(&mut self, batch: &[PageResponse]) -> Option<PageResponse> {
        let (cookie, code) = match self.choices.below(4) {
            0 => (self.stale[self.choices.below(self.stale.len() as u32) as usize], 0),
            1 => (self.choices.below(u32::MAX), 1),
            2 => return batch.first().copied(),
            _ => match self.held.len() as u32 {
                0 => (0, 0),
                held => (self.held[self.choices.below(held) as usize].cookie, 2 + self.choices.below(9)),
            },
        };
        let is_bad = code > 1 || self.model.held(cookie).is_none();
        is_bad.then_some(PageResponse { cookie, code: PageResponseCode::new(code) })
    }

    pub(super) fn respond(&mut self) {
        let Some(Holding { cookie, token }) = self.pick() else { return };
        let code = self.code();
        let expected = self.model_respond(cookie, code);
        match token {
            Some(group) if !self.choices.once_in(4) => match group.respond(code) {
                Ok(()) => assert_eq!(expected, Ok(())),
                Err(error) => assert_eq!(expected, Err(unanswerable_of(&error))),
            },
            token => {
                let response = PageResponse { cookie, code: code.into() };
                let (count, error) = (usize::from(expected.is_ok()), expected.err());
                self.check_batch(&[response], count, error);
                // Its group is answered, so it answers nothing more.
                if let Some(group) = token {
                    let stale = group.respond(code);
                    assert!(matches!(stale, Err(RespondError::StaleCookie)), "{stale:?}");
                }
            }
        }
    }

    pub(super) fn drop_one(&mut self) {
        let Some(Holding { cookie, token }) = self.pick() else { return };
        match token {
            Some(group) => {
                let _ = self.model_respond(cookie, ResponseCode::Invalid);
                drop(group);
            }
            None => self.held.push(Holding { cookie, token }),
        }
    }

    pub(super) fn next_cancelled(&mut self) {
        let told = self.responder().next_cancelled();
        assert!(told.is_none() || self.plan.headed);
        self.model.told(told);
        if let Some(token) = self.held.last().and_then(|holding| holding.token.as_ref()) {
            let (may_be, must_be) = self.model.cancelled(token.cookie());
            let is_cancelled = token.is_cancelled();
            assert!((may_be || !is_cancelled) && (is_cancelled || !must_be));
        }
    }

    pub(super) fn open_cookies(&mut self) {
        if !self.choices.once_in(16) {
            return;
        }
        let (mut found, mut expected) = (self.responder().open_cookies(), self.model.held_cookies());
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}

fn unanswerable_of<T: std::fmt::Debug>(error: &RespondError<T>) -> Unanswerable {
    match error {
        RespondError::StaleCookie => Unanswerable::Stale,
        RespondError::Code => Unanswerable::Code,
        other => panic!("{other:?}"),
    }
}

fn code_of(code: PageResponseCode) -> Option<ResponseCode> {
    match code {
        PageResponseCode::SUCCESS => Some(ResponseCode::Success),
        PageResponseCode::INVALID => Some(ResponseCode::Invalid),
        _ => None,
    }
}
