//! Random peers of shared channels against each of the four ends, by a few lines of model.

#[path = "fault_model/choices.rs"]
mod choices;
#[path = "fault_model/random.rs"]
mod random;
#[path = "ring_machine/mod.rs"]
mod ring_machine;
#[path = "common/ring_peer.rs"]
mod ring_peer;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use random::Random;
use ring_machine::Role;

/// How long each end is tried.
const LONG: Duration = Duration::from_secs(2);
/// How often, at least.
const FEWEST: u64 = 200;
/// Steps of a run, at most.
const STEPS: u32 = 120;

fn against_random_peers(role: Role) {
    // RECORDFD_SEED=number runs one of them again.
    let seed = std::env::var("RECORDFD_SEED").ok().map(|seed| seed.parse().unwrap());
    let (began, mut runs, mut steps) = (Instant::now(), 0, 0);
    while began.elapsed() < LONG || runs < FEWEST {
        let seed = seed.unwrap_or(runs);
        let run = || ring_machine::run(role, Random::new(seed), |_, step| step < STEPS);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(count) => steps += u64::from(count),
            Err(panic) => {
                eprintln!("RECORDFD_SEED={seed}, {role:?}");
                resume_unwind(panic);
            }
        }
        runs += 1;
    }
    eprintln!("{role:?}: {runs} runs, {steps} steps");
    assert!(steps > 50 * runs, "{runs} runs of {steps} steps show little");
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
