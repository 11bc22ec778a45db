//! Page faults: what every transport promises.

mod common;

use common::fault::*;
use common::readable;
use recordfd::fault::{Cause, Options, ResponseCode};

use ResponseCode::{Invalid, Success};

/// Each test with each way to make a channel.
macro_rules! on_every_transport {
    ($($name:ident)*) => {
        #[cfg(feature = "local")]
        mod local { $(#[test] fn $name() { super::$name(super::local) })* }
        mod socket { $(#[test] fn $name() { super::$name(super::socket) })* }
        mod socket_made_by_responder {
            $(#[test] fn $name() { super::$name(super::socket_made_by_responder) })*
        }
    };
}

on_every_transport! {
    answer_completes_its_group_with_its_code
}

fn answer_completes_its_group_with_its_code(make: MakeFault) {
    let (reporter, mut responder) = make(&Options::new());
    let first = publish(&reporter, page(1, 3));
    let second = publish(&reporter, page(1, 3));
    assert_ne!(first, second);
    let (group, pages) = receive(&mut responder);
    assert_eq!((group.cookie(), group.len(), pages[0].grpid), (first, 1, 3));
    let (other, _) = receive(&mut responder);
    assert!(is_empty(&mut responder) && !readable(&responder) && !readable(&reporter));
    other.respond(Success).unwrap();
    assert!(readable(&reporter));
    group.respond(Invalid).unwrap();
    let answered = [(second, Success, Cause::Answered), (first, Invalid, Cause::Answered)];
    assert_eq!(ended(&reporter), answered);
    assert!(!readable(&reporter));
}
