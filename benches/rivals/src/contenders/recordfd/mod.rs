//! recordfd itself, on each of its transports.

mod carriers;
mod ends;

use carriers::{Local, Looks, Shared, Socket};

use super::bytes::SOCKET;
use super::eventfds::EVENTFDS;
use super::rings::{ARRAY_QUEUE, RTRB, RTRB_CHUNKS};
use super::side::LIST;
use super::{
    Contender, Measure, Place::Processes, Place::Threads, batches, batches_across, singles, singles_across,
    trips, trips_across,
};
const LOCAL: &str = "recordfd local";
const OVER_SOCKET: &str = "recordfd socket";
const SHARED: &str = "recordfd shared";
const ASYMMETRIC: &str = "recordfd shared, asymmetric fence";
const LOOKS: &str = "recordfd shared, recv with busy_poll";
const LOCAL_BUSY: &str = "recordfd local, busy_poll 50 us";
const SHARED_BUSY: &str = "recordfd shared, busy_poll 50 us";

pub(super) fn contenders() -> Vec<Contender> {
    [in_singles(), in_batches(), asleep(), busy()].concat()
}

fn in_singles() -> Vec<Contender> {
    vec![
        singles::<Local>(LOCAL).against(&[(Threads, LIST)]),
        singles::<Socket>(OVER_SOCKET).against(&[(Threads, SOCKET)]),
        singles::<Shared>(SHARED).against(&[(Threads, ARRAY_QUEUE)]),
        singles::<Shared<true>>(ASYMMETRIC).against(&[(Threads, RTRB)]),
        singles::<Looks<Shared<false, true>>>(LOOKS).against(&[(Threads, ARRAY_QUEUE)]),
        singles_across::<Socket>(OVER_SOCKET).against(&[(Processes, SOCKET)]),
        singles_across::<Shared>(SHARED).against(&[(Threads, ARRAY_QUEUE)]),
        singles_across::<Shared<true>>(ASYMMETRIC).against(&[(Threads, RTRB)]),
        singles_across::<Looks<Shared<false, true>>>(LOOKS).against(&[(Threads, ARRAY_QUEUE)]),
    ]
}

fn in_batches() -> Vec<Contender> {
    vec![
        batches::<Local>(LOCAL).against(&[(Threads, LIST)]),
        batches::<Socket>(OVER_SOCKET).against(&[(Threads, SOCKET)]),
        batches::<Shared>(SHARED).against(&[(Threads, RTRB_CHUNKS)]),
        batches::<Shared<true>>(ASYMMETRIC).against(&[(Threads, RTRB_CHUNKS)]),
        batches::<Looks<Shared<false, true>>>(LOOKS).against(&[(Threads, RTRB_CHUNKS)]),
        batches_across::<Socket>(OVER_SOCKET).against(&[(Processes, SOCKET)]),
        batches_across::<Shared>(SHARED).against(&[(Threads, RTRB_CHUNKS)]),
        batches_across::<Shared<true>>(ASYMMETRIC).against(&[(Threads, RTRB_CHUNKS)]),
        batches_across::<Looks<Shared<false, true>>>(LOOKS).against(&[(Threads, RTRB_CHUNKS)]),
    ]
}

fn asleep() -> Vec<Contender> {
    let (here, across) = ([(Threads, EVENTFDS)], [(Processes, EVENTFDS)]);
    vec![
        trips::<Local>(Measure::Asleep, LOCAL).against(&here),
        trips::<Socket>(Measure::Asleep, OVER_SOCKET).against(&here),
        trips::<Shared>(Measure::Asleep, SHARED).against(&here),
        trips::<Shared<true>>(Measure::Asleep, ASYMMETRIC).against(&here),
        trips_across::<Socket>(Measure::Asleep, OVER_SOCKET).against(&across),
        trips_across::<Shared>(Measure::Asleep, SHARED).against(&across),
        trips_across::<Shared<true>>(Measure::Asleep, ASYMMETRIC).against(&across),
    ]
}

fn busy() -> Vec<Contender> {
    let (here, across) = ([(Threads, EVENTFDS)], [(Processes, EVENTFDS)]);
    vec![
        trips::<Local<true>>(Measure::BusyPoll, LOCAL_BUSY).against(&here),
        trips::<Shared<false, true>>(Measure::BusyPoll, SHARED_BUSY).against(&here),
        trips_across::<Shared<false, true>>(Measure::BusyPoll, SHARED_BUSY).against(&across),
    ]
}
