//! The producer's wish to be told when the consumer has read the ring empty.
//!
//! A word in the ring says that the producer wants to know. The consumer looks at it whenever it leaves the ring
//! empty, takes it back and puts one token in; so each time that the word is set comes to one token, which the
//! side that gets it owns like any other.

use crate::ring::Storage;
use crate::sync::{AtomicBool, Mutex, Ordering, fence, lock};

use super::port::Direction;

/// The wish, as the producing end knows it.
#[derive(Debug)]
pub(super) struct Drain {
    state: Mutex<State>,
    /// Someone has waited: the consuming side of this end looks here.
    used: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// The word is set, and it is not known that the consumer took it.
    wanted: bool,
    /// Tokens that the consumer has put in, or is about to, and nobody has counted as owned.
    tokens: u32,
    /// Threads that wait: while there are any, the token that wakes all of them stays where it is.
    waiters: u32,
}

impl Drain {
    pub(super) fn new() -> Self {
        let state = Mutex::new(State { wanted: false, tokens: 0, waiters: 0 });
        Self { state, used: AtomicBool::new(false) }
    }

    /// Begins to wait.
    pub(super) fn begin(&self) {
        // Relaxed: set before the consumer is asked, in this process. A receive that misses it finds the token
        // with its next call.
        self.used.store(true, Ordering::Relaxed);
        lock(&self.state).waiters += 1;
    }

    pub(super) fn end(&self) {
        lock(&self.state).waiters -= 1;
    }

    /// Asks to be told. Look whether the ring is empty behind it.
    pub(super) fn want(&self, produced: &Direction) {
        let mut state = lock(&self.state);
        state.note_told(produced);
        // While a token stays for others who wait, another one would only add to it, until the socket is full.
        if state.tokens == 0 && !std::mem::replace(&mut state.wanted, true) {
            // Relaxed: the fence orders it.
            produced.drain().store(1, Ordering::Relaxed);
        }
        drop(state);
        // Pairs with the fence in `tell`: either this side sees the ring empty, or the consumer sees the word.
        fence(Ordering::SeqCst);
    }

    /// Whether the descriptor may be readable for another reason than that the consumer has told just now: it was
    /// asked and has not told, or has told earlier.
    pub(super) fn is_pending(&self, produced: &Direction) -> bool {
        let mut state = lock(&self.state);
        state.note_told(produced);
        state.wanted || state.tokens > 0
    }

    /// Tokens that are the caller's from now on.
    #[inline]
    pub(super) fn take_tokens(&self, produced: &Direction) -> u32 {
        if !self.used.load(Ordering::Relaxed) {
            return 0;
        }
        let mut state = lock(&self.state);
        state.note_told(produced);
        if state.waiters > 0 { 0 } else { std::mem::take(&mut state.tokens) }
    }

    /// Whether there are tokens that are nobody's yet.
    pub(super) fn has_tokens(&self, produced: &Direction) -> bool {
        let mut state = lock(&self.state);
        state.note_told(produced);
        state.tokens > 0
    }
}

impl State {
    /// Notes that the consumer took the word back.
    fn note_told(&mut self, produced: &Direction) {
        // Acquire pairs with the swap in `tell`.
        if self.wanted && produced.drain().load(Ordering::Acquire) == 0 {
            self.wanted = false;
            self.tokens = self.tokens.saturating_add(1);
        }
    }
}

/// Consumer: the ring was just left empty. Whether the producer is to be told, by one token.
#[inline]
pub(super) fn tell(consumed: &Direction) -> bool {
    // Pairs with the fence in `Drain::want`.
    fence(Ordering::SeqCst);
    let word = consumed.drain();
    // AcqRel on the swap: one token for each time that the word was set.
    word.load(Ordering::Relaxed) == 1 && word.swap(0, Ordering::AcqRel) == 1
}

/// Whether the ring has been read empty, by the words of both sides.
pub(super) fn is_drained(produced: &Direction) -> bool {
    produced.tail().load(Ordering::Relaxed) == produced.head().load(Ordering::Acquire)
}
