//! Who is compared, in what, with whom.

mod bytes;
mod eventfds;
#[cfg(feature = "iceoryx2")]
mod iceoryx2;
mod ipc_channel;
mod recordfd;
mod rings;
mod side;

use std::fmt;
use std::time::Duration;

use crate::carrier::{Carrier, Crossing, Receives, ReceivesBatches, Sends, SendsBatches, Waits};
use crate::drive;
use crate::process::{Peer, There};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    Singles,
    Batches,
    Asleep,
    BusyPoll,
}

impl Measure {
    pub(crate) const ALL: [Self; 4] = [Self::Singles, Self::Batches, Self::Asleep, Self::BusyPoll];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Singles => "one record to a call, ns a record",
            Self::Batches => "64 records to a call, ns a record",
            Self::Asleep => "round trip, both sides sleep, ns",
            Self::BusyPoll => "round trip, both sides look, ns",
        }
    }

    /// What one run of a contender begins with, before it is known how long it takes.
    pub(crate) fn first_count(self) -> u64 {
        match self {
            Self::Singles | Self::Batches => 20_000,
            Self::Asleep | Self::BusyPoll => 200,
        }
    }
}

/// Where the two sides are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Threads,
    Processes,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Run {
    Threads(fn(u64) -> Duration),
    Processes { here: fn(&Peer) -> Duration, there: fn(&There) },
}

/// A rival of the same measure.
pub(crate) type Rival = (Place, &'static str);

#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) measure: Measure,
    pub(crate) place: Place,
    pub(crate) name: &'static str,
    /// Those it is compared with.
    pub(crate) rivals: Vec<Rival>,
    run: Run,
}

impl Contender {
    fn threads(measure: Measure, name: &'static str, run: fn(u64) -> Duration) -> Self {
        let (place, rivals, run) = (Place::Threads, Vec::new(), Run::Threads(run));
        Self { measure, place, name, rivals, run }
    }

    fn processes(
        measure: Measure,
        name: &'static str,
        here: fn(&Peer) -> Duration,
        there: fn(&There),
    ) -> Self {
        let (place, rivals, run) = (Place::Processes, Vec::new(), Run::Processes { here, there });
        Self { measure, place, name, rivals, run }
    }

    fn against(self, rivals: &[Rival]) -> Self {
        Self { rivals: rivals.to_vec(), ..self }
    }

    /// Whether it is one of those that the others are rivals of.
    pub(crate) fn is_ours(&self) -> bool {
        self.name.starts_with("recordfd")
    }

    pub(crate) fn is(&self, measure: Measure, (place, name): Rival) -> bool {
        (self.measure, self.place, self.name) == (measure, place, name)
    }

    /// Nanoseconds for each of `count` records or round trips; `index` is its place in [`all`].
    pub(crate) fn run(&self, index: usize, count: u64) -> f64 {
        let time = match self.run {
            Run::Threads(run) => run(count),
            Run::Processes { here, .. } => here(&Peer { contender: index, count }),
        };
        time.as_nanos() as f64 / count as f64
    }

    /// The other process's side.
    pub(crate) fn run_there(&self, there: &There) {
        match self.run {
            Run::Threads(_) => unreachable!("a contender of one process has no other"),
            Run::Processes { there: run, .. } => run(there),
        }
    }
}

fn singles<C: Carrier<Tx: Sends, Rx: Receives>>(name: &'static str) -> Contender {
    Contender::threads(Measure::Singles, name, drive::singles::<C>)
}

fn batches<C: Carrier<Tx: SendsBatches, Rx: ReceivesBatches>>(name: &'static str) -> Contender {
    Contender::threads(Measure::Batches, name, drive::batches::<C>)
}

fn trips<C: Carrier<Tx: Sends, Rx: Waits>>(measure: Measure, name: &'static str) -> Contender {
    Contender::threads(measure, name, drive::trips::<C>)
}

fn singles_across<C: Crossing<Tx: Sends, Rx: Receives>>(name: &'static str) -> Contender {
    let (here, there) = (drive::singles_here::<C>, drive::singles_there::<C>);
    Contender::processes(Measure::Singles, name, here, there)
}

fn batches_across<C: Crossing<Tx: SendsBatches, Rx: ReceivesBatches>>(name: &'static str) -> Contender {
    let (here, there) = (drive::batches_here::<C>, drive::batches_there::<C>);
    Contender::processes(Measure::Batches, name, here, there)
}

fn trips_across<C: Crossing<Tx: Sends, Rx: Waits>>(measure: Measure, name: &'static str) -> Contender {
    Contender::processes(measure, name, drive::trips_here::<C>, drive::trips_there::<C>)
}

/// All of them, in the order of the table. It is the same in the other process.
pub(crate) fn all() -> Vec<Contender> {
    let mut all = Vec::new();
    all.extend(rings::contenders());
    all.extend(side::contenders());
    all.extend(eventfds::contenders());
    all.extend(bytes::contenders());
    all.extend(ipc_channel::contenders());
    #[cfg(feature = "iceoryx2")]
    all.extend(iceoryx2::contenders());
    all.extend(recordfd::contenders());
    all.sort_by_key(|contender| (contender.measure, contender.place));
    all
}
