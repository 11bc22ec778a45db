//! Doubly linked lists over the slots of an array: every operation takes constant time and no memory.

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// Neighbours of a slot in the one list it is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Links {
    previous: u32,
    next: u32,
}

impl Links {
    pub(crate) const LONE: Self = Self { previous: NONE, next: NONE };
}

/// What has links of its own.
pub(crate) trait Linked {
    fn links(&mut self) -> &mut Links;
}

/// First and last slot of a list; the links are in the slots.
#[derive(Debug)]
pub(crate) struct List {
    first: u32,
    last: u32,
    len: u32,
}

impl List {
    pub(crate) const fn new() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// The slot that was put in first.
    pub(crate) const fn first(&self) -> Option<u32> {
        if self.first == NONE { None } else { Some(self.first) }
    }

    /// The slot behind `slot`, which is in this list.
    pub(crate) fn next<T: Linked>(&self, slots: &mut [T], slot: u32) -> Option<u32> {
        match slots[slot as usize].links().next {
            NONE => None,
            next => Some(next),
        }
    }

    /// Puts `slot`, which is in no list, behind the last one.
    pub(crate) fn push<T: Linked>(&mut self, slots: &mut [T], slot: u32) {
        self.insert(slots, slot, self.last);
    }

    /// Puts `slot`, which is in no list, where it belongs in a list that is sorted by `key`: behind its equals.
    /// Takes a step for each slot that stays behind it.
    pub(crate) fn push_sorted<T: Linked, K: Ord>(
        &mut self,
        slots: &mut [T],
        slot: u32,
        key: impl Fn(&T) -> K,
    ) {
        let of_slot = key(&slots[slot as usize]);
        let mut previous = self.last;
        while previous != NONE && key(&slots[previous as usize]) > of_slot {
            previous = slots[previous as usize].links().previous;
        }
        self.insert(slots, slot, previous);
    }

    /// Puts `slot` behind `previous`; in front of all if that is none.
    fn insert<T: Linked>(&mut self, slots: &mut [T], slot: u32, previous: u32) {
        let next = match previous {
            NONE => std::mem::replace(&mut self.first, slot),
            previous => std::mem::replace(&mut slots[previous as usize].links().next, slot),
        };
        match next {
            NONE => self.last = slot,
            next => slots[next as usize].links().previous = slot,
        }
        *slots[slot as usize].links() = Links { previous, next };
        self.len += 1;
    }

    /// Takes `slot`, which is in this list, out of it.
    pub(crate) fn remove<T: Linked>(&mut self, slots: &mut [T], slot: u32) {
        let Links { previous, next } = std::mem::replace(slots[slot as usize].links(), Links::LONE);
        match previous {
            NONE => self.first = next,
            previous => slots[previous as usize].links().next = next,
        }
        match next {
            NONE => self.last = previous,
            next => slots[next as usize].links().previous = previous,
        }
        self.len -= 1;
    }

    /// Takes the first slot out.
    pub(crate) fn pop<T: Linked>(&mut self, slots: &mut [T]) -> Option<u32> {
        let first = self.first()?;
        self.remove(slots, first);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slot(Links, u32);

    impl Linked for Slot {
        fn links(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    #[test]
    fn slots_come_out_in_the_order_they_went_in_whichever_are_removed_between() {
        for removed in 0..4 {
            let mut slots = [const { Slot(Links::LONE, 0) }; 4];
            let mut list = List::new();
            (0..4).for_each(|slot| list.push(&mut slots, slot));
            list.remove(&mut slots, removed);
            list.push(&mut slots, removed);
            let order: Vec<_> = std::iter::from_fn(|| list.pop(&mut slots)).collect();
            let expected: Vec<_> = (0..4).filter(|slot| *slot != removed).chain([removed]).collect();
            assert_eq!(order, expected);
            assert_eq!((list.len(), list.first()), (0, None));
        }
    }

    #[test]
    fn slots_that_are_put_in_sorted_come_out_sorted_and_equals_as_they_went_in() {
        let mut slots = [5, 1, 9, 5, 0, 9, 5].map(|key| Slot(Links::LONE, key));
        let mut list = List::new();
        (0..7).for_each(|slot| list.push_sorted(&mut slots, slot, |slot| slot.1));
        list.remove(&mut slots, 3);
        list.push_sorted(&mut slots, 3, |slot| slot.1);
        let order: Vec<_> = std::iter::from_fn(|| list.pop(&mut slots)).collect();
        assert_eq!(order, [4, 1, 0, 6, 3, 2, 5]);
        assert_eq!((list.len(), list.first()), (0, None));
    }
}
