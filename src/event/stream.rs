//! What every sender is at its core: numbers, losses, and the transport behind them.

use recordfd_uapi::{EventRecord, Sequence, Sequenced};

use crate::channel::Overflow;
use crate::error::TrySendError;
use crate::transport::{RemoteTx, Tx};

/// What makes the records of one channel.
#[derive(Debug)]
pub(super) struct Stream<R: EventRecord> {
    pub(super) tx: Tx<R::Wire>,
    /// What to drop; only the local transport has the choice.
    #[cfg_attr(not(feature = "local"), expect(dead_code))]
    overflow: Overflow,
    /// Number of the next record, dropped or not.
    next: Sequence,
    /// Records dropped since the last accepted one or the last notice of loss.
    pending: u32,
    /// The transport has told the receiver of them.
    announced: bool,
    pub(super) counters: SenderCounters,
}

/// What a sender and its clones have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderCounters {
    /// Records accepted.
    pub sent: u64,
    /// Records dropped by [`Sender::post`](super::Sender::post), the displaced ones included.
    pub dropped: u64,
    /// Replies received.
    pub replies: u64,
    /// Times a sleeping receiver was woken; 0 on a socket, where the kernel does that.
    pub wake_ups: u64,
}

impl<R: EventRecord> Stream<R> {
    pub(super) fn new(tx: Tx<R::Wire>, overflow: Overflow) -> Self {
        let (next, counters) = (Sequence::ZERO, SenderCounters::default());
        Self { tx, overflow, next, pending: 0, announced: false, counters }
    }

    #[inline]
    pub(super) fn send(&mut self, records: &[R]) -> Result<usize, TrySendError<()>> {
        let first = self.next;
        let accepted =
            self.tx.send(records.len(), |index| R::Wire::new(first.plus(index as u32), records[index]))?;
        if accepted > 0 {
            self.next = first.plus(accepted as u32);
            self.forget_loss();
            self.counters.sent += accepted as u64;
        }
        Ok(accepted)
    }

    pub(super) fn post(&mut self, record: R) -> Result<(), TrySendError<()>> {
        #[cfg(feature = "local")]
        if let (Overflow::DropOldest, Tx::Local(tx)) = (self.overflow, &mut self.tx) {
            let displaced = tx.send_displacing(R::Wire::new(self.next, record))?;
            self.next = self.next.plus(1);
            self.counters.sent += 1;
            self.counters.dropped += u64::from(displaced);
            return Ok(());
        }
        match self.send(&[record]) {
            Err(TrySendError::Full(())) => {
                self.counters.dropped += 1;
                // At the limit the number stands still, so that the receiver is told of too few rather
                // than, by a larger step, of a number that went backwards.
                if self.pending < Sequence::LOSS_MAX {
                    self.announced = self.tx.announce_loss(self.next);
                    self.next = self.next.plus(1);
                    self.pending += 1;
                }
                Ok(())
            }
            outcome => outcome.map(|_| ()),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), TrySendError<()>> {
        self.tx.ring_again();
        self.tx.finish()?;
        if let Some(notice) = self.unwritten_notice() {
            self.tx.send(1, |_| notice)?;
            self.forget_loss();
        }
        Ok(())
    }

    /// The notice the receiver needs, unless the transport has told it or there was no loss.
    fn unwritten_notice(&self) -> Option<R::Wire> {
        let last_lost = self.next.plus(Sequence::MAX.get());
        (self.pending > 0 && !self.announced).then(|| R::Wire::lost(last_lost))
    }

    /// Nothing more is sent: tells of a loss that was not told yet, and that this is the end.
    pub(super) fn release(&mut self) {
        // These fail only when nobody is there to read, or when someone has shrunk the send buffer.
        let _ = self.tx.finish();
        if let (Some(notice), Tx::Remote(RemoteTx::Socket(tx))) = (self.unwritten_notice(), &mut self.tx) {
            let _ = tx.send_last(notice);
        }
        self.tx.release();
    }

    /// What was done so far.
    pub(super) fn counters(&self) -> SenderCounters {
        SenderCounters { wake_ups: self.tx.wake_ups(), ..self.counters }
    }

    fn forget_loss(&mut self) {
        self.pending = 0;
        self.announced = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use recordfd_uapi::{AcpiNotify, FixedText, Format};

    use super::*;
    use crate::event::{Received, Receiver};
    use crate::transport::{Remote, shared, socket};

    const LOSS_MAX: u32 = Sequence::LOSS_MAX;

    /// Both ends of a channel for two records.
    fn ends(is_shared: bool) -> (Stream<AcpiNotify>, Receiver<AcpiNotify>) {
        let format = Format::ACPI_NOTIFY_V1;
        let (near, rx) = if is_shared {
            let (port, far, _) = shared::make(format, true, 2, 1).unwrap();
            (Remote::Shared(port), Receiver::from_shared(far).unwrap())
        } else {
            let (near, far) = socket::pair(None).unwrap();
            (Remote::Socket(near.into()), Receiver::from_socket(far, format).unwrap())
        };
        (Stream::new(Tx::Remote(near.tx(2)), Overflow::DropNewest), rx)
    }

    #[test]
    fn loss_at_its_limit_is_counted_too_low_and_never_backwards() {
        let record = AcpiNotify {
            dev_id: 0,
            value: 0,
            data: 0,
            cookie: 0,
            bus_id: FixedText::EMPTY,
            device_class: FixedText::EMPTY,
        };
        for (is_shared, tells_by_record) in [(false, false), (false, true), (true, false), (true, true)] {
            let (mut stream, mut rx) = ends(is_shared);
            while stream.counters.dropped == 0 {
                stream.post(record).unwrap();
            }
            // A billion drops later.
            let more = LOSS_MAX - 3;
            (stream.pending, stream.next) = (stream.pending + more, stream.next.plus(more));
            (0..5).for_each(|_| stream.post(record).unwrap());
            assert_eq!(stream.counters.dropped, 6);
            (0..stream.counters.sent).for_each(|_| assert_eq!(rx.try_recv().unwrap().lost(), 0));
            if tells_by_record {
                stream.post(record).unwrap();
            } else {
                stream.flush().unwrap();
            }
            let told = rx.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!((told.lost(), told.record().is_some()), (LOSS_MAX, tells_by_record));
            stream.post(record).unwrap();
            assert!(matches!(rx.try_recv().unwrap(), Received::Record { lost: 0, .. }));
        }
    }
}
