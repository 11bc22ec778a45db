//! Streams of bytes: a Unix socket and a pipe, whole records to a write.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use zerocopy::IntoBytes;

use super::{Contender, Measure, batches, batches_across, singles, singles_across, trips, trips_across};
use crate::carrier::{
    BATCH, Check, Crossing, Payload, Receives, ReceivesBatches, Sends, SendsBatches, Waits, payload,
};

pub(super) const SOCKET: &str = "Unix stream socket";
pub(super) const PIPE: &str = "pipe";

pub(super) fn contenders() -> Vec<Contender> {
    [of::<Socket>(SOCKET), of::<Pipe>(PIPE)].concat()
}

fn of<K: Kind>(name: &'static str) -> Vec<Contender> {
    vec![
        singles::<Stream<K, false>>(name),
        singles_across::<Stream<K, false>>(name),
        batches::<Stream<K, false>>(name),
        batches_across::<Stream<K, false>>(name),
        trips::<Stream<K, true>>(Measure::Asleep, name),
        trips_across::<Stream<K, true>>(Measure::Asleep, name),
    ]
}

/// What kind of stream it is.
trait Kind: 'static {
    /// The end to read from, and the end to write to.
    fn make() -> (OwnedFd, OwnedFd);
}

struct Socket;

impl Kind for Socket {
    fn make() -> (OwnedFd, OwnedFd) {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        (near.into(), far.into())
    }
}

struct Pipe;

impl Kind for Pipe {
    fn make() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (reader.into(), writer.into())
    }
}

/// A stream whose calls wait, or do not.
struct Stream<K, const WAITS: bool>(PhantomData<K>);

impl<K: Kind, const WAITS: bool> Stream<K, WAITS> {
    fn make() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = K::make();
        if !WAITS {
            for end in [&reader, &writer] {
                fcntl(end.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a stream has modes");
            }
        }
        (reader, writer)
    }
}

impl<K: Kind, const WAITS: bool> Crossing for Stream<K, WAITS> {
    type Tx = Tx;
    type Rx = Rx;

    fn make_receiver() -> (Rx, OwnedFd) {
        let (reader, writer) = Self::make();
        (Self::attach_receiver(reader), writer)
    }

    fn attach_sender(end: OwnedFd) -> Tx {
        Tx { stream: end.into(), batch: [[0; 5]; BATCH] }
    }

    fn make_sender() -> (Tx, OwnedFd) {
        let (reader, writer) = Self::make();
        (Self::attach_sender(writer), reader)
    }

    fn attach_receiver(end: OwnedFd) -> Rx {
        Rx { stream: end.into(), batch: [[0; 5]; BATCH] }
    }
}

struct Tx {
    stream: File,
    batch: [Payload; BATCH],
}

struct Rx {
    stream: File,
    batch: [Payload; BATCH],
}

/// How many whole records a call has moved. A record is never torn: one write, whether of one record or of a batch,
/// is small enough that both kinds take it whole or not at all.
fn records(outcome: io::Result<usize>) -> usize {
    match outcome {
        Ok(0) => panic!("the other side is gone"),
        Ok(bytes) => {
            assert_eq!(bytes % size_of::<Payload>(), 0, "a torn record");
            bytes / size_of::<Payload>()
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}

impl Sends for Tx {
    fn send(&mut self, number: u64) -> bool {
        records(self.stream.write(payload(number).as_bytes())) == 1
    }
}

impl SendsBatches for Tx {
    fn send_batch(&mut self, first: u64, count: usize) -> usize {
        let batch = &mut self.batch[..count];
        batch.iter_mut().zip(first..).for_each(|(slot, number)| *slot = payload(number));
        records(self.stream.write(batch.as_bytes()))
    }
}

impl Receives for Rx {
    fn receive(&mut self, check: &mut Check) -> bool {
        let mut payload: Payload = [0; 5];
        let received = records(self.stream.read(payload.as_mut_bytes())) == 1;
        if received {
            check.see(&payload);
        }
        received
    }
}

impl ReceivesBatches for Rx {
    fn receive_batch(&mut self, check: &mut Check) -> bool {
        let count = records(self.stream.read(self.batch.as_mut_bytes()));
        self.batch[..count].iter().for_each(|payload| check.see(payload));
        count > 0
    }
}

impl Waits for Rx {
    fn receive_waiting(&mut self, check: &mut Check) {
        assert!(self.receive(check), "a stream that waits has something");
    }
}
