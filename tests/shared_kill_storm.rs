//! Either side of an event channel in shared memory is killed at random points, hundreds of times: the other one
//! gets every record that was published, in order, and then `Closed`, in bounded time and for ever.
//!
//! `fault_kill_storm.rs` does the same to channels of page faults.

mod common;

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use common::storm::{Child, Random, Tally};
use common::*;
use recordfd::event::{self, Received, SoleSender};
use recordfd::uapi::{AcpiNotify, AcpiOst};
use recordfd::{DrainError, Options, TryRecvError, TrySendError, UnattachedEnd};

/// Kills of each side.
const KILLS: u32 = 640;
const DEPTH: u32 = 64;

/// What differs from round to round; every combination comes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The process that is killed has made the channel.
    made_by_killed: bool,
    /// The receiver looks by itself before it sleeps, so that it leaves wake-ups parked.
    busy: bool,
    /// Who is about to sleep fences for both sides.
    asymmetric: bool,
    /// The survivor may be in a wait when the other one is killed.
    meanwhile: bool,
    /// The sender drops what does not fit.
    posts: bool,
}

impl Plan {
    fn of(round: u32) -> Self {
        let bit = |number: u32| round >> number & 1 == 1;
        Self { made_by_killed: bit(0), busy: bit(1), asymmetric: bit(2), meanwhile: bit(3), posts: bit(4) }
    }

    fn options(self) -> Options {
        Options::new().depth(DEPTH).reply_depth(16)
    }

    /// What is set on the sender, whoever made the channel.
    fn prepare_sender(self, mut tx: SoleSender<AcpiNotify>) -> SoleSender<AcpiNotify> {
        if self.asymmetric {
            tx.use_asymmetric_fence().unwrap();
        }
        tx
    }

    fn prepare_receiver(self, mut rx: Rx) -> Rx {
        if self.busy {
            rx.set_busy_poll(Duration::from_micros(50));
        }
        if self.asymmetric {
            rx.use_asymmetric_fence().unwrap();
        }
        rx
    }

    /// The sender's end; `makes`: the channel is made here, and the other end goes over `socket`.
    fn sender(self, makes: bool, socket: &UnixStream) -> SoleSender<AcpiNotify> {
        let tx = if makes {
            let (tx, end) = event::shared(&self.options()).unwrap();
            end.send_over(socket).unwrap();
            tx
        } else {
            SoleSender::from_shared(UnattachedEnd::recv_from(socket).unwrap().into()).unwrap()
        };
        self.prepare_sender(tx)
    }

    fn receiver(self, makes: bool, socket: &UnixStream) -> Rx {
        let rx = if makes {
            let (rx, end) = event::shared_receiver(&self.options()).unwrap();
            end.send_over(socket).unwrap();
            rx
        } else {
            Rx::from_shared(UnattachedEnd::recv_from(socket).unwrap().into()).unwrap()
        };
        self.prepare_receiver(rx)
    }
}

/// Sends without end, by turns in each way there is, noting the number behind the last record that was published, and behind
/// the last one that was used up. The `data` of each record is its number. (A number that only a dropped record used up may go with the sender: the next
/// send takes back what told of it before it publishes.)
fn send_at_random(
    mut tx: SoleSender<AcpiNotify>,
    plan: Plan,
    [published, used]: &[Tally; 2],
    mut random: Random,
) {
    let mut next = 0;
    let mut replies = 0;
    loop {
        let records: Vec<_> =
            (0..1 + random.below(DEPTH as usize) as u32).map(|ahead| notify(0x80, next + ahead)).collect();
        let sent = tx.counters().sent;
        let outcome = match random.below(3) {
            0 if plan.posts => tx.post(records[0]).map(|()| 1).map_err(|_| "post"),
            0 => match tx.try_send(records[0]) {
                Err(TrySendError::Full(_)) => Ok(0),
                outcome => outcome.map(|()| 1).map_err(|_| "try_send"),
            },
            _ => match tx.send_batch(&records) {
                Err(TrySendError::Full(())) => Ok(0),
                outcome => outcome.map_err(|_| "send_batch"),
            },
        };
        next += outcome.expect("the receiver lives") as u32;
        if tx.counters().sent > sent {
            published.note(next);
        }
        used.note(next);
        match random.below(16) {
            0 => tx.wait_drained(None).unwrap(),
            1 => drop(tx.wait_drained(Some(Duration::from_micros(100)))),
            2..6 => loop {
                match tx.try_recv_reply() {
                    Ok(reply) => assert_eq!(reply.cookie, replies, "in order, without a gap"),
                    Err(TryRecvError::Empty) => break,
                    Err(error) => panic!("{error:?}"),
                }
                replies += 1;
            },
            6 => thread::sleep(Duration::from_micros(random.below(200) as u64)),
            _ => {}
        }
    }
}

/// Receives what comes next, in one of the ways there are.
fn receive(
    rx: &mut Rx,
    random: &mut Random,
    items: &mut [Received<AcpiNotify>],
) -> Result<usize, TryRecvError> {
    match random.below(4) {
        0 => {
            items[0] = rx.recv_timeout(SOON)?;
            return Ok(1);
        }
        1 => assert!(rx.wait(Some(SOON)).unwrap(), "not woken"),
        2 => assert!(wait_readable(&*rx), "not woken"),
        _ => {}
    }
    let most = 1 + random.below(items.len());
    match rx.recv_batch(&mut items[..most]) {
        Err(TryRecvError::Empty) => Ok(0),
        outcome => outcome,
    }
}

/// One round: the sender is killed. Returns how many records came of those published before and not received yet.
fn kill_sender(round: u32, random: &mut Random) -> u32 {
    let plan = Plan::of(round);
    let what = format!("round {round}, {plan:?}");
    let tallies = [Tally::new(), Tally::new()];
    let (near, far) = UnixStream::pair().unwrap();
    let seed = Random(random.0);
    let mut child =
        Child::start(|| send_at_random(plan.sender(plan.made_by_killed, &far), plan, &tallies, seed));
    drop(far);
    let mut rx = plan.receiver(!plan.made_by_killed, &near);
    let kill_at = random.below(1000) as u32;
    if plan.meanwhile {
        child.kill_meanwhile(random, Duration::from_micros(1500));
    }
    let mut items = [Received::default(); 16];
    let (mut next, mut replies, mut afterwards) = (0, 0, 0);
    let told = loop {
        if !plan.meanwhile && !child.is_killed() && next >= kill_at {
            child.kill(random);
        }
        let count = match receive(&mut rx, random, &mut items) {
            Ok(count) => count,
            Err(error) => break error,
        };
        for item in &items[..count] {
            assert!(plan.posts || item.lost() == 0, "{what}: {item:?}");
            next += item.lost();
            if let Received::Record { sequence, record, .. } = item {
                assert_eq!((sequence.get(), record.data), (next, next), "{what}: in order, without a gap");
                next += 1;
                afterwards += u32::from(child.is_killed());
            }
        }
        if random.below(4) == 0 && rx.reply(AcpiOst::new(replies, 0, 0)).is_ok() {
            replies += 1;
        }
    };
    assert!(matches!(told, TryRecvError::Closed), "{what}: {told:?}");
    assert!(child.is_killed(), "{what}: closed while the sender lives");
    child.assert_killed();
    let [published, used] = tallies.each_ref().map(Tally::read);
    assert!((published..=used + DEPTH).contains(&next), "{what}: {next} came of {published} to {used}");
    for _ in 0..3 {
        assert!(readable(&rx));
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed)), "{what}");
        assert!(matches!(rx.recv_timeout(SOON), Err(TryRecvError::Closed)), "{what}");
        assert!(matches!(rx.reply(AcpiOst::new(0, 0, 0)), Err(TrySendError::Closed(_))), "{what}");
    }
    afterwards
}

#[test]
fn killed_sender_leaves_every_record_and_then_closed() {
    in_own_process("killed_sender_leaves_every_record_and_then_closed", || {
        let mut random = Random(0x6a09_e667_f3bc_c908);
        println!("seed {:#x}", random.0);
        let afterwards: u32 = (0..KILLS).map(|round| kill_sender(round, &mut random)).sum();
        assert!(afterwards > KILLS, "hardly anything was unread at a kill, so this shows nothing");
    });
}

/// Receives without end, by turns in each way there is, and replies as often as there is room, noting how often.
fn reply_at_random(mut rx: Rx, tally: &Tally, mut random: Random) {
    let mut items = [Received::default(); 16];
    let mut replies = 0;
    loop {
        let count = receive(&mut rx, &mut random, &mut items).expect("the sender lives");
        for _ in 0..random.below(count + 1) {
            match rx.reply(AcpiOst::new(replies, 0, 0)) {
                Ok(()) => replies += 1,
                Err(TrySendError::Full(_)) => break,
                Err(error) => panic!("{error:?}"),
            }
            tally.note(replies);
        }
    }
}

/// The replies that came so far, which are numbered.
struct Replies(u32);

impl Replies {
    /// Takes those that are there; true when there will be no more.
    fn take(&mut self, tx: &mut SoleSender<AcpiNotify>) -> bool {
        loop {
            match tx.try_recv_reply() {
                Ok(reply) => assert_eq!(reply.cookie, self.0, "in order, without a gap"),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Closed) => return true,
                Err(error) => panic!("{error:?}"),
            }
            self.0 += 1;
        }
    }
}

/// Sends to the receiver until it is known to be gone.
fn send_until_closed(
    tx: &mut SoleSender<AcpiNotify>,
    plan: Plan,
    child: &Child,
    random: &mut Random,
) -> Replies {
    let mut replies = Replies(0);
    let records = [notify(0x80, 0); DEPTH as usize];
    let mut killed = None;
    loop {
        let outcome = match random.below(8) {
            0 => match tx.wait_drained(Some(SOON)) {
                Ok(()) => Ok(0),
                Err(DrainError::Closed) => Err(TrySendError::Closed(())),
                Err(error) => panic!("{plan:?}: {error:?}"),
            },
            1 => {
                assert!(wait_readable(&*tx), "not woken");
                if replies.take(tx) { Err(TrySendError::Closed(())) } else { Ok(0) }
            }
            2 if plan.posts => tx.post(records[0]).map(|()| 1).map_err(|_| TrySendError::Closed(())),
            _ => tx.send_batch(&records[..1 + random.below(DEPTH as usize)]),
        };
        match outcome {
            Ok(_) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Closed(())) => return replies,
            Err(error) => panic!("{plan:?}: {error:?}"),
        }
        if child.is_killed() {
            let since = killed.get_or_insert_with(Instant::now);
            assert!(since.elapsed() < SOON, "{plan:?}: no call tells");
        }
    }
}

/// How the sender learns that the receiver is gone, if it does nothing else: in so many calls.
fn learn_by_one_kind_of_call(tx: &mut SoleSender<AcpiNotify>, kind: usize, replies: &mut Replies) {
    // It looks at each 64th refusal at the latest.
    let most = DEPTH + 64;
    match kind {
        0 => {
            let calls =
                (0..=most).find(|_| matches!(tx.try_send(notify(1, 0)), Err(TrySendError::Closed(_))));
            assert!(calls.is_some(), "try_send does not tell");
        }
        1 => {
            let calls = (0..=most).find(|_| tx.post(notify(1, 0)).is_err());
            assert!(calls.is_some(), "post does not tell");
        }
        2 => assert!((0..=64).any(|_| replies.take(tx)), "try_recv_reply does not tell"),
        3 => match tx.wait_drained(None) {
            Ok(()) => assert!(tx.is_closed()),
            Err(error) => assert!(matches!(error, DrainError::Closed)),
        },
        4 => assert!(wait_readable(&*tx) && tx.is_closed()),
        _ => assert!(tx.is_closed()),
    }
}

/// One round: the receiver is killed. Returns how many of its replies were taken afterwards.
fn kill_receiver(round: u32, random: &mut Random) -> u32 {
    let plan = Plan::of(round);
    let what = format!("round {round}, {plan:?}");
    let tally = Tally::new();
    let (near, far) = UnixStream::pair().unwrap();
    let seed = Random(random.0);
    let mut child = Child::start(|| reply_at_random(plan.receiver(plan.made_by_killed, &far), &tally, seed));
    drop(far);
    let mut tx = plan.sender(!plan.made_by_killed, &near);
    let mut replies;
    if plan.meanwhile {
        child.kill_meanwhile(random, Duration::from_micros(1500));
        replies = send_until_closed(&mut tx, plan, &child, random);
        assert!(child.is_killed(), "{what}: closed while the receiver lives");
        child.assert_killed();
    } else {
        replies = Replies(0);
        let kill_at = random.below(400) as u32;
        while replies.0 < kill_at {
            let _ = tx.send_batch(&[notify(0x80, 0); 24][..1 + random.below(24)]);
            if random.below(4) == 0 {
                assert!(!replies.take(&mut tx), "{what}: closed while the receiver lives");
            }
        }
        child.kill(random);
        child.assert_killed();
        learn_by_one_kind_of_call(&mut tx, round as usize / 32 % 6, &mut replies);
    }
    let before = replies.0;
    assert!(replies.take(&mut tx), "{what}: empty after closed");
    let noted = tally.read();
    assert!((noted..=noted + 1).contains(&replies.0), "{what}: {} came of {noted} replies", replies.0);
    for _ in 0..3 {
        assert!(readable(&tx) && tx.is_closed(), "{what}");
        assert!(replies.take(&mut tx), "{what}");
        assert!(matches!(tx.try_send(notify(0x80, 0)), Err(TrySendError::Closed(_))), "{what}");
        assert!(matches!(tx.post(notify(0x80, 0)), Err(TrySendError::Closed(_))), "{what}");
        // Known to be read empty, or not known.
        assert!(matches!(tx.wait_drained(None), Ok(()) | Err(DrainError::Closed)), "{what}");
    }
    replies.0 - before
}

#[test]
fn killed_receiver_leaves_every_reply_and_then_closed() {
    in_own_process("killed_receiver_leaves_every_reply_and_then_closed", || {
        let mut random = Random(0xbb67_ae85_84ca_a73b);
        println!("seed {:#x}", random.0);
        let afterwards: u32 = (0..KILLS).map(|round| kill_receiver(round, &mut random)).sum();
        assert!(afterwards > KILLS, "hardly any reply was there at a kill, so this shows nothing");
    });
}
