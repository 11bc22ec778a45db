//! Any calls on the ends of a page-fault channel, in any order, and any bytes from a peer that is none
//! of ours: what each call returns is what a model of the channel says.

#![no_main]

#[path = "../../tests/fault_model/choices.rs"]
mod choices;
#[path = "fault/hostile_reporter.rs"]
mod hostile_reporter;
#[path = "fault/hostile_responder.rs"]
mod hostile_responder;
#[path = "../../tests/fault_model/machine.rs"]
#[allow(dead_code, reason = "part of it is of use to the tests only")]
mod machine;
#[path = "../../tests/fault_model/model.rs"]
#[allow(dead_code, reason = "likewise")]
mod model;
#[path = "../../tests/fault_model/peer.rs"]
mod peer;

use choices::Choices;
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use machine::{Machine, Plan};
use peer::Peer;
use recordfd::fault::{FaultReporter, FaultResponder, Options, channel, socket, socket_responder};
use recordfd::uapi::Format;

/// Decisions that the fuzzer takes; when its bytes are used up, always the first.
struct Bytes<'a>(Unstructured<'a>);

impl Choices for Bytes<'_> {
    fn below(&mut self, bound: u32) -> u32 {
        self.0.int_in_range(0..=bound - 1).unwrap_or(0)
    }
}

impl Bytes<'_> {
    fn is_used_up(&self) -> bool {
        self.0.is_empty()
    }

    /// A number of which all bits are the fuzzer's.
    fn number(&mut self) -> u32 {
        self.below(u32::MAX)
    }
}

fn options(headed: bool, depth: u32) -> Options {
    let format = if headed { Format::IOMMU_PGFAULT_V2 } else { Format::IOMMU_PGFAULT_V1 };
    Options::new().format(format).depth(depth)
}

type Ends = (FaultReporter, FaultResponder);

fn local(options: &Options) -> Ends {
    channel(options).unwrap()
}

fn made_by_reporter(options: &Options) -> Ends {
    let (reporter, end) = socket(options).unwrap();
    let info = end.info();
    (reporter, FaultResponder::from_socket(end.into(), info.format, info.depth).unwrap())
}

fn made_by_responder(options: &Options) -> Ends {
    let (responder, end) = socket_responder(options).unwrap();
    let info = end.info();
    let options = options.clone().depth(info.depth);
    (FaultReporter::from_socket(end.into(), info.format, &options).unwrap(), responder)
}

/// Both ends are ours: every published group completes exactly once.
fn honest(mut choices: Bytes<'_>) {
    let (make, on_socket): (fn(&Options) -> Ends, _) = match choices.below(3) {
        0 => (local, false),
        1 => (made_by_reporter, true),
        _ => (made_by_responder, true),
    };
    let (headed, depth) = (choices.once_in(2), 1 + choices.below(64));
    let way = choices.below(3);
    let mut machine = Machine::new(choices, Plan { make, on_socket, headed, depth, is_deep: false });
    while !machine.choices.is_used_up() {
        machine.step();
    }
    machine.finish(way);
}

// The seeds are made for these numbers.
fuzz_target!(|input: &[u8]| {
    let Some((mode, input)) = input.split_first() else { return };
    let choices = Bytes(Unstructured::new(input));
    match mode % 3 {
        0 => honest(choices),
        1 => hostile_reporter::run(choices),
        _ => hostile_responder::run(choices),
    }
});
