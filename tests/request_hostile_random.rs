//! Random peers against a model: whatever comes, the honest side of a channel of requests does what that says.

#[path = "fault_model/choices.rs"]
mod choices;
#[path = "request_model/hostile_reporter.rs"]
mod hostile_reporter;
#[path = "request_model/hostile_responder.rs"]
mod hostile_responder;
#[path = "request_model/kept.rs"]
mod kept;
#[path = "fault_model/peer.rs"]
mod peer;
#[path = "fault_model/random.rs"]
mod random;
#[path = "common/rounds.rs"]
mod rounds;
#[path = "request_model/sample.rs"]
mod sample;

use choices::Choices;
use random::Random;
use recordfd::uapi::{DeviceRequest, PciError, PciErrorV2};

/// Where the decisions come from, and when there are no more.
trait Decisions: Choices {
    fn is_used_up(&self) -> bool;

    /// A number of which all bits may be set.
    fn number(&mut self) -> u32 {
        self.below(u32::MAX)
    }
}

/// So many of a seed's.
struct Limited(Random, u32);

impl Choices for Limited {
    fn below(&mut self, bound: u32) -> u32 {
        self.1 = self.1.saturating_sub(1);
        self.0.below(bound)
    }
}

impl Decisions for Limited {
    fn is_used_up(&self) -> bool {
        self.1 == 0
    }
}

fn each_seed(what: &str, run: impl Fn(Limited)) {
    rounds::each_seed(what, 600, |seed| run(Limited(Random::new(seed), 600)));
}

#[test]
fn pci_errors_of_a_random_reporter_are_received_and_refused_as_the_model_says() {
    each_seed("responder of PCI errors", hostile_reporter::run::<PciError>);
    each_seed("responder of PCI errors, v2", hostile_reporter::run::<PciErrorV2>);
}

#[test]
fn requests_of_a_random_reporter_are_received_and_refused_as_the_model_says() {
    each_seed("responder of device requests", hostile_reporter::run::<DeviceRequest>);
}

#[test]
fn pci_errors_complete_once_whatever_a_random_responder_answers() {
    each_seed("reporter of PCI errors", hostile_responder::run::<PciError>);
    each_seed("reporter of PCI errors, v2", hostile_responder::run::<PciErrorV2>);
}

#[test]
fn requests_complete_once_whatever_a_random_responder_answers() {
    each_seed("reporter of device requests", hostile_responder::run::<DeviceRequest>);
}
