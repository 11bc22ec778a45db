//! Any calls on an end of a shared channel, and a peer that writes anything into the memory and the socket, and as
//! the maker may offer anything: what each call does is what a model says.

#![no_main]

#[path = "../../tests/fault_model/choices.rs"]
mod choices;
#[path = "../../tests/ring_machine/mod.rs"]
mod ring_machine;
#[path = "../../tests/common/ring_peer.rs"]
mod ring_peer;

use choices::Choices;
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use ring_machine::Role;

/// Steps of a run, at most: an input that is all publishing would never get anywhere else.
const STEPS: u32 = 2000;

/// Decisions that the fuzzer takes; when its bytes are used up, always the first.
struct Bytes<'a>(Unstructured<'a>);

impl Choices for Bytes<'_> {
    fn below(&mut self, bound: u32) -> u32 {
        self.0.int_in_range(0..=bound - 1).unwrap_or(0)
    }
}

// The seeds are made for these numbers.
fuzz_target!(|input: &[u8]| {
    let Some((role, input)) = input.split_first() else { return };
    let role = [Role::Sender, Role::Receiver, Role::Reporter, Role::Responder][usize::from(role % 4)];
    ring_machine::run(role, Bytes(Unstructured::new(input)), |choices, step| {
        step < STEPS && !choices.0.is_empty()
    });
});
