//! Random peers of shared channels against each of the four ends, by a few lines of model.

#[path = "fault_model/choices.rs"]
mod choices;
#[path = "fault_model/random.rs"]
mod random;
#[path = "ring_machine/mod.rs"]
mod ring_machine;
#[path = "common/ring_peer.rs"]
mod ring_peer;
#[path = "common/rounds.rs"]
mod rounds;

use random::Random;
use ring_machine::Role;

/// How many peers each end has, at least.
const FEWEST: u64 = 400;
/// Steps of a run, at most.
const STEPS: u32 = 120;

fn against_random_peers(role: Role) {
    let mut steps = 0;
    let runs = rounds::each_seed(&format!("{role:?} of a shared channel"), FEWEST, |seed| {
        steps += u64::from(ring_machine::run(role, Random::new(seed), |_, step| step < STEPS));
    });
    assert!(runs.is_none_or(|runs| steps > 50 * runs), "{runs:?} runs of {steps} steps show little");
}

#[test]
fn sender_does_with_any_peer_what_the_model_says() {
    against_random_peers(Role::Sender);
}

#[test]
fn receiver_does_with_any_peer_what_the_model_says() {
    against_random_peers(Role::Receiver);
}

#[test]
fn reporter_completes_every_group_once_with_any_peer() {
    against_random_peers(Role::Reporter);
}

#[test]
fn responder_gets_whole_groups_or_an_error_with_any_peer() {
    against_random_peers(Role::Responder);
}
