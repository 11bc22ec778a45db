//! What a receiver of several formats does besides: it takes out what is known, and skips what is not.

use std::time::{Duration, Instant};

use recordfd_uapi::{KnownEvent, MixedEvent};

use super::receiver::Inbox;
use super::{Received, Receiver};
use crate::error::{TryRecvError, Violation};

/// The most records that a receive of one item skips: a peer that sends nothing else holds up nobody.
const MOST_SKIPPED: usize = 64;

impl Receiver<MixedEvent> {
    /// Receives the next record of a known format without waiting, or a loss.
    ///
    /// Records of formats that this version does not know are skipped, their content unseen, and counted in
    /// [`ReceiverCounters::unknown`](super::ReceiverCounters::unknown). What was lost in front of one
    /// comes as [`Received::Lost`]. So does, with a count of 0, that 64 were skipped and nothing else
    /// was found: `Empty` always means that nothing is left.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv); [`TryRecvError::PeerViolation`] also when a record of a known format breaks
    /// that format, or when what follows it is not zero.
    pub fn try_recv_known(&mut self) -> Result<Received<KnownEvent>, TryRecvError> {
        self.0.get_mut()?.try_recv_known()
    }

    /// Receives as many items as wait and fit into `items`, without waiting; returns how many.
    ///
    /// As [`recv_batch`](Self::recv_batch), where a record that is
    /// [skipped](Self::try_recv_known) takes up a place, too: 0 when there were only such, and more may be left.
    ///
    /// # Errors
    ///
    /// As [`try_recv_known`](Self::try_recv_known), and only when no record was taken out.
    pub fn recv_known_batch(&mut self, items: &mut [Received<KnownEvent>]) -> Result<usize, TryRecvError> {
        let mut count = 0;
        self.0.get_mut()?.receive_known(items.len(), |item| {
            items[count] = item;
            count += 1;
        })?;
        Ok(count)
    }

    /// Receives the next item as [`try_recv_known`](Self::try_recv_known) does; waits for it without limit, also
    /// when a signal comes in between.
    ///
    /// # Errors
    ///
    /// As [`try_recv_known`](Self::try_recv_known), but never [`TryRecvError::Empty`].
    pub fn recv_known(&mut self) -> Result<Received<KnownEvent>, TryRecvError> {
        self.0.get_mut()?.recv_until(None, Inbox::try_recv_known)
    }

    /// Receives the next item as [`try_recv_known`](Self::try_recv_known) does; waits for it at most `timeout`, also
    /// when a signal comes in between.
    ///
    /// # Errors
    ///
    /// As [`try_recv_known`](Self::try_recv_known); [`TryRecvError::Empty`] when nothing came in time.
    pub fn recv_known_timeout(&mut self, timeout: Duration) -> Result<Received<KnownEvent>, TryRecvError> {
        self.0.get_mut()?.recv_until(Instant::now().checked_add(timeout), Inbox::try_recv_known)
    }
}

impl Inbox<MixedEvent> {
    fn try_recv_known(&mut self) -> Result<Received<KnownEvent>, TryRecvError> {
        for _ in 0..MOST_SKIPPED {
            let mut known = None;
            self.receive_known(1, |item| known = Some(item))?;
            if let Some(item) = known {
                return Ok(item);
            }
        }
        Ok(Received::Lost { count: 0 })
    }

    /// Takes at most `most` items out and hands no more than that to `sink`.
    fn receive_known(
        &mut self,
        most: usize,
        mut sink: impl FnMut(Received<KnownEvent>),
    ) -> Result<(), TryRecvError> {
        let mut unknown = 0;
        let outcome = self.receive(most, |item| {
            let Received::Record { lost, sequence, record } = item else {
                sink(Received::Lost { count: item.lost() });
                return Ok(());
            };
            match record.known().map_err(Violation::from)? {
                Some(record) => sink(Received::Record { lost, sequence, record }),
                None => {
                    unknown += 1;
                    if lost > 0 {
                        sink(Received::Lost { count: lost });
                    }
                }
            }
            Ok(())
        });
        self.counters.unknown += unknown;
        outcome.map(|_| ())
    }
}
