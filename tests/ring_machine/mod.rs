//! Any calls on one end of a shared channel against anything that its peer can do to the memory and the socket:
//! what each call does is what a few lines of model say. Decisions come from a seed, or from a fuzzer.
//!
//! Nothing runs at the same time, so the memory is during a call what it was before it.

mod hostile;
mod model;
mod receiver;
mod reporter;
mod responder;
mod sender;

use std::time::{Duration, Instant};

use recordfd::uapi::{Format, OfferFlags};

use crate::choices::Choices;
use crate::ring_peer::{RingPeer, good_offer, sealed_memory};
use hostile::{Hostile, spoil};

/// No call takes longer, whatever the peer does; those that wait are given next to no time.
const MOST: Duration = Duration::from_secs(10);
/// What a call that waits is given.
const SHORT: Duration = Duration::from_micros(300);

/// How long an end looks by itself before it waits, if it does.
const BUSY: Duration = Duration::from_micros(50);
/// So many looks that find nothing, without a wait, may miss that the peer has hung up.
const LOOKS: u32 = 66;

/// The end under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Sender,
    Receiver,
    Reporter,
    Responder,
}

impl Role {
    fn produces(self) -> bool {
        matches!(self, Self::Sender | Self::Reporter)
    }
}

/// What a call returns; it may not take long.
fn timed<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = call();
    assert!(began.elapsed() < MOST, "{what} has taken {:?}", began.elapsed());
    result
}

/// Makes a channel and does as it is decided until `goes_on` says no; returns how many steps that were.
///
/// Decisions in this order: format, depth, replies, who makes the channel; then the steps.
pub(crate) fn run<C: Choices>(role: Role, mut choices: C, goes_on: impl Fn(&C, u32) -> bool) -> u32 {
    let format = match role {
        Role::Sender | Role::Receiver => Format::ACPI_NOTIFY_V1,
        _ if choices.once_in(2) => Format::IOMMU_PGFAULT_V2,
        _ => Format::IOMMU_PGFAULT_V1,
    };
    let (depth, replies) = (1 << choices.below(5), 1 << choices.below(4));
    let mut offer = good_offer(format, role.produces(), depth, replies);
    let maker = choices.below(4);
    let memory_size = offer.map_size;
    if maker == 3 {
        spoil(&mut offer, &mut choices);
    }
    // An offer, unless this side makes the channel.
    let offered = (maker > 1).then(|| RingPeer::make_with(&offer, sealed_memory(memory_size)));
    let is_right = offer == good_offer(format, role.produces(), depth, replies);
    let mut steps = 0;
    macro_rules! run {
        ($module:ident) => {{
            let made = match offered {
                None => Some($module::make(format, depth, replies)),
                Some((peer, end)) => match $module::attach(end) {
                    Ok(honest) => {
                        // Only what can be is attached, so that all of it is in the memory.
                        peer.arm();
                        Some((honest, peer))
                    }
                    Err(error) => {
                        assert!(!is_right, "{error:?}");
                        None
                    }
                },
            };
            let Some((honest, peer)) = made else { return 0 };
            assert_eq!(peer.offer.flags.contains(OfferFlags::PRODUCER), role.produces() ^ (maker < 2));
            let mut machine = $module::Machine::new(honest, Hostile::new(choices, peer));
            while goes_on(&machine.hostile.choices, steps) {
                machine.step();
                steps += 1;
            }
            machine.finish();
        }};
    }
    match role {
        Role::Sender => run!(sender),
        Role::Receiver => run!(receiver),
        Role::Reporter => run!(reporter),
        Role::Responder => run!(responder),
    }
    steps
}
