//! What the responder is given in the model, and what it may answer.

use super::*;

impl Model {
    /// Reads one record of a socket: the group that it completes, if it does; `None` when there is none.
    fn read_record(&mut self) -> Option<Option<usize>> {
        let first = *self.unread.front()?;
        let write = self.writes.front_mut().expect("what is unread was written");
        write.read += 1;
        let Write { records, read } = *write;
        if read == records {
            self.writes.pop_front();
            self.charged -= self.cost(records);
        }
        match first {
            Unread::Notice(number) => {
                self.unread.pop_front();
                self.read_notice(number);
                Some(None)
            }
            Unread::Group(handle) => {
                self.part += 1;
                if self.part < self.group(handle).pages {
                    return Some(None);
                }
                self.part = 0;
                self.unread.pop_front();
                Some(Some(self.deliver(handle)))
            }
        }
    }

    /// Only when all notices that were written together have been read it is known whom they are of.
    fn read_notice(&mut self, number: u64) {
        let (written, read) = self.notices.get_mut(&number).expect("a notice that was written");
        *read += 1;
        if read < written {
            return;
        }
        self.notices.remove(&number);
        for group in self.groups.iter_mut().flatten() {
            if group.notice == Notice::Coming(number) {
                let is_due = group.place == Place::Held;
                group.notice = if is_due { Notice::Due } else { Notice::None };
                self.due += usize::from(is_due);
            }
        }
    }

    /// The next group, for a receive with room for so many pages.
    pub(crate) fn try_recv(&mut self, room: usize) -> Result<usize, Nothing> {
        if !self.limits.socket {
            return self.pop_local(room);
        }
        loop {
            if room <= self.part {
                return Err(Nothing::TooSmall { needed: self.part + 1 });
            }
            match self.read_record() {
                None => return Err(self.nothing()),
                Some(None) => {}
                Some(Some(handle)) => return Ok(handle),
            }
        }
    }

    /// As many groups as fit go to `groups`, `most` of them at the most.
    pub(crate) fn recv_groups(
        &mut self,
        room: usize,
        most: usize,
        groups: &mut Vec<usize>,
    ) -> Result<(), Nothing> {
        if most == 0 {
            return Ok(());
        }
        if self.limits.socket {
            return self.read_groups(room, most, groups);
        }
        let mut left = room;
        while groups.len() < most {
            match self.pop_local(left) {
                Ok(handle) => {
                    left -= self.group(handle).pages;
                    groups.push(handle);
                }
                Err(nothing) if groups.is_empty() => return Err(nothing),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Each read brings as many records as there may be groups, until one brings the end of a group.
    fn read_groups(&mut self, room: usize, most: usize, groups: &mut Vec<usize>) -> Result<(), Nothing> {
        while groups.is_empty() {
            if room <= self.part {
                return Err(Nothing::TooSmall { needed: self.part + 1 });
            }
            for record in 0..most.min(room - self.part) {
                match self.read_record() {
                    None if record == 0 => return Err(self.nothing()),
                    None => break,
                    Some(group) => groups.extend(group),
                }
            }
        }
        Ok(())
    }

    fn pop_local(&mut self, room: usize) -> Result<usize, Nothing> {
        let Some(Unread::Group(handle)) = self.unread.front().copied() else { return Err(self.nothing()) };
        let needed = self.group(handle).pages;
        if needed > room {
            return Err(Nothing::TooSmall { needed });
        }
        self.unread.pop_front();
        Ok(self.deliver(handle))
    }

    fn nothing(&self) -> Nothing {
        if self.reporter_gone { Nothing::Closed } else { Nothing::Empty }
    }

    fn deliver(&mut self, handle: usize) -> usize {
        let group = self.group(handle);
        group.place = Place::Held;
        let pages = group.pages;
        self.unread_pages -= pages;
        self.received += 1;
        handle
    }

    /// Whether a received group is the one that was published, under one cookie and whole.
    pub(crate) fn check_pages(&mut self, handle: usize, cookie: u32, pages: &[PgFault]) {
        self.name(handle, cookie);
        let group = self.group(handle);
        assert_eq!(pages.len(), group.pages, "{group:?}");
        for (index, page) in pages.iter().enumerate() {
            let is_last = page.flags.contains(PgFaultFlags::LAST_PAGE);
            let pasid = page.flags.contains(PgFaultFlags::PASID_VALID).then_some(page.pasid);
            assert_eq!((page.cookie, is_last), (cookie, index + 1 == group.pages), "{group:?}");
            assert_eq!((page.dev_id, pasid, page.grpid), (group.dev_id, group.pasid, group.prg_index));
            assert_eq!(page.addr, group.addrs[index], "{group:?}");
        }
    }

    /// The group that the responder holds under `cookie`.
    pub(crate) fn held(&self, cookie: u32) -> Option<usize> {
        let handle = *self.by_cookie.get(&cookie)?;
        let group = self.groups[handle].as_ref()?;
        (group.place == Place::Held).then_some(handle)
    }

    /// Answers by cookie. An answer that comes late gives up the cookie all the same.
    pub(crate) fn respond(&mut self, cookie: u32, code: Option<ResponseCode>) -> Result<(), Unanswerable> {
        let Some(code) = code else { return Err(Unanswerable::Code) };
        let Some(handle) = self.held(cookie) else { return Err(Unanswerable::Stale) };
        let group = self.group(handle);
        group.place = Place::Answered;
        let notice = std::mem::replace(&mut group.notice, Notice::None);
        let is_late = group.ending.is_some();
        self.due -= usize::from(notice == Notice::Due);
        self.answers.push_back((handle, code));
        // Between threads the responder is told.
        if is_late && !self.limits.socket { Err(Unanswerable::Stale) } else { Ok(()) }
    }

    /// Answers up to the first that cannot be: how many are, and why the next one is not.
    pub(crate) fn respond_batch(
        &mut self,
        batch: impl Iterator<Item = (u32, Option<ResponseCode>)>,
    ) -> (usize, Option<Unanswerable>) {
        let mut count = 0;
        for (cookie, code) in batch {
            if let Err(error) = self.respond(cookie, code) {
                return (count, Some(error));
            }
            count += 1;
        }
        (count, None)
    }

    /// Whether a group that is held may be known to be cancelled, and whether it must be.
    pub(crate) fn cancelled(&self, cookie: u32) -> (bool, bool) {
        let Some(group) = self.held(cookie).and_then(|handle| self.groups[handle].as_ref()) else {
            return (false, false);
        };
        match group.notice {
            Notice::None => (false, false),
            // Which of the notices were read is not known; none, if none was.
            Notice::Coming(number) => (self.some_read(number), false),
            Notice::Due | Notice::Told => (true, true),
        }
    }

    /// Notes that the responder is told of a cancelled group; it must be one to be told of, and if none
    /// is told there must be none.
    pub(crate) fn told(&mut self, cookie: Option<u32>) {
        let Some(cookie) = cookie else {
            assert_eq!(self.due, 0, "cancelled groups are not told");
            return;
        };
        let handle = self.held(cookie).expect("a group that is held is told");
        let notice = std::mem::replace(&mut self.group(handle).notice, Notice::Told);
        let is_right = match notice {
            Notice::Coming(number) => self.some_read(number),
            notice => notice == Notice::Due,
        };
        assert!(is_right, "told of {cookie:#x}: {notice:?}");
        self.due -= usize::from(notice == Notice::Due);
    }

    fn some_read(&self, number: u64) -> bool {
        self.notices.get(&number).is_some_and(|(_, read)| *read > 0)
    }

    pub(crate) fn held_cookies(&self) -> Vec<u32> {
        let held = self.groups.iter().flatten().filter(|group| group.place == Place::Held);
        held.map(|group| group.cookie).collect()
    }
}
