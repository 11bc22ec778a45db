//! Bounds and bad input: what is not taken is given back, and everything is as it was.

mod common;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::far::readable;
use common::far_fault::{AnyResponder, MakeAnyFault};
use common::fault::*;
use common::until;
use recordfd::fault::{
    self, Cause, FaultCompletion, FaultReporter, FaultRequest, FaultResponder, Options, ReportError,
    Reported, RespondError, ResponseCode,
};
use recordfd::uapi::{Format, PageResponseCode, PgFaultPerm};
use recordfd::{Error, TryRecvError};

use ResponseCode::{Invalid, Success};

on_every_transport! {
    here_and_far
    every {
        requests_that_pcie_does_not_have_are_given_back
        room_is_the_depth_and_comes_back_with_collection
        full_channel_keeps_the_pages_before_the_last
        device_at_its_bound_leaves_room_for_others
        device_may_have_half_the_depth_if_nothing_else_is_said
        share_of_a_device_counts_pages_and_has_room_for_one_group
        half_made_groups_are_bounded_in_all_and_by_device
        too_large_group_is_forgotten_with_its_last_page
        groups_of_one_page_alone_can_be_all_there_is
        largest_group_fits_into_the_channel
        unknown_code_leaves_the_group_open
        stale_cookies_are_refused_and_harm_nobody
        options_out_of_range_are_refused
    }
    local {
        queue_has_room_for_as_many_pages_as_its_depth
        bad_answer_of_a_batch_counts_once
        cookies_go_round_without_zero
    }
    socket {}
}

const HALF: bool = false;

fn one_of(dev_id: u32, prg_index: u32, last: bool) -> FaultRequest {
    FaultRequest { last, ..page(dev_id, prg_index) }
}

/// Fails unless `request` is refused with the errno, for the reason, and given back.
fn assert_refused(
    reporter: &FaultReporter,
    request: FaultRequest,
    errno: i32,
    is_reason: impl Fn(&ReportError) -> bool,
) {
    let before = reporter.counters();
    let error = reporter.report(request).expect_err("it must be refused");
    assert!(is_reason(&error), "{error:?}");
    assert_eq!((error.errno(), error.into_inner()), (errno, request));
    let after = reporter.counters();
    assert_eq!(after.refused, before.refused + 1);
    assert_eq!((after.in_flight, after.unanswered), (before.in_flight, before.unanswered));
}

fn assert_full(reporter: &FaultReporter, request: FaultRequest) {
    assert_refused(reporter, request, 11, |error| matches!(error, ReportError::Full(_)));
}

fn assert_device_full(reporter: &FaultReporter, request: FaultRequest) {
    assert_refused(reporter, request, 11, |error| matches!(error, ReportError::DeviceFull(_)));
}

fn assert_too_large(reporter: &FaultReporter, request: FaultRequest) {
    assert_refused(reporter, request, 90, |error| matches!(error, ReportError::TooLarge(_)));
}

fn requests_that_pcie_does_not_have_are_given_back(make: MakeAnyFault) {
    use PgFaultPerm as P;
    let (reporter, mut responder) = make(&Options::new());
    let unknown = P::from_bits_retain(0x10);
    for last in [true, HALF] {
        let good = one_of(1, 3, last);
        for pasid in [1 << 20, u32::MAX] {
            let request = FaultRequest { pasid: Some(pasid), ..good };
            assert_refused(&reporter, request, 22, |error| matches!(error, ReportError::Pasid(_)));
        }
        for prg_index in [1 << 9, u32::MAX] {
            let request = FaultRequest { prg_index, ..good };
            assert_refused(&reporter, request, 22, |error| matches!(error, ReportError::PrgIndex(_)));
        }
        // Neither READ nor WRITE is what a Stop Marker has, which is a last one with a PASID.
        let no_access = if last { &[][..] } else { &[P::empty(), P::EXEC, P::PRIV, P::EXEC | P::PRIV] };
        let with_pasid = [no_access, &[unknown, unknown | P::READ | P::WRITE]].concat();
        let without = [P::empty(), P::READ | P::EXEC, P::WRITE | P::PRIV, P::EXEC, unknown | P::READ];
        let of = |pasid, perms: &[P]| -> Vec<_> {
            perms.iter().map(|perm| FaultRequest { pasid, perm: *perm, ..good }).collect()
        };
        for request in [of(Some(1), &with_pasid), of(None, &without)].concat() {
            assert_refused(&reporter, request, 22, |error| matches!(error, ReportError::Permission(_)));
        }
    }
    let marker = FaultRequest { pasid: Some(1 << 20), ..stop_marker(1, 0) };
    assert_refused(&reporter, marker, 22, |error| matches!(error, ReportError::Pasid(_)));
    let counters = reporter.counters();
    assert_eq!((counters.half_made, counters.in_flight, counters.stop_markers), (0, 0, 0));
    assert!(is_empty(&mut responder) && !readable(&responder));
}

fn room_is_the_depth_and_comes_back_with_collection(make: MakeAnyFault) {
    for depth in [1, 2, 3, 7, 64, 200] {
        let (reporter, mut responder) =
            make(&Options::new().depth(depth).per_device(depth.next_power_of_two().max(2)));
        // A socket has room for two at least, a ring for a power of two.
        let room = reporter.depth();
        assert!([depth, depth.max(2), depth.next_power_of_two()].contains(&room), "{room}");
        let depth = room;
        for round in 0..3 {
            let full = || assert_full(&reporter, page(1, 511));
            (0..depth).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
            full();
            let groups: Vec<_> = (0..depth).map(|_| receive(&mut responder).0).collect();
            full();
            assert_eq!(reporter.counters().in_flight, depth);
            groups.into_iter().for_each(|group| group.respond(Success).unwrap());
            full();
            let mut one = [FaultCompletion::default()];
            for collected in 1..=depth {
                assert_eq!(reporter.completions(&mut one).unwrap(), 1);
                assert_eq!(one[0].prg_index, collected - 1, "round {round}");
                publish(&reporter, page(1, 500));
                full();
            }
            (0..depth).for_each(|_| receive(&mut responder).0.respond(Success).unwrap());
            assert_eq!(collect(&reporter).len() as u32, depth);
            assert_eq!(reporter.counters().in_flight, 0);
        }
    }
}

#[cfg(feature = "local")]
fn queue_has_room_for_as_many_pages_as_its_depth() {
    let (reporter, mut responder) = local(&Options::new().depth(8).per_device(16));
    assert_eq!(reporter.max_group(), 8);
    reporter.report_batch(&group(1, 0, 5)).unwrap();
    let pages = group(1, 1, 4);
    reporter.report_batch(&pages[..3]).unwrap();
    assert_full(&reporter, pages[3]);
    reporter.report_batch(&group(2, 2, 3)).expect("it has exactly the room that is left");
    assert_full(&reporter, page(2, 3));
    let _first = receive(&mut responder);
    publish(&reporter, pages[3]);
}

fn full_channel_keeps_the_pages_before_the_last(make: MakeAnyFault) {
    for per_device in [4, 1] {
        let (reporter, mut responder) = make(&Options::new().depth(4).per_device(per_device));
        let pages = group(1, 7, 2);
        reporter.report(pages[0]).unwrap();
        (0..per_device).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
        for _ in 0..3 {
            match per_device {
                4 => assert_full(&reporter, pages[1]),
                _ => assert_device_full(&reporter, pages[1]),
            }
        }
        assert_eq!(reporter.counters().half_made, 1);
        (0..per_device).for_each(|_| receive(&mut responder).0.respond(Success).unwrap());
        assert_eq!(collect(&reporter).len() as u32, per_device);
        // The very same request is taken when there is room.
        publish(&reporter, pages[1]);
        let (_group, received) = receive(&mut responder);
        assert_eq!(received.iter().map(|page| page.addr).collect::<Vec<_>>(), [0, 1]);
    }
}

fn device_at_its_bound_leaves_room_for_others(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().depth(8).per_device(3));
    (0..3).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
    assert_device_full(&reporter, page(1, 3));
    let groups: Vec<_> = (0..3).map(|_| receive(&mut responder).0).collect();
    // Answered and not collected, or detached and not answered: they count as long as they take a slot.
    let mut groups = groups.into_iter();
    groups.next().unwrap().respond(Success).unwrap();
    assert_device_full(&reporter, page(1, 3));
    assert_eq!(collect(&reporter).len(), 1);
    publish(&reporter, page(1, 3));
    assert_device_full(&reporter, page(1, 4));
    let (last, _) = receive(&mut responder);
    assert_eq!(reporter.detach(1), 3);
    assert_eq!(collect(&reporter).len(), 3);
    assert_device_full(&reporter, page(1, 4));
    (0..3).for_each(|index| assert_ne!(publish(&reporter, page(2, index)), 0));
    (0..2).for_each(|index| assert_ne!(publish(&reporter, page(3, index)), 0));
    assert_full(&reporter, page(3, 2));
    groups.chain([last]).for_each(drop);
    assert_eq!(collect(&reporter), []);
    (0..3).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
    assert_full(&reporter, page(1, 4));
}

fn device_may_have_half_the_depth_if_nothing_else_is_said(make: MakeAnyFault) {
    for (depth, half) in [(2, 1), (7, 4), (64, 32)] {
        let (reporter, _responder) = make(&Options::new().depth(depth));
        (0..half).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
        assert_device_full(&reporter, page(1, 511));
        (half..reporter.depth()).for_each(|index| assert_ne!(publish(&reporter, page(2, index)), 0));
        assert_full(&reporter, page(3, 511));
    }
}

fn share_of_a_device_counts_pages_and_has_room_for_one_group(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().depth(32).per_device(6).max_group(8));
    let answer = |responder: &mut AnyResponder| receive(responder).0.respond(Success).unwrap();
    // Two, three and one are six.
    reporter.report_batch(&[group(1, 0, 2), group(1, 1, 3), group(1, 2, 1)].concat()).unwrap();
    assert_device_full(&reporter, page(1, 3));
    answer(&mut responder);
    assert_eq!(collect(&reporter).len(), 1);
    let three = group(1, 3, 3);
    reporter.report_batch(&three[..2]).unwrap();
    assert_device_full(&reporter, three[2]);
    reporter.report_batch(&group(1, 4, 2)).expect("two fit");
    // More than its share is taken of a device that has nothing else.
    reporter.report_batch(&group(2, 0, 8)).unwrap();
    assert_device_full(&reporter, page(2, 1));
    (0..4).for_each(|_| answer(&mut responder));
    assert_eq!(collect(&reporter).len(), 4);
    publish(&reporter, three[2]);
    publish(&reporter, page(2, 1));
    assert_eq!([3, 1].map(|count| receive(&mut responder).0.len() == count), [true; 2]);
}

fn half_made_groups_are_bounded_in_all_and_by_device(make: MakeAnyFault) {
    let assert_half_made_full = |reporter: &FaultReporter, request| {
        assert_refused(reporter, request, 11, |error| matches!(error, ReportError::HalfMadeFull(_)));
    };
    let half = |dev_id, index| one_of(dev_id, index, HALF);
    let (reporter, mut responder) = make(&Options::new().half_made(4));
    let begin = |dev_id, index| assert_eq!(reporter.report(half(dev_id, index)).unwrap(), Reported::HalfMade);
    begin(1, 0);
    begin(1, 1);
    assert_half_made_full(&reporter, half(1, 2));
    begin(1, 1);
    begin(2, 0);
    begin(3, 0);
    for dev_id in [2, 3, 4] {
        assert_half_made_full(&reporter, half(dev_id, 9));
    }
    // Whole groups, and further pages, need no such room.
    publish(&reporter, page(4, 9));
    begin(3, 0);
    assert_eq!(reporter.counters().half_made, 4);
    publish(&reporter, page(1, 1));
    begin(1, 2);
    reporter.detach(3);
    begin(4, 0);
    assert_eq!([1, 3].map(|count| count == receive(&mut responder).0.len()), [true; 2]);
    // One group each is the least.
    let (reporter, _responder) = make(&Options::new().half_made(1));
    reporter.report(half(1, 0)).unwrap();
    assert_half_made_full(&reporter, half(2, 0));
    assert_half_made_full(&reporter, half(1, 1));
    publish(&reporter, page(1, 0));
    reporter.report(half(2, 0)).unwrap();
}

fn too_large_group_is_forgotten_with_its_last_page(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().max_group(3));
    assert_eq!(reporter.max_group(), 3);
    for too_many in [1, 3] {
        let pages = group(1, 7, 3 + too_many);
        reporter.report_batch(&pages[..2]).unwrap();
        // Of another device, and of another index: they go on.
        let others = [group(2, 7, 3), group(1, 8, 3)];
        others.iter().for_each(|pages| assert_eq!(reporter.report_batch(&pages[..2]).unwrap(), 2));
        for page in &pages[2..] {
            assert_too_large(&reporter, *page);
        }
        assert_eq!(reporter.counters().half_made, 2, "it is forgotten");
        // What comes next under its key is a group as any other.
        let next = group(1, 7, 3);
        let cookie = match reporter.report_batch(&next).unwrap() {
            3 => receive(&mut responder).0,
            taken => panic!("{taken}"),
        };
        assert_eq!(cookie.len(), 3);
        for pages in others {
            publish(&reporter, pages[2]);
            assert_eq!(receive(&mut responder).0.len(), 3);
        }
        assert!(is_empty(&mut responder));
    }
    assert_eq!(reporter.counters().in_flight, 6);
}

fn groups_of_one_page_alone_can_be_all_there_is(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().max_group(1));
    assert_eq!(reporter.max_group(), 1);
    publish(&reporter, page(1, 7));
    for page in group(1, 7, 3) {
        assert_too_large(&reporter, page);
    }
    publish(&reporter, page(1, 7));
    assert_eq!([0; 2].map(|_| receive(&mut responder).0.len()), [1; 2]);
    assert!(is_empty(&mut responder));
}

fn largest_group_fits_into_the_channel(make: MakeAnyFault) {
    for (depth, asked) in [(4, 32), (4, 4), (512, 1000), (512, 341), (1000, u32::MAX)] {
        let (reporter, mut responder) = make(&Options::new().depth(depth).max_group(asked));
        let most = reporter.max_group();
        assert!(most <= asked && most <= depth && most >= asked.min(depth).min(341), "{most}");
        let pages = group(1, 0, most);
        assert_eq!(reporter.report_batch(&pages).unwrap() as u32, most);
        let mut received = vec![Default::default(); most as usize];
        let group = responder.try_recv_group(&mut received).unwrap();
        assert_eq!(group.range(), 0..most as usize);
        assert!(received.iter().zip(&pages).all(|(page, request)| page.addr == request.addr));
    }
}

fn unknown_code_leaves_the_group_open(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookie = publish(&reporter, page(1, 0));
    receive(&mut responder).0.into_cookie();
    for code in [2, 3, u32::MAX] {
        let error = responder.respond(response(cookie, PageResponseCode::new(code))).unwrap_err();
        assert!(matches!(error, RespondError::Code) && error.errno() == 22);
    }
    assert_eq!((ended(&reporter), responder.open_cookies()), (vec![], vec![cookie]));
    responder.respond(response(cookie, SUCCESS)).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
}

fn stale_cookies_are_refused_and_harm_nobody(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let assert_stale = |responder: &AnyResponder, cookie| {
        let error = responder.respond(response(cookie, SUCCESS)).unwrap_err();
        assert!(matches!(error, RespondError::StaleCookie) && error.errno() == 22);
    };
    assert_stale(&responder, 0);
    assert_stale(&responder, u32::MAX);
    let cookie = publish(&reporter, page(1, 0));
    assert_stale(&responder, cookie);
    receive(&mut responder).0.into_cookie();
    assert_stale(&responder, cookie ^ 1 << 31);
    assert_stale(&responder, 0);
    responder.respond(response(cookie, SUCCESS)).unwrap();
    assert_stale(&responder, cookie);
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
    assert_stale(&responder, cookie);
    // Nor does it name the group that has its place next.
    for _ in 0..300 {
        let next = publish(&reporter, page(1, 0));
        assert_ne!(next, cookie);
        receive(&mut responder).0.into_cookie();
        assert_stale(&responder, cookie);
        responder.respond(response(next, SUCCESS)).unwrap();
        assert_eq!(ended(&reporter), [(next, Success, Cause::Answered)]);
    }
    assert_eq!(reporter.counters().late_answers, 0, "the reporter never hears of them");
}

#[cfg(feature = "local")]
fn bad_answer_of_a_batch_counts_once() {
    let (reporter, mut responder) = local(&Options::new());
    let cookies = [1, 2].map(|dev_id| publish(&reporter, page(dev_id, 0)));
    assert_eq!(cookies.map(|_| receive(&mut responder).0.into_cookie()), cookies);
    reporter.detach(2);
    // The second is refused when the count is short already, so that the next call tells of it.
    let batch = cookies.map(|cookie| response(cookie, SUCCESS));
    assert_eq!(responder.respond_batch(&batch).unwrap(), 1);
    assert!(matches!(responder.respond_batch(&batch[1..]), Err(RespondError::StaleCookie)));
    let ends = [(cookies[1], Invalid, Cause::Detached), (cookies[0], Success, Cause::Answered)];
    assert_eq!(ended(&reporter), ends);
    assert_eq!((reporter.counters().late_answers, reporter.counters().in_flight), (1, 0));
}

/// With room for 2^20 groups a cookie has 12 bits of generation. All places but one are taken, so that
/// the one goes through them all.
#[cfg(feature = "local")]
fn cookies_go_round_without_zero() {
    const DEPTH: u32 = 1 << 20;
    let (reporter, mut responder) =
        local(&Options::new().depth(DEPTH).per_device(DEPTH).half_made(1).max_group(1));
    let batch = [page(1, 0); 8192];
    let mut pages = vec![Default::default(); batch.len()];
    let mut groups: Vec<_> = batch.iter().map(|_| None).collect();
    let mut free = DEPTH - 1;
    while free > 0 {
        let count = reporter.report_batch(&batch[..batch.len().min(free as usize)]).unwrap();
        assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), count);
        for group in groups.iter_mut().filter_map(Option::take) {
            group.into_cookie();
        }
        free -= count as u32;
    }
    let mut cookies: Vec<_> = (0..4200)
        .map(|_| {
            let cookie = publish(&reporter, page(2, 0));
            assert_full(&reporter, page(2, 0));
            let (group, pages) = receive(&mut responder);
            assert_eq!((group.cookie(), pages[0].cookie), (cookie, cookie));
            group.respond(Success).unwrap();
            assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
            cookie
        })
        .collect();
    assert!(!cookies.contains(&0));
    cookies.truncate(4095);
    cookies.sort();
    cookies.dedup();
    assert_eq!(cookies.len(), 4095, "each is used once before one comes again");
}

fn options_out_of_range_are_refused(make: MakeAnyFault) {
    let refused = |options: &Options, name: &str| {
        let outcomes = [
            #[cfg(feature = "local")]
            fault::channel(options).map(drop),
            fault::socket(options).map(drop),
            fault::socket_responder(options).map(drop),
            FaultReporter::from_socket(pair().0, Format::IOMMU_PGFAULT_V1, options)
                .map(drop)
                .map_err(Error::from),
        ];
        for outcome in outcomes {
            let error = outcome.expect_err(name);
            assert_eq!(error.errno(), 22);
            assert!(matches!(error, Error::Option { name: found, .. } if found == name), "{error}");
        }
    };
    for value in [0, (1 << 20) + 1, u32::MAX] {
        refused(&Options::new().depth(value), "depth");
        refused(&Options::new().half_made(value), "half_made");
    }
    refused(&Options::new().max_group(0), "max_group");
    refused(&Options::new().per_device(0), "per_device");
    refused(&Options::new().deadline(Duration::ZERO), "deadline");
    refused(&Options::new().half_made_age(Duration::ZERO), "half_made_age");
    drop(make(&Options::new().depth(1).half_made(1).max_group(1).per_device(1)));
    drop(make(&Options::new().max_group(u32::MAX).per_device(u32::MAX)));
}

fn pair() -> (OwnedFd, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (near.into(), far)
}

#[test]
fn formats_that_are_none_of_page_faults_are_refused() {
    for format in [Format::ACPI_NOTIFY_V1, Format::PCI_ERROR_V1, Format::MIXED_V1] {
        let options = Options::new().format(format);
        let good = Options::new();
        let outcomes = [
            #[cfg(feature = "local")]
            fault::channel(&options).map(drop),
            fault::socket(&options).map(drop),
            fault::socket_responder(&options).map(drop),
            FaultReporter::from_socket(pair().0, format, &good).map(drop).map_err(Error::from),
            FaultResponder::from_socket(pair().0, format, 16).map(drop).map_err(Error::from),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error.errno(), 22);
            assert!(matches!(error, Error::Format { found, .. } if found == format), "{error}");
        }
    }
}

#[test]
fn only_sockets_and_depths_that_can_be_are_attached() {
    for depth in [0, (1 << 20) + 1] {
        let error = FaultResponder::from_socket(pair().0, Format::IOMMU_PGFAULT_V1, depth).unwrap_err();
        assert!(matches!(error.error(), Error::Option { name: "depth", .. }), "{error}");
    }
    let file = || OwnedFd::from(File::open("/dev/null").unwrap());
    let error = FaultResponder::from_socket(file(), Format::IOMMU_PGFAULT_V1, 16).unwrap_err();
    assert!(matches!(error.error(), Error::NotAUnixStream(_)) && error.errno() == 88, "{error}");
    let error = FaultReporter::from_socket(file(), Format::IOMMU_PGFAULT_V1, &Options::new()).unwrap_err();
    assert!(matches!(error.error(), Error::NotAUnixStream(_)), "{error}");
}

#[test]
fn answer_with_an_unknown_code_completes_its_group_invalid() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    let cookies = [0, 1, 2].map(|index| publish(&reporter, page(1, index)));
    let answers = [(cookies[1], 2), (cookies[0], u32::MAX), (cookies[2], 0)];
    peer.write_all(&answers.map(|(cookie, code)| wire_response(cookie, code)).concat()).unwrap();
    let bad = |index: usize| (cookies[index], Invalid, Cause::BadAnswer);
    assert_eq!(ended(&reporter), [bad(1), bad(0), (cookies[2], Success, Cause::Answered)]);
    let counters = reporter.counters();
    assert_eq!((counters.bad_answer, counters.answered, counters.in_flight), (2, 1, 0));
}

#[test]
fn answers_that_name_no_open_group_are_counted_and_nothing_else() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    let cookie = publish(&reporter, page(1, 0));
    let others = [0, cookie ^ 1, cookie ^ 1 << 31, u32::MAX];
    let answers = [others.as_slice(), &[cookie, cookie]].concat();
    let bytes: Vec<_> = answers.iter().flat_map(|cookie| wire_response(*cookie, 0)).collect();
    peer.write_all(&bytes).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
    peer.write_all(&wire_response(cookie, 7)).unwrap();
    assert_eq!(collect(&reporter), []);
    assert_eq!((reporter.counters().late_answers, reporter.counters().bad_answer), (6, 0));
    // And the place it had goes on.
    let cookie = publish(&reporter, page(1, 0));
    peer.write_all(&wire_response(cookie, 1)).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Invalid, Cause::Answered)]);
}

#[test]
fn half_an_answer_at_the_end_is_a_violation_behind_the_completions() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    peer.write_all(&[wire_response(cookies[0], 0), wire_response(cookies[1], 0)].concat()[..12]).unwrap();
    assert_eq!(ended(&reporter), [(cookies[0], Success, Cause::Answered)]);
    drop(peer);
    let mut out = [FaultCompletion::default(); 4];
    assert!(until(|| reporter.is_closed()));
    assert_eq!(reporter.completions(&mut out).unwrap(), 1);
    assert_eq!((out[0].cookie, out[0].cause), (cookies[1], Cause::HungUp));
    for _ in 0..3 {
        assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::PeerViolation(_))));
        assert_refused(&reporter, page(1, 2), 32, |error| matches!(error, ReportError::Closed(_)));
    }
}
