//! The producer's wish to be notified when the consumer has read the ring empty.
//!
//! A word in the ring says that the producer wants to be notified. The consumer checks it whenever it leaves the ring
//! empty, takes it back and puts one token in. So the socket gets one token for each time that the word was set.
//!
//! Any number of threads wait. One of them polls the socket for all, and takes the token out as soon as it is there:
//! another thread that polls the same socket for what it receives is woken by it once, not until the wait ends.
//! The others sleep on a condition variable until the first one has been woken.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::MsgFlags;

use super::port::{Direction, Port};
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, fence, lock, wait};
use crate::wait::{wait_for, wait_readable};

/// The longest sleep of a thread that finds the socket readable for a reason that is not its own.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// The wish, as the producing end knows it.
#[derive(Debug)]
pub(super) struct Drain {
    state: Mutex<State>,
    /// The thread that polls for all has been woken.
    woken: Condvar,
    /// A thread has waited: the consuming side of this end checks for tokens.
    used: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// The word is set, and it is not known that the consumer took it back.
    wanted: bool,
    /// Tokens that the consumer has put in, or is about to, and that nobody has taken out or counted as owned.
    tokens: u32,
    /// How often the consumer took the word back; wraps.
    notified: u32,
    /// A thread waits on the socket for all that wait.
    leads: bool,
    /// That thread sleeps until the socket is readable: nobody else may take the tokens, or it would sleep on.
    polls: bool,
}

impl Drain {
    pub(super) fn new() -> Self {
        let state = State { wanted: false, tokens: 0, notified: 0, leads: false, polls: false };
        Self { state: Mutex::new(state), woken: Condvar::new(), used: AtomicBool::new(false) }
    }

    /// Asks to be notified. Check whether the ring is empty after it, and [`sleep`](Self::sleep) with what it returns.
    pub(super) fn want(&self, produced: &Direction) -> u32 {
        // Relaxed: set before the consumer is asked, in this process. A receive that misses it finds the token
        // with its next call.
        self.used.store(true, Ordering::Relaxed);
        let mut state = lock(&self.state);
        state.note_taken_back(produced);
        // With a token in the socket or on its way to it, a second one would only add to it.
        if state.tokens == 0 && !std::mem::replace(&mut state.wanted, true) {
            // Relaxed: the fence orders it.
            produced.drain().store(1, Ordering::Relaxed);
        }
        let notified = state.notified;
        drop(state);
        // Pairs with the fence in `tell`: either this side sees the ring empty, or the consumer sees the word.
        fence(Ordering::SeqCst);
        notified
    }

    /// Sleeps until the consumer has notified this end since [`want`](Self::want) returned `notified`, the socket is
    /// readable for another reason, or it is `deadline`; may return early. `pause` is how long it sleeps while
    /// something else keeps the socket readable, and grows.
    pub(super) fn sleep(
        &self,
        port: &Port,
        notified: u32,
        deadline: Option<Instant>,
        pause: &mut Duration,
    ) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.notified != notified {
            return Ok(());
        }
        if state.leads {
            drop(wait(&self.woken, state, deadline));
            return Ok(());
        }
        (state.leads, state.polls) = (true, true);
        drop(state);
        let mut outcome = wait_readable(port.as_fd(), deadline);
        let mut state = lock(&self.state);
        state.polls = false;
        state.note_taken_back(&port.produced);
        // A token that the consumer has not put in yet is taken out later, by whoever counts it as owned.
        if state.tokens > 0 && port.receive_byte(MsgFlags::empty()) {
            state.tokens -= 1;
        } else if matches!(outcome, Ok(true)) && !port.is_peer_gone() {
            // What is there is a reply, which another thread is to receive. That thread may take tokens, too.
            drop(state);
            let until = Instant::now() + *pause;
            let until = deadline.map_or(until, |deadline| deadline.min(until));
            outcome = wait_for(port.as_fd(), PollFlags::empty(), Some(until));
            *pause = (*pause * 2).min(LONGEST_PAUSE);
            state = lock(&self.state);
        }
        state.leads = false;
        drop(state);
        self.woken.notify_all();
        outcome.map(|_| ())
    }

    /// Tokens that are the caller's from now on.
    #[inline]
    pub(super) fn take_tokens(&self, produced: &Direction) -> u32 {
        if !self.used.load(Ordering::Relaxed) {
            return 0;
        }
        let mut state = lock(&self.state);
        state.note_taken_back(produced);
        if state.polls { 0 } else { std::mem::take(&mut state.tokens) }
    }

    /// Whether there is a byte in the socket, and whether one of those there may be for a thread that waits. Under
    /// the lock under which such a thread takes it out, so that it is not missing from one of the two answers.
    pub(super) fn peek(&self, port: &Port) -> (bool, bool) {
        let mut state = lock(&self.state);
        let is_readable = port.peek();
        state.note_taken_back(&port.produced);
        (is_readable, state.tokens > 0)
    }
}

impl State {
    /// Notes that the consumer took the word back.
    fn note_taken_back(&mut self, produced: &Direction) {
        // Acquire pairs with the swap in `tell`.
        if self.wanted && produced.drain().load(Ordering::Acquire) == 0 {
            self.wanted = false;
            self.tokens = self.tokens.saturating_add(1);
            self.notified = self.notified.wrapping_add(1);
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
