//! The two ends of a channel of SMMUv3 events: 40 bytes each with their header.

use recordfd::event::{Received, Receiver, Sender, SoleSender};
use recordfd::uapi::{Le64, Smmuv3Event};
use recordfd::{TryRecvError, TrySendError};

use crate::carrier::{BATCH, Check, Receives, ReceivesBatches, Sends, SendsBatches, Waits};

fn event(number: u64) -> Smmuv3Event {
    Smmuv3Event { evt: [Le64::new(number); 4] }
}

/// Either kind of sender.
pub(super) trait AnySender {
    fn try_send(&mut self, event: Smmuv3Event) -> Result<(), TrySendError<Smmuv3Event>>;
    fn send_batch(&mut self, events: &[Smmuv3Event]) -> Result<usize, TrySendError<()>>;
}

impl AnySender for Sender<Smmuv3Event> {
    #[inline]
    fn try_send(&mut self, event: Smmuv3Event) -> Result<(), TrySendError<Smmuv3Event>> {
        Sender::try_send(self, event)
    }

    fn send_batch(&mut self, events: &[Smmuv3Event]) -> Result<usize, TrySendError<()>> {
        Sender::send_batch(self, events)
    }
}

impl AnySender for SoleSender<Smmuv3Event> {
    #[inline]
    fn try_send(&mut self, event: Smmuv3Event) -> Result<(), TrySendError<Smmuv3Event>> {
        SoleSender::try_send(self, event)
    }

    fn send_batch(&mut self, events: &[Smmuv3Event]) -> Result<usize, TrySendError<()>> {
        SoleSender::send_batch(self, events)
    }
}

pub(super) struct Tx<S> {
    sender: S,
    batch: [Smmuv3Event; BATCH],
}

impl<S> Tx<S> {
    pub(super) fn new(sender: S) -> Self {
        Self { sender, batch: [event(0); BATCH] }
    }
}

impl<S: AnySender> Sends for Tx<S> {
    #[inline]
    fn send(&mut self, number: u64) -> bool {
        match self.sender.try_send(event(number)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

impl<S: AnySender> SendsBatches for Tx<S> {
    fn send_batch(&mut self, first: u64, count: usize) -> usize {
        let batch = &mut self.batch[..count];
        batch.iter_mut().zip(first..).for_each(|(slot, number)| *slot = event(number));
        match self.sender.send_batch(batch) {
            Ok(accepted) => accepted,
            Err(TrySendError::Full(())) => 0,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) struct Rx {
    receiver: Receiver<Smmuv3Event>,
    items: [Received<Smmuv3Event>; BATCH],
}

impl Rx {
    pub(super) fn new(receiver: Receiver<Smmuv3Event>) -> Self {
        Self { receiver, items: [Received::default(); BATCH] }
    }
}

#[inline]
fn see(check: &mut Check, item: &Received<Smmuv3Event>) {
    std::hint::black_box(item);
    let Received::Record { lost: 0, record, .. } = item else { panic!("{item:?}") };
    check.see_number(record.evt[0].get(), record.evt[3].get());
}

impl Receives for Rx {
    #[inline]
    fn receive(&mut self, check: &mut Check) -> bool {
        match self.receiver.try_recv() {
            Ok(item) => see(check, &item),
            Err(TryRecvError::Empty) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }
}

impl ReceivesBatches for Rx {
    fn receive_batch(&mut self, check: &mut Check) -> bool {
        let count = match self.receiver.recv_batch(&mut self.items) {
            Ok(count) => count,
            Err(TryRecvError::Empty) => return false,
            Err(error) => panic!("{error}"),
        };
        self.items[..count].iter().for_each(|item| see(check, item));
        true
    }
}

impl Waits for Rx {
    fn receive_waiting(&mut self, check: &mut Check) {
        let item = self.receiver.recv().unwrap_or_else(|error| panic!("{error}"));
        see(check, &item);
    }
}

/// Receives by the calls that wait.
pub(super) struct LookingRx(pub(super) Rx);

impl Receives for LookingRx {
    #[inline]
    fn receive(&mut self, check: &mut Check) -> bool {
        self.0.receive_waiting(check);
        true
    }
}

impl ReceivesBatches for LookingRx {
    fn receive_batch(&mut self, check: &mut Check) -> bool {
        self.0.receiver.wait(None).unwrap_or_else(|error| panic!("{error}"));
        self.0.receive_batch(check)
    }
}
