//! Every end on every transport in each reactor: exact readiness, no missed event, and nothing left when it is removed.

#![cfg(any(feature = "mio", feature = "polling"))]

mod common;

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::Duration;

use common::fault::{EVERY_MAKE, page, receive as receive_group, v2};
use common::request::{self, Sample, receive as receive_request};
use common::{SOON, every_make, notify};
use recordfd::event::{self, Receiver, SoleSender};
use recordfd::fault::{self, ResponseCode};
use recordfd::request::Options as RequestOptions;
use recordfd::uapi::{AcpiNotify, AcpiOst, DeviceRequest, PciError};
use recordfd::{Options, TryRecvError, TrySendError};

/// What every reactor can register.
#[cfg(feature = "mio")]
trait End: AsFd + ::mio::event::Source {}
#[cfg(feature = "mio")]
impl<E: AsFd + ::mio::event::Source> End for E {}
#[cfg(not(feature = "mio"))]
trait End: AsFd {}
#[cfg(not(feature = "mio"))]
impl<E: AsFd> End for E {}

/// A reactor under test.
trait Reactor {
    /// An end that is registered.
    type Handle<E>;
    /// A ready end is reported at each wait; if not, once for each time that it is made readable.
    const LEVEL: bool;

    fn new() -> Self;
    fn add<E: End>(&mut self, end: E, key: usize) -> Self::Handle<E>;
    fn end<'a, E>(&self, handle: &'a mut Self::Handle<E>) -> &'a mut E;
    fn modify<E: End>(&mut self, handle: &mut Self::Handle<E>, key: usize);
    fn remove<E: End>(&mut self, handle: Self::Handle<E>) -> E;
    /// The keys of the ends that are ready within `timeout`.
    fn wait(&mut self, timeout: Duration) -> Vec<usize>;
    fn descriptor(&self) -> i32;

    fn ready(&mut self) -> Vec<usize> {
        self.wait(Duration::ZERO)
    }

    /// Descriptors that the kernel has in this epoll instance.
    fn registered(&self) -> usize {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.descriptor())).unwrap();
        info.lines().filter(|line| line.starts_with("tfd:")).count()
    }
}

#[cfg(feature = "mio")]
struct Mio(::mio::Poll, ::mio::Events);

#[cfg(feature = "mio")]
impl Reactor for Mio {
    type Handle<E> = E;
    const LEVEL: bool = false;

    fn new() -> Self {
        Self(::mio::Poll::new().unwrap(), ::mio::Events::with_capacity(16))
    }

    fn add<E: End>(&mut self, mut end: E, key: usize) -> E {
        self.0.registry().register(&mut end, ::mio::Token(key), ::mio::Interest::READABLE).unwrap();
        end
    }

    fn end<'a, E>(&self, handle: &'a mut E) -> &'a mut E {
        handle
    }

    fn modify<E: End>(&mut self, handle: &mut E, key: usize) {
        self.0.registry().reregister(handle, ::mio::Token(key), ::mio::Interest::READABLE).unwrap();
    }

    fn remove<E: End>(&mut self, mut handle: E) -> E {
        self.0.registry().deregister(&mut handle).unwrap();
        handle
    }

    fn wait(&mut self, timeout: Duration) -> Vec<usize> {
        self.0.poll(&mut self.1, Some(timeout)).unwrap();
        self.1.iter().inspect(|event| assert!(event.is_readable())).map(|event| event.token().0).collect()
    }

    fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

#[cfg(feature = "polling")]
struct Polling<const EDGE: bool>(std::sync::Arc<polling::Poller>, polling::Events);

#[cfg(feature = "polling")]
impl<const EDGE: bool> Reactor for Polling<EDGE> {
    type Handle<E> = recordfd::reactor::polling::Registration<E>;
    const LEVEL: bool = !EDGE;

    fn new() -> Self {
        Self(polling::Poller::new().unwrap().into(), polling::Events::new())
    }

    fn add<E: End>(&mut self, end: E, key: usize) -> Self::Handle<E> {
        let interest = polling::Event::readable(key);
        let handle = if EDGE {
            Self::Handle::with_mode(&self.0, end, interest, polling::PollMode::Edge)
        } else {
            Self::Handle::new(&self.0, end, interest)
        };
        handle.map_err(recordfd::Error::from).unwrap()
    }

    fn end<'a, E>(&self, handle: &'a mut Self::Handle<E>) -> &'a mut E {
        &mut *handle
    }

    fn modify<E: End>(&mut self, handle: &mut Self::Handle<E>, key: usize) {
        handle.modify(polling::Event::readable(key)).unwrap();
    }

    fn remove<E: End>(&mut self, handle: Self::Handle<E>) -> E {
        handle.into_inner()
    }

    fn wait(&mut self, timeout: Duration) -> Vec<usize> {
        self.1.clear();
        self.0.wait(&mut self.1, Some(timeout)).unwrap();
        self.1.iter().inspect(|event| assert!(event.readable)).map(|event| event.key).collect()
    }

    fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Takes everything out; returns how much, and why there is no more.
fn drain<E>(end: &mut E, take: &mut impl FnMut(&mut E) -> Result<(), TryRecvError>) -> (usize, TryRecvError) {
    let mut count = 0;
    loop {
        match take(end) {
            Ok(()) => count += 1,
            Err(error) => return (count, error),
        }
    }
}

/// Puts `end` through everything that a reactor does with it. `stir` makes it readable by one item, `take` takes one.
fn exercise<X: Reactor, E: End, P>(
    what: &str,
    (end, mut peer): (E, P),
    mut stir: impl FnMut(&mut E, &mut P),
    mut take: impl FnMut(&mut E) -> Result<(), TryRecvError>,
) {
    let mut reactor = X::new();
    let before = reactor.registered();
    let mut handle = reactor.add(end, 1);
    assert_eq!((reactor.ready(), reactor.registered()), (vec![], before + 1), "{what}: nothing is there yet");

    for round in 0..40 {
        let items = 1 + round % 3;
        (0..items).for_each(|_| stir(reactor.end(&mut handle), &mut peer));
        assert_eq!(reactor.wait(SOON), [1], "{what}, round {round}");
        let again: &[usize] = if X::LEVEL { &[1] } else { &[] };
        assert_eq!(reactor.ready(), again, "{what}, round {round}: not received yet");
        // What comes while a program receives is no event of its own, and is not missed either.
        let end = reactor.end(&mut handle);
        take(end).unwrap();
        stir(end, &mut peer);
        let (taken, why) = drain(end, &mut take);
        assert!(taken == items && matches!(why, TryRecvError::Empty), "{what}: {taken} of {items}, {why:?}");
        // The kernel may report an edge of before the receives: a program then finds nothing, and that is all.
        if !reactor.ready().is_empty() {
            assert!(!X::LEVEL, "{what}, round {round}: ready with nothing to receive");
            assert!(matches!(take(reactor.end(&mut handle)), Err(TryRecvError::Empty)), "{what}");
            assert_eq!(reactor.ready(), [], "{what}, round {round}");
        }
    }

    // A new key is what the next event has; changed while something waits, it makes an event in every mode.
    stir(reactor.end(&mut handle), &mut peer);
    assert_eq!(reactor.wait(SOON), [1], "{what}");
    reactor.modify(&mut handle, 2);
    assert_eq!(reactor.wait(SOON), [2], "{what}: modified");
    assert_eq!(drain(reactor.end(&mut handle), &mut take).0, 1, "{what}");

    // Out of the reactor it works as before; back in it, what waits is reported at once.
    let mut end = reactor.remove(handle);
    assert_eq!(reactor.registered(), before, "{what}: removed");
    stir(&mut end, &mut peer);
    assert_eq!(reactor.ready(), [], "{what}: removed");
    let mut handle = reactor.add(end, 3);
    assert_eq!(reactor.wait(SOON), [3], "{what}: added again");
    assert_eq!(drain(reactor.end(&mut handle), &mut take).0, 1, "{what}");

    drop(peer);
    assert_eq!(reactor.wait(SOON), [3], "{what}: hang-up");
    for _ in 0..3 {
        let (taken, why) = drain(reactor.end(&mut handle), &mut take);
        assert!(taken == 0 && matches!(why, TryRecvError::Closed), "{what}: {taken}, {why:?}");
        let again: &[usize] = if X::LEVEL { &[3] } else { &[] };
        assert_eq!(reactor.wait(Duration::from_millis(1)), again, "{what}: after Closed");
    }
    drop(reactor.remove(handle));
    assert_eq!((reactor.ready(), reactor.registered()), (vec![], before), "{what}: dropped");
}

/// Exercises both ends of requests of one kind.
fn exercise_requests<X: Reactor, R: Sample>(kind: &str, busy: Duration)
where
    request_ends::Reporter<R>: End,
    request_ends::Responder<R>: End,
{
    let options = RequestOptions::new().depth(512).per_device(512).busy_poll(busy);
    for (index, make) in request::every_make::<R>().into_iter().enumerate() {
        let mut device = 0;
        exercise::<X, _, _>(
            &format!("reporter of {kind} {index}, {busy:?}"),
            make(&options),
            |reporter, responder| {
                device += 1;
                reporter.report(R::of(device)).unwrap();
                receive_request(responder).respond(R::NO).unwrap();
            },
            |reporter| reporter.completions(&mut [Default::default()]).map(|count| assert_eq!(count, 1)),
        );
        let (reporter, responder) = make(&options);
        let mut device = 0;
        exercise::<X, _, _>(
            &format!("responder of {kind} {index}, {busy:?}"),
            (responder, reporter),
            |_, reporter| {
                device += 1;
                reporter.report(R::of(device)).unwrap();
            },
            // Answered later: the reporter is not what is tested.
            |responder| responder.try_recv().map(|pending| _ = pending.into_cookie()),
        );
    }
}

mod request_ends {
    pub(crate) use recordfd::request::{Reporter, Responder};
}

fn exercise_everything<X: Reactor>() {
    for busy in [Duration::ZERO, Duration::from_micros(50)] {
        let options = Options::new().busy_poll(busy);
        for (index, make) in every_make::<AcpiNotify>().into_iter().enumerate() {
            let (tx, mut rx) = make(&options);
            rx.set_busy_poll(busy);
            exercise::<X, _, _>(
                &format!("receiver {index}, {busy:?}"),
                (rx, tx),
                |_, tx| tx.try_send(notify(0x80, 0)).unwrap(),
                |rx| rx.try_recv().map(|_| ()),
            );
            exercise::<X, _, _>(
                &format!("sender {index}, {busy:?}"),
                make(&options),
                |_, rx| rx.reply(AcpiOst::new(1, 2, 3)).unwrap(),
                |tx| tx.try_recv_reply().map(|_| ()),
            );
        }
        let (tx, end) = event::shared::<AcpiNotify>(&options).unwrap();
        exercise::<X, SoleSender<AcpiNotify>, _>(
            &format!("sole sender, {busy:?}"),
            (tx, Receiver::<AcpiNotify>::from_shared(end.into()).unwrap()),
            |_, rx| rx.reply(AcpiOst::new(1, 2, 3)).unwrap(),
            |tx| tx.try_recv_reply().map(|_| ()),
        );
        let options = fault::Options::new().depth(512).per_device(512).busy_poll(busy);
        for (index, make) in EVERY_MAKE.iter().enumerate() {
            exercise::<X, _, _>(
                &format!("reporter of page faults {index}, {busy:?}"),
                make(&options),
                |reporter, responder| {
                    reporter.report(page(1, 1)).unwrap();
                    receive_group(responder).0.respond(ResponseCode::Success).unwrap();
                },
                |reporter| reporter.completions(&mut [Default::default()]).map(|count| assert_eq!(count, 1)),
            );
            let (reporter, mut responder) = make(&options);
            responder.set_busy_poll(busy);
            exercise::<X, _, _>(
                &format!("responder of page faults {index}, {busy:?}"),
                (responder, reporter),
                |_, reporter| _ = reporter.report(page(1, 1)).unwrap(),
                |responder| {
                    responder
                        .try_recv_group(&mut [Default::default(); 4])
                        .map(|group| _ = group.into_cookie())
                },
            );
        }
        exercise_requests::<X, PciError>("PCI errors", busy);
        exercise_requests::<X, DeviceRequest>("device requests", busy);
    }
}

/// A sender that runs all the time, and pauses now and then: every record arrives, and the end.
fn race<X: Reactor>() {
    const RECORDS: u32 = 2000;
    for busy in [Duration::ZERO, Duration::from_micros(50)] {
        for make in every_make::<AcpiNotify>() {
            let (tx, mut rx) = make(&Options::new().depth(64));
            rx.set_busy_poll(busy);
            let sender = thread::spawn(move || {
                for data in 0..RECORDS {
                    while let Err(error) = tx.try_send(notify(0x80, data)) {
                        assert!(matches!(error, TrySendError::Full(_)), "{error}");
                        thread::yield_now();
                    }
                    if data % 7 == 0 {
                        thread::yield_now();
                    }
                }
            });
            let mut reactor = X::new();
            let (mut handle, mut seen) = (reactor.add(rx, 1), 0);
            loop {
                assert_eq!(reactor.wait(SOON), [1], "a record was missed after {seen}");
                let (taken, why) = drain(reactor.end(&mut handle), &mut |rx| {
                    assert_eq!(rx.try_recv()?.record().map(|record| record.data), Some(seen));
                    seen += 1;
                    Ok(())
                });
                match why {
                    TryRecvError::Empty => {}
                    why => break assert!(matches!(why, TryRecvError::Closed), "{taken}, {why:?}"),
                }
            }
            assert_eq!(seen, RECORDS);
            sender.join().unwrap();
        }
    }
}

/// A notice is no item that a receive returns; it still makes an event.
fn cancelled<X: Reactor>() {
    for make in EVERY_MAKE {
        let (reporter, responder) = make(&v2());
        let mut reactor = X::new();
        let mut handle = reactor.add(responder, 1);
        reporter.report(page(1, 1)).unwrap();
        assert_eq!(reactor.wait(SOON), [1]);
        let mut pages = [Default::default(); 4];
        let group = reactor.end(&mut handle).try_recv_group(&mut pages).unwrap();
        assert!(matches!(reactor.end(&mut handle).try_recv_group(&mut pages), Err(TryRecvError::Empty)));
        reporter.detach(1);
        assert_eq!(reactor.wait(SOON), [1], "a notice");
        assert!(matches!(reactor.end(&mut handle).try_recv_group(&mut pages), Err(TryRecvError::Empty)));
        assert_eq!(reactor.end(&mut handle).next_cancelled(), Some(group.cookie()));
        drop(reactor.remove(handle));
    }
}

/// The pitfall of the documentation: with `busy_poll`, only the receive that returns `Empty` asks for the next event.
fn short_batch_asks_for_no_event<X: Reactor>() {
    for (busy, events) in [(Duration::ZERO, 1), (Duration::from_micros(50), 0)] {
        let (tx, mut rx) = common::shared::<AcpiNotify>(&Options::new());
        rx.set_busy_poll(busy);
        let mut reactor = X::new();
        let mut handle = reactor.add(rx, 1);
        tx.try_send(notify(0x80, 0)).unwrap();
        assert_eq!(reactor.wait(SOON), [1]);
        let mut items = [recordfd::event::Received::default(); 8];
        assert_eq!(reactor.end(&mut handle).recv_batch(&mut items).unwrap(), 1, "a short batch");
        tx.try_send(notify(0x80, 1)).unwrap();
        assert_eq!(reactor.ready().len(), events, "{busy:?}");
        // The rule holds: receive until Empty, and the next record is an event.
        let (taken, why) = drain(reactor.end(&mut handle), &mut |rx| rx.try_recv().map(|_| ()));
        assert!(taken == 1 && matches!(why, TryRecvError::Empty));
        tx.try_send(notify(0x80, 2)).unwrap();
        assert_eq!(reactor.wait(SOON), [1], "{busy:?}");
        drop(reactor.remove(handle));
    }
}

macro_rules! on_every_reactor {
    ($($name:ident: $feature:literal $reactor:ty { $($test:ident)* })*) => {
        $(#[cfg(feature = $feature)]
        mod $name {
            $(#[test] fn $test() { super::$test::<$reactor>() })*
        })*
    };
}

on_every_reactor! {
    mio: "mio" super::Mio { exercise_everything race cancelled short_batch_asks_for_no_event }
    polling_level: "polling" super::Polling<false> { exercise_everything race cancelled }
    polling_edge: "polling" super::Polling<true> {
        exercise_everything race cancelled short_batch_asks_for_no_event
    }
}

#[cfg(feature = "polling")]
mod registration {
    use std::sync::Arc;

    use polling::{Event, Events, PollMode, Poller};
    use recordfd::reactor::polling::Registration;

    use super::*;

    fn keys(poller: &Poller) -> Vec<usize> {
        let mut events = Events::new();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        events.iter().map(|event| event.key).collect()
    }

    #[test]
    fn dropped_registration_leaves_nothing() {
        for make in every_make::<AcpiNotify>() {
            let mut reactor = Polling::<false>::new();
            let before = reactor.registered();
            let (tx, rx) = make(&Options::new());
            let handle = reactor.add(rx, 1);
            tx.try_send(notify(0x80, 0)).unwrap();
            // The sender keeps the descriptor of a channel between threads open.
            drop(handle);
            assert_eq!((reactor.ready(), reactor.registered()), (vec![], before));
            assert!(tx.is_closed(), "no copy of the descriptor is left");
        }
    }

    #[test]
    fn swapped_end_leaves_its_registration_and_closes_no_registered_descriptor() {
        for make in every_make::<AcpiNotify>() {
            let mut reactor = Polling::<false>::new();
            let before = reactor.registered();
            let ((tx, rx), (other_tx, other)) = (make(&Options::new()), make(&Options::new()));
            let mut handle = reactor.add(rx, 1);
            drop(std::mem::replace(&mut *handle, other));
            // A descriptor under the number that the dropped end had.
            let _reused = fs::File::open("/dev/null").unwrap();
            other_tx.try_send(notify(0x80, 0)).unwrap();
            assert_eq!(reactor.registered(), before + 1);
            handle.modify(Event::readable(2)).unwrap();
            let mut other = handle.into_inner();
            assert_eq!(reactor.registered(), before, "what was registered is what was removed");
            other.try_recv().unwrap();
            assert!(tx.is_closed());
        }
    }

    #[test]
    fn oneshot_reports_once_for_each_modify() {
        let poller = Arc::new(Poller::new().unwrap());
        for make in every_make::<AcpiNotify>() {
            let (tx, rx) = make(&Options::new());
            let handle = Registration::with_mode(&poller, rx, Event::readable(1), PollMode::Oneshot).unwrap();
            for key in 1..4 {
                tx.try_send(notify(0x80, 0)).unwrap();
                handle.modify(Event::readable(key)).unwrap();
                assert_eq!((keys(&poller), keys(&poller)), (vec![key], vec![]));
            }
        }
    }

    #[test]
    fn refused_end_is_given_back() {
        let poller = Arc::new(Poller::new().unwrap());
        let (tx, rx) = common::socket::<AcpiNotify>(&Options::new());
        let refused = Registration::new(&poller, rx, Event::readable(usize::MAX)).unwrap_err();
        let is_input = |source: &std::io::Error| source.kind() == std::io::ErrorKind::InvalidInput;
        assert!(
            matches!(refused.error(), recordfd::Error::Os { source, .. } if is_input(source)),
            "{refused:?}"
        );
        let mut rx = refused.into_inner();
        tx.try_send(notify(0x80, 0)).unwrap();
        rx.try_recv().unwrap();
        drop(rx);
        assert!(tx.is_closed(), "no copy of the descriptor is left");
        // An end that is registered by reference stays its owner's.
        let (tx, mut rx) = common::socket::<AcpiNotify>(&Options::new());
        let mut registered = Registration::new(&poller, &mut rx, Event::readable(1)).unwrap();
        tx.try_send(notify(0x80, 0)).unwrap();
        assert_eq!(keys(&poller), [1]);
        registered.try_recv().unwrap();
        drop(registered);
        tx.try_send(notify(0x80, 0)).unwrap();
        assert_eq!(keys(&poller), []);
        rx.try_recv().unwrap();
    }
}

#[cfg(feature = "mio")]
#[test]
fn deregistered_end_is_dropped_without_a_trace() {
    for make in every_make::<AcpiNotify>() {
        let mut reactor = Mio::new();
        let before = reactor.registered();
        let (tx, rx) = make(&Options::new());
        let handle = reactor.add(rx, 1);
        drop(reactor.remove(handle));
        let _ = tx.try_send(notify(0x80, 0));
        assert_eq!((reactor.ready(), reactor.registered()), (vec![], before));
    }
}

/// The pitfall of the documentation: the sender keeps the descriptor open, so mio keeps it, too.
#[cfg(all(feature = "mio", feature = "local"))]
#[test]
fn end_that_is_dropped_but_not_deregistered_stays_in_mio() {
    let mut reactor = Mio::new();
    let before = reactor.registered();
    let (tx, rx) = common::local::<AcpiNotify>(&Options::new());
    drop(reactor.add(rx, 1));
    assert_eq!(reactor.registered(), before + 1);
    drop(tx);
    assert_eq!(reactor.registered(), before);
}
