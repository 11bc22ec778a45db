//! A reporter that writes whatever it likes: whole groups arrive, anything else is a typed error, and what
//! came before it can still be answered.

mod common;

use std::io::{IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use common::fault::*;
use common::*;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendmsg};
use recordfd::fault::{FaultGroup, FaultResponder, Options, RespondError, ResponseCode};
use recordfd::uapi::{EventFlags, PgFault, PgFaultFlags, Record, RecordError};
use recordfd::{TryRecvError, Violation};

/// The most pages of a group: what one write of 16 KiB holds, without headers and with them.
const MOST: usize = 409;
const MOST_HEADED: usize = 341;

/// What one receive of many groups brings; each must be whole.
fn receive_many(responder: &mut FaultResponder) -> Result<Vec<FaultGroup>, TryRecvError> {
    let mut pages = [PgFault::default(); MOST];
    let mut groups = [const { None }; MOST];
    let count = responder.recv_groups(&mut pages, &mut groups)?;
    let groups: Vec<_> = groups.into_iter().flatten().collect();
    assert_eq!(groups.len(), count);
    for group in &groups {
        let pages = &pages[group.range()];
        assert!(pages.iter().all(|page| page.cookie == group.cookie()));
        let lasts: Vec<_> = pages.iter().map(|page| page.flags.contains(PgFaultFlags::LAST_PAGE)).collect();
        assert!(lasts.iter().rposition(|last| !last).is_none_or(|index| index + 2 == lasts.len()));
        assert!(lasts[lasts.len() - 1], "the last page is not marked");
    }
    Ok(groups)
}

/// Fails unless every way to receive says `violation`, now and for ever.
fn assert_broken(responder: &mut FaultResponder, violation: Violation) {
    let mut pages = [PgFault::default(); MOST];
    for _ in 0..3 {
        let errors = [
            responder.try_recv_group(&mut pages).unwrap_err(),
            responder.recv_group(&mut pages).unwrap_err(),
            responder.recv_group_timeout(&mut pages, SOON).unwrap_err(),
            receive_many(responder).unwrap_err(),
        ];
        for error in errors {
            match error {
                TryRecvError::PeerViolation(found) => {
                    assert_eq!((found, error.errno()), (violation, 71));
                }
                other => panic!("{other:?} instead of {violation:?}"),
            }
        }
    }
}

#[test]
fn violation_is_told_for_ever_and_the_groups_before_it_can_be_answered() {
    let mixed = |change: fn(&mut PgFault)| {
        let mut last = PgFault::decode(&wire_page(3, true)).unwrap();
        change(&mut last);
        let mut bytes = [0; 40];
        last.encode(&mut bytes);
        [wire_page(3, false), bytes].concat()
    };
    let cases: [(&str, Vec<u8>, Violation); 11] = [
        ("another device", mixed(|page| page.dev_id += 1), Violation::GroupMixed),
        ("another PASID", mixed(|page| page.pasid += 1), Violation::GroupMixed),
        ("a PASID inside", mixed(|page| page.flags |= PgFaultFlags::PASID_VALID), Violation::GroupMixed),
        ("another index", mixed(|page| page.grpid += 1), Violation::GroupMixed),
        ("cookie 0", wire_group(0, 1), Violation::ZeroCookie),
        ("cookie 0 in a group", [wire_page(3, false), wire_page(0, true)].concat(), Violation::GroupNotEnded),
        ("cookie that is open", wire_group(1, 1), Violation::CookieOpen { cookie: 1 }),
        ("group under a cookie that is open", wire_group(2, 5), Violation::CookieOpen { cookie: 2 }),
        (
            "another group inside",
            [wire_page(3, false), wire_page(4, true)].concat(),
            Violation::GroupNotEnded,
        ),
        ("open one inside", [wire_page(3, false), wire_page(1, true)].concat(), Violation::GroupNotEnded),
        ("a page too many", wire_group(3, MOST + 1), Violation::GroupTooLarge),
    ];
    for (name, bad, violation) in cases {
        for one_by_one in [true, false] {
            let (mut responder, mut peer) = responder_and_peer(&Options::new());
            peer.write_all(&[wire_group(1, 1), wire_group(2, 3), bad.clone(), wire_group(9, 1)].concat())
                .unwrap();
            let groups = if one_by_one {
                vec![receive(&mut responder).0, receive(&mut responder).0]
            } else {
                receive_many(&mut responder).unwrap()
            };
            let got: Vec<_> = groups.iter().map(|group| (group.cookie(), group.len())).collect();
            assert_eq!(got, [(1, 1), (2, 3)], "{name}");
            assert_broken(&mut responder, violation);
            peer.write_all(&wire_group(10, 1)).unwrap();
            assert_broken(&mut responder, violation);
            assert_eq!(responder.received(), 2);
            let [first, second] = <[_; 2]>::try_from(groups).unwrap();
            second.respond(ResponseCode::Success).unwrap();
            drop(first);
            assert_eq!(answers(&mut peer), [(2, 0), (1, 1)], "{name}");
            assert!(responder.open_cookies().is_empty());
            drop(peer);
            assert_broken(&mut responder, violation);
        }
    }
}

#[test]
fn violation_behind_a_part_of_a_group_is_told_by_the_read_that_finds_it() {
    let (mut responder, mut peer) = responder_and_peer(&Options::new());
    peer.write_all(&[wire_page(3, false), wire_page(4, true)].concat()).unwrap();
    // Nothing is left to be read: who is told `Empty` sleeps on it.
    let told = receive_many(&mut responder).unwrap_err();
    assert!(matches!(told, TryRecvError::PeerViolation(Violation::GroupNotEnded)), "{told:?}");
}

#[test]
fn empty_is_said_only_when_nothing_is_left_to_read() {
    // It is the word on which an edge-triggered consumer waits for the next edge.
    let mut pages = [PgFault::default(); MOST];
    let mut places = [const { None }; 2];
    let (mut responder, mut peer) = responder_and_peer(&Options::new());
    peer.write_all(&wire_group(1, 5)).unwrap();
    assert_eq!(
        responder.recv_groups(&mut pages, &mut places).unwrap(),
        1,
        "a group with more pages than places"
    );

    let (mut responder, mut peer) = responder_and_peer(&v2());
    let notices = (0..5).map(|number| wire_cancelled(number, 7)).collect::<Vec<_>>().concat();
    peer.write_all(&[&notices[..], &wire_event(5, EventFlags::empty(), 2, true)].concat()).unwrap();
    assert_eq!(responder.recv_groups(&mut pages, &mut places).unwrap(), 1, "a group behind notices");

    let (mut responder, mut peer) = responder_and_peer(&Options::new());
    peer.write_all(b"x").unwrap();
    drop(peer);
    let told = responder.try_recv_group(&mut pages);
    assert!(matches!(told, Err(TryRecvError::PeerViolation(_))), "the end behind a part: {told:?}");
}

#[test]
fn room_for_the_largest_group_is_room_for_all_that_a_reporter_can_send() {
    for (options, most, bytes) in [
        (Options::new(), MOST, wire_group(3, MOST + 1)),
        (
            v2(),
            MOST_HEADED,
            (0..=MOST_HEADED as u32)
                .flat_map(|number| wire_event(number, EventFlags::empty(), 3, false))
                .collect(),
        ),
    ] {
        let (mut responder, mut peer) = responder_and_peer(&options);
        peer.write_all(&bytes).unwrap();
        let mut pages = vec![PgFault::default(); most];
        let told = loop {
            match responder.try_recv_group(&mut pages) {
                Err(TryRecvError::Empty) if readable(&responder) => {}
                outcome => break outcome.unwrap_err(),
            }
        };
        assert!(matches!(told, TryRecvError::PeerViolation(Violation::GroupTooLarge)), "{told:?}");
    }
}

#[test]
fn largest_group_is_delivered() {
    let (mut responder, mut peer) = responder_and_peer(&Options::new());
    peer.write_all(&wire_group(3, MOST)).unwrap();
    // A buffer too small costs nothing but the call.
    for room in [0, 1, 2, 200, MOST - 1] {
        match responder.try_recv_group(&mut vec![PgFault::default(); room]) {
            Err(TryRecvError::BufferTooSmall { needed }) => assert!((room + 1..=MOST).contains(&needed)),
            other => panic!("{other:?}"),
        }
        assert!(readable(&responder));
    }
    let (group, pages) = receive(&mut responder);
    assert_eq!((group.cookie(), pages.len()), (3, MOST));
    assert!(!readable(&responder));
}

#[test]
fn more_groups_open_than_the_depth_is_a_violation_and_an_answer_makes_room() {
    let (mut responder, mut peer) = responder_and_peer(&Options::new().depth(4));
    let mut open: Vec<_> = (1..=4)
        .map(|cookie| {
            peer.write_all(&wire_group(cookie, 2)).unwrap();
            receive(&mut responder).0
        })
        .collect();
    for cookie in 5..20 {
        open.remove(1).respond(ResponseCode::Success).unwrap();
        assert_eq!(answers(&mut peer).len(), 1);
        peer.write_all(&wire_group(cookie, 1)).unwrap();
        open.push(receive(&mut responder).0);
    }
    peer.write_all(&wire_group(20, 1)).unwrap();
    assert_broken(&mut responder, Violation::TooManyOpen);
    assert_eq!(responder.open_cookies().len(), 4);
    drop(open);
    assert!(responder.open_cookies().is_empty());
}

#[test]
fn groups_written_one_byte_at_a_time_arrive_whole() {
    let headed: Vec<u8> =
        (0..3).flat_map(|number| wire_event(number, EventFlags::empty(), 5, number == 2)).collect();
    for (options, bytes) in [(Options::new(), wire_group(5, 3)), (v2(), headed)] {
        for one_by_one in [true, false] {
            let (mut responder, mut peer) = responder_and_peer(&options);
            let (last, rest) = bytes.split_last().unwrap();
            for byte in rest {
                peer.write_all(&[*byte]).unwrap();
                if one_by_one {
                    assert!(is_empty(&mut responder));
                } else {
                    assert!(matches!(receive_many(&mut responder), Err(TryRecvError::Empty)));
                }
                assert!(!readable(&responder), "a part of a group keeps the descriptor readable");
                assert!(responder.open_cookies().is_empty());
            }
            peer.write_all(&[*last]).unwrap();
            assert!(readable(&responder));
            let (group, pages) = receive(&mut responder);
            assert_eq!((group.cookie(), pages.len()), (5, 3));
            assert!(is_empty(&mut responder) && !readable(&responder));
        }
    }
}

#[test]
fn groups_split_at_every_offset_arrive_whole() {
    let (mut responder, mut peer) = responder_and_peer(&Options::new().depth(2048));
    let ends = [40, 160, 200];
    for split in 0..=200 {
        let cookie = 3 * split as u32 + 1;
        let bytes = [wire_group(cookie, 1), wire_group(cookie + 1, 3), wire_group(cookie + 2, 1)].concat();
        let mut groups = Vec::new();
        for part in [&bytes[..split], &bytes[split..]] {
            peer.write_all(part).unwrap();
            while let Ok(more) = receive_many(&mut responder) {
                groups.extend(more);
            }
            if groups.len() < 3 {
                let whole = ends.iter().filter(|end| **end <= split).count();
                assert_eq!(groups.len(), whole, "split at {split}");
            }
        }
        let got: Vec<_> = groups.iter().map(|group| (group.cookie(), group.len())).collect();
        assert_eq!(got, [(cookie, 1), (cookie + 1, 3), (cookie + 2, 1)], "split at {split}");
        drop(groups);
        assert_eq!(answers(&mut peer).len(), 3);
    }
}

#[test]
fn hang_up_at_any_byte_leaves_the_whole_groups_and_says_what_was_torn() {
    let bytes = [wire_group(1, 1), wire_group(2, 3), wire_group(3, 1)].concat();
    for length in 0..=bytes.len() {
        for unread_answer in [false, true] {
            let (mut responder, mut peer) = responder_and_peer(&Options::new());
            if unread_answer {
                peer.write_all(&wire_group(9, 1)).unwrap();
                receive(&mut responder).0.respond(ResponseCode::Success).unwrap();
            }
            peer.write_all(&bytes[..length]).unwrap();
            drop(peer);
            let mut pages = [PgFault::default(); 8];
            let mut groups = Vec::new();
            let told = loop {
                match responder.recv_group(&mut pages) {
                    Ok(group) => groups.push(group),
                    Err(error) => break error,
                }
            };
            let expected = [40, 160, 200].iter().filter(|end| **end <= length).count();
            assert_eq!(groups.len(), expected, "{length} bytes");
            match (length % 40, length) {
                (0, 0 | 40 | 160 | 200) => {
                    assert!(matches!(told, TryRecvError::Closed), "{length}: {told:?}")
                }
                (0, _) => assert_broken(&mut responder, Violation::GroupNotEnded),
                (found, _) => assert_broken(&mut responder, Violation::TornRecord { found, size: 40 }),
            }
            assert!(readable(&responder));
            for group in groups {
                match group.cookie() {
                    1 => assert!(matches!(group.respond(ResponseCode::Success), Err(RespondError::Closed))),
                    2 => {
                        let answer = response(group.into_cookie(), SUCCESS);
                        assert!(matches!(responder.respond(answer), Err(RespondError::Closed)));
                    }
                    _ => drop(group),
                }
            }
        }
    }
}

#[test]
fn broken_header_is_refused_and_so_is_a_number_that_does_not_follow() {
    let none = EventFlags::empty();
    let page = |sequence, cookie| wire_event(sequence, none, cookie, true);
    let flags = |unknown| Violation::Record(RecordError::Flags { unknown });
    let lost = EventFlags::LOST_EVENTS;
    let inside = [wire_event(2, none, 3, false), wire_cancelled(3, 3)].concat();
    let other_inside = [wire_event(2, none, 3, false), wire_cancelled(3, 1)].concat();
    let unknown = EventFlags::from_bits_retain(0x8000_0004);
    let cases: Vec<(&str, Vec<u8>, Violation)> = vec![
        ("a loss", wire_event(2, lost, 0, false).to_vec(), flags(1)),
        ("a loss with a page", wire_event(2, lost, 3, true).to_vec(), flags(1)),
        ("a cancelled loss", wire_event(2, lost | EventFlags::CANCELLED, 1, true).to_vec(), flags(1)),
        ("unknown flags", wire_event(2, unknown, 3, true).to_vec(), flags(0x8000_0004)),
        (
            "a number above INT_MAX",
            page(0x8000_0002, 3).to_vec(),
            Violation::Record(RecordError::Sequence { found: 0x8000_0002 }),
        ),
        ("a gap", page(3, 3).to_vec(), Violation::SequenceGap),
        ("a number again", page(1, 3).to_vec(), Violation::SequenceGap),
        ("a gap before a notice", wire_cancelled(3, 1).to_vec(), Violation::SequenceGap),
        ("a cancelled cookie 0", wire_cancelled(2, 0).to_vec(), Violation::ZeroCookie),
        ("a notice in its group", inside, Violation::GroupNotEnded),
        ("a notice in another group", other_inside, Violation::GroupNotEnded),
    ];
    for (name, bad, violation) in cases {
        let (mut responder, mut peer) = responder_and_peer(&v2());
        peer.write_all(&[&page(0, 1)[..], &page(1, 2), &bad].concat()).unwrap();
        let ((first, _), (_second, _)) = (receive(&mut responder), receive(&mut responder));
        assert_broken(&mut responder, violation);
        assert!(!first.is_cancelled() && responder.next_cancelled().is_none(), "{name}");
        first.respond(ResponseCode::Success).unwrap();
        assert_eq!(answers(&mut peer), [(1, 0)], "{name}");
    }
}

#[test]
fn cancelled_group_is_told_once_and_a_notice_of_any_other_is_ignored() {
    let (mut responder, mut peer) = responder_and_peer(&v2());
    let none = EventFlags::empty();
    let notices =
        [wire_cancelled(2, 1), wire_cancelled(3, 77), wire_cancelled(4, 1), wire_cancelled(5, u32::MAX)];
    peer.write_all(&[wire_event(0, none, 1, true), wire_event(1, none, 2, true)].concat()).unwrap();
    let ((first, _), (second, _)) = (receive(&mut responder), receive(&mut responder));
    peer.write_all(&notices.concat()).unwrap();
    assert!(is_empty(&mut responder) && !readable(&responder));
    assert_eq!((responder.next_cancelled(), responder.next_cancelled()), (Some(1), None));
    assert!(first.is_cancelled() && !second.is_cancelled());
    // It is still open until it is answered, and nothing but the answer closes it.
    assert_eq!(responder.open_cookies().len(), 2);
    first.respond(ResponseCode::Success).unwrap();
    second.respond(ResponseCode::Success).unwrap();
    // A notice that crossed the answer.
    peer.write_all(&[wire_cancelled(6, 2), wire_cancelled(7, 1)].concat()).unwrap();
    assert!(is_empty(&mut responder));
    assert_eq!(responder.next_cancelled(), None);
    assert_eq!(answers(&mut peer), [(1, 0), (2, 0)]);
    // The same cookie again is another group, which is not cancelled.
    peer.write_all(&wire_event(8, none, 1, true)).unwrap();
    let (group, _) = receive(&mut responder);
    assert!(!group.is_cancelled() && responder.next_cancelled().is_none());
    // Cancelled, not asked for and answered: nothing is told of it either.
    peer.write_all(&wire_cancelled(9, 1)).unwrap();
    assert!(is_empty(&mut responder));
    drop(group);
    assert_eq!(responder.next_cancelled(), None);
    assert_eq!(answers(&mut peer), [(1, 1)]);
}

#[test]
fn group_is_shown_without_the_buffers_and_the_other_groups_behind_it() {
    let (mut responder, mut peer) = responder_and_peer(&Options::new());
    peer.write_all(&wire_group(0x1234, 1)).unwrap();
    let (group, _) = receive(&mut responder);
    let shown = format!("{group:?}");
    // Errors give groups back, and land in logs.
    assert!(shown.len() < 200, "{} characters", shown.len());
    assert!(shown.contains(&group.into_cookie().to_string()));
}

#[test]
fn urgent_bytes_are_not_data_and_hold_nobody_up() {
    let (mut responder, mut peer) = responder_and_peer(&Options::new());
    let urgent = |peer: &UnixStream| {
        sendmsg::<()>(peer.as_raw_fd(), &[IoSlice::new(b"!")], &[], MsgFlags::MSG_OOB, None)
    };
    if let Err(Errno::EOPNOTSUPP) = urgent(&peer) {
        return eprintln!("skipped: this kernel has no urgent bytes on such sockets");
    }
    assert!(is_empty(&mut responder) && !readable(&responder));
    let bytes = wire_group(1, 3);
    let mut groups = Vec::new();
    for part in bytes.chunks(17) {
        peer.write_all(part).unwrap();
        urgent(&peer).unwrap();
        // A read ends before it, and one that finds nothing else takes it away.
        while readable(&responder) {
            groups.extend(receive_many(&mut responder).unwrap_or_default());
        }
    }
    assert_eq!(groups.iter().map(FaultGroup::len).collect::<Vec<_>>(), [3]);
    assert!(!readable(&responder));
    drop(peer);
    assert!(matches!(receive_many(&mut responder), Err(TryRecvError::Closed)));
}
