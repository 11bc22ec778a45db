//! Rounds: all contenders by turns, so that a machine whose speed drifts slows all of them alike.

use std::io::{IsTerminal, Write, stderr};

use crate::contenders::Contender;

/// How long one run of a contender should take, in nanoseconds, if it is as fast as in the round before.
const RUN: f64 = 30e6;
const COUNTS: std::ops::RangeInclusive<f64> = 100.0..=4e6;

/// A contender and its times.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) contender: Contender,
    /// Nanoseconds for a record or round trip, one for each round.
    times: Vec<f64>,
    sorted: Vec<f64>,
}

impl Measured {
    fn new(contender: Contender, times: Vec<f64>) -> Self {
        let sorted = sorted(times.clone());
        Self { contender, times, sorted }
    }

    pub(crate) fn median(&self) -> f64 {
        quartile(&self.sorted, 2)
    }

    pub(crate) fn quartiles(&self) -> (f64, f64) {
        (quartile(&self.sorted, 1), quartile(&self.sorted, 3))
    }

    /// How many times that of `rival` its time is: the median of what each round says, for a machine may be fast in
    /// some rounds and slow in others.
    pub(crate) fn ratio(&self, rival: &Self) -> f64 {
        let ratios = self.times.iter().zip(&rival.times).map(|(time, rival)| time / rival);
        quartile(&sorted(ratios.collect()), 2)
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn quartile(sorted: &[f64], number: usize) -> f64 {
    sorted[(sorted.len() - 1) * number / 4]
}

/// Runs the contenders `chosen` of `all` in as many rounds, after one that finds out how long each takes.
pub(crate) fn measure(all: &[Contender], chosen: &[usize], rounds: usize) -> Vec<Measured> {
    let mut times = vec![Vec::with_capacity(rounds); chosen.len()];
    let mut counts: Vec<u64> = chosen.iter().map(|index| all[*index].measure.first_count()).collect();
    for round in 0..=rounds {
        for (turn, index) in chosen.iter().enumerate() {
            let contender = &all[*index];
            progress(contender, round, rounds, turn + 1, chosen.len());
            let time = contender.run(*index, counts[turn]);
            // Anew in each round: what is slow in one, because the machine has other work, may be fast in the next.
            counts[turn] = (RUN / time).clamp(*COUNTS.start(), *COUNTS.end()) as u64;
            if round > 0 {
                times[turn].push(time);
            }
        }
    }
    let done = if stderr().is_terminal() { "\r\x1b[K" } else { "" };
    eprint!("{done}");
    let with_times = chosen.iter().zip(times);
    with_times.map(|(index, times)| Measured::new(all[*index].clone(), times)).collect()
}

/// One line that changes; where it cannot, one for each round.
fn progress(contender: &Contender, round: usize, rounds: usize, turn: usize, turns: usize) {
    if stderr().is_terminal() {
        let (name, place) = (contender.name, contender.place);
        eprint!("\r\x1b[Kround {round} of {rounds}, {turn} of {turns}: {name}, {place}");
        let _ = stderr().flush();
    } else if turn == 1 {
        eprintln!("round {round} of {rounds}, {turns} contenders");
    }
}
