//! A router takes each group to who is attached, and tells its device once how it ended.
#![cfg(feature = "local")]

mod common;

use common::router::*;
use recordfd::fault::{self, AttachError, Cause, FaultRequest, FaultSource, Options, ResponseCode, Routed};
use recordfd::uapi::PgFault;

#[test]
fn group_goes_whole_to_the_queue_that_is_attached_at_its_last_page() {
    let (router, told) = router();
    let (first, mut first_end) = fault::channel(&Options::new()).unwrap();
    let (second, mut second_end) = fault::channel(&Options::new()).unwrap();
    let [first, second] = [first, second].map(|reporter| router.queue(reporter).unwrap());
    let source = FaultSource::pasid(1, 5);
    router.attach(source, &first).unwrap();
    let page = FaultRequest { last: false, ..last_page(1, Some(5)) };
    assert_eq!(router.report(page).unwrap(), Routed::HalfMade);
    router.replace(source, &second).unwrap();
    assert_eq!(router.report(FaultRequest { addr: 0x2000, last: true, ..page }).unwrap(), Routed::Delivered);
    let mut pages = [PgFault::default(); 8];
    assert!(first_end.try_recv_group(&mut pages).is_err());
    let group = second_end.try_recv_group(&mut pages).unwrap();
    assert_eq!(pages[..group.len()].iter().map(|page| page.addr).collect::<Vec<_>>(), [0x1000, 0x2000]);
    group.respond(ResponseCode::Success).unwrap();
    router.collect(&second);
    assert_eq!(ends(&told), [(1, Some(5), ResponseCode::Success, Cause::Answered)]);
}

#[test]
fn replace_completes_what_is_in_flight_and_late_answers_go_to_the_old_queue() {
    let (router, told) = router();
    let (first, mut first_end) = fault::channel(&Options::new()).unwrap();
    let (second, mut second_end) = fault::channel(&Options::new()).unwrap();
    let [first, second] = [first, second].map(|reporter| router.queue(reporter).unwrap());
    let source = FaultSource::rid(7);
    router.attach(source, &first).unwrap();
    router.report(last_page(7, None)).unwrap();
    let mut pages = [PgFault::default(); 8];
    let held = first_end.try_recv_group(&mut pages).unwrap();
    router.replace(source, &second).unwrap();
    assert_eq!(ends(&told), [(7, None, ResponseCode::Invalid, Cause::Detached)]);
    router.report(last_page(7, None)).unwrap();
    let other = second_end.try_recv_group(&mut pages).unwrap();
    assert_eq!(held.cookie(), other.cookie(), "the first cookie of either queue");
    assert!(held.respond(ResponseCode::Success).is_err());
    assert_eq!((first.counters().in_flight, second.counters().unanswered), (1, 1));
    router.process(std::time::Instant::now());
    assert!(ends(&told).is_empty());
    other.respond(ResponseCode::Success).unwrap();
    router.process(std::time::Instant::now());
    assert_eq!(ends(&told), [(7, None, ResponseCode::Success, Cause::Answered)]);
}

#[test]
fn only_the_owner_of_the_pasid_table_takes_faults_of_other_pasids() {
    let (router, told) = router();
    let handle = router.inline(&Options::new(), |_| ResponseCode::Success).unwrap();
    router.attach(FaultSource::rid(1), &handle).unwrap();
    router.attach(FaultSource::rid(2), &handle.owning_pasid_table()).unwrap();
    assert_eq!(router.attach(FaultSource::rid(1), &handle), Err(AttachError::AlreadyAttached));
    for (dev_id, pasid, routed) in [
        (1, None, Routed::Delivered),
        (1, Some(9), Routed::NoHandle),
        (2, Some(9), Routed::Delivered),
        (3, None, Routed::NoHandle),
    ] {
        assert_eq!(router.report(last_page(dev_id, pasid)).unwrap(), routed);
        let (code, cause) = match routed {
            Routed::Delivered => (ResponseCode::Success, Cause::Answered),
            _ => (ResponseCode::Invalid, Cause::NoHandle),
        };
        assert_eq!(ends(&told), [(dev_id, pasid, code, cause)]);
    }
    assert_eq!(router.counters().no_handle, 2);
}
