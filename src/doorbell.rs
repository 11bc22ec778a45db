//! The doorbell: wakes a consumer that sleeps and costs one that is busy nothing.
//!
//! A producer publishes a record, a consumer takes it; the doorbell decides when the producer must put
//! a token into the descriptor that the consumer polls, and when the consumer takes one out. The
//! descriptor is readable exactly while it holds a token. The contract, level-triggered:
//!
//! * Records waiting imply that the descriptor is readable once the producer's send has returned, also
//!   for a consumer that takes one record per wake-up.
//! * A receive that leaves the queue empty leaves the descriptor unreadable, unless a token was under
//!   way at that moment. It then wakes the consumer once for nothing.
//!
//! `armed` is the word the two sides share: set, it means that the consumer wants a token for the next
//! record. A token is put in exactly once for each arming, and the consumer never takes out a token
//! that is not its own by that count: taking one too many would lose a wake-up.
//!
//! The orderings are checked by the models in `doorbell/models.rs`, which fail without the fence and
//! without the count.

use crate::sync::{AtomicU32, Ordering, fence};

#[cfg(all(test, loom))]
mod models;

/// The tokens in the descriptor that the consumer polls.
pub(crate) trait Tokens {
    /// Puts one token in.
    fn put(&self);
    /// Takes one token out; false when none is there.
    fn take(&self) -> bool;

    /// The producer's fence, between publishing and its look at the word.
    #[inline]
    fn fence_ring(&self) {
        // Pairs with the fence in `fence_sleep`.
        fence(Ordering::SeqCst);
    }

    /// The consumer's fence, between arming and its second look; false when it could not be.
    #[inline]
    fn fence_sleep(&self) -> bool {
        // Pairs with the fence in `fence_ring`.
        fence(Ordering::SeqCst);
        true
    }
}

/// Value of `armed` when the consumer wants a token. A new channel starts with it.
pub(crate) const ARMED: u32 = 1;
const NOT_ARMED: u32 = 0;

/// Producer: wakes the consumer if it wants that. Call it once for each published batch, after the
/// store that published it. Returns whether a token was put in.
#[inline]
pub(crate) fn ring(armed: &AtomicU32, tokens: &impl Tokens) -> bool {
    // Pairs with the fence in `Waiter::try_sleep`: either the consumer's second look sees what was
    // just published, or this side sees `armed` set. It must be the fence: two SeqCst accesses of
    // different words would do on hardware, but loom does not model them as strong as that.
    tokens.fence_ring();
    // AcqRel on the exchange: of several producers one claims the token, ordered after the arming. A
    // failed claim writes nothing, so it cannot be taken for one by the consumer's own exchange.
    let claimed = armed.load(Ordering::Relaxed) == ARMED
        && armed.compare_exchange(ARMED, NOT_ARMED, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if claimed {
        tokens.put();
    }
    claimed
}

/// The consumer's side of the doorbell.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// This side has set the shared word and has not learned yet that a producer took it.
    armed: bool,
    /// Tokens in the descriptor, or on their way into it, that are this side's to take out.
    owned: u32,
    /// Tokens claimed by producers so far: how often this side was woken.
    pub(crate) claims: u64,
}

impl Waiter {
    /// The consumer of a new channel, whose word is [`ARMED`].
    pub(crate) const fn new() -> Self {
        Self { armed: true, owned: 0, claims: 0 }
    }

    /// Notes a token that a producer has claimed since. Call it first in every receive.
    #[inline]
    pub(crate) fn enter(&mut self, armed: &AtomicU32) {
        // Acquire pairs with the exchange in `ring`.
        if self.armed && armed.load(Ordering::Acquire) == NOT_ARMED {
            self.note_claim();
        }
    }

    /// Call it when the queue looks empty. True: the consumer may sleep, the descriptor is unreadable.
    /// False: `has_work` found something while arming, and the descriptor stays readable.
    pub(crate) fn try_sleep(
        &mut self,
        armed: &AtomicU32,
        tokens: &impl Tokens,
        has_work: impl FnOnce() -> bool,
    ) -> bool {
        if !self.armed {
            // Relaxed: the fence below orders it before the second look.
            armed.store(ARMED, Ordering::Relaxed);
            self.armed = true;
            // Pairs with the fence in `ring`.
            if !tokens.fence_sleep() || has_work() {
                self.stay_awake(armed);
                // One keeps the descriptor readable. The others would pile up in front of a consumer that never
                // sleeps, and a descriptor has room for so many only.
                self.take_all_but(1, tokens);
                return false;
            }
        }
        self.take_all_but(0, tokens);
        true
    }

    /// Takes out what is this side's, but for `kept` tokens and those that are still on their way.
    fn take_all_but(&mut self, kept: u32, tokens: &impl Tokens) {
        while self.owned > kept && tokens.take() {
            self.owned -= 1;
        }
    }

    /// Call it when a receive leaves something in the queue: the descriptor must be readable. It is,
    /// but for a token that the consumer spared the producer with [`stay_awake`](Self::stay_awake).
    #[cfg(any(feature = "local", all(test, loom)))]
    pub(crate) fn keep_readable(&mut self, tokens: &impl Tokens) {
        if !self.armed && self.owned == 0 {
            tokens.put();
            self.owned = 1;
        }
    }

    /// Whether every token that is this side's has been taken out.
    #[inline]
    pub(crate) fn owns_none(&self) -> bool {
        self.owned == 0
    }

    /// Notes tokens that were put in for another reason than arming.
    #[inline]
    pub(crate) fn note_tokens(&mut self, count: u32) {
        self.owned = self.owned.saturating_add(count);
    }

    /// Takes the arming back, so that producers put no token in: the consumer looks by itself.
    pub(crate) fn stay_awake(&mut self, armed: &AtomicU32) {
        // AcqRel pairs with the exchange in `ring`: exactly one side gets the set word.
        if self.armed {
            if armed.swap(NOT_ARMED, Ordering::AcqRel) == NOT_ARMED {
                self.note_claim();
            } else {
                self.armed = false;
            }
        }
    }

    fn note_claim(&mut self) {
        self.armed = false;
        // A peer may claim for ever without putting a token in.
        self.owned = self.owned.saturating_add(1);
        self.claims += 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Descriptor(AtomicU32);

    impl Tokens for Descriptor {
        fn put(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn take(&self) -> bool {
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
        }
    }

    #[test]
    fn tokens_do_not_pile_up_in_front_of_a_consumer_that_never_sleeps() {
        let (armed, tokens, mut waiter) =
            (AtomicU32::new(ARMED), Descriptor(AtomicU32::new(0)), Waiter::new());
        ring(&armed, &tokens);
        for _ in 0..1000 {
            waiter.enter(&armed);
            // Each time a record comes between the arming and the second look.
            let asleep = waiter.try_sleep(&armed, &tokens, || ring(&armed, &tokens));
            assert!(!asleep && tokens.0.load(Ordering::Relaxed) == 1, "{tokens}", tokens = waiter.owned);
        }
        waiter.enter(&armed);
        assert!(waiter.try_sleep(&armed, &tokens, || false));
        assert_eq!((tokens.0.load(Ordering::Relaxed), waiter.claims), (0, 1001));
    }
}
