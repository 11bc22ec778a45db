//! Rounds of a hostile test, each determined by its seed, for as long as is asked for.
//!
//! RECORDFD_HOSTILE_SECONDS says for how long each test goes on; without it each has a few rounds. RECORDFD_SEED=number
//! repeats the one that has failed. `ci/nightly.sh hostile` runs every test that includes this file.

#![allow(unreachable_pub, reason = "compiled into each test")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// How often a test that goes on for long says so.
const REPORT: Duration = Duration::from_secs(60);

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().ok().unwrap_or_else(|| panic!("{variable} is {value}, which is no number")))
}

/// Calls `round` with the seeds from 0, at least `fewest` of them; returns how many these were, or None if it was one that
/// was asked for.
pub fn each_seed(what: &str, fewest: u64, mut round: impl FnMut(u64)) -> Option<u64> {
    let mut run = |seed| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round(seed))) {
            eprintln!("{what} fails with RECORDFD_SEED={seed}");
            resume_unwind(panic);
        }
    };
    if let Some(seed) = number("RECORDFD_SEED") {
        run(seed);
        return None;
    }
    let long = Duration::from_secs(number("RECORDFD_HOSTILE_SECONDS").unwrap_or(0));
    let (began, mut reported, mut rounds) = (Instant::now(), Duration::ZERO, 0);
    while rounds < fewest || began.elapsed() < long {
        run(rounds);
        rounds += 1;
        if began.elapsed() - reported > REPORT {
            reported = began.elapsed();
            eprintln!("{what}: {rounds} rounds in {} s so far", reported.as_secs());
        }
    }
    eprintln!("{what}: {rounds} rounds in {:.1} s", began.elapsed().as_secs_f64());
    Some(rounds)
}
