//! iceoryx2, between processes: its publish-subscribe services, with its events where the receiver sleeps.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::{event, publish_subscribe};

use super::{Contender, Measure};
use crate::carrier::{BackOff, Check, DEPTH, Payload, Receives, Sends, Waits, payload};
use crate::drive::{answer, ask, receive_singles, send_singles};
use crate::process::{Peer, There};

pub(super) fn contenders() -> Vec<Contender> {
    let name = "iceoryx2 publish-subscribe";
    let with_event = "iceoryx2 publish-subscribe + event";
    vec![
        Contender::processes(Measure::Singles, name, singles_here, singles_there),
        Contender::processes(Measure::Asleep, with_event, trips_here, trips_there),
    ]
}

type Ipc = ipc::Service;

/// One direction: the records, and the event that tells of them.
struct Direction {
    records: publish_subscribe::PortFactory<Ipc, Payload, ()>,
    event: event::PortFactory<Ipc>,
}

impl Direction {
    /// The one of this name, made by whoever comes first.
    fn open(node: &Node<Ipc>, name: &str) -> Self {
        let name = name.try_into().expect("it is a name");
        let records = node.service_builder(&name).publish_subscribe::<Payload>();
        let records = records.enable_safe_overflow(false).subscriber_max_buffer_size(DEPTH).open_or_create();
        let event = node.service_builder(&name).event().open_or_create();
        Self { records: records.expect("a service"), event: event.expect("a service") }
    }

    /// A sender that tells of each record, or only sends it.
    fn tx(&self, tells: bool) -> Tx {
        let publisher = self.records.publisher_builder();
        let publisher = publisher.backpressure_strategy(BackpressureStrategy::DiscardData).create();
        let notifier = tells.then(|| self.event.notifier_builder().create().expect("a notifier"));
        Tx { publisher: publisher.expect("a publisher"), notifier }
    }

    fn rx(&self) -> Rx {
        let subscriber = self.records.subscriber_builder().create().expect("a subscriber");
        Rx { subscriber, listener: self.event.listener_builder().create().expect("a listener") }
    }

    /// Waits until there is someone to send to.
    fn wait_for_receiver(&self) {
        let mut back_off = BackOff::new();
        // The last that a receiver makes of itself.
        while self.event.dynamic_config().number_of_listeners() == 0 {
            back_off.miss();
        }
    }
}

fn node() -> Node<Ipc> {
    set_log_level(LogLevel::Error);
    let node = NodeBuilder::new().signal_handling_mode(SignalHandlingMode::Disabled).create();
    node.expect("a node")
}

/// Names of the two directions that nobody else uses.
fn names() -> [String; 2] {
    ["to", "fro"].map(|direction| format!("recordfd-rivals/{}/{direction}", std::process::id()))
}

/// In the other process: keeps its ends until this one has received everything and closes standard input.
fn wait_for_end() {
    let _ = std::io::stdin().read(&mut [0]);
}

fn singles_here(peer: &Peer) -> Duration {
    let (node, names) = (node(), names());
    let mut rx = Direction::open(&node, &names[0]).rx();
    let child = peer.start(Stdio::piped(), None, &names);
    let time = receive_singles(&mut rx, peer.count);
    child.finish();
    time
}

fn singles_there(there: &There) {
    send_singles(&mut Direction::open(&node(), &there.names[0]).tx(false), there.count);
    wait_for_end();
}

fn trips_here(peer: &Peer) -> Duration {
    let (node, names) = (node(), names());
    let [to, fro] = names.each_ref().map(|name| Direction::open(&node, name));
    let mut rx = fro.rx();
    let child = peer.start(Stdio::piped(), None, &names);
    to.wait_for_receiver();
    let time = ask(&mut to.tx(true), &mut rx, peer.count);
    child.finish();
    time
}

fn trips_there(there: &There) {
    let node = node();
    let (to, fro) = (Direction::open(&node, &there.names[0]), Direction::open(&node, &there.names[1]));
    let mut tx = fro.tx(true);
    let mut rx = to.rx();
    answer(&mut tx, &mut rx, there.count);
    wait_for_end();
}

struct Tx {
    publisher: Publisher<Ipc, Payload, ()>,
    notifier: Option<Notifier<Ipc>>,
}

struct Rx {
    subscriber: Subscriber<Ipc, Payload, ()>,
    listener: Listener<Ipc>,
}

impl Sends for Tx {
    fn send(&mut self, number: u64) -> bool {
        let receivers = self.publisher.send_copy(payload(number)).expect("a record can be loaned");
        if let Some(notifier) = &self.notifier {
            notifier.notify().expect("a listener can be told");
        }
        receivers == 1
    }
}

impl Receives for Rx {
    fn receive(&mut self, check: &mut Check) -> bool {
        let sample = self.subscriber.receive().expect("the service is there");
        sample.map(|sample| check.see(sample.payload())).is_some()
    }
}

impl Waits for Rx {
    fn receive_waiting(&mut self, check: &mut Check) {
        while !self.receive(check) {
            self.listener.blocking_wait(|_| ()).expect("the service is there");
        }
    }
}
