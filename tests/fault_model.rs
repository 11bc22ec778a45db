//! Groups of page faults, answered in random order, against a model of what the documentation promises:
//! ten million of them in a release build (`ci/model.sh`), fewer in a debug one.

#![cfg_attr(not(feature = "local"), allow(dead_code, reason = "part of it is of use between threads only"))]

mod common;

#[path = "fault_model/choices.rs"]
mod choices;
#[path = "fault_model/machine.rs"]
mod machine;
#[path = "fault_model/model.rs"]
mod model;
#[path = "fault_model/random.rs"]
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
#[cfg(feature = "local")]
use std::thread;

use choices::Choices;
#[cfg(feature = "local")]
use machine::PARKED;
use machine::{Machine, Plan};
#[cfg(feature = "local")]
use model::NumberMap;
use random::Random;

/// How a channel is made, and how many groups it is to publish.
type MakePlan = fn(&mut Random) -> (Plan, u64);

/// Runs channels, one for each seed from `seed` on, until they have published `groups`; how often each
/// reason for a refusal was met.
fn run(mut seed: u64, groups: u64, make_plan: MakePlan) -> [u64; 8] {
    let (mut published, mut refusals) = (0, [0; 8]);
    while published < groups {
        let mut choices = Random::new(seed);
        let (plan, count) = make_plan(&mut choices);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut machine = Machine::new(choices, plan);
            while machine.model.published < count {
                machine.step();
            }
            machine.finish(seed as u32 % 3);
            (machine.model.published, machine.refusals)
        }));
        match outcome {
            Ok((count, met)) => {
                published += count;
                refusals = std::array::from_fn(|reason| refusals[reason] + met[reason]);
            }
            Err(panic) => {
                eprintln!("with the seed {seed}: {plan:?}");
                resume_unwind(panic)
            }
        }
        seed += 1;
    }
    refusals
}

#[cfg(feature = "local")]
#[test]
fn groups_between_threads_complete_as_the_model_says() {
    const HALF: u64 = if cfg!(debug_assertions) { 250_000 } else { 5_000_000 };
    let make_plan: MakePlan = |choices| {
        let (depth, groups) = match choices.below(3) {
            0 => (1 + choices.below(40), 10_000),
            1 => (64 + choices.below(400), 200_000),
            _ => (1024, 400_000),
        };
        let headed = choices.once_in(2);
        (Plan { make: common::fault::local, on_socket: false, headed, depth, is_deep: false }, groups)
    };
    let first = thread::spawn(move || run(0, HALF, make_plan));
    let second = run(1_000_000, HALF, make_plan);
    let first = first.join().unwrap_or_else(|panic| resume_unwind(panic));
    assert!(first.iter().zip(second).all(|(first, second)| first + second > 0), "a refusal was never met");
}

const ON_SOCKETS: u64 = if cfg!(debug_assertions) { 50_000 } else { 200_000 };

fn on_a_socket(choices: &mut Random, headed: bool) -> (Plan, u64) {
    let make = [common::fault::socket, common::fault::socket_made_by_responder][choices.below(2) as usize];
    let (depth, groups) = match choices.below(3) {
        0 => (1 + choices.below(12), 2_000),
        _ => (20 + choices.below(230), 30_000),
    };
    (Plan { make, on_socket: true, headed, depth, is_deep: false }, groups)
}

#[test]
fn groups_on_a_socket_complete_as_the_model_says() {
    let refusals = run(0, ON_SOCKETS, |choices| on_a_socket(choices, false));
    assert!(refusals.iter().all(|times| *times > 0), "{refusals:?}");
}

#[test]
fn groups_on_a_socket_with_notices_complete_as_the_model_says() {
    let refusals = run(0, ON_SOCKETS, |choices| on_a_socket(choices, true));
    assert!(refusals.iter().all(|times| *times > 0), "{refusals:?}");
}

#[cfg(feature = "local")]
#[test]
fn late_answers_are_told_when_the_generations_have_come_round() {
    // 14 bits of a cookie are the generation, and eight slots are all that is free.
    const DEPTH: u32 = 1 << 18;
    const GENERATIONS: usize = (1 << 14) - 1;
    const FREE: usize = 8;
    const LATE: u32 = PARKED + 1;
    let (make, depth) = (common::fault::local, DEPTH);
    let plan = Plan { make, on_socket: false, headed: true, depth, is_deep: true };
    let mut machine = Machine::new(Random::new(1), plan);
    machine.park(PARKED, DEPTH as usize - 2 * FREE);
    machine.park(LATE, FREE);
    machine.detach_device(LATE);
    machine.cookies = Some(NumberMap::default());
    while machine.model.published < u64::from(DEPTH) + 300_000 {
        machine.step();
    }
    let cookies = machine.cookies.take().unwrap();
    assert_eq!(cookies.len(), FREE * GENERATIONS);
    assert!(cookies.values().all(|times| *times >= 2), "all of them came again");
    assert_eq!(machine.model.counters.late_answers, 0);
    machine.unpark(FREE);
    (0..10_000).for_each(|_| machine.step());
    assert_eq!(machine.model.counters.late_answers, FREE as u64);
    machine.settle();
}
