//! Any bytes from a peer of a channel of requests that is none of ours, and any calls on our end: what each
//! call returns is what a model of the channel says.

#![no_main]

#[path = "../../tests/fault_model/choices.rs"]
mod choices;
#[path = "../../tests/request_model/hostile_reporter.rs"]
mod hostile_reporter;
#[path = "../../tests/request_model/hostile_responder.rs"]
mod hostile_responder;
#[path = "../../tests/request_model/kept.rs"]
mod kept;
#[path = "../../tests/fault_model/peer.rs"]
mod peer;
#[path = "../../tests/request_model/sample.rs"]
mod sample;

use choices::Choices;
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use recordfd::uapi::{DeviceRequest, PciError, PciErrorV2};

/// Where the decisions come from, and when there are no more.
trait Decisions: Choices {
    fn is_used_up(&self) -> bool;

    /// A number of which all bits are the fuzzer's.
    fn number(&mut self) -> u32 {
        self.below(u32::MAX)
    }
}

/// Decisions that the fuzzer takes; when its bytes are used up, always the first.
struct Bytes<'a>(Unstructured<'a>);

impl Choices for Bytes<'_> {
    fn below(&mut self, bound: u32) -> u32 {
        self.0.int_in_range(0..=bound - 1).unwrap_or(0)
    }
}

impl Decisions for Bytes<'_> {
    fn is_used_up(&self) -> bool {
        self.0.is_empty()
    }
}

// The seeds are made for these numbers.
fuzz_target!(|input: &[u8]| {
    let Some((mode, input)) = input.split_first() else { return };
    let decisions = Bytes(Unstructured::new(input));
    match mode % 6 {
        0 => hostile_reporter::run::<PciError>(decisions),
        1 => hostile_reporter::run::<DeviceRequest>(decisions),
        2 => hostile_responder::run::<PciError>(decisions),
        3 => hostile_responder::run::<DeviceRequest>(decisions),
        4 => hostile_reporter::run::<PciErrorV2>(decisions),
        _ => hostile_responder::run::<PciErrorV2>(decisions),
    }
});
