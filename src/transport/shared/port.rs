//! What an end of a shared channel is: the socket, the memory, and what is known of the peer.
//!
//! The socket carries tokens, single bytes that wake the side that polls it, and tells when the peer's process
//! is gone. Bytes from one side are tokens of the ring that this side produces and, one for each time it was
//! asked, the word that the ring it consumes was read empty, which `drain.rs` counts apart.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::compiler_fence;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recvmsg, sendmsg};

use super::drain::Drain;
use super::layout::{ARMED, CONTROL_WORDS, DRAIN, FENCES, GONE, HEAD, Layout, RingPlace, TAIL, TAIL_LOSS};
use super::order::Calls;
use crate::doorbell::{self, Tokens};
use crate::error::{Error, Violation};
use crate::ring::Storage;
use crate::sync::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use crate::sys::{self, Mapping, View};
use crate::transport::gone::{self, Gone};
use crate::wait::wait_for;

/// One ring in shared memory, with what is around it.
#[derive(Clone, Debug)]
pub(super) struct Direction {
    control: View<[AtomicU32; CONTROL_WORDS]>,
    slots: View<[AtomicUsize]>,
}

impl Direction {
    fn new(mapping: &Arc<Mapping>, place: &RingPlace) -> Self {
        let words = place.depth as usize * place.size / size_of::<usize>();
        Self { control: mapping.view(place.offset), slots: mapping.slice(place.slots(), words) }
    }

    #[inline]
    pub(super) fn armed(&self) -> &AtomicU32 {
        &self.control[ARMED]
    }

    /// The word that the producer is gone.
    #[inline]
    fn gone(&self) -> Gone<&AtomicU32> {
        Gone::shared(&self.control[GONE])
    }

    /// See [`DRAIN`].
    #[inline]
    pub(super) fn drain(&self) -> &AtomicU32 {
        &self.control[DRAIN]
    }

    /// See [`TAIL_LOSS`].
    #[inline]
    pub(super) fn tail_loss(&self) -> &AtomicU32 {
        &self.control[TAIL_LOSS]
    }

    /// Whether the consumer fences for both sides.
    #[inline]
    pub(super) fn consumer_fences(&self) -> bool {
        // Acquire pairs with the release in `Port::fence_for_both`: who sees the word sees every arming that was
        // done with a fence of the consumer's own.
        self.control[FENCES].load(Ordering::Acquire) == 1
    }
}

impl Storage for Direction {
    #[inline]
    fn tail(&self) -> &AtomicU32 {
        &self.control[TAIL]
    }

    #[inline]
    fn head(&self) -> &AtomicU32 {
        &self.control[HEAD]
    }

    #[inline]
    fn words(&self) -> &[AtomicUsize] {
        &self.slots
    }
}

/// An end; its producing and its consuming side share it.
#[derive(Debug)]
pub(crate) struct Port {
    socket: OwnedFd,
    /// The ring that this end produces.
    pub(super) produced: Direction,
    /// The ring that this end consumes.
    pub(super) consumed: Direction,
    /// The producing side's own index, for a [`Watch`](super::Watch): the peer may write the one in the memory.
    pub(super) produced_tail: AtomicU32,
    /// The consuming side's own index, likewise.
    pub(super) consumed_head: AtomicU32,
    /// The peer's socket is closed, or this side has told that the peer is gone.
    hung_up: Gone,
    /// What the peer did wrong.
    broken: OnceLock<Violation>,
    /// Tokens that the kernel had no memory for.
    owed: AtomicU32,
    pub(super) drain: Drain,
    /// This process is registered for the fences of the peer, and leaves its own to it.
    registered: AtomicBool,
    /// Something was published with the fence left to the peer, and the bell not looked at again since.
    unfenced: AtomicBool,
    /// How often this end has woken the consumer.
    wake_ups: AtomicUsize,
    pub(super) calls: Calls,
    /// The peer was told that this end is gone.
    released: AtomicBool,
}

impl Port {
    pub(super) fn new(socket: OwnedFd, mapping: &Arc<Mapping>, layout: &Layout, produces: bool) -> Arc<Self> {
        let records = Direction::new(mapping, &layout.records);
        let replies = Direction::new(mapping, &layout.replies);
        let (produced, consumed) = if produces { (records, replies) } else { (replies, records) };
        Arc::new(Self {
            socket,
            produced,
            consumed,
            produced_tail: AtomicU32::new(0),
            consumed_head: AtomicU32::new(0),
            hung_up: Gone::new(),
            broken: OnceLock::new(),
            owed: AtomicU32::new(0),
            drain: Drain::new(),
            registered: AtomicBool::new(false),
            unfenced: AtomicBool::new(false),
            wake_ups: AtomicUsize::new(0),
            calls: Calls::new(mapping),
            released: AtomicBool::new(false),
        })
    }

    /// Of a new channel: both consumers want to be woken.
    pub(super) fn arm(&self) {
        for direction in [&self.produced, &self.consumed] {
            // Relaxed: the Offer's way through the socket orders it.
            direction.armed().store(doorbell::ARMED, Ordering::Relaxed);
        }
    }

    /// Whether nothing more will come from the peer, nor be taken by it.
    #[inline]
    pub(super) fn is_peer_gone(&self) -> bool {
        self.hung_up.is_set() || self.consumed.gone().is_set()
    }

    /// Asks the kernel, too.
    pub(super) fn has_hung_up(&self) -> bool {
        self.calls.before_receive();
        if gone::has_hung_up(self.as_fd()) {
            self.note_hang_up();
        }
        self.is_peer_gone()
    }

    /// Notes that the peer is gone, also if it takes back that it said so.
    pub(super) fn note_gone(&self) {
        self.hung_up.set();
    }

    /// Notes a hang-up that a system call has just told of.
    fn note_hang_up(&self) {
        self.calls.received();
        self.hung_up.set();
    }

    /// Whether the peer has read everything, by its own word.
    pub(super) fn is_drained(&self) -> bool {
        // Acquire pairs with the store in `Consumer::release` of the peer: with it, this thread sees the peer's reads
        // as done, and this side's index as of when the peer was shown the record.
        let head = self.produced.head().load(Ordering::Acquire);
        // Relaxed: the load above orders it, or else whatever told this thread of the send.
        head == self.produced_tail.load(Ordering::Relaxed)
    }

    /// Notes that the peer broke the protocol: nothing more is sent to it.
    pub(super) fn note_violation(&self, violation: Violation) {
        // The first one is told.
        let _ = self.broken.set(violation);
    }

    #[inline]
    pub(super) fn violation(&self) -> Option<Violation> {
        self.broken.get().copied()
    }

    /// Puts a token in, after those that are still owed.
    pub(super) fn put_token(&self) {
        self.owed.fetch_add(1, Ordering::Relaxed);
        self.put_owed_tokens();
    }

    /// Puts in the tokens that the kernel had no memory for earlier.
    #[inline]
    pub(super) fn put_owed_tokens(&self) {
        // Relaxed: a count that orders nothing.
        while self.owed.load(Ordering::Relaxed) > 0 && self.put_owed_token() {}
    }

    /// Puts in one of the tokens that are owed, if another thread has not; false when it could not be.
    fn put_owed_token(&self) -> bool {
        // Relaxed: as above. Whoever counts one down puts that one in.
        let less = |owed: u32| owed.checked_sub(1);
        if self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            return true;
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            self.calls.before_send();
            match sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&[0])], &[], flags, None) {
                Err(Errno::EINTR) => {}
                // Full of bytes that a peer leaves there: it is readable as it is.
                Ok(_) | Err(Errno::EAGAIN) => return true,
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                    self.note_hang_up();
                    return true;
                }
                // No memory: tried again by the next call.
                Err(_) => {
                    self.owed.fetch_add(1, Ordering::Relaxed);
                    return false;
                }
            }
        }
    }

    /// Whether there is a byte in the socket, which stays there. Notes a hang-up.
    pub(super) fn peek(&self) -> bool {
        self.calls.before_receive();
        // First as poll sees it: a byte that was sent out of band wakes, and no receive finds it.
        let is_readable = wait_for(self.as_fd(), PollFlags::POLLIN, Some(Instant::now())).unwrap_or(false);
        if is_readable {
            self.receive_byte(MsgFlags::MSG_PEEK);
        }
        is_readable && !self.hung_up.is_set()
    }

    pub(super) fn receive_byte(&self, flags: MsgFlags) -> bool {
        let mut byte = [0];
        let mut buffer = [IoSliceMut::new(&mut byte)];
        loop {
            // Without a control buffer the kernel drops every descriptor that a peer attaches.
            let flags = flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            self.calls.before_receive();
            let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut buffer, None, flags);
            match received.map(|message| message.bytes) {
                Err(Errno::EINTR) => {}
                Ok(1..) => {
                    self.calls.received();
                    return true;
                }
                Ok(0) | Err(Errno::ECONNRESET) => {
                    self.note_hang_up();
                    return false;
                }
                Err(_) => return false,
            }
        }
    }

    /// Registers this process for the fences of the peer, and leaves its own to it from now on.
    pub(super) fn leave_fences(&self) -> Result<(), Error> {
        let registered = sys::register_for_fences().and_then(|()| sys::fence_everywhere());
        registered.map_err(|source| Error::os("membarrier", source))?;
        self.trust_fences();
        Ok(())
    }

    /// Leaves its fences to the peer, registered or not.
    pub(super) fn trust_fences(&self) {
        // Relaxed: who sends sees it earlier or later.
        self.registered.store(true, Ordering::Relaxed);
    }

    /// Wakes the consumer if it wants that. Behind each publishing.
    #[inline]
    pub(super) fn ring(&self) {
        let asymmetric = self.registered.load(Ordering::Relaxed) && self.produced.consumer_fences();
        if asymmetric {
            // Release pairs with the swap in `ring_again`, which then fences for what was published before this.
            self.unfenced.store(true, Ordering::Release);
        }
        self.ring_with(asymmetric);
    }

    #[inline]
    fn ring_with(&self, asymmetric: bool) {
        if doorbell::ring(self.produced.armed(), &SocketTokens::new(self, asymmetric)) {
            // Relaxed: a count that orders nothing.
            self.wake_ups.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn wake_ups(&self) -> u64 {
        self.wake_ups.load(Ordering::Relaxed) as u64
    }

    /// Wakes the consumer if an earlier send has missed that it wants to be woken, as one that left its fence to it
    /// may have.
    #[inline]
    pub(super) fn ring_again(&self) {
        // Relaxed: a thread that knows of the send sees it. Acquire on the swap pairs with the store in `ring`.
        if self.unfenced.load(Ordering::Relaxed) && self.unfenced.swap(false, Ordering::Acquire) {
            self.ring_with(false);
        }
    }

    /// Tells the peer that this end is gone. Both directions of an end do; the first one tells it.
    pub(super) fn release(&self) {
        // Relaxed: what uses the end is dropped, so nobody else is here.
        if self.released.swap(true, Ordering::Relaxed) {
            return;
        }
        // Before the socket goes, so that the peer needs no system call to know.
        self.produced.gone().set();
        // A child of fork may have a copy of the socket, without whose end it does not hang up: this is what
        // wakes a peer that sleeps, and stays.
        self.put_token();
        // The socket closes next.
        self.calls.before_send();
    }

    /// Tells the producer that this end fences for both whenever it arms, from now on.
    pub(super) fn fence_for_both(&self) {
        // Release pairs with the load in `consumer_fences`.
        self.consumed.control[FENCES].store(1, Ordering::Release);
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The tokens of one direction.
#[derive(Debug)]
pub(super) struct SocketTokens<'a> {
    port: &'a Port,
    /// The consumer fences for both sides, by membarrier(2).
    asymmetric: bool,
    /// Why it could not.
    failed: RefCell<Option<std::io::Error>>,
}

impl<'a> SocketTokens<'a> {
    pub(super) fn new(port: &'a Port, asymmetric: bool) -> Self {
        Self { port, asymmetric, failed: RefCell::new(None) }
    }

    /// Why the consumer's fence could not be.
    pub(super) fn failure(self) -> Option<std::io::Error> {
        self.failed.into_inner()
    }
}

impl Tokens for SocketTokens<'_> {
    fn put(&self) {
        self.port.put_token();
    }

    fn take(&self) -> bool {
        self.port.receive_byte(MsgFlags::empty())
    }

    #[inline]
    fn fence_ring(&self) {
        if self.asymmetric {
            // The consumer's membarrier(2) is a fence here, too, wherever it finds this thread; the compiler
            // must not move the look at the word in front of the publishing.
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    fn fence_sleep(&self) -> bool {
        if !self.asymmetric {
            fence(Ordering::SeqCst);
            return true;
        }
        match sys::fence_everywhere() {
            Ok(()) => true,
            Err(error) => {
                self.failed.replace(Some(error));
                false
            }
        }
    }
}
