//! What the ends of a channel of page faults, or of requests, have on the heap; shown for the record.
#![cfg(feature = "local")]

use recordfd::fault::{self, FaultReporter, FaultResponder, Options};
use recordfd::request::{self, Reporter, Responder};
use recordfd::uapi::PciError;

/// Bytes on the heap of what `make` makes.
fn heap<T>(make: impl FnOnce() -> T) -> u64 {
    let mut made = None;
    let info = allocation_counter::measure(|| made = Some(make()));
    drop(made);
    info.bytes_current as u64
}

/// Shows what `bytes` gives for a depth of 256, and what each further group takes.
fn show(what: &str, most: u64, bytes: impl Fn(u32) -> u64) {
    let (at_256, at_512) = (bytes(256), bytes(512));
    println!("{what}: {at_256} bytes, {} for each further group", (at_512 - at_256) / 256);
    assert!(at_256 <= most, "{what}: {at_256} bytes");
}

#[test]
fn ends_of_page_faults_take_bounded_memory() {
    let options = |depth| Options::new().depth(depth);
    show("between threads, both ends", 100_000, |depth| heap(|| fault::channel(&options(depth)).unwrap()));
    show("socket, reporter", 100_000, |depth| {
        let (_responder, end) = fault::socket_responder(&options(depth)).unwrap();
        heap(|| FaultReporter::attach(end, &options(depth)).unwrap())
    });
    show("socket, responder", 100_000, |depth| {
        let (_reporter, end) = fault::socket(&options(depth)).unwrap();
        heap(|| FaultResponder::attach(end).unwrap())
    });
    show("shared, reporter", 100_000, |depth| {
        let (_responder, end) = fault::shared_responder(&options(depth)).unwrap();
        heap(|| FaultReporter::attach(end, &options(depth)).unwrap())
    });
    show("shared, responder", 100_000, |depth| {
        let (_reporter, end) = fault::shared(&options(depth)).unwrap();
        heap(|| FaultResponder::attach(end).unwrap())
    });
}

#[test]
fn ends_of_requests_take_bounded_memory() {
    let options = |depth| request::Options::new().depth(depth);
    show("PCI errors between threads, both ends", 100_000, |depth| {
        heap(|| request::channel::<PciError>(&options(depth)).unwrap())
    });
    show("PCI errors on a socket, reporter", 100_000, |depth| {
        let (_responder, end) = request::socket_responder::<PciError>(&options(depth)).unwrap();
        heap(|| Reporter::<PciError>::attach(end, &options(depth)).unwrap())
    });
    show("PCI errors on a socket, responder", 100_000, |depth| {
        let (_reporter, end) = request::socket::<PciError>(&options(depth)).unwrap();
        heap(|| Responder::<PciError>::attach(end).unwrap())
    });
}
