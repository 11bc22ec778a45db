//! Many page faults with one call: what is taken, in which order, and what a short count means.

mod common;

use common::SOON;
use common::far::readable;
use common::far_fault::{AnyGroup, AnyResponder, MakeAnyFault};
use common::fault::*;
use recordfd::TryRecvError;
use recordfd::fault::{Cause, FaultReporter, FaultRequest, Options, ReportError, RespondError, ResponseCode};
use recordfd::uapi::{PageResponse, PageResponseCode, PgFault};

use ResponseCode::{Invalid, Success};

on_every_transport! {
    here_and_far
    every {
        batch_of_everything_arrives_in_order
        batch_longer_than_a_write_arrives_whole
        empty_batches_do_nothing
        short_batch_tells_why_with_the_next_call
        batch_fills_the_channel_and_goes_on_when_there_is_room
        batch_ends_at_the_bound_of_a_device
        too_large_group_behind_others_is_forgotten_whole
        groups_follow_each_other_in_the_slice
        group_beyond_the_slice_stays
        slices_bound_what_is_received
        group_in_a_taken_place_is_kept
        group_too_large_for_the_slice_is_kept
        group_too_large_for_the_slice_is_kept_by_a_batch_too
        batch_of_one_place_receives_a_group_of_many_pages
        batch_of_answers_ends_at_the_first_bad_one
        bad_answer_ends_a_long_batch_wherever_it_is
        cookie_twice_in_a_batch_is_bad_the_second_time
        batch_of_answers_completes_everything
        batch_refused_before_a_marker_is_given_back
        refused_batch_leaves_half_made_groups_as_they_were
        page_too_many_behind_a_refused_one_does_not_count
    }
    local {
        batch_ends_where_the_queue_is_full
    }
    socket {}
}

/// Receives everything that waits, a few groups at a time: each with its number of pages.
fn receive_all(responder: &mut AnyResponder) -> Vec<(AnyGroup, usize)> {
    let mut pages = [PgFault::default(); 64];
    let mut groups = [const { None }; 16];
    let mut all = Vec::new();
    loop {
        match responder.recv_groups(&mut pages, &mut groups) {
            Ok(count) => {
                for group in groups[..count].iter_mut().filter_map(Option::take) {
                    let pages = &pages[group.range()];
                    assert!(pages.iter().all(|page| page.cookie == group.cookie()));
                    all.push((group, pages.len()));
                }
            }
            Err(TryRecvError::Empty) => return all,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The cookies of everything that waits, to be answered by them.
fn receive_cookies(responder: &mut AnyResponder) -> Vec<u32> {
    receive_all(responder).into_iter().map(|(group, _)| group.into_cookie()).collect()
}

fn answers(cookies: &[u32]) -> Vec<PageResponse> {
    cookies.iter().map(|cookie| response(*cookie, SUCCESS)).collect()
}

fn batch_of_everything_arrives_in_order(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let half = FaultRequest { last: false, ..page(2, 7) };
    let mut batch = vec![page(1, 0), page(1, 1), half, page(1, 2), stop_marker(1, 5), page(1, 3)];
    batch.extend(group(1, 4, 5));
    batch.extend([page(2, 7), page(1, 5)]);
    assert_eq!(reporter.report_batch(&batch).unwrap(), batch.len());
    let groups = receive_all(&mut responder);
    assert_eq!(groups.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 1, 1, 1, 5, 2, 1]);
    groups.into_iter().for_each(|(group, _)| group.respond(Success).unwrap());
    let named: Vec<_> = collect(&reporter).iter().map(|done| (done.dev_id, done.prg_index)).collect();
    assert_eq!(named, [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 7), (1, 5)]);
}

fn batch_longer_than_a_write_arrives_whole(make: MakeAnyFault) {
    const COUNT: u32 = 1000;
    let (reporter, mut responder) = make(&Options::new().depth(1024).per_device(1024));
    let batch: Vec<_> = (0..COUNT).map(|number| FaultRequest { addr: number.into(), ..page(1, 0) }).collect();
    assert_eq!(reporter.report_batch(&batch).unwrap(), 1000);
    let mut pages = vec![PgFault::default(); 1024];
    let mut groups: Vec<Option<AnyGroup>> = Vec::from_iter((0..1024).map(|_| None));
    let mut next = 0;
    while next < COUNT {
        let count = responder.recv_groups(&mut pages, &mut groups).unwrap();
        assert!(groups[..count].iter().all(Option::is_some) && groups[count..].iter().all(Option::is_none));
        let mut cookies = Vec::new();
        for group in groups[..count].iter_mut().filter_map(Option::take) {
            assert_eq!(pages[group.range()][0].addr, u64::from(next));
            next += 1;
            cookies.push(group.into_cookie());
        }
        assert_eq!(responder.respond_batch(&answers(&cookies)).unwrap(), count);
    }
    assert_eq!(collect(&reporter).len(), 1000);
}

fn empty_batches_do_nothing(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    assert_eq!(reporter.report_batch(&[]).unwrap(), 0);
    assert_eq!(responder.respond_batch(&[]).unwrap(), 0);
    assert_eq!(responder.recv_groups(&mut [], &mut []).unwrap(), 0);
    assert!(!readable(&responder) && !readable(&reporter));
    publish(&reporter, page(1, 0));
    assert_eq!(responder.recv_groups(&mut [PgFault::default(); 4], &mut []).unwrap(), 0);
    assert!(readable(&responder));
    assert_eq!(receive(&mut responder).0.len(), 1);
}

fn short_batch_tells_why_with_the_next_call(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let bad = page(1, 512);
    let batch = [page(1, 0), page(1, 1), bad, page(1, 2)];
    assert_eq!(reporter.report_batch(&batch).unwrap(), 2);
    assert_eq!(reporter.counters().refused, 0, "the caller was not told yet");
    match reporter.report_batch(&batch[2..]) {
        Err(ReportError::PrgIndex(request)) => assert_eq!(request, bad),
        other => panic!("{other:?}"),
    }
    assert_eq!(reporter.report_batch(&batch[3..]).unwrap(), 1);
    assert_eq!((receive_all(&mut responder).len(), reporter.counters().refused), (3, 1));
}

fn batch_fills_the_channel_and_goes_on_when_there_is_room(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().depth(16).per_device(16));
    let batch: Vec<_> = (0..40).map(|number| page(1, number)).collect();
    let mut taken = 0;
    let mut answered = 0;
    while taken < batch.len() {
        taken += reporter.report_batch(&batch[taken..]).unwrap();
        assert_eq!(reporter.counters().in_flight, 16.min(40 - answered));
        if taken < batch.len() {
            match reporter.report_batch(&batch[taken..]) {
                Err(ReportError::Full(request)) => assert_eq!(request, batch[taken]),
                other => panic!("{other:?}"),
            }
        }
        for (group, _) in receive_all(&mut responder) {
            group.respond(Success).unwrap();
        }
        for completion in collect(&reporter) {
            assert_eq!(completion.prg_index, answered, "no page is left out or taken twice");
            answered += 1;
        }
    }
    assert_eq!(answered, 40);
}

fn batch_ends_at_the_bound_of_a_device(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().depth(16).per_device(2));
    let batch = [page(1, 0), page(2, 0), page(1, 1), page(1, 2), page(2, 1)];
    assert_eq!(reporter.report_batch(&batch).unwrap(), 3);
    match reporter.report_batch(&batch[3..]) {
        Err(ReportError::DeviceFull(request)) => assert_eq!(request, batch[3]),
        other => panic!("{other:?}"),
    }
    assert_eq!(reporter.report_batch(&batch[4..]).unwrap(), 1);
    assert_eq!(receive_all(&mut responder).len(), 4);
}

fn too_large_group_behind_others_is_forgotten_whole(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().max_group(2));
    let large = group(1, 7, 3);
    assert_eq!(reporter.report_batch(&large[..1]).unwrap(), 1);
    assert!(matches!(reporter.report(large[1]), Err(ReportError::TooLarge(_))));
    // Its last page comes behind a good one: the count is short, and the next call tells why.
    let batch = [page(1, 0), large[2], page(1, 1)];
    assert_eq!(reporter.report_batch(&batch).unwrap(), 1);
    match reporter.report_batch(&batch[1..]) {
        Err(ReportError::TooLarge(request)) => assert_eq!(request, large[2]),
        other => panic!("a group with pages missing is published: {other:?}"),
    }
    assert_eq!(reporter.counters().half_made, 0);
    assert_eq!(reporter.report_batch(&batch[2..]).unwrap(), 1);
    assert_eq!(receive_all(&mut responder).len(), 2);
}

fn groups_follow_each_other_in_the_slice(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let batch = [group(1, 0, 3), group(2, 1, 1), group(1, 2, 2)].concat();
    assert_eq!(reporter.report_batch(&batch).unwrap(), 6);
    let untouched = PgFault { reserved: 7, ..PgFault::default() };
    let mut pages = [untouched; 9];
    let mut groups = [const { None }; 8];
    assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 3);
    let ranges: Vec<_> = groups.iter().flatten().map(AnyGroup::range).collect();
    assert_eq!(ranges, [0..3, 3..4, 4..6]);
    for (page, request) in pages.iter().zip(&batch) {
        assert_eq!((page.dev_id, page.grpid, page.addr), (request.dev_id, request.prg_index, request.addr));
    }
    assert_eq!(pages[6..], [untouched; 3]);
    assert!(groups[3..].iter().all(Option::is_none));
}

fn group_beyond_the_slice_stays(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    reporter.report_batch(&[group(1, 0, 2), group(1, 1, 3), group(1, 2, 1)].concat()).unwrap();
    let mut pages = [PgFault::default(); 4];
    let mut groups = [const { None }; 8];
    assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 1);
    assert_eq!(groups[0].as_ref().map(AnyGroup::len), Some(2));
    assert!(readable(&responder), "there is more");
    let (open, mut groups) = (groups, [const { None }; 8]);
    assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 2);
    let received: Vec<_> = groups.iter().flatten().map(|group| (group.range(), group.cookie())).collect();
    assert_eq!((received[0].0.clone(), received[1].0.clone()), (0..3, 3..4));
    assert!(pages[..3].iter().all(|page| (page.grpid, page.cookie) == (1, received[0].1)));
    assert_eq!((pages[3].grpid, pages[3].cookie), (2, received[1].1));
    assert!(is_empty(&mut responder) && !readable(&responder));
    drop((open, groups));
    assert_eq!(collect(&reporter).len(), 3);
}

fn slices_bound_what_is_received(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let batch: Vec<_> = (0..5).map(|index| page(1, index)).collect();
    reporter.report_batch(&batch).unwrap();
    let mut pages = [PgFault::default(); 8];
    let mut groups = [const { None }; 2];
    assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 2);
    assert!(readable(&responder));
    groups.fill_with(|| None);
    assert_eq!(responder.recv_groups(&mut pages[..1], &mut groups).unwrap(), 1);
    assert!(readable(&responder) && groups[1].is_none());
    groups.fill_with(|| None);
    assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 2);
    assert_eq!((pages[0].grpid, pages[1].grpid), (3, 4));
    groups.fill_with(|| None);
    assert!(matches!(responder.recv_groups(&mut pages, &mut groups), Err(TryRecvError::Empty)));
    assert!(groups.iter().all(Option::is_none) && !readable(&responder));
    assert_eq!(collect(&reporter).len(), 5, "all of them were dropped");
}

fn group_in_a_taken_place_is_kept(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies = [0, 1, 2, 3].map(|index| publish(&reporter, page(1, index)));
    let mut pages = [PgFault::default(); 4];
    let mut groups = [const { None }; 3];
    let received =
        |groups: &[Option<AnyGroup>; 3]| groups.each_ref().map(|group| group.as_ref().map(AnyGroup::cookie));
    assert_eq!(responder.recv_groups(&mut pages[..2], &mut groups).unwrap(), 2);
    groups.swap(0, 2);
    assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 1);
    assert_eq!(received(&groups), [2, 1, 0].map(|index| Some(cookies[index])));
    // Without a free place nothing is received, and nothing is lost.
    assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 0);
    assert!(readable(&responder) && collect(&reporter).is_empty());
    assert_eq!(received(&groups), [2, 1, 0].map(|index| Some(cookies[index])));
    groups[1].take().unwrap().respond(Success).unwrap();
    assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 1);
    assert_eq!(received(&groups), [2, 3, 0].map(|index| Some(cookies[index])));
    assert_eq!(ended(&reporter), [(cookies[1], Success, Cause::Answered)]);
}

/// That a group of four pages needs more room than `places`.
fn assert_too_small<T>(outcome: Result<T, TryRecvError>, places: usize) {
    match outcome {
        Err(error @ TryRecvError::BufferTooSmall { needed }) => {
            assert!((places + 1..=4).contains(&needed), "{needed} of 4 with {places}");
            assert_eq!(error.errno(), 22);
        }
        Err(error) => panic!("{error:?} with {places} places"),
        Ok(_) => panic!("a group with {places} places for 4 pages"),
    }
}

fn group_too_large_for_the_slice_is_kept(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let mut pages = [PgFault::default(); 4];
    // Also a slice that is smaller than an earlier one.
    for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
        reporter.report_batch(&[group(1, 0, 4), group(1, 1, 1)].concat()).unwrap();
        for places in order {
            assert_too_small(responder.try_recv_group(&mut pages[..places]), places);
            assert_too_small(responder.recv_group_timeout(&mut pages[..places], SOON), places);
            assert_too_small(responder.recv_group(&mut pages[..places]), places);
        }
        let (group, pages) = receive(&mut responder);
        assert_eq!(pages.iter().map(|page| page.addr).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(pages.iter().all(|page| page.cookie == group.cookie()));
        assert_eq!(receive(&mut responder).1[0].grpid, 1);
        assert!(is_empty(&mut responder));
    }
}

fn group_too_large_for_the_slice_is_kept_by_a_batch_too(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let mut pages = [PgFault::default(); 5];
    let mut groups = [const { None }; 8];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
        reporter.report_batch(&[group(1, 0, 4), group(1, 1, 1)].concat()).unwrap();
        for places in order {
            assert_too_small(responder.recv_groups(&mut pages[..places], &mut groups), places);
            assert!(groups.iter().all(Option::is_none));
        }
        assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 2);
        assert_eq!(pages.map(|page| page.addr), [0, 1, 2, 3, 0]);
        assert!(groups[2..].iter().all(Option::is_none));
        groups.fill_with(|| None);
        assert_eq!(collect(&reporter).len(), 2);
    }
}

fn batch_of_one_place_receives_a_group_of_many_pages(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    reporter.report_batch(&[group(1, 0, 5), group(1, 1, 3)].concat()).unwrap();
    let mut pages = [PgFault::default(); 8];
    for count in [5, 3] {
        // Empty would mean that nothing is there, and an edge-triggered loop would sleep on it.
        let mut groups = [None];
        assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 1);
        assert_eq!(groups[0].take().map(|group| group.range()), Some(0..count));
    }
    let nothing = responder.recv_groups(&mut pages, &mut [None]);
    assert!(matches!(nothing, Err(TryRecvError::Empty)), "{nothing:?}");
}

fn batch_of_answers_ends_at_the_first_bad_one(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies = [0, 1, 2].map(|index| publish(&reporter, page(1, index)));
    assert_eq!(receive_cookies(&mut responder), cookies);
    let [first, second, third] = cookies;
    let unknown = [first, second, third].iter().max().unwrap() + 1;
    let bad_code = response(second, PageResponseCode::new(2));
    let batch = [response(first, SUCCESS), bad_code, response(third, SUCCESS)];
    assert_eq!(responder.respond_batch(&batch).unwrap(), 1);
    let refused = responder.respond_batch(&batch[1..]).unwrap_err();
    assert!(matches!(refused, RespondError::Code) && refused.errno() == 22, "{refused:?}");
    assert_eq!(ended(&reporter), [(first, Success, Cause::Answered)], "the others stay open");
    let batch = [response(second, PageResponseCode::INVALID), response(unknown, SUCCESS), batch[2]];
    assert_eq!(responder.respond_batch(&batch).unwrap(), 1);
    let refused = responder.respond_batch(&batch[1..]).unwrap_err();
    assert!(matches!(refused, RespondError::StaleCookie) && refused.errno() == 22, "{refused:?}");
    assert_eq!(responder.respond_batch(&batch[2..]).unwrap(), 1);
    assert_eq!(ended(&reporter), [(second, Invalid, Cause::Answered), (third, Success, Cause::Answered)]);
}

fn bad_answer_ends_a_long_batch_wherever_it_is(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().depth(256).per_device(256));
    for bad in [0, 1, 63, 64, 65, 128, 199] {
        let cookies: Vec<_> = (0..200).map(|index| publish(&reporter, page(1, index))).collect();
        assert_eq!(receive_cookies(&mut responder), cookies);
        let mut batch = answers(&cookies);
        batch[bad].code = PageResponseCode::new(2);
        if bad > 0 {
            assert_eq!(responder.respond_batch(&batch).unwrap(), bad);
        }
        assert!(matches!(responder.respond_batch(&batch[bad..]), Err(RespondError::Code)));
        batch[bad].code = SUCCESS;
        assert_eq!(responder.respond_batch(&batch[bad..]).unwrap(), 200 - bad);
        let completed = ended(&reporter);
        let expected = cookies.iter().map(|cookie| (*cookie, Success, Cause::Answered));
        assert!(completed.iter().copied().eq(expected), "bad at {bad}");
    }
}

fn cookie_twice_in_a_batch_is_bad_the_second_time(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    assert_eq!(receive_cookies(&mut responder), cookies);
    let [first, second] = cookies;
    let batch =
        [response(first, SUCCESS), response(first, PageResponseCode::INVALID), response(second, SUCCESS)];
    assert_eq!(responder.respond_batch(&batch).unwrap(), 1);
    assert!(matches!(responder.respond_batch(&batch[1..]), Err(RespondError::StaleCookie)));
    assert_eq!(ended(&reporter), [(first, Success, Cause::Answered)]);
    assert_eq!(responder.open_cookies(), [second]);
    assert_eq!(responder.respond_batch(&batch[2..]).unwrap(), 1);
    assert_eq!(ended(&reporter), [(second, Success, Cause::Answered)]);
}

fn batch_of_answers_completes_everything(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().depth(256).per_device(256));
    let cookies: Vec<_> = (0..256).map(|index| publish(&reporter, page(1, index))).collect();
    assert_eq!(receive_cookies(&mut responder), cookies);
    let mut batch = answers(&cookies);
    batch.reverse();
    assert_eq!(responder.respond_batch(&batch).unwrap(), 256);
    let completed: Vec<_> = ended(&reporter).into_iter().map(|(cookie, ..)| cookie).collect();
    assert!(completed.iter().eq(cookies.iter().rev()), "in the order of the answers");
    assert_eq!((responder.open_cookies().len(), reporter.counters().in_flight), (0, 0));
}

/// A channel whose queue is full of pages, with places for groups left; nothing of devices 1 to 8.
fn with_a_full_queue(make: MakeAnyFault) -> (FaultReporter, AnyResponder) {
    let (reporter, responder) = make(&Options::new().depth(64).per_device(u32::MAX).max_group(32));
    while reporter.report_batch(&group(9, 9, 32)).unwrap() == 32 {}
    while reporter.report(page(10, 0)).is_ok() {}
    assert!(reporter.counters().in_flight < 56, "it is not the groups that are too many");
    (reporter, responder)
}

/// Fails unless `batch` is refused at its first request for lack of room.
fn assert_full(reporter: &FaultReporter, batch: &[FaultRequest]) {
    match reporter.report_batch(batch) {
        Err(ReportError::Full(request)) => assert_eq!(request, batch[0]),
        other => panic!("{other:?}"),
    }
}

/// Receives what fills the queue.
fn make_room(responder: &mut AnyResponder) {
    let mut pages = [PgFault::default(); 32];
    while let Ok(group) = responder.try_recv_group(&mut pages) {
        group.into_cookie();
    }
}

fn batch_refused_before_a_marker_is_given_back(make: MakeAnyFault) {
    let (reporter, mut responder) = with_a_full_queue(make);
    let before = reporter.counters();
    let batch = [page(1, 0), page(1, 1), stop_marker(2, 5), page(1, 2)];
    // What was refused once must not be taken for accepted at the end of the call.
    assert_full(&reporter, &batch);
    let after = reporter.counters();
    assert_eq!((after.in_flight, after.stop_markers), (before.in_flight, 0));
    make_room(&mut responder);
    assert_eq!(reporter.report_batch(&batch).unwrap(), 4);
    let indices: Vec<_> = (0..3).map(|_| receive(&mut responder).1[0].grpid).collect();
    assert_eq!((indices, is_empty(&mut responder)), (vec![0, 1, 2], true));
}

fn refused_batch_leaves_half_made_groups_as_they_were(make: MakeAnyFault) {
    let (reporter, mut responder) = with_a_full_queue(make);
    let of = |prg_index, addr, last| FaultRequest { addr, last, ..page(1, prg_index) };
    let half_made = reporter.counters().half_made;
    reporter.report(of(1, 0x10, false)).unwrap();
    let batch = [
        of(1, 0x11, false),
        of(2, 0x20, false),
        of(1, 0x12, true),
        // The next group of the same index begins.
        of(1, 0x30, false),
        of(3, 0x40, true),
        of(2, 0x21, true),
        of(1, 0x31, false),
    ];
    // Pages that wait for their last one need no room.
    assert_eq!(reporter.report_batch(&batch).unwrap(), 2);
    assert_full(&reporter, &batch[2..]);
    assert_full(&reporter, &batch[2..5]);
    assert_eq!(reporter.counters().half_made, half_made + 2);
    make_room(&mut responder);
    assert_eq!(reporter.report_batch(&batch[2..]).unwrap(), 5);
    publish(&reporter, of(1, 0x32, true));
    let mut groups = Vec::new();
    while groups.len() < 4 {
        let (_, pages) = receive(&mut responder);
        groups.push(pages.iter().map(|page| page.addr).collect::<Vec<_>>());
    }
    assert_eq!(groups, [vec![0x10, 0x11, 0x12], vec![0x40], vec![0x20, 0x21], vec![0x30, 0x31, 0x32]]);
    assert!(is_empty(&mut responder));
    assert_eq!(reporter.counters().half_made, half_made);
}

fn page_too_many_behind_a_refused_one_does_not_count(make: MakeAnyFault) {
    let (reporter, mut responder) = with_a_full_queue(make);
    let pages = group(1, 7, 33);
    assert_eq!(reporter.report_batch(&pages[..31]).unwrap(), 31);
    assert_full(&reporter, &[page(2, 0), pages[31], pages[32]]);
    // Its caller was never told that the group is too large, and may end it.
    make_room(&mut responder);
    publish(&reporter, FaultRequest { last: true, ..pages[31] });
    assert_eq!(receive(&mut responder).0.len(), 32);
}

#[cfg(feature = "local")]
fn batch_ends_where_the_queue_is_full() {
    // Behind a group of so many pages there is room for 300, which is less than goes out at once.
    let (reporter, mut responder) = local(&Options::new().depth(600).per_device(600).max_group(300));
    reporter.report_batch(&group(1, 0, 300)).unwrap();
    let batch: Vec<_> = (0..500).map(|number| FaultRequest { addr: number, ..page(2, 0) }).collect();
    assert_eq!(reporter.report_batch(&batch).unwrap(), 300);
    assert_full(&reporter, &batch[300..]);
    assert_eq!(reporter.counters().in_flight, 301);
    assert_eq!(receive(&mut responder).0.len(), 300);
    assert_eq!(reporter.report_batch(&batch[300..]).unwrap(), 200);
    for number in 0..500 {
        assert_eq!(receive(&mut responder).1[0].addr, number);
    }
    // And where the rest that goes out at the end does not fit.
    let (reporter, _responder) = local(&Options::new().depth(8));
    reporter.report_batch(&group(1, 0, 6)).unwrap();
    let batch = [page(2, 1), page(2, 2), page(2, 3), page(2, 4)];
    assert_eq!(reporter.report_batch(&batch).unwrap(), 2);
    assert_full(&reporter, &batch[2..]);
}
