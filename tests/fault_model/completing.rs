//! How groups complete in the model: by their answers, or without one.

use super::*;

impl Model {
    /// Takes in at most `most` answers that have come; between threads, all of them. Behind the last
    /// answer of a responder that is gone, everything completes.
    fn take_in(&mut self, most: usize) {
        if self.ended || most == 0 {
            return;
        }
        if self.answers.is_empty() && self.responder_gone {
            return self.hang_up();
        }
        let most = if self.limits.socket { most.min(self.answers.len()) } else { self.answers.len() };
        for _ in 0..most {
            let (handle, code) = self.answers.pop_front().expect("as many as there are");
            if self.group(handle).ending.is_none() {
                self.begin_step();
                self.end(handle, code, Cause::Answered);
            } else {
                self.counters.late_answers += 1;
            }
            self.forget(handle);
        }
    }

    fn take_in_all(&mut self) {
        self.take_in(usize::MAX);
        if self.responder_gone {
            self.take_in(usize::MAX);
        }
    }

    fn begin_step(&mut self) {
        self.last_step += 1;
    }

    fn end(&mut self, handle: usize, code: ResponseCode, cause: Cause) {
        let step = self.last_step;
        self.group(handle).ending = Some(Ending { code, cause, step });
        match self.steps.back_mut() {
            Some(last) if last.number == step => last.left += 1,
            _ => self.steps.push_back(Step { number: step, left: 1 }),
        }
        self.done += 1;
        self.counters.unanswered -= 1;
        // Until it is forgotten.
        self.counters.late_answers_pending += 1;
        let counter = match cause {
            Cause::Answered => &mut self.counters.answered,
            Cause::Detached => &mut self.counters.detached,
            Cause::HungUp => &mut self.counters.hung_up,
            Cause::Deadline => &mut self.counters.deadline,
            other => unreachable!("{other:?}"),
        };
        *counter += 1;
    }

    /// Notes that nobody can answer a group any more, which has ended.
    fn forget(&mut self, handle: usize) {
        let group = self.group(handle);
        let was_there = std::mem::replace(&mut group.place, Place::Gone) != Place::Gone;
        let collected = group.collected;
        self.counters.late_answers_pending -= u32::from(was_there);
        if collected {
            self.release(handle);
        }
    }

    /// Nobody can answer the group and its completion was collected: its room is free.
    fn release(&mut self, handle: usize) {
        let group = self.groups[handle].take().expect("a group that is on its way");
        assert_eq!(self.by_cookie.remove(&group.cookie), Some(handle));
        self.free.push(handle);
        self.taken -= 1;
        *self.of_device.get_mut(&group.dev_id).expect("a device that has groups") -= group.pages;
    }

    fn hang_up(&mut self) {
        self.ended = true;
        // Nothing completes behind the end.
        self.counters.discarded += self.half_made.len() as u64;
        self.half_made.clear();
        self.begin_step();
        for handle in 0..self.groups.len() {
            let Some(group) = &self.groups[handle] else { continue };
            if group.ending.is_none() {
                self.end(handle, ResponseCode::Invalid, Cause::HungUp);
                self.note_unnamed(handle);
            }
            self.forget(handle);
        }
    }

    /// So that its completion can be told by its PASID.
    fn note_unnamed(&mut self, handle: usize) {
        let Group { cookie, pasid, .. } = *self.group(handle);
        if cookie == 0 {
            let pasid = pasid.expect("groups without a name have a PASID of their own");
            assert_eq!(self.unnamed.insert(pasid, handle), None);
        }
    }

    /// Completes the groups that `meant` picks out and that are not answered; nothing is to be taken in.
    fn cancel(&mut self, cause: Cause, meant: impl Fn(&Group) -> bool) {
        self.begin_step();
        let mut notices = 0;
        let mut withdrawn = false;
        for handle in 0..self.groups.len() {
            let Some(group) = &self.groups[handle] else { continue };
            if group.ending.is_some() || !meant(group) {
                continue;
            }
            let place = group.place;
            self.end(handle, ResponseCode::Invalid, cause);
            self.note_unnamed(handle);
            if !self.limits.socket && place == Place::Unread {
                self.forget(handle);
                withdrawn = true;
            } else if self.limits.headed {
                notices += 1;
                self.due += usize::from(!self.limits.socket);
                self.noticed += u64::from(!self.limits.socket);
                self.group(handle).notice =
                    if self.limits.socket { Notice::Coming(self.last_step) } else { Notice::Due };
            }
        }
        if withdrawn {
            let groups = &self.groups;
            self.unread.retain(|unread| match unread {
                Unread::Group(handle) => {
                    groups[*handle].as_ref().is_some_and(|group| group.place == Place::Unread)
                }
                Unread::Notice(_) => true,
            });
            let pages = groups.iter().flatten().filter(|group| group.place == Place::Unread);
            self.unread_pages = pages.map(|group| group.pages).sum();
        }
        if self.limits.socket && notices > 0 {
            assert!(notices <= self.room_for_writes(), "which of the notices are written is not known");
            self.notices.insert(self.last_step, (notices, 0));
            for _ in 0..notices {
                self.unread.push_back(Unread::Notice(self.last_step));
                self.write(1, false);
            }
        }
    }

    /// Groups of a device that are not completed, as far as is known.
    pub(crate) fn open_of(&self, dev_id: u32) -> usize {
        let groups = self.groups.iter().flatten();
        groups.filter(|group| group.dev_id == dev_id && group.ending.is_none()).count()
    }

    /// Detaches a device; returns how many completions wait.
    pub(crate) fn detach(&mut self, dev_id: u32) -> usize {
        let before = self.half_made.len();
        self.half_made.retain(|half| half.dev_id != dev_id);
        self.counters.discarded += (before - self.half_made.len()) as u64;
        self.take_in_all();
        self.cancel(Cause::Detached, |group| group.dev_id == dev_id);
        self.waiting()
    }

    /// Groups not completed that were published at `time` or before.
    pub(crate) fn open_since(&self, time: u64) -> usize {
        self.groups.iter().flatten().filter(|group| group.time <= time && group.ending.is_none()).count()
    }

    /// Completes the half-made groups that began at `half_made` or before, and the groups that were
    /// published at `published` or before; returns how many completions wait.
    pub(crate) fn process(&mut self, half_made: Option<u64>, published: Option<u64>) -> usize {
        if let Some(time) = half_made {
            let expired = self.half_made.iter().filter(|half| half.time <= time).count();
            self.unfinished.extend(self.half_made.drain(..expired));
            self.counters.unfinished += expired as u64;
        }
        // Answers are taken in when something is due.
        if let Some(time) = published.filter(|time| self.open_since(*time) > 0) {
            self.take_in_all();
            self.cancel(Cause::Deadline, |group| group.time <= time);
        }
        self.waiting()
    }

    /// Completions that were taken in and wait to be collected.
    pub(crate) fn waiting(&self) -> usize {
        self.unfinished.len() + self.done
    }

    /// How many completions a call with room for `most` takes.
    pub(crate) fn completions(&mut self, most: usize) -> Result<usize, Nothing> {
        let unfinished = self.unfinished.len().min(most);
        let left = most - unfinished;
        let missing = left.saturating_sub(self.done);
        loop {
            let is_more = self.has_answers() || (self.responder_gone && !self.ended);
            self.take_in(missing);
            // Late answers complete nothing, so there may be more.
            if missing == 0 || self.done > 0 || !is_more {
                break;
            }
        }
        match unfinished + self.done.min(left) {
            0 if self.ended && self.waiting() == 0 => Err(Nothing::Closed),
            0 if most > 0 => Err(Nothing::Empty),
            count => Ok(count),
        }
    }

    /// Whether this is a completion that is due, and the next one.
    pub(crate) fn check_completion(&mut self, completion: &FaultCompletion) {
        let FaultCompletion { dev_id, pasid, prg_index, cookie, code, cause, .. } = *completion;
        if cookie == 0 {
            let half = self.unfinished.pop_front().expect("an unfinished group");
            assert_eq!((dev_id, pasid, prg_index), (half.dev_id, half.pasid, half.prg_index));
            assert_eq!((code, cause), (ResponseCode::Invalid, Cause::Unfinished));
            return;
        }
        let named = self.by_cookie.get(&cookie).copied();
        let handle = named.or_else(|| {
            let handle = self.unnamed.remove(&pasid?)?;
            self.name(handle, cookie);
            Some(handle)
        });
        let handle = handle.unwrap_or_else(|| panic!("a completion of no group: {completion:?}"));
        let group = self.group(handle);
        assert_eq!((dev_id, pasid, prg_index), (group.dev_id, group.pasid, group.prg_index));
        assert!(!group.collected, "a second completion: {completion:?}");
        group.collected = true;
        let is_gone = group.place == Place::Gone;
        let Some(ending) = group.ending else { panic!("it is not completed: {completion:?}, {group:?}") };
        assert_eq!((code, cause), (ending.code, ending.cause), "{completion:?}");
        let first = self.steps.front_mut().expect("a step with completions");
        assert_eq!(ending.step, first.number, "out of order: {completion:?}");
        first.left -= 1;
        if first.left == 0 {
            self.steps.pop_front();
        }
        self.done -= 1;
        self.completed += 1;
        if is_gone {
            self.release(handle);
        }
    }

    /// The reporter's counters as they must be; the age of the oldest group apart.
    pub(crate) fn expected_counters(&self) -> FaultReporterCounters {
        let (in_flight, half_made) = (self.taken as u32, self.half_made.len() as u32);
        FaultReporterCounters { in_flight, half_made, ..self.counters }
    }

    /// Whether something is to be received, and whether something is to be collected.
    pub(crate) fn is_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    pub(crate) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Whether groups have completed that are not collected, or answers have come.
    pub(crate) fn has_done(&self) -> bool {
        self.waiting() > 0 || self.has_answers()
    }

    /// Pages of the next group that the responder has, if one is there.
    pub(crate) fn next_pages(&self) -> Option<usize> {
        let handle = self.unread.iter().find_map(|unread| match unread {
            Unread::Group(handle) => Some(*handle),
            Unread::Notice(_) => None,
        });
        handle.and_then(|handle| self.groups[handle].as_ref()).map(|group| group.pages)
    }

    /// Whether nothing is on its way, there or back.
    pub(crate) fn is_settled(&self) -> bool {
        self.taken == 0 && self.unfinished.is_empty() && !self.is_unread() && !self.has_answers()
    }
}
