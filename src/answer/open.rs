//! Which groups a responder has received and not answered. Cookies are the peer's choice.

use std::collections::HashMap;

use super::Notice;
use super::list::{Linked, Links, List};
use crate::error::Violation;

/// A group that was received and not answered.
#[derive(Debug)]
struct Open {
    /// Of the list of the free, or of the untold.
    links: Links,
    cookie: u32,
    /// The reporter has completed it without its answer.
    cancelled: bool,
    /// How often the reporter has sent it again.
    repeats: u32,
    /// One of these is to be told.
    untold: bool,
    /// Its answer is being sent.
    claimed: bool,
}

impl Linked for Open {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// A set of bounded size: every operation but [`cookies`](Self::cookies) takes constant time.
#[derive(Debug)]
pub(crate) struct OpenGroups {
    /// Its hash is keyed, so that a peer cannot choose cookies that collide.
    by_cookie: HashMap<u32, u32>,
    places: Box<[Open]>,
    free: List,
    /// Groups with a notice that nobody has asked for yet.
    untold: List,
}

impl OpenGroups {
    pub(crate) fn new(most: usize) -> Self {
        let place = |_| Open {
            links: Links::LONE,
            cookie: 0,
            cancelled: false,
            repeats: 0,
            untold: false,
            claimed: false,
        };
        let mut places: Box<[_]> = (0..most).map(place).collect();
        let mut free = List::new();
        (0..most as u32).for_each(|place| free.push(&mut places, place));
        // Twice the most, so that the table never grows, whatever was removed from it.
        Self { by_cookie: HashMap::with_capacity(2 * most), places, free, untold: List::new() }
    }

    /// Whether a group may come under `cookie`.
    pub(crate) fn check(&self, cookie: u32) -> Result<(), Violation> {
        if self.contains(cookie) {
            return Err(Violation::CookieOpen { cookie });
        }
        if self.free.first().is_none() { Err(Violation::TooManyOpen) } else { Ok(()) }
    }

    /// Puts in a cookie that passes the [`check`](Self::check).
    pub(crate) fn insert(&mut self, cookie: u32) {
        if let Some(place) = self.free.pop(&mut self.places) {
            self.places[place as usize].cookie = cookie;
            self.by_cookie.insert(cookie, place);
        }
    }

    pub(crate) fn contains(&self, cookie: u32) -> bool {
        self.by_cookie.contains_key(&cookie)
    }

    pub(crate) fn remove(&mut self, cookie: u32) {
        if let Some(place) = self.by_cookie.remove(&cookie) {
            if self.places[place as usize].untold {
                self.untold.remove(&mut self.places, place);
            }
            let open = &mut self.places[place as usize];
            (open.cancelled, open.repeats, open.untold, open.claimed) = (false, 0, false, false);
            self.free.push(&mut self.places, place);
        }
    }

    /// Claims the one answer to a group; false when it is not open, or claimed already.
    pub(crate) fn claim(&mut self, cookie: u32) -> bool {
        self.get(cookie).is_some_and(|open| !std::mem::replace(&mut open.claimed, true))
    }

    /// Gives a claim back.
    pub(crate) fn unclaim(&mut self, cookie: u32) {
        if let Some(open) = self.get(cookie) {
            open.claimed = false;
        }
    }

    /// Notes that the reporter has completed the group; its answer may have crossed the notice.
    pub(crate) fn cancel(&mut self, cookie: u32) {
        if let Some(open) = self.get(cookie).filter(|open| !open.cancelled) {
            open.cancelled = true;
            self.set_untold(cookie);
        }
    }

    /// Notes that the reporter has sent the group again, for `repeats` times in all; its answer may have crossed.
    pub(crate) fn repeat(&mut self, cookie: u32, repeats: u32) {
        if let Some(open) = self.get(cookie).filter(|open| !open.cancelled && open.repeats < repeats) {
            open.repeats = repeats;
            self.set_untold(cookie);
        }
    }

    fn set_untold(&mut self, cookie: u32) {
        let Some(place) = self.by_cookie.get(&cookie).copied() else { return };
        if !std::mem::replace(&mut self.places[place as usize].untold, true) {
            self.untold.push(&mut self.places, place);
        }
    }

    pub(crate) fn is_cancelled(&self, cookie: u32) -> bool {
        self.by_cookie.get(&cookie).is_some_and(|place| self.places[*place as usize].cancelled)
    }

    /// The next notice and whose it is; each is told once, and of several to a group the last one.
    pub(crate) fn next_notice(&mut self) -> Option<(u32, Notice)> {
        let place = self.untold.pop(&mut self.places)?;
        let open = &mut self.places[place as usize];
        open.untold = false;
        Some((open.cookie, if open.cancelled { Notice::Cancelled } else { Notice::Repeated(open.repeats) }))
    }

    pub(crate) fn cookies(&self) -> Vec<u32> {
        self.by_cookie.keys().copied().collect()
    }

    fn get(&mut self, cookie: u32) -> Option<&mut Open> {
        let place = *self.by_cookie.get(&cookie)?;
        Some(&mut self.places[place as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_of_cookies_stays_bounded_and_exact() {
        let mut open = OpenGroups::new(2);
        let capacity = open.by_cookie.capacity();
        for cookie in 1..1000 {
            assert_eq!(open.check(cookie), Ok(()));
            open.insert(cookie);
            open.insert(u32::MAX);
            assert_eq!(open.check(cookie), Err(Violation::CookieOpen { cookie }));
            assert_eq!(open.check(cookie + 1), Err(Violation::TooManyOpen));
            assert!(open.claim(cookie) && !open.claim(cookie) && !open.claim(cookie + 1));
            open.unclaim(cookie);
            open.remove(cookie);
            open.remove(u32::MAX);
            assert!(!open.claim(cookie));
        }
        assert_eq!(open.by_cookie.capacity(), capacity);
    }

    #[test]
    fn cancelled_group_is_told_once_unless_it_was_closed_before() {
        let mut open = OpenGroups::new(3);
        for _ in 0..100 {
            (1..=3).for_each(|cookie| open.insert(cookie));
            [2, 3, 2, 9].into_iter().for_each(|cookie| open.cancel(cookie));
            assert!(open.is_cancelled(2) && !open.is_cancelled(1) && !open.is_cancelled(9));
            open.remove(2);
            assert_eq!((open.next_notice(), open.next_notice()), (Some((3, Notice::Cancelled)), None));
            open.cancel(3);
            open.repeat(3, 1);
            assert_eq!(open.next_notice(), None, "once");
            [1, 3].into_iter().for_each(|cookie| open.remove(cookie));
        }
    }

    #[test]
    fn group_that_was_sent_again_is_told_with_its_last_count() {
        let mut open = OpenGroups::new(2);
        for _ in 0..100 {
            [1, 2].into_iter().for_each(|cookie| open.insert(cookie));
            [(1, 1), (9, 1), (1, 3), (1, 2), (2, 1)]
                .into_iter()
                .for_each(|(cookie, count)| open.repeat(cookie, count));
            open.cancel(2);
            assert_eq!(open.next_notice(), Some((1, Notice::Repeated(3))));
            open.repeat(1, 3);
            assert_eq!(open.next_notice(), Some((2, Notice::Cancelled)));
            assert_eq!(open.next_notice(), None);
            open.repeat(1, 4);
            [1, 2].into_iter().for_each(|cookie| open.remove(cookie));
            assert_eq!(open.next_notice(), None, "nobody holds it");
        }
    }
}
