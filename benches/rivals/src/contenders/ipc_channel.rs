//! ipc-channel, between processes. Its channels of plain bytes, which need no serialisation.

use std::process::Stdio;
use std::time::Duration;

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel};
use zerocopy::{FromBytes, IntoBytes};

use super::{Contender, Measure};
use crate::carrier::{Check, Payload, Receives, Sends, Waits, payload};
use crate::drive::{answer, ask, receive_singles, send_singles};
use crate::process::{Peer, There};

const NAME: &str = "ipc-channel, bytes";

pub(super) fn contenders() -> Vec<Contender> {
    vec![
        Contender::processes(Measure::Singles, NAME, singles_here, singles_there),
        Contender::processes(Measure::Asleep, NAME, trips_here, trips_there),
    ]
}

/// What the other process hands over: its ends are made there, these are ours.
type Ends = (IpcBytesReceiver, IpcBytesSender);

/// Runs `here` with the ends that the other process hands over.
fn with_ends(peer: &Peer, here: impl FnOnce(IpcBytesReceiver, IpcBytesSender) -> Duration) -> Duration {
    let (server, name) = IpcOneShotServer::<Ends>::new().expect("a server");
    let child = peer.start(Stdio::null(), None, &[name]);
    let (_, (rx, tx)) = server.accept().expect("the other process connects");
    let time = here(rx, tx);
    child.finish();
    time
}

/// In the other process: hands ends over and keeps their counterparts.
fn hand_over(there: &There) -> (IpcBytesSender, IpcBytesReceiver) {
    let ((to, far_rx), (far_tx, from)) =
        (bytes_channel().expect("a channel"), bytes_channel().expect("a channel"));
    let server = IpcSender::<Ends>::connect(there.names[0].clone()).expect("the server is there");
    server.send((far_rx, far_tx)).expect("the server waits");
    (to, from)
}

fn singles_here(peer: &Peer) -> Duration {
    with_ends(peer, |mut rx, _tx| receive_singles(&mut rx, peer.count))
}

fn singles_there(there: &There) {
    let (mut tx, _rx) = hand_over(there);
    send_singles(&mut tx, there.count);
}

fn trips_here(peer: &Peer) -> Duration {
    with_ends(peer, |mut rx, mut tx| ask(&mut tx, &mut rx, peer.count))
}

fn trips_there(there: &There) {
    let (mut tx, mut rx) = hand_over(there);
    answer(&mut tx, &mut rx, there.count);
}

impl Sends for IpcBytesSender {
    /// Waits for room.
    fn send(&mut self, number: u64) -> bool {
        IpcBytesSender::send(self, payload(number).as_bytes()).expect("the other side is there");
        true
    }
}

fn see(bytes: &[u8], check: &mut Check) {
    check.see(&Payload::read_from_bytes(bytes).expect("a whole record"));
}

impl Receives for IpcBytesReceiver {
    fn receive(&mut self, check: &mut Check) -> bool {
        match self.try_recv() {
            Ok(bytes) => see(&bytes, check),
            Err(TryRecvError::Empty) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }
}

impl Waits for IpcBytesReceiver {
    fn receive_waiting(&mut self, check: &mut Check) {
        see(&self.recv().expect("the other side is there"), check);
    }
}
